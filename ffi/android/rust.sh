#!/usr/bin/env bash
# The static library for one Rust target: ffi/android/rust.sh TARGET DIRECTORY
# Compiles only, so no NDK is needed; CMakeLists.txt links it. CARGO_FLAGS is passed to cargo.
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: ffi/android/rust.sh TARGET DIRECTORY (aarch64-linux-android, x86_64-linux-android)" >&2
  exit 2
fi
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."
# shellcheck disable=SC2086
cargo rustc -p shadowllm-ffi --profile library --lib --crate-type staticlib --target "$1" ${CARGO_FLAGS-}
cp "${CARGO_TARGET_DIR:-target}/$1/library/libshadowllm.a" "$out/libshadowllm.a"
