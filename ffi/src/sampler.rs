//! Samplers.

use crate::args::{defaults, put, read, slice, wanted};
use crate::message::boundary;
use crate::object::{Kind, Object, check, free, place, room};
use crate::status::Result;
use crate::structs::sllm_sampler_options;
use core::ffi::c_void;
use shadowllm_core::sample::{Sampler, SamplerOptions};

/// A sampler as handles point to it.
pub type sllm_sampler = Object<SamplerState>;

/// The engine's sampler.
pub struct SamplerState(pub Sampler);

impl Kind for SamplerState {
    const TAG: u32 = u32::from_le_bytes(*b"smpl");
}

impl SamplerState {
    fn new(o: &sllm_sampler_options) -> Result<Self> {
        Ok(SamplerState(Sampler::new(SamplerOptions {
            temperature: o.temperature,
            top_k: o.top_k as usize,
            top_p: o.top_p,
            min_p: o.min_p,
            repetition_penalty: o.repetition_penalty,
            presence_penalty: o.presence_penalty,
            frequency_penalty: o.frequency_penalty,
            seed: o.seed,
        })?))
    }
}

/// Runs `body` with the sampler; with one that takes the likeliest token for NULL.
///
/// # Safety
/// The header's rules for handles.
pub unsafe fn with_sampler<R>(sampler: *mut sllm_sampler, body: impl FnOnce(&mut Sampler) -> Result<R>) -> Result<R> {
    if sampler.is_null() {
        return body(&mut Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?);
    }
    // SAFETY: handles are NULL or live objects, by the header's rules.
    unsafe { check(sampler) }?.with(|s| body(&mut s.0))
}

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_options_defaults(options: *mut sllm_sampler_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives `struct_size` bytes.
    boundary(|| unsafe { defaults(options, struct_size) })
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
    boundary(|| {
        wanted(sampler)?;
        let (at, _) = place::<sllm_sampler>(memory, size)?;
        // SAFETY: structures are NULL or as large as their struct_size, by the header's rules.
        let state = SamplerState::new(&unsafe { read(options) }?)?;
        // SAFETY: `place` found room for the object; `sampler` is not NULL, checked by `wanted`.
        unsafe {
            at.write(Object::new(state, 0));
            put(sampler, at);
        }
        Ok(())
    })
}

/// A sampler on the heap.
///
/// # Safety
/// See the header.
#[cfg(feature = "std")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_new(
    options: *const sllm_sampler_options,
    sampler: *mut *mut sllm_sampler,
) -> i32 {
    boundary(|| {
        wanted(sampler)?;
        // SAFETY: structures are NULL or as large as their struct_size, by the header's rules.
        let state = SamplerState::new(&unsafe { read(options) }?)?;
        // SAFETY: `sampler` is not NULL, checked by `wanted`.
        unsafe { put(sampler, crate::object::boxed(state)?) };
        Ok(())
    })
}

/// Notes a token for the repetition penalty.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_accept(sampler: *mut sllm_sampler, token: u32) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        unsafe { check(sampler) }?.with(|s| {
            s.0.accept(token);
            Ok(())
        })
    })
}

/// Bytes that [`sllm_sampler_save`] writes.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_sampler_state_size() -> usize {
    Sampler::STATE
}

/// Copies the state.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_save(sampler: *const sllm_sampler, buffer: *mut c_void, size: usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let sampler = unsafe { check(sampler) }?;
        wanted(buffer)?;
        if size < Sampler::STATE {
            return Err(shadowllm_core::Error::MemoryTooSmall { needed: Sampler::STATE, given: size }.into());
        }
        let state = sampler.with(|s| Ok(s.0.save()))?;
        // SAFETY: the buffer is not NULL and has `size` bytes, which is at least the state's, checked above.
        unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(state.as_ptr(), state.len()) };
        Ok(())
    })
}

/// Continues from a saved state.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_load(sampler: *mut sllm_sampler, buffer: *const c_void, size: usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and `buffer` has `size` bytes, by the header's rules.
        let (sampler, state) = unsafe { (check(sampler)?, slice(buffer.cast::<u8>(), size)?) };
        sampler.with(|s| Ok(s.0.load(state)?))
    })
}

/// Ends a sampler.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_free(sampler: *mut *mut sllm_sampler) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules.
    boundary(|| unsafe { free(sampler) })
}
