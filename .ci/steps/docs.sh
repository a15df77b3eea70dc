# The pages: what they name exists, and their programs run.

paths() {
  step "paths and versions that pages name"
  python3 .ci/paths.py
  local version page
  version=$(sed -n 's/^pub const VERSION: u32 = \([0-9]*\);/\1/p' core/src/image/head.rs)
  for page in CHANGELOG.md core/src/image/FORMAT.md; do
    grep -q "image format, version $version\b" $page || { echo "$page names another image format than version $version"; exit 1; }
  done
}

# The shell lines of the README on SmolLM2, where the demo can fetch it, else on a small model of the tests. Its Rust program
# is a doctest of the tests (`test`), its C program is compiled and run with the C interface (`capi`).
readme() {
  step "the README's shell lines"
  local model=tests/vectors/brown-opt cached
  [ "$(wc -l < README.md)" -le 200 ] || { echo "the README is longer than 200 lines"; exit 1; }
  cargo build --release --quiet
  target/release/shadowllm demo -n 1 > /dev/null
  cached=$(find "${XDG_CACHE_HOME:-$HOME/.cache}/shadowllm" -name 'SmolLM2-*.gguf' 2>/dev/null | head -n 1)
  if [ -n "$cached" ]; then model=$cached; else export SHADOWLLM_OFFLINE=1; fi
  python3 .ci/readme.py target/release/shadowllm "$model" target/ci/readme
}
