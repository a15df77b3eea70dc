//! The C interface of shadowllm; `include/shadowllm.h` is its manual.
//!
//! Layer: above the host; without feature `std` above the core alone, with the functions of the header's embedded part.
//! Promise: whatever a C program passes, within the header's rules for pointers and threads, comes back as a status, and
//! no panic crosses the boundary.
//!
//! A file uses only files that stand to its left:
//! `status reserve message object structs args exec | model sampler session tokens state dial stats | load text grammar generate chat`.
//! The second and third group hold the functions, a file for each section of the header; the third group needs an
//! operating system.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(not(feature = "tokenizer"), allow(dead_code, reason = "smaller libraries use less of the shared parts"))]
#![allow(non_camel_case_types, reason = "types have the header's names")]

#[cfg(all(test, feature = "tokenizer"))]
mod agreement;
mod args;
#[cfg(feature = "tokenizer")]
mod chat;
mod dial;
mod exec;
#[cfg(feature = "tokenizer")]
mod generate;
#[cfg(feature = "tokenizer")]
mod grammar;
#[cfg(feature = "std")]
mod load;
mod message;
mod model;
#[cfg(all(feature = "std", not(feature = "tokenizer")))]
mod no_text;
mod object;
#[cfg(feature = "std")]
mod pace;
#[cfg(feature = "std")]
mod reserve;
mod sampler;
mod session;
mod state;
mod stats;
mod status;
mod structs;
#[cfg(feature = "tokenizer")]
mod text;
mod tokens;

/// Version of the library as major * 1000000 + minor * 1000 + patch, to compare with the header's.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut i, mut n) = (text.as_bytes(), 0, 0);
        while i < bytes.len() {
            n = n * 10 + (bytes[i] - b'0') as u32;
            i += 1;
        }
        n
    }
    const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + number(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}

/// The newest image format this library reads.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_image_version() -> u32 {
    shadowllm_core::image::VERSION
}

#[cfg(all(not(feature = "std"), not(panic = "abort")))]
compile_error!("a panic cannot unwind without std: build with --profile embedded");

/// There is no caller to return to, so a panic executes a trap instruction.
#[cfg(all(not(feature = "std"), panic = "abort"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: the instruction touches no memory; it ends the program, or stops it where no system ends it.
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    unsafe {
        core::arch::asm!("ud2", options(noreturn, nomem, nostack))
    }
    // SAFETY: the instruction accesses no memory; it ends or stops the program.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("brk #1", options(noreturn, nomem, nostack))
    }
    // SAFETY: the instruction accesses no memory; it ends or stops the program.
    #[cfg(target_arch = "arm")]
    unsafe {
        core::arch::asm!("udf #0", options(noreturn, nomem, nostack))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64", target_arch = "arm")))]
    loop {
        core::hint::spin_loop();
    }
}
