//! The state of a session: saved, loaded, and copied to a fork.

use crate::args::{put, slice, wanted};
use crate::message::boundary;
use crate::object::check;
use crate::session::{number, run, sllm_session};
use core::ffi::c_void;

/// Bytes that [`sllm_session_save`] writes.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_state_size(session: *const sllm_session, size: *mut usize) -> i32 {
    // SAFETY: the header's rules for `session` and `size` are those of `number`.
    unsafe { number(session, size, |s| s.state_size()) }
}

/// Copies the state to a buffer.
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
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(buffer)?;
        let bytes = session.with(|s| {
            let needed = s.session.state_size();
            if size < needed {
                return Err(shadowllm_core::Error::MemoryTooSmall { needed, given: size }.into());
            }
            // SAFETY: the buffer is not NULL, and `needed` is at most the `size` bytes that the caller gives; they are
            // initialised before a slice of them is made.
            let out = unsafe {
                buffer.cast::<u8>().write_bytes(0, needed);
                core::slice::from_raw_parts_mut(buffer.cast::<u8>(), needed)
            };
            Ok(s.session.save(out)?)
        })?;
        if !written.is_null() {
            // SAFETY: not NULL, checked above.
            unsafe { put(written, bytes) };
        }
        Ok(())
    })
}

/// Continues from a saved state.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_load(session: *mut sllm_session, buffer: *const c_void, size: usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and `buffer` has `size` bytes, by the header's rules.
        let (session, state) = unsafe { (check(session)?, slice(buffer.cast::<u8>(), size)?) };
        run(session, |s| Ok(s.session.load(state)?))
    })
}

#[cfg(feature = "std")]
mod fork {
    use crate::args::{put, wanted};
    use crate::message::boundary;
    use crate::object::{check, free};
    use crate::session::{SessionState, on_heap, sllm_session};
    use crate::status::{Result, catch};
    use shadowllm_core::sparsity::Policy;

    /// Sets the dial of `fork` and copies the state of `from` to it.
    fn copy(from: &SessionState, fork: &mut SessionState) -> Result<()> {
        if from.session.policy() != Policy::Off {
            fork.session.set_dial(&from.session.dial())?;
        }
        Ok(fork.session.copy(&from.session)?)
    }

    /// A second session that continues from the state of the first.
    ///
    /// # Safety
    /// See the header.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sllm_session_fork(session: *const sllm_session, fork: *mut *mut sllm_session) -> i32 {
        boundary(|| {
            // SAFETY: handles are NULL or live objects, by the header's rules.
            let session = unsafe { check(session) }?;
            wanted(fork)?;
            let made = session.with(|from| {
                let mut made = on_heap(from.model.model(), &from.options)?;
                // A panic ends the new session too; the first one is only read, and stays usable.
                // SAFETY: `on_heap` made the session just now.
                catch(|| unsafe { check(made) }?.with(|to| copy(from, to))).inspect_err(|_| {
                    // SAFETY: the session was made above, and no other code has its handle.
                    let _ = unsafe { free(&mut made) };
                })?;
                Ok(made)
            })?;
            // SAFETY: not NULL, checked by `wanted`.
            unsafe { put(fork, made) };
            Ok(())
        })
    }
}
