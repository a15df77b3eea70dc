//! The C interface of shadowllm; `include/shadowllm.h` is its manual.

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
