#!/usr/bin/env bash
# Builds the C libraries and installs them: ffi/install.sh PREFIX
#   include/   shadowllm.h, shadowllm.hpp
#   lib/       the shared library, libshadowllm.a, and libshadowllm-embedded.a (no libc, no allocation)
#   bin/       the command shadowllm, which packs models
#   lib/pkgconfig/shadowllm.pc, lib/cmake/shadowllm: the tree may be moved as a whole
# With DESTDIR set, files go below that folder, as packagers want it. SHADOWLLM_COMMAND=no leaves the command out.
# SHADOWLLM_FEATURES=std builds libraries without tokenizer and grammars, =tokenizer without grammars (default: grammar).
set -euo pipefail
if [ $# -ne 1 ] || [ -z "$1" ]; then
  echo "usage: ffi/install.sh PREFIX" >&2
  exit 2
fi
cannot() {
  echo "$1 cannot be written: name a folder of your own, such as ~/.local, or run this as root" >&2
  exit 1
}
mkdir -p "${DESTDIR-}$1" || cannot "${DESTDIR-}$1"
prefix=$(cd "${DESTDIR-}$1" && pwd)
# The folder after installation: without the one that packagers put in front.
final=$prefix
if [ -n "${DESTDIR-}" ]; then final=$1; fi
# Asked before building, which takes minutes.
folders=(include lib/pkgconfig lib/cmake/shadowllm)
if [ "${SHADOWLLM_COMMAND-yes}" != no ]; then folders+=(bin); fi
for folder in "${folders[@]}"; do
  if ! mkdir -p "$prefix/$folder" || ! [ -w "$prefix/$folder" ] || ! [ -w "$prefix/${folder%%/*}" ]; then
    cannot "$prefix/$folder"
  fi
done
cd "$(dirname "$0")/.."
features=${SHADOWLLM_FEATURES-grammar}
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
abi=$major
[ "$major" = 0 ] && abi=$(echo "$version" | cut -d. -f1,2)

cargo build -p shadowllm-ffi --profile library --no-default-features --features "$features"
if [ "${SHADOWLLM_COMMAND-yes}" != no ]; then
  # shellcheck disable=SC2086
  cargo build ${SHADOWLLM_SCOPE--p shadowllm-tools} --bin shadowllm --release
  cp "$target/release/shadowllm" "$prefix/bin/"
fi
cargo rustc -p shadowllm-ffi --profile embedded --no-default-features --lib --crate-type staticlib

lib=$prefix/lib
cp include/shadowllm.h include/shadowllm.hpp "$prefix/include/"
cp "$target/library/libshadowllm.a" "$lib/libshadowllm.a"
cp "$target/embedded/libshadowllm.a" "$lib/libshadowllm-embedded.a"
if [ "$(uname)" = Darwin ]; then
  shared=libshadowllm.$version.dylib
  cp "$target/library/libshadowllm.dylib" "$lib/$shared"
  ln -sf "$shared" "$lib/libshadowllm.$abi.dylib"
  ln -sf "$shared" "$lib/libshadowllm.dylib"
  private="-lpthread"
else
  shared=libshadowllm.so.$version
  # From the static library, so that functions of its dependencies are neither visible nor kept.
  printf '{ global: sllm_*; local: *; };\n' > "$target/library/exports.map"
  "${CC-cc}" -shared -static-libgcc -o "$lib/$shared" -Wl,-soname,"libshadowllm.so.$abi" -Wl,--gc-sections -Wl,-s \
    -Wl,--version-script="$target/library/exports.map" -Wl,--whole-archive "$target/library/libshadowllm.a" \
    -Wl,--no-whole-archive -lm
  ln -sf "$shared" "$lib/libshadowllm.so.$abi"
  ln -sf "$shared" "$lib/libshadowllm.so"
  private="-lpthread -ldl -lm"
fi

cat > "$lib/pkgconfig/shadowllm.pc" <<END
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: shadowllm
Description: Language models on the CPU, reading only the weights that a token needs
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lshadowllm
Libs.private: $private
END

cat > "$lib/cmake/shadowllm/shadowllm-config.cmake" <<END
# Targets: shadowllm::shadowllm (shared), shadowllm::static, shadowllm::embedded.
get_filename_component(_shadowllm_prefix "\${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
include(CMakeFindDependencyMacro)
find_dependency(Threads)
foreach(_shadowllm_kind shadowllm static embedded)
  if(NOT TARGET shadowllm::\${_shadowllm_kind})
    if(_shadowllm_kind STREQUAL "shadowllm")
      add_library(shadowllm::shadowllm SHARED IMPORTED)
      set_target_properties(shadowllm::shadowllm PROPERTIES IMPORTED_LOCATION "\${_shadowllm_prefix}/lib/$shared")
    else()
      add_library(shadowllm::\${_shadowllm_kind} STATIC IMPORTED)
    endif()
    set_target_properties(shadowllm::\${_shadowllm_kind} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "\${_shadowllm_prefix}/include")
  endif()
endforeach()
set_target_properties(shadowllm::static PROPERTIES
  IMPORTED_LOCATION "\${_shadowllm_prefix}/lib/libshadowllm.a"
  INTERFACE_LINK_LIBRARIES "Threads::Threads;\${CMAKE_DL_LIBS};m")
set_target_properties(shadowllm::embedded PROPERTIES
  IMPORTED_LOCATION "\${_shadowllm_prefix}/lib/libshadowllm-embedded.a"
  INTERFACE_COMPILE_DEFINITIONS SLLM_EMBEDDED)
set(shadowllm_FOUND TRUE)
END

# Before 1.0 a minor version may change the interface.
cat > "$lib/cmake/shadowllm/shadowllm-config-version.cmake" <<END
set(PACKAGE_VERSION "$version")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION OR NOT PACKAGE_FIND_VERSION VERSION_GREATER_EQUAL "$abi")
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
END
echo "installed shadowllm $version to $prefix"
if [ "$(uname)" = Linux ] && [ -z "${DESTDIR-}" ]; then
  if ldconfig -v -N 2>/dev/null | grep -q "^$lib:"; then
    echo "if programs do not find libshadowllm.so.$abi, run ldconfig as root"
  else
    echo "no system folder: build with  PKG_CONFIG_PATH=$lib/pkgconfig"
    echo "and let programs find it with  cc ... -Wl,-rpath,$final/lib  or  LD_LIBRARY_PATH=$final/lib"
  fi
fi
