# What is looked for in places where no test would look: fuzzing, every order of threads' events, undefined behaviour, words of
# 32 bits.

# Images and files for the fuzz targets to begin with.
fuzz_seeds() {
  # With the workspace, so that nothing is compiled anew with other features.
  cargo build --workspace --release --quiet --example fuzz_seeds
  target/release/examples/fuzz_seeds "$PWD/target/fuzz-seeds"
}

# The targets, instrumented: coverage of libFuzzer, AddressSanitizer, debug assertions. RUSTC_BOOTSTRAP lets a stable Rust do it.
fuzz_build() {
  needs g++
  (
    cd tests/fuzz
    RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Zsanitizer=address -Ccodegen-units=16" \
      cargo build --release --quiet --target x86_64-unknown-linux-gnu --target-dir ../../target/fuzz
  )
}

# fuzz_target NAME SECONDS [OPTION...]: runs a target; what it finds lies in target/fuzz/NAME.
fuzz_target() {
  local name=$1 seconds=$2 out=$PWD/target/fuzz/$1
  shift 2
  mkdir -p "$out/corpus"
  local words=()
  [ ! -f "tests/fuzz/words/$name" ] || words=("-dict=tests/fuzz/words/$name")
  SHADOWLLM_FUZZ_BASES=$PWD/target/fuzz-seeds/bases ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    target/fuzz/x86_64-unknown-linux-gnu/release/$name "$out/corpus" "target/fuzz-seeds/corpus/$name" \
    -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$out/" "${words[@]}" "$@" > "$out/log" 2>&1 || { tail -n 40 "$out/log"; echo "$name: found something"; exit 1; }
  printf '%-12s %s\n' "$name" "$(grep -E 'number_of_executed_units|peak_rss' "$out/log" | awk '{ print $2 }' | paste -sd' ')"
}

FUZZ_TARGETS=(image live predictor state gguf safetensors tokenizer template chat tasks)

# Every target for SHADOWLLM_FUZZ_SECONDS (12): two minutes in all.
fuzz() {
  step "fuzzing"
  fuzz_seeds
  fuzz_build
  local name
  for name in "${FUZZ_TARGETS[@]}"; do fuzz_target "$name" "${SHADOWLLM_FUZZ_SECONDS:-12}"; done
}

# Every order in which two threads can claim tasks, park and wake.
loom() {
  step "every order of claims and wakes"
  (cd tests/loom && RUSTFLAGS="--cfg loom" cargo test --release --quiet --target-dir ../../target/loom -- --test-threads 1)
}

# Sessions under Miri, which sees every undefined behaviour that happens; with a nightly compiler only.
miri() {
  step "sessions under Miri"
  nightly miri rust-src || { skipped "no nightly Rust with Miri"; return; }
  # Miri has no assembly, by which libm takes square roots.
  MIRIFLAGS="-Zmiri-disable-isolation" cargo +nightly miri test -p shadowllm-core --features libm/force-soft-floats \
    --target-dir target/miri --test hostile a_session_from_beginning_to_end | tee target/miri.txt
  grep -q '^test result: ok. [1-9]' target/miri.txt
}

# The pool and sessions that share one under ThreadSanitizer, the standard library too; with a nightly compiler only.
tsan() {
  step "threads under ThreadSanitizer"
  nightly rust-src || { skipped "no nightly Rust with its source"; return; }
  RUSTFLAGS=-Zsanitizer=thread TSAN_OPTIONS=halt_on_error=1 cargo +nightly test -p shadowllm-host --no-default-features --release \
    -Zbuild-std --target x86_64-unknown-linux-gnu --target-dir target/tsan --lib --test threads -- --test-threads 1
}

# Hostile images where words have 32 bits. The wrapping of a product would be a panic here.
i686() {
  step "hostile images on 32 bits"
  local target=i686-unknown-linux-gnu libraries=/usr/i686-linux-gnu/lib
  needs i686-linux-gnu-gcc=gcc-i686-linux-gnu
  [ -f $libraries/Scrt1.o ] || apt_install libc6-dev-i386-cross
  rustup target add $target
  CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_LINKER=i686-linux-gnu-gcc RUSTFLAGS="-Coverflow-checks -Cdebug-assertions" \
    CARGO_TARGET_I686_UNKNOWN_LINUX_GNU_RUNNER="$libraries/ld-linux.so.2 --library-path $libraries" \
    cargo test -p shadowllm-core --release --target $target --target-dir target/i686 --lib --test hostile
}
