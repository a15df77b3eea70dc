//! The program's entry on each kind of machine: an operating system, none at all, or a WebAssembly host.
#![cfg_attr(any(target_os = "none", target_arch = "wasm32"), no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;
#[cfg(not(any(target_os = "none", target_arch = "wasm32")))]
mod hosted;
#[cfg(target_arch = "wasm32")]
mod wasm;

/// The model that ships with the program, at an address that its weights can be used at.
static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../host/models/brown-opt.sllm"));

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

#[cfg(not(any(target_os = "none", target_arch = "wasm32")))]
fn main() -> std::process::ExitCode {
    hosted::main()
}
