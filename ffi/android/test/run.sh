#!/usr/bin/env bash
# Tests of the Kotlin classes and the JNI library in a JVM on this machine: ffi/android/test/run.sh KOTLIN_HOME
# Needs a JDK, cmake, readelf, and the models that tests/c/run.sh makes; .ci/run android provides all of them.
set -euo pipefail
kotlin=${1:?usage: ffi/android/test/run.sh KOTLIN_HOME}
cd "$(dirname "$0")/../../.."
target=$PWD/${CARGO_TARGET_DIR:-target}
work=$target/ci/android
mkdir -p "$work"
say() { printf -- '-- %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

say "the JNI library"
# With the tools, whose features the engine has then: it is built once.
cargo build -q --release -p shadowllm-ffi -p shadowllm-tools
cmake -S ffi/android/src/main/cpp -B "$work/cmake" -DCMAKE_BUILD_TYPE=Release \
  -DSHADOWLLM_LIBRARY="$target/release/libshadowllm.a" > "$work/cmake.log" || { cat "$work/cmake.log"; die "no build files"; }
cmake --build "$work/cmake" > "$work/build.log" 2>&1 || { cat "$work/build.log"; die "the JNI library does not build"; }
library=$work/cmake/libshadowllm_jni.so
# Every loaded segment is aligned to pages of 16 KB, and the library exports one symbol.
[ "$(readelf -lW "$library" | awk '$1 == "LOAD" {print $NF}' | sort -u)" = 0x4000 ] || die "segments are not aligned to 16 KB"
[ "$(nm -D --defined-only "$library" | awk '$2 != "A" {print $3}')" = JNI_OnLoad ] || die "the JNI library exports more than JNI_OnLoad"

say "the Kotlin classes"
coroutines=$kotlin/lib/kotlinx-coroutines-core-jvm.jar
"$kotlin/bin/kotlinc" -Werror -jvm-target 1.8 -cp "$coroutines" -d "$work/classes" \
  ffi/android/src/main/kotlin/org/shadowllm ffi/android/test/Drive.kt ffi/android/sample/Chat.kt
java_with() {
  timeout 120 java -Xcheck:jni -Xmx256m --add-opens java.base/java.io=ALL-UNNAMED -Djava.library.path="$work/cmake" \
    -cp "$work/classes:$kotlin/lib/kotlin-stdlib.jar:$coroutines" "$@"
}
run() { java_with org.shadowllm.DriveKt "$@"; }
# The status codes are the header's.
run statuses > "$work/statuses"
sed -n 's/^#define SLLM_STATUS_\([A-Z0-9_]*\) \([1-9][0-9]*\).*/\1 \2/p' include/shadowllm.h | diff - "$work/statuses" \
  || die "statuses differ from the header's"

say "a JVM, checking JNI"
models=$target/ci/capi
large=()
if [ -f "$models/smollm2.sllm" ]; then large=("$models/smollm2.sllm"); else
  echo "SKIPPED, NOT TESTED: SmolLM2 could not be fetched: cancelling inside a long prefill" >&2
  [ -z "${SHADOWLLM_NO_SKIPS:-}" ] || exit 1
fi
run all "$models/plain.sllm" "$models/chat.sllm" "${large[@]}" > "$work/all.txt" 2>&1 || { cat "$work/all.txt"; die "the JVM test"; }
cat "$work/all.txt"
# -Xcheck:jni prints its warnings here.
! grep -E 'WARNING|FATAL|JNI' "$work/all.txt" || die "JNI was used wrongly"

say "the same text as the command's"
for image in "$models/chat.sllm" host/models/story.sllm; do for seed in 1 2; do
  run say "$image" $seed 32 "Who was the mayor?" > "$work/java.txt"
  cargo run -q --release -- run "$image" -p "Who was the mayor?" --seed $seed -n 32 --json \
    | python3 -c 'import json, sys; sys.stdout.write(json.load(sys.stdin)["text"])' > "$work/command.txt"
  [ -s "$work/java.txt" ] || die "no text"
  cmp "$work/java.txt" "$work/command.txt" || die "$image, seed $seed: Kotlin and the command write different texts"
done; done
say "the chat on the console"
chat() { java_with ChatKt "$@" 2> "$work/chat.err"; }
rm -f "$work/kept"
printf 'What color is the sky?\n\n/save %s\nIs a dog big?\n' "$work/kept" | chat host/models/story.sllm > "$work/chat.txt"
[ "$(grep -c . "$work/chat.txt")" -ge 2 ] || die "two questions need two answers"
[ "$(grep -c '^\[[0-9]* tokens, .* a second, [A-Z_]*\]$' "$work/chat.err")" = 2 ] || { cat "$work/chat.err"; die "two answers have figures"; }
printf '/load %s\nIs a dog big?\n/load nowhere\n/new\n' "$work/kept" | chat host/models/story.sllm > "$work/chat.txt"
grep -q . "$work/chat.txt" || die "no answer after /load"
grep -q nowhere "$work/chat.err" || die "a file that is not there must be named"
if chat /nowhere.sllm < /dev/null || ! grep -q nowhere.sllm "$work/chat.err"; then die "a model that is not there must be named"; fi
say "the JNI library holds"
