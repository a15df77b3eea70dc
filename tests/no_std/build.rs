//! Passes the linker script to bare-metal targets.

fn main() {
    let var = |name| std::env::var(name).unwrap_or_default();
    println!("cargo::rerun-if-changed=link");
    let script = match (var("CARGO_CFG_TARGET_OS").as_str(), var("CARGO_CFG_TARGET_ARCH").as_str()) {
        ("none", "arm") => "cortex-m.ld",
        ("none", "aarch64") => "aarch64.ld",
        _ => return,
    };
    println!("cargo::rustc-link-arg-bins=-T{}/link/{script}", var("CARGO_MANIFEST_DIR"));
}
