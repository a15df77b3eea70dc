# The workspace with the installed Rust. Steps name the whole workspace, even for one test: another selection of packages has
# other features of shared dependencies, and cargo would build those a second time.

fmt() {
  step formatting
  cargo fmt --all --check
  for alone in tests/no_std tests/fuzz tests/loom ffi/web; do (cd $alone && cargo fmt --check); done
}

clippy() {
  step clippy
  cargo clippy --workspace --all-targets --release -- -D warnings
  # What the workspace as a whole turns on must not be needed by a part alone.
  for features in "" tokenizer; do
    cargo clippy -p shadowllm-host --no-default-features --features "$features" --release --target-dir target/variants -- -D warnings
  done
  (cd tests/no_std && cargo clippy --release --all-features --target-dir ../../target/no_std/host -- -D warnings)
}

# The README's command; the README's Rust program is among the doctests. By pip, tests fetch a real model and task sets.
test() {
  step tests
  needs pip3=python3-pip
  cargo test --workspace --release
}

# Modules of a crate use each other one way.
modules() { step "circles of modules"; python3 .ci/modules.py; }

# The examples on the story model.
examples() {
  step examples
  mkdir -p target/ci
  local prompt=(1 703 757 260 482 13) # Once upon a time,
  cargo build --workspace --release --examples --quiet
  # An intrinsic that is not inlined, in a closure for example, is a call for one instruction: a fifth of a token's time, once.
  if nm -C target/release/examples/tokens | grep -E 'core_arch::x86::avx(2|512)[a-z]*::_mm'; then
    echo "these intrinsics are calls: compile them into the kernels that use them" >&2
    return 1
  fi
  target/release/examples/tokens host/models/story.sllm "${prompt[@]}" | tee target/ci/tokens
  grep -qE '^\[([0-9]+, ){23}[0-9]+\]$' target/ci/tokens
  target/release/examples/dial host/models/story.sllm "${prompt[@]}" | tee target/ci/dial
  target/release/examples/generate | tee target/ci/generate
  [ "$(grep -c 'MB read per token' target/ci/generate)" = 2 ]
  echo "What color is the sky?" | target/release/examples/chat | tee target/ci/chat
  grep -q 'tokens per second' target/ci/chat
  awk '$1 == 0.25 { found = 1; exit !($3 < 80) } END { if (!found) exit 1 }' target/ci/dial
}

# Tokenizers rebuilt from GGUF files against what llama.cpp recorded for its own vocabularies.
vocab() {
  step "tokenizers of a dozen vocabularies"
  local work=target/ci/llama.cpp
  if ! [ -d $work/models ]; then
    mkdir -p $work
    python_tools $work/venv scikit-build-core cmake ninja # pip runs the build tools to read the name
    PATH=$PWD/$work/venv/bin:$PATH pip download -q --no-deps --no-binary :all: --no-build-isolation -d $work llama-cpp-python==0.3.36
    tar -xzf $work/llama_cpp_python-*.tar.gz -C $work --strip-components=3 --wildcards '*/vendor/llama.cpp/models/*'
  fi
  LLAMA_CPP_MODELS=$PWD/$work/models cargo test --workspace --release --test tokenizer
}

doc() { step documentation; RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --release; }

# The oldest supported Rust compiles the workspace. Where it is the installed one, the other steps have shown it.
msrv() {
  step "the oldest supported Rust"
  local claimed at_hand
  claimed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  at_hand=$(rustc --version | cut -d' ' -f2)
  grep -q "Rust $claimed or newer" README.md || { echo "the README claims another version than Cargo.toml's $claimed"; exit 1; }
  for alone in tests/no_std ffi/web; do
    grep -q "^rust-version = \"$claimed\"" $alone/Cargo.toml || { echo "$alone/Cargo.toml claims another version than $claimed"; exit 1; }
  done
  if [ "${at_hand%.*}" = "$claimed" ]; then
    cargo check --workspace --release --all-targets --quiet
  elif rustup run "$claimed" rustc --version 2>/dev/null; then
    rustup run "$claimed" cargo check --workspace --release --all-targets --quiet --target-dir target/msrv
  else
    skipped "Rust $claimed: Rust $at_hand is at hand, and rustup has no other"; return
  fi
  echo "Rust $claimed compiles the workspace"
}

# Packages as they would be published: complete, small, and compiling by themselves.
package() {
  step packages
  local crates=(-p shadowllm-core -p shadowllm-host) list crate
  # Cargo keeps what it unpacked and compiled of a version; here the version stays and its files change.
  rm -rf target/ci/package "${CARGO_HOME:-$HOME/.cargo}"/registry/{src,cache}/*/shadowllm-*
  cargo publish --dry-run --allow-dirty --quiet --target-dir target/ci/package "${crates[@]}"
  for crate in shadowllm-core shadowllm-host; do
    list=$(cargo package --allow-dirty --list -p $crate)
    for file in LICENSE-MIT LICENSE-APACHE README.md Cargo.toml; do
      grep -qx $file <<< "$list" || { echo "$crate: the package lacks $file"; exit 1; }
    done
    if grep -E '\.(sllm|gguf|predictor|safetensors)$' <<< "$list"; then echo "$crate: the package holds a model"; exit 1; fi
  done
  list=$(find target/ci/package -path "*tmp-crate*" -name '*.crate')
  [ "$(wc -l <<< "$list")" = 2 ] || { echo "not two packages: $list"; exit 1; }
  if find target/ci/package -path "*tmp-crate*" -name '*.crate' -size +1000k | grep .; then echo "this package is too large"; exit 1; fi
}

# The numbers of packages that ffi/README.md gives: after a library's name there, its package and the features of it.
packages() {
  local name package features said found
  while IFS=: read -r name package features; do
    said=$(sed -n "/^| library | packages |/,/^$/s/^| $name | \([0-9]*\) |$/\1/p" ffi/README.md)
    # shellcheck disable=SC2086
    found=$(cargo tree -p $package -e no-proc-macro,normal --prefix none --no-default-features $features -f '{p}' \
      | sed 's/ (.*//' | sort -u | wc -l)
    [ "$said" = "$found" ] || { echo "'$name' has $found packages, and ffi/README.md says $said"; exit 1; }
    if [[ $name == '`'*Rust || $name == '`shadowllm-core`' ]] && ! grep -qF "\`$package\` ($found packages)" README.md; then
      echo "'$package' has $found packages, and README.md says otherwise"; exit 1
    fi
  done <<'END'
with grammars, tokenizer and chat templates:shadowllm-ffi:--features grammar
with tokenizer and chat templates:shadowllm-ffi:--features tokenizer
without:shadowllm-ffi:--features std
embedded:shadowllm-ffi:
`shadowllm-host`, for Rust:shadowllm-host:--features grammar
`shadowllm-host` without its features:shadowllm-host:
`shadowllm-core`:shadowllm-core:
END
}

# Licences, sources and duplicates of all dependencies; known faults where the database of them can be reached.
deny() {
  step "dependencies"
  packages
  local tools=$PWD/target/ci/deny
  cargo_tool "$tools" cargo-deny 0.20.2
  local deny=("$tools/bin/cargo-deny" --config .ci/deny.toml --workspace --all-features)
  "${deny[@]}" check --hide-inclusion-graph bans licenses sources
  if "${deny[@]}" fetch db; then
    "${deny[@]}" check --disable-fetch --hide-inclusion-graph advisories
  else
    skipped "known faults: the database of advisories is fetched from the network"
  fi
}
