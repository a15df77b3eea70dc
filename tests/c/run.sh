#!/usr/bin/env bash
# Tests of the C interface from C and C++: built and installed as users do it, compared with its header, and run.
#   tests/c/run.sh          all parts
#   tests/c/run.sh PART...  some parts: header install agree sizes suite examples text memory
# Needs gcc, clang, cmake, ninja, pkg-config, valgrind and cbindgen; .ci/run capi installs them.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/${CARGO_TARGET_DIR:-target}/ci/capi
tree=$work/tree
story=host/models/story.sllm
model=$work/plain.sllm
mkdir -p "$work"
# The packages that cargo builds for the tests: the whole workspace where that is built anyway. For the library alone, shared
# dependencies have other features and would be built again.
scope=(${SHADOWLLM_SCOPE:--p shadowllm-ffi})
say() { printf -- '-- %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
warnings=(-Wall -Wextra -pedantic -Werror)

# The headers compile in every language version that they support.
header() {
  say "header in C and C++"
  local std
  for std in c99 c11; do for cc in gcc clang; do
    $cc -std=$std "${warnings[@]}" -fsyntax-only -x c include/shadowllm.h
    $cc -std=$std "${warnings[@]}" -DSLLM_EMBEDDED -fsyntax-only -x c include/shadowllm.h
  done; done
  for std in c++11 c++17; do for cc in g++ clang++; do
    $cc -std=$std "${warnings[@]}" -fsyntax-only -x c++ include/shadowllm.h
  done; done
  for cc in g++ clang++; do $cc -std=c++17 "${warnings[@]}" -fsyntax-only -x c++ include/shadowllm.hpp; done
}

install() {
  say "install tree"
  ffi/install.sh "$tree"
  # A folder that cannot be made, not even by root, is refused before anything is built.
  touch "$work/file"
  ! ffi/install.sh "$work/file/below" 2> "$work/shut.err" || die "installed to a folder that cannot be made"
  grep -q 'name a folder of your own' "$work/shut.err" || die "$(cat "$work/shut.err")"
}

# Functions that the header declares; with an argument, those of its embedded part only.
declared() {
  gcc -E -P ${1:+-DSLLM_EMBEDDED} -x c include/shadowllm.h | tr '\n' ' ' | grep -oE '\bsllm_[a-z_]+ ?\(' | tr -d ' (' | sort -u
}

agree() {
  say "header and libraries agree"
  # Names: the same in both.
  nm -D --defined-only "$tree/lib/libshadowllm.so" | awk '{print $3}' | sort -u > "$work/shared.txt"
  declared > "$work/declared.txt"
  diff "$work/declared.txt" "$work/shared.txt" || die "the shared library exports other names than the header's"
  local lib
  for lib in libshadowllm.a libshadowllm-embedded.a; do
    nm -g --defined-only "$tree/lib/$lib" 2>/dev/null | awk '$3 ~ /^sllm_/ {print $3}' | sort -u > "$work/static.txt"
    if [ $lib = libshadowllm.a ]; then declared; else declared embedded; fi | diff - "$work/static.txt" \
      || die "$lib has other names than the header's"
  done
  # Prototypes: cbindgen writes those of the library, which are compiled together with the header.
  cbindgen --quiet --config ffi/cbindgen.toml ffi -o "$work/generated.h"
  [ "$(grep -c '(' "$work/generated.h")" -gt 50 ] || die "cbindgen found no functions"
  gcc -std=c11 "${warnings[@]}" -fsyntax-only -Iinclude -x c "$work/generated.h"
  sed 's/sllm_session_rewind(sllm_session \*session, size_t/sllm_session_rewind(sllm_session *session, int/' \
    "$work/generated.h" > "$work/wrong.h"
  ! gcc -std=c11 -fsyntax-only -Iinclude -x c "$work/wrong.h" 2>/dev/null || die "the comparison notices nothing"
  # Layouts and constants.
  cargo test -q --release "${scope[@]}" --lib agreement
}

# bytes FILE LIMIT
below() {
  local size
  size=$(stat -c %s "$1")
  say "$(basename "$1"): $size bytes (limit $2)"
  [ "$size" -lt "$2" ] || die "$1 is too large"
}

sizes() {
  say "sizes and dependencies"
  local needed
  SHADOWLLM_COMMAND=no SHADOWLLM_FEATURES=std ffi/install.sh "$work/small"
  below "$(readlink -f "$work/small/lib/libshadowllm.so")" 3100000
  below "$(readlink -f "$tree/lib/libshadowllm.so")" 8500000
  for needed in "$tree" "$work/small"; do
    needed=$(objdump -p "$needed/lib/libshadowllm.so" | awk '$1 == "NEEDED" && $2 !~ /^(libc\.so|libm\.so|ld-linux)/ {print $2}')
    [ -z "$needed" ] || die "the library needs $needed"
  done
  objdump -p "$tree/lib/libshadowllm.so" | grep -q 'SONAME *libshadowllm\.so\.[0-9]' || die "no versioned soname"
  # The embedded library needs memory functions from the program, and nothing else.
  printf '#define SLLM_EMBEDDED\n#include <shadowllm.h>\nvoid *keep[] = {' > "$work/all.c"
  declared embedded | sed 's/.*/(void *)&,/' >> "$work/all.c"
  echo '};' >> "$work/all.c"
  gcc -w -c -Iinclude "$work/all.c" -o "$work/all.o"
  ld -r "$work/all.o" "$tree/lib/libshadowllm-embedded.a" -o "$work/linked.o"
  needed=$(nm -u "$work/linked.o" | awk '{print $2}' | grep -vE '^(memcpy|memmove|memset|memcmp|bcmp|_GLOBAL_OFFSET_TABLE_)$' || true)
  [ -z "$needed" ] || die "the embedded library needs $needed"
}

# Models for the suite: a calibrated one without a chat template; one with a template, a sketch, a beginning token and normalized
# texts that is not calibrated; and, with a network, SmolLM2.
models() {
  # Images of other format versions are made again.
  local image
  cargo build -q --release
  for image in "$work"/*.sllm; do
    # Their format, and that of their predictors, is the program's of today; how they are made, this file's.
    { [ "$image" -nt "${CARGO_TARGET_DIR:-target}/release/shadowllm" ] && [ "$image" -nt tests/c/run.sh ]; } || rm -f "$image"
  done
  if ! [ -f "$model" ]; then
    cargo run -q --release -- pack tests/vectors/brown-opt -o "$work/brown.sllm" --format q4_0 --layout mixed
    cargo run -q --release -- calibrate "$work/brown.sllm" --text tests/vectors/brown-heldout.txt --tokens 2000 --window 64 \
      --budget-windows 1 -o "$model"
  fi
  if ! [ -f "$work/chat.sllm" ]; then
    rm -rf "$work/chat"
    cp -r tests/vectors/brown-opt "$work/chat"
    python3 - "$work/chat" <<'END'
import json, sys
def change(name, key, value):
    path = f"{sys.argv[1]}/{name}"
    config = json.load(open(path))
    config[key] = value
    json.dump(config, open(path, "w"))
change("tokenizer.json", "normalizer", {"type": "NFC"})
begins = [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
names = {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}
change("tokenizer.json", "post_processor", {"type": "TemplateProcessing", "single": begins, "pair": begins, "special_tokens": names})
change("tokenizer_config.json", "chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}")
END
    cargo run -q --release -- pack "$work/chat" -o "$work/chat.sllm" --format q8_0 --sketch yes
  fi
  if ! [ -f "$work/smollm2.sllm" ]; then
    local gguf
    cargo run -q --release -- demo -n 1 > /dev/null
    gguf=$(find "${XDG_CACHE_HOME:-$HOME/.cache}/shadowllm" -name 'SmolLM2-*.gguf' | head -n 1)
    if [ -n "$gguf" ]; then
      cargo run -q --release -- pack "$gguf" -o "$work/smollm2.sllm"
    else
      echo "SKIPPED, NOT TESTED: SmolLM2 could not be fetched: cancelling a long prefill, the same text" >&2
      [ -z "${SHADOWLLM_NO_SKIPS:-}" ] || exit 1
    fi
  fi
  large=()
  if [ -f "$work/smollm2.sllm" ]; then large=("$work/smollm2.sllm"); fi
}

# Libraries with a function that panics, in the profile of the tests.
panicking() {
  cargo build -q --release "${scope[@]}" --features shadowllm-ffi/test-panic
  libs=$PWD/${CARGO_TARGET_DIR:-target}/release
  ln -sf libshadowllm.so "$libs/$(objdump -p "$libs/libshadowllm.so" | awk '$1 == "SONAME" {print $2}')"
}

system_libraries=(-lpthread -ldl -lm)

suite() {
  say "suite"
  models
  panicking
  local source=(tests/c/suite/*.c) flags=(-std=gnu11 -O1 -g "${warnings[@]}" -Iinclude)
  gcc "${flags[@]}" -DTEST_PANIC "${source[@]}" -o "$work/suite-shared" "$libs/libshadowllm.so" -lpthread -Wl,-rpath,"$libs"
  gcc "${flags[@]}" -DTEST_PANIC "${source[@]}" -o "$work/suite-static" "$libs/libshadowllm.a" "${system_libraries[@]}"
  clang "${flags[@]}" "${source[@]}" -o "$work/suite-installed" -L"$tree/lib" -lshadowllm -lpthread -Wl,-rpath,"$tree/lib"
  local kind
  for kind in shared static installed; do
    say "suite, $kind library"
    "$work/suite-$kind" "$model" "$work/chat.sllm" $story "${large[@]}"
  done
  say "C++"
  g++ -std=c++17 "${warnings[@]}" -Iinclude tests/c/wrapper.cpp -o "$work/wrapper" "$libs/libshadowllm.so" -Wl,-rpath,"$libs"
  "$work/wrapper" "$work/chat.sllm"
  say "allocations that fail"
  gcc -E -P -x c include/shadowllm.h | tr '\n' ' ' | grep -oE '\bsllm_[a-z_]+ ?\(' | tr -d ' (' | sort -u | while read -r name; do
    grep -q "\b$name(" tests/c/oom.c || die "tests/c/oom.c does not call $name"
  done
  gcc "${flags[@]}" tests/c/oom.c -o "$work/oom" "$libs/libshadowllm.so" -Wl,-rpath,"$libs"
  "$work/oom" $story
  say "no more threads"
  echo 'int pthread_create(void) { return 11; }' | gcc -shared -fPIC -x c - -o "$work/nothreads.so"
  local command=$PWD/${CARGO_TARGET_DIR:-target}/release/shadowllm
  LD_PRELOAD=$work/nothreads.so "$command" run $story -p "A dog" --greedy -n 4 --threads 1 > /dev/null
  ! LD_PRELOAD=$work/nothreads.so "$command" run $story -p "A dog" --greedy -n 4 --threads 3 2> "$work/nothreads" \
    || die "three threads where there is one"
  grep -q 'cannot start thread' "$work/nothreads" || die "$(cat "$work/nothreads")"
}

# The suite with every access checked: by sanitizers in C and, with a nightly compiler, in Rust, and by valgrind.
memory() {
  say "suite under sanitizers"
  models
  panicking
  local source=(tests/c/suite/*.c) flags=(-std=gnu11 -O1 -g -DTEST_PANIC -Iinclude -fsanitize=address,undefined -fno-sanitize-recover=all)
  gcc "${flags[@]}" "${source[@]}" -o "$work/suite-asan-c" "$libs/libshadowllm.a" "${system_libraries[@]}"
  ASAN_OPTIONS=detect_leaks=1 SUITE_CYCLES=20 "$work/suite-asan-c" "$model" "$work/chat.sllm" $story
  if cargo +nightly --version > /dev/null 2>&1; then
    say "suite under AddressSanitizer, in Rust too"
    RUSTFLAGS=-Zsanitizer=address cargo +nightly build -q --release -p shadowllm-ffi --features test-panic \
      --target x86_64-unknown-linux-gnu --target-dir "${CARGO_TARGET_DIR:-target}/asan"
    gcc "${flags[@]}" "${source[@]}" -o "$work/suite-asan" \
      "${CARGO_TARGET_DIR:-target}/asan/x86_64-unknown-linux-gnu/release/libshadowllm.a" "${system_libraries[@]}"
    ASAN_OPTIONS=detect_leaks=1 SUITE_CYCLES=20 "$work/suite-asan" "$model" "$work/chat.sllm" $story
  else
    echo "SKIPPED, NOT TESTED: no nightly Rust, so AddressSanitizer watched the C side only" >&2
    [ -z "${SHADOWLLM_NO_SKIPS:-}" ] || exit 1
  fi
  say "suite under valgrind"
  # Memory that statics point to at the end is no leak. Rust's shared values are pointed to after their counts, which
  # valgrind calls possibly lost.
  SUITE_CYCLES=3 valgrind -q --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect --error-exitcode=9 --fair-sched=yes \
    "$work/suite-shared" "$model" "$work/chat.sllm" $story
}

# tries DIRECTORY: runs the built examples.
tries() {
  say "examples in $(basename "$1")"
  "$1/embedded" $story > "$work/ids.txt"
  [ "$(wc -w < "$work/ids.txt")" -ge 4 ] || die "the embedded example wrote no tokens"
  local image
  for image in "$model" $story; do
    "$1/stream" "$image" "The jury said" 7 16 > "$work/stream.txt"
    [ -s "$work/stream.txt" ] || die "the streaming example wrote nothing"
  done
  printf 'Who was the mayor?\n/density 0.5\n/new\nAnd then?\n' | "$1/chat" "$work/chat.sllm" --seed 3 -n 8 > "$work/chat.txt" 2> "$work/chat.err"
  [ "$(grep -c 'tokens/s' "$work/chat.txt")" = 2 ] || die "the chat did not answer twice"
  grep -q 'not calibrated' "$work/chat.err" || die "the chat did not say why it cannot skip"
  # Answers that end by themselves, whole and reading less.
  printf 'What color is the sky?\n/density 0.5\n/new\nWhat do cows eat?\n' | "$1/chat" $story --seed 3 -n 400 > "$work/chat.txt"
  [ "$(grep -oE '[0-9]+ written' "$work/chat.txt" | awk '$1 > 1 && $1 < 400' | wc -l)" = 2 ] || die "an answer did not end"
}

examples() {
  say "examples"
  models
  cmake -S ffi/examples -B "$work/cmake" -G Ninja -DCMAKE_PREFIX_PATH="$tree" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_FLAGS="-Wall -Wextra" -DCMAKE_CXX_FLAGS="-Wall -Wextra" > "$work/cmake.log"
  cmake --build "$work/cmake" > "$work/cmake-build.log" || { cat "$work/cmake-build.log"; die "the examples do not build"; }
  tries "$work/cmake"
  # With pkg-config, from a tree that was moved.
  local moved=$work/moved out=$work/pkg-config
  rm -rf "$moved"
  cp -a "$tree" "$moved"
  mkdir -p "$out"
  flags() { PKG_CONFIG_PATH=$moved/lib/pkgconfig pkg-config "$@" shadowllm; }
  [ "$(flags --modversion)" = "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" ] || die "versions differ"
  # shellcheck disable=SC2046
  gcc "${warnings[@]}" ffi/examples/chat.c -o "$out/chat" $(flags --cflags --libs) -Wl,-rpath,"$moved/lib"
  # shellcheck disable=SC2046
  g++ -std=c++17 "${warnings[@]}" ffi/examples/stream.cpp -o "$out/stream" $(flags --cflags --libs) -Wl,-rpath,"$moved/lib"
  # shellcheck disable=SC2046
  gcc "${warnings[@]}" ffi/examples/embedded.c -o "$out/embedded" $(flags --cflags) "$moved/lib/libshadowllm-embedded.a"
  cp "$work/ids.txt" "$work/ids-cmake.txt"
  tries "$out"
  # The embedded and the full library choose the same tokens, both without malloc.
  gcc "${warnings[@]}" ffi/examples/embedded.c -o "$out/embedded-hosted" $(flags --cflags) "$moved/lib/libshadowllm.a" "${system_libraries[@]}"
  "$out/embedded-hosted" $story | diff - "$work/ids.txt" || die "the embedded library chose other tokens"
  diff "$work/ids-cmake.txt" "$work/ids.txt"
  # The program at the top of the header.
  sed -n '/^ \*     #include <shadowllm.h>/,/^ \* RULES THAT HOLD/p' include/shadowllm.h | sed '$d; s/^ \* \{0,5\}//' > "$work/ask.c"
  # shellcheck disable=SC2046
  gcc -std=gnu99 -Wall -Wextra -Werror "$work/ask.c" -o "$out/ask" $(flags --cflags --libs) -Wl,-rpath,"$moved/lib"
  "$out/ask" $story "What color is the sky?" > "$work/ask.txt"
  [ -s "$work/ask.txt" ] || die "the header's program wrote nothing"
  # The program in the README.
  sed -n '/^```c$/,/^```$/p' README.md | sed '1d; $d' > "$work/readme.c"
  # shellcheck disable=SC2046
  gcc -std=c99 "${warnings[@]}" "$work/readme.c" -o "$out/readme" $(flags --cflags --libs) -Wl,-rpath,"$moved/lib"
  "$out/readme" $story "What color is the sky?" > "$work/readme.txt"
  [ -s "$work/readme.txt" ] || die "the README's program wrote nothing"
}

# C and the command write the same text.
text() {
  say "the same text as the command's"
  models
  gcc "${warnings[@]}" -Iinclude tests/c/say.c -o "$work/say" -L"$tree/lib" -lshadowllm -Wl,-rpath,"$tree/lib"
  local image seed
  for image in "$model" $story "$work/chat.sllm" "${large[@]}"; do for seed in 1 2 3; do
    "$work/say" "$image" $seed 48 "Name three rivers." > "$work/c.txt"
    cargo run -q --release -- run "$image" -p "Name three rivers." --seed $seed -n 48 --json \
      | python3 -c 'import json, sys; sys.stdout.write(json.load(sys.stdin)["text"])' > "$work/cli.txt"
    [ -s "$work/c.txt" ] || die "no text"
    cmp "$work/c.txt" "$work/cli.txt" || die "$image, seed $seed: C and the command write different texts"
  done; done
}

if [ $# -eq 0 ]; then set -- header install agree suite examples text memory sizes; fi
for part in "$@"; do "$part"; done
say "the C interface holds"
