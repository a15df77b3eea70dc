# The Kotlin classes and the JNI library, in a JVM that checks how JNI is used.
android() {
  step "Android's classes in a JVM"
  local tools=$PWD/target/ci/android-tools
  dpkg -s openjdk-17-jdk-headless > /dev/null 2>&1 || apt_install openjdk-17-jdk-headless
  needs npm cmake make gcc readelf=binutils
  [ -x "$tools/node_modules/kotlin-compiler/bin/kotlinc" ] \
    || npm install --silent --no-fund --no-audit --prefix "$tools" kotlin-compiler@2.4.20
  tests/c/run.sh models
  local java
  java=$(dpkg -L openjdk-17-jdk-headless | sed -n 's|/bin/javac$||p' | head -n 1)
  JAVA_HOME=$java PATH=$java/bin:$PATH ffi/android/test/run.sh "$tools/node_modules/kotlin-compiler"
}

# The library for iOS, compiled (not linked, not run), in an XCFramework; its module map, read by clang; the Swift files,
# parsed. There is no Swift compiler.
apple() {
  step "Apple's package"
  debian_rust
  needs clang llvm-nm=llvm
  local out=$PWD/target/phones/apple venv=$PWD/target/ci/swift-venv slice
  # Without optimization across crates, which takes longer than all else.
  PATH=/usr/bin:/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_FLAGS=-Zbuild-std=std,panic_unwind \
    CARGO_TARGET_DIR=$PWD/target/phones CARGO_PROFILE_LIBRARY_LTO=off CARGO_PROFILE_LIBRARY_CODEGEN_UNITS=16 \
    ffi/apple/xcframework.sh -o "$out" aarch64-apple-ios
  slice=$out/CShadowLLM.xcframework/ios-arm64
  python3 -c 'import plistlib, sys; assert plistlib.load(open(sys.argv[1], "rb"))["AvailableLibraries"]' "$slice/../Info.plist"
  llvm-nm -g --defined-only "$slice/libshadowllm.a" 2>/dev/null | awk '$3 ~ /^_sllm_/ { print substr($3, 2) }' | sort -u > "$out/symbols"
  gcc -E -P -x c include/shadowllm.h | tr '\n' ' ' | grep -oE '\bsllm_[a-z_]+ ?\(' | tr -d ' (' | sort -u | diff - "$out/symbols"
  printf '@import CShadowLLM;\nint32_t f(sllm_session *s) { return sllm_session_cancel(s) + SLLM_STATUS_OK; }\n' > "$out/import.m"
  clang -fmodules -fmodules-cache-path="$out/modules" -I"$slice/Headers" -fsyntax-only "$out/import.m"
  python3 -c 'import plistlib, sys; assert plistlib.load(open(sys.argv[1], "rb"))["NSPrivacyTracking"] is False' \
    ffi/apple/Sources/ShadowLLM/PrivacyInfo.xcprivacy
  python_tools "$venv" tree-sitter==0.26.1 tree-sitter-swift==0.7.4
  "$venv/bin/python" ffi/apple/parse.py ffi/apple/Package.swift ffi/apple/Sources/ShadowLLM/*.swift
}
