//! What the linker is told of the shared library: its versioned name, and page sizes.

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
        // Applications carry their own copy, without links; the system may have pages of 16 KB.
        "android" => {
            link("-Wl,-soname,libshadowllm.so");
            link("-Wl,-z,max-page-size=16384");
        }
        "macos" | "ios" => link(&format!("-Wl,-install_name,@rpath/libshadowllm.{abi}.dylib")),
        _ => {}
    }
}

/// Puts the compiler's unwinder into the library, so that it depends on the C library alone: what asks for
/// libgcc_s finds a linker script that names the static one.
fn unwind_statically() {
    let out = var("OUT_DIR").unwrap();
    std::fs::write(format!("{out}/libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").unwrap();
    println!("cargo:rustc-link-search=native={out}");
}
