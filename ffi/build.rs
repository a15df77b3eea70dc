//! Linker options of the shared library: its versioned name and the page size.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let (major, minor) = (var("CARGO_PKG_VERSION_MAJOR").unwrap(), var("CARGO_PKG_VERSION_MINOR").unwrap());
    // Before 1.0 a minor version may change the interface.
    let abi = if major == "0" { format!("0.{minor}") } else { major };
    let link = |arg: &str| println!("cargo:rustc-cdylib-link-arg={arg}");
    match var("CARGO_CFG_TARGET_OS").unwrap().as_str() {
        "linux" => {
            link(&format!("-Wl,-soname,libshadowllm.so.{abi}"));
            if var("CARGO_CFG_TARGET_ENV").unwrap() == "gnu" {
                unwind_statically();
            }
        }
        // Applications carry their own copy, so the name has no version; the system may have pages of 16 KB.
        "android" => {
            link("-Wl,-soname,libshadowllm.so");
            link("-Wl,-z,max-page-size=16384");
        }
        "macos" | "ios" => link(&format!("-Wl,-install_name,@rpath/libshadowllm.{abi}.dylib")),
        _ => {}
    }
}

/// Links the compiler's unwinder statically, so that the library depends on the C library alone: the linker finds, in
/// place of libgcc_s, a script that names the static library.
fn unwind_statically() {
    let out = var("OUT_DIR").unwrap();
    std::fs::write(format!("{out}/libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").unwrap();
    println!("cargo:rustc-link-search=native={out}");
}
