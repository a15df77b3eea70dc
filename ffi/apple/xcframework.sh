#!/usr/bin/env bash
# Assembles CShadowLLM.xcframework: ffi/apple/xcframework.sh [-o DIRECTORY] [TARGET...]
# TARGET is one of aarch64-apple-ios, aarch64-apple-ios-sim and aarch64-apple-darwin, by default all three; `rustup target
# add` installs them. DIRECTORY is by default this one, where Package.swift looks. Needs no Xcode: an XCFramework of static
# libraries is a folder with a list in it. CARGO_FLAGS is passed to cargo.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$here
if [ "${1-}" = -o ]; then
  out=${2:?usage: ffi/apple/xcframework.sh [-o DIRECTORY] [TARGET...]}
  shift 2
fi
if [ $# -eq 0 ]; then set -- aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-darwin; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here/../.."
framework=$(mktemp -d "$out/.shadowllm-XXXXXX.tmp")
trap 'rm -rf "$framework"' EXIT
chmod 755 "$framework"

{
  cat << 'HEAD'
<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0">
<dict>
  <key>AvailableLibraries</key>
  <array>
HEAD
  for target in "$@"; do
    case $target in
      aarch64-apple-ios) slice=ios-arm64 platform=ios variant= ;;
      aarch64-apple-ios-sim) slice=ios-arm64-simulator platform=ios variant=simulator ;;
      aarch64-apple-darwin) slice=macos-arm64 platform=macos variant= ;;
      *) echo "unknown target $target: aarch64-apple-ios, aarch64-apple-ios-sim or aarch64-apple-darwin" >&2; exit 2 ;;
    esac
    # shellcheck disable=SC2086
    cargo rustc -p shadowllm-ffi --profile library --lib --crate-type staticlib --target "$target" ${CARGO_FLAGS-} >&2
    # In a folder of their own: two frameworks with a module map in the same place collide.
    mkdir -p "$framework/$slice/Headers/CShadowLLM"
    cp "${CARGO_TARGET_DIR:-target}/$target/library/libshadowllm.a" "$framework/$slice/"
    cp include/shadowllm.h ffi/apple/Framework/module.modulemap "$framework/$slice/Headers/CShadowLLM/"
    cat << SLICE
    <dict>
      <key>LibraryIdentifier</key><string>$slice</string>
      <key>LibraryPath</key><string>libshadowllm.a</string>
      <key>HeadersPath</key><string>Headers</string>
      <key>SupportedArchitectures</key><array><string>arm64</string></array>
      <key>SupportedPlatform</key><string>$platform</string>
SLICE
    if [ -n "$variant" ]; then echo "      <key>SupportedPlatformVariant</key><string>$variant</string>"; fi
    echo "    </dict>"
  done
  cat << 'TAIL'
  </array>
  <key>CFBundlePackageType</key><string>XFWK</string>
  <key>XCFrameworkFormatVersion</key><string>1.0</string>
</dict>
</plist>
TAIL
} > "$framework/Info.plist"

rm -rf "$out/CShadowLLM.xcframework"
mv "$framework" "$out/CShadowLLM.xcframework"
trap - EXIT
echo "assembled $out/CShadowLLM.xcframework: $*"
