# Tools that steps need besides Rust, installed on first use.

apt_install() {
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
}

# needs COMMAND[=PACKAGE]...: the Debian packages of the commands that are missing, and of no others: a package may
# conflict with what brought a command that is there (Debian's npm does with another publisher's Node.js).
needs() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" > /dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# python_tools FOLDER PACKAGE...: a virtual environment with these packages.
python_tools() {
  local folder=$1
  shift
  if [ "$(cat "$folder/complete" 2> /dev/null)" = "$*" ]; then return; fi
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  python3 -m venv "$folder"
  "$folder/bin/pip" install -q "$@"
  echo "$*" > "$folder/complete"
}

# cargo_tool FOLDER NAME VERSION: a program of the package of that name.
cargo_tool() {
  if [ -x "$1/bin/$2" ] && [ "$("$1/bin/$2" --version)" = "$2 $3" ]; then return; fi
  cargo install -q "$2" --version "$3" --locked --force --root "$1"
}

# skipped WHAT: says that something was not tested, which is a failure where SHADOWLLM_NO_SKIPS is set.
skipped() {
  echo "SKIPPED, NOT TESTED: $*" >&2
  [ -z "${SHADOWLLM_NO_SKIPS:-}" ] || exit 1
}

# nightly COMPONENT...: whether there is a nightly Rust with these components, which is installed where it can be.
nightly() {
  local component
  for component in "$@"; do
    rustup component list --installed --toolchain nightly 2> /dev/null | grep -q "^$component" \
      || rustup toolchain install nightly --profile minimal --component "$component" > /dev/null || return 1
  done
}

# Debian's Rust, whose standard library also exists for 64-bit Arm, and comes with its source for targets without one.
# It does not mix with another toolchain's: it is called by path, into target directories of its own.
debian_rust() {
  local package missing=()
  for package in rustc-web cargo-web rust-web-src rust-web-llvm libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu \
    libc6-dev-arm64-cross qemu-user-static lld-22; do
    dpkg -s $package > /dev/null 2>&1 || missing+=($package)
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  dpkg --add-architecture arm64
  apt_install "${missing[@]}"
}

debian_cargo() {
  PATH=/usr/bin:/bin:$PATH RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc /usr/bin/cargo "$@"
}

# Emulators of whole machines: newer ones, from the release's backports.
emulators() {
  if command -v qemu-system-arm >/dev/null && command -v qemu-system-aarch64 >/dev/null; then return; fi
  local backports
  backports=$(. /etc/os-release && echo "$VERSION_CODENAME-backports")
  awk -v RS= -v suite="$backports" '!/security/ && sub(/Suites:[^\n]*/, "Suites: " suite) { print; exit }' \
    /etc/apt/sources.list.d/debian.sources > /etc/apt/sources.list.d/backports.sources
  apt_install -t "$backports" qemu-system-arm
}

node_js() { needs node=nodejs; }
