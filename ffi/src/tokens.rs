//! Tokens in, logits out: what a session reads, chooses and takes back.

use crate::args::{put, slice, wanted};
use crate::message::{boundary, report};
use crate::object::check;
use crate::sampler::{sllm_sampler, with_sampler};
use crate::session::{SessionState, number, run, sllm_session};
use crate::status::{Failure, Result, SLLM_STATUS_NO_LOGITS, SLLM_STATUS_OK, invalid};
use core::ffi::c_void;
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
            let decode = |s: &mut SessionState| Ok(s.session.decode(&s.exec, token).map(drop)?);
            #[cfg(feature = "std")]
            return crate::pace::paced(s, decode);
            #[cfg(not(feature = "std"))]
            decode(s)
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
    // SAFETY: `session` and the output are as the header's rules say, which are those of `number`.
    unsafe { number(session, position, |s| s.position()) }
}

/// Positions in all.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_context(session: *const sllm_session, context: *mut usize) -> i32 {
    // SAFETY: `session` and the output are as the header's rules say, which are those of `number`.
    unsafe { number(session, context, |s| s.context()) }
}

/// The tokens read so far.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_tokens(
    session: *const sllm_session,
    tokens: *mut *const u32,
    count: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(tokens)?;
        wanted(count)?;
        let (at, len) = session.with(|s| Ok((s.session.tokens().as_ptr(), s.session.position())))?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe {
            put(tokens, at);
            put(count, len);
        }
        Ok(())
    })
}

/// How far the call under way is.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_progress(session: *const sllm_session, position: *mut usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(position)?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(position, session.reached.load(Ordering::Relaxed)) };
        Ok(())
    })
}

/// Gets the logits after a token.
pub type sllm_logits_fn = Option<unsafe extern "C" fn(*mut c_void, usize, *const f32, usize)>;

/// Reads tokens and shows the logits after each.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_prefill_each(
    session: *mut sllm_session,
    tokens: *const u32,
    count: usize,
    on_logits: sllm_logits_fn,
    user: *mut c_void,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and `tokens` has `count` elements, by the header's rules.
        let (session, tokens) = unsafe { (check(session)?, slice(tokens, count)?) };
        let call = on_logits.ok_or(invalid("on_logits is NULL: give a function"))?;
        run(session, |s| {
            // SAFETY: the header asks the caller for a function that may be called with these arguments; the logits
            // live until it returns.
            let each = &mut |index: usize, row: &[f32]| unsafe { call(user, index, row.as_ptr(), row.len()) };
            Ok(s.session.prefill_each(&s.exec, tokens, each)?)
        })
    })
}

/// Goes back to an earlier position.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_rewind(session: *mut sllm_session, position: usize) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules.
    boundary(|| run(unsafe { check(session) }?, |s| Ok(s.session.rewind(position)?)))
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
