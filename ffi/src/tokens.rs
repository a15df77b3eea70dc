//! Tokens in, logits out: what a session reads, chooses and takes back.

use crate::args::{put, slice, wanted};
use crate::message::{boundary, report};
use crate::object::check;
use crate::sampler::{sllm_sampler, with_sampler};
use crate::session::{run, sllm_session};
use crate::status::{Failure, Result, SLLM_STATUS_NO_LOGITS, SLLM_STATUS_OK};
use core::sync::atomic::Ordering;
use shadowllm_core::Session;

/// Reads tokens.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_prefill(session: *mut sllm_session, tokens: *const u32, count: usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and `tokens` has `count` elements, by the header's rules.
        let (session, tokens) = unsafe { (check(session)?, slice(tokens, count)?) };
        run(session, |s| {
            let s = s.touch();
            s.session.prefill(&s.exec, tokens)?;
            Ok(())
        })
    })
}

/// Reads one token.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_decode(session: *mut sllm_session, token: u32) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        run(unsafe { check(session) }?, |s| {
            let s = s.touch();
            s.session.decode(&s.exec, token)?;
            Ok(())
        })
    })
}

/// The logits, or why there are none.
fn logits(session: &Session) -> Result<(*const f32, usize)> {
    match session.logits() {
        [] => Err(Failure::Fixed(SLLM_STATUS_NO_LOGITS, "there are no logits yet: prefill or decode first")),
        logits => Ok((logits.as_ptr(), logits.len())),
    }
}

/// The last token's logits.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_logits(
    session: *const sllm_session,
    logits_out: *mut *const f32,
    count: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(logits_out)?;
        wanted(count)?;
        let (logits, len) = session.with(|s| logits(&s.session))?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe {
            put(logits_out, logits);
            put(count, len);
        }
        Ok(())
    })
}

/// Chooses a token.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_sample(
    session: *mut sllm_session,
    sampler: *mut sllm_sampler,
    token: *mut u32,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(token)?;
        let chosen = session.with(|s| {
            logits(&s.session)?;
            // SAFETY: handles are NULL or live objects, by the header's rules.
            unsafe { with_sampler(sampler, |sampler| Ok(s.session.sample(sampler)?)) }
        })?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(token, chosen) };
        Ok(())
    })
}

/// Tokens read so far.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_position(session: *const sllm_session, position: *mut usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(position)?;
        let at = session.with(|s| Ok(s.session.position()))?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(position, at) };
        Ok(())
    })
}

/// Goes back to an earlier position.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_rewind(session: *mut sllm_session, position: usize) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules.
    boundary(|| run(unsafe { check(session) }?, |s| Ok(s.touch().session.rewind(position)?)))
}

/// Stops the current call.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_cancel(session: *mut sllm_session) -> i32 {
    // Signal handlers may call this: success takes two atomic accesses and nothing else.
    // SAFETY: handles are NULL or live objects, by the header's rules.
    match unsafe { check(session) } {
        Ok(session) => {
            session.raised.store(true, Ordering::Relaxed);
            SLLM_STATUS_OK
        }
        Err(failure) => report(&failure),
    }
}

/// Takes a cancel back.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_reset_cancel(session: *mut sllm_session) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        unsafe { check(session) }?.raised.store(false, Ordering::Relaxed);
        Ok(())
    })
}
