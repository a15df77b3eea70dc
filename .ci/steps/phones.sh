# The Kotlin classes and the JNI library, in a JVM that checks how JNI is used.
android() {
  step "Android's classes in a JVM"
  local tools=$PWD/target/ci/android-tools/2.4.20
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
# parsed. There is no compiler for Apple's systems.
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
  "$venv/bin/python" ffi/apple/parse.py ffi/apple/Package.swift ffi/apple/Sources/*/*.swift ffi/apple/Tests/*/*.swift
}

# The Swift package over the C library for Linux, compiled as Swift 6 with its strict concurrency, and its tests. The compiler
# is that of Debian trixie, in a folder of its own (3 GB, made once; needs root).
swift() {
  step "the Swift package"
  needs debootstrap objdump=binutils
  local root=$PWD/target/ci/trixie repository
  if [ ! -f "$root/complete" ]; then
    repository=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    rm -rf "$root"
    debootstrap --variant=minbase trixie "$root" "$repository" > "$root.log" 2>&1 || { tail "$root.log"; exit 1; }
    cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/"
    chroot "$root" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
      swiftlang gcc libc6-dev libstdc++-14-dev > "$root.log" 2>&1 || { tail "$root.log"; exit 1; }
    touch "$root/complete"
  fi
  tests/c/run.sh models
  # With the tools, whose features the engine has then: it is built once.
  cargo build --release --quiet -p shadowllm-ffi -p shadowllm-tools
  local work=$root/root/shadowllm target=$PWD/${CARGO_TARGET_DIR:-target}
  local library=$target/release/libshadowllm.so models=$target/ci/capi
  mkdir -p "$work/library" "$work/models" "$work/apple"
  cp -r ffi/apple/. "$work/apple/"
  cp include/shadowllm.h "$library" "$work/library/"
  cp "$library" "$work/library/$(objdump -p "$library" | awk '$1 == "SONAME" {print $2}')"
  cp "$models/plain.sllm" "$models/chat.sllm" "$work/models/"
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  trap 'umount "$root/proc"' EXIT
  chroot "$root" env LD_LIBRARY_PATH=/root/shadowllm/library SHADOWLLM_MODELS=/root/shadowllm/models HOME=/root \
    swift test --package-path /root/shadowllm/apple -Xswiftc -warnings-as-errors \
    -Xcc -I/root/shadowllm/library -Xlinker -L/root/shadowllm/library
  chroot "$root" env LD_LIBRARY_PATH=/root/shadowllm/library /root/shadowllm/apple/.build/debug/Ask \
    /root/shadowllm/models/chat.sllm "Who was the mayor?" | grep .
  umount "$root/proc"
  trap - EXIT
}
