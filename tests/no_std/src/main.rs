//! The program's entry on each kind of machine: an operating system, none at all, or a WebAssembly host.
#![cfg_attr(any(target_os = "none", target_arch = "wasm32"), no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;
#[cfg(target_os = "none")]
mod firmware;
#[cfg(not(any(target_os = "none", target_arch = "wasm32")))]
mod hosted;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(target_os = "none")]
use firmware::start;
use shadowllm_no_std::IMAGE;

#[cfg(not(any(target_os = "none", target_arch = "wasm32")))]
fn main() -> std::process::ExitCode {
    hosted::main()
}
