//! Samplers.

use crate::object::{Kind, Object, check, free, place, room};
use crate::status::{Result, status};
use crate::structs::{self, put, sllm_sampler_options, wanted};
use core::ffi::c_void;
use shadowllm_core::sample::{Sampler, SamplerOptions};

/// A sampler behind its handle.
pub type sllm_sampler = Object<Chooser>;

/// The engine's sampler.
pub struct Chooser(pub Sampler);

impl Kind for Chooser {
    const TAG: u32 = u32::from_le_bytes(*b"smpl");
}

fn default_options() -> sllm_sampler_options {
    let o = SamplerOptions::default();
    sllm_sampler_options {
        struct_size: size_of::<sllm_sampler_options>() as u32,
        temperature: o.temperature,
        top_k: o.top_k as u32,
        top_p: o.top_p,
        min_p: o.min_p,
        repetition_penalty: o.repetition_penalty,
        seed: o.seed,
    }
}

/// The sampler that the options describe.
///
/// # Safety
/// As [`structs::read`].
pub unsafe fn chooser(options: *const sllm_sampler_options) -> Result<Chooser> {
    // SAFETY: as promised.
    let o = unsafe { structs::read(options, default_options()) }?;
    Ok(Chooser(Sampler::new(SamplerOptions {
        temperature: o.temperature,
        top_k: o.top_k as usize,
        top_p: o.top_p,
        min_p: o.min_p,
        repetition_penalty: o.repetition_penalty,
        seed: o.seed,
    })?))
}

/// A sampler that takes the likeliest token.
pub fn greedy() -> Result<Sampler> {
    Ok(Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?)
}

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_options_defaults(options: *mut sllm_sampler_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives that many bytes.
    status(|| unsafe { structs::defaults(options, struct_size, default_options()) })
}

/// Bytes that [`sllm_sampler_init`] needs.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_sampler_size() -> usize {
    room::<sllm_sampler>()
}

/// A sampler in memory that the caller gives.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_init(
    memory: *mut c_void,
    size: usize,
    options: *const sllm_sampler_options,
    sampler: *mut *mut sllm_sampler,
) -> i32 {
    status(|| {
        wanted(sampler)?;
        let (at, _) = place::<sllm_sampler>(memory, size)?;
        // SAFETY: the header's rules for structures; `place` found room; the output is not NULL.
        unsafe {
            at.write(Object::new(chooser(options)?, 0));
            put(sampler, at);
        }
        Ok(())
    })
}

/// Remembers a token.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_accept(sampler: *mut sllm_sampler, token: u32) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        unsafe { check(sampler) }?.with(|s| {
            s.0.accept(token);
            Ok(())
        })
    })
}

/// Ends a sampler.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_free(sampler: *mut *mut sllm_sampler) -> i32 {
    // SAFETY: the header's rules for handles.
    status(|| unsafe { free(sampler) })
}
