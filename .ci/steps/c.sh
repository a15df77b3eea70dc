# The C interface: libraries as people install them, from C and C++, under sanitizers and valgrind.
capi() {
  step "C interface"
  local tools=$PWD/target/ci/capi-tools
  needs gcc g++ clang++=clang pkg-config valgrind objdump=binutils
  dpkg -s libc6-dbg > /dev/null 2>&1 || apt_install libc6-dbg
  python_tools "$tools/venv" cmake ninja
  cargo_tool "$tools" cbindgen 0.29.4
  PATH=$tools/bin:$tools/venv/bin:$PATH SHADOWLLM_SCOPE=--workspace tests/c/run.sh
}
