//! What a session has read, saved and taken up again; and what it took.

use crate::object::check;
use crate::session::{run, sllm_session};
use crate::status::status;
use crate::structs::{Out, put, slice, sllm_stats, wanted};
use core::ffi::c_void;

/// Bytes that [`sllm_session_save`] writes.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_state_size(session: *const sllm_session, size: *mut usize) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        wanted(size)?;
        let needed = session.with(|r| Ok(r.session.state_size()))?;
        // SAFETY: not NULL.
        unsafe { put(size, needed) };
        Ok(())
    })
}

/// Copies the state.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_save(
    session: *const sllm_session,
    buffer: *mut c_void,
    size: usize,
    written: *mut usize,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        wanted(buffer)?;
        let bytes = session.with(|r| {
            let needed = r.session.state_size();
            if size < needed {
                return Err(shadowllm_core::Error::MemoryTooSmall { needed, given: size }.into());
            }
            // SAFETY: not NULL, and the caller gives `size` bytes, of which so many are made into numbers first.
            let out = unsafe {
                buffer.cast::<u8>().write_bytes(0, needed);
                core::slice::from_raw_parts_mut(buffer.cast::<u8>(), needed)
            };
            Ok(r.session.save(out)?)
        })?;
        if !written.is_null() {
            // SAFETY: not NULL.
            unsafe { put(written, bytes) };
        }
        Ok(())
    })
}

/// Takes a saved state over.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_load(session: *mut sllm_session, buffer: *const c_void, size: usize) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and arrays.
        let (session, state) = unsafe { (check(session)?, slice(buffer.cast::<u8>(), size)?) };
        run(session, |r| Ok(r.touch().session.load(state)?))
    })
}

fn per_second(tokens: u64, nanoseconds: u64) -> f64 {
    if nanoseconds == 0 { 0.0 } else { tokens as f64 * 1e9 / nanoseconds as f64 }
}

/// Tokens per second of decoding so far.
#[cfg(feature = "tokenizer")]
pub fn decode_speed(totals: &shadowllm_core::Totals) -> f64 {
    per_second(totals.decoded_tokens, totals.decode_nanoseconds)
}

/// Sums of a session.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_get_stats(session: *const sllm_session, stats: *mut sllm_stats) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (session, out) = unsafe { (check(session)?, Out::new(stats)?) };
        let (t, bytes) = session.with(|r| Ok((*r.session.totals(), r.bytes)))?;
        #[cfg(feature = "std")]
        let peak = shadowllm_host::generate::peak_memory().unwrap_or(0);
        #[cfg(not(feature = "std"))]
        let peak = 0;
        out.write(sllm_stats {
            struct_size: 0,
            reserved: 0,
            prompt_tokens: t.prompt_tokens,
            decoded_tokens: t.decoded_tokens,
            prefill_nanoseconds: t.prefill_nanoseconds,
            decode_nanoseconds: t.decode_nanoseconds,
            first_token_nanoseconds: t.last_prefill_nanoseconds,
            weight_bytes: t.weights,
            predictor_bytes: t.predictor,
            predictor_nanoseconds: t.predictor_nanoseconds,
            kv_bytes: t.kv,
            session_bytes: bytes as u64,
            peak_memory_bytes: peak,
            density: t.density(),
            prefill_tokens_per_second: per_second(t.prompt_tokens, t.prefill_nanoseconds),
            decode_tokens_per_second: per_second(t.decoded_tokens, t.decode_nanoseconds),
        });
        Ok(())
    })
}

/// Begins to count anew.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_reset_stats(session: *mut sllm_session) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        run(unsafe { check(session) }?, |r| {
            r.session.reset_totals();
            Ok(())
        })
    })
}
