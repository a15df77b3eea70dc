//! The boundary that every C function runs inside; the thread's last message; the log.

use crate::status::{Failure, Result, SLLM_STATUS_OK, catch};
#[cfg(feature = "std")]
pub use hosted::{log, log_panics};

/// Runs the body of a C function and returns its status. The message of a failure, or of a panic, becomes the thread's
/// last one.
pub fn boundary(body: impl FnOnce() -> Result<()>) -> i32 {
    match catch(body) {
        Ok(()) => SLLM_STATUS_OK,
        Err(failure) => report(&failure),
    }
}

/// The failure's code; its message becomes the thread's last one.
pub fn report(failure: &Failure) -> i32 {
    #[cfg(feature = "std")]
    hosted::remember(failure);
    failure.code()
}

#[cfg(feature = "std")]
mod hosted {
    use crate::message::boundary;
    use crate::status::{Failure, SLLM_STATUS_INTERNAL, invalid};
    #[cfg(feature = "tokenizer")]
    use shadowllm_host::text_guard::is_guarded;
    use std::cell::UnsafeCell;
    use std::ffi::{CString, c_char, c_void};
    use std::io::Write;
    use std::sync::{Once, RwLock};

    /// Bytes of a message, its NUL included.
    const MESSAGE: usize = 1024;

    thread_local! {
        /// The thread's last message, in a fixed buffer, so that a failure allocates nothing.
        static LAST: UnsafeCell<[u8; MESSAGE]> = const { UnsafeCell::new([0; MESSAGE]) };
    }

    /// A writer that drops all bytes beyond the end of its buffer.
    struct Fill<'a>(&'a mut [u8]);

    impl Write for Fill<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.0.len());
            let (head, rest) = std::mem::take(&mut self.0).split_at_mut(n);
            head.copy_from_slice(&bytes[..n]);
            self.0 = rest;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Keeps a failure's message for [`sllm_last_error_message`]; internal errors go to the log too.
    pub fn remember(failure: &Failure) {
        // While a thread ends, its variables may be gone; then the message is lost.
        let _ = LAST.try_with(|last| {
            // SAFETY: the buffer belongs to this thread, and this function, which does not call itself, is the only
            // one that makes a reference to it.
            let buffer = unsafe { &mut *last.get() };
            let mut fill = Fill(&mut buffer[..MESSAGE - 1]);
            // `Fill` never fails.
            let _ = write!(fill, "{failure}");
            let end = MESSAGE - 1 - fill.0.len();
            // Cut after the last whole character.
            let end = (0..=end).rev().find(|i| std::str::from_utf8(&buffer[..*i]).is_ok()).unwrap_or(0);
            // A NUL inside the message (of a path) would end it early.
            buffer[..end].iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'?');
            buffer[end..].fill(0);
        });
        if failure.code() == SLLM_STATUS_INTERNAL {
            log(1, || failure.to_string());
        }
    }

    /// The message of this thread's last failure.
    #[unsafe(no_mangle)]
    pub extern "C" fn sllm_last_error_message() -> *const c_char {
        LAST.try_with(|last| last.get().cast_const().cast()).unwrap_or(c"".as_ptr())
    }

    type LogFn = unsafe extern "C" fn(*mut c_void, i32, *const c_char);
    /// Gets the lines of the log.
    pub type sllm_log_fn = Option<LogFn>;

    /// The log's callback and its level.
    struct Log {
        call: LogFn,
        user: usize,
        level: i32,
    }

    static LOG: RwLock<Option<Log>> = RwLock::new(None);

    /// Writes a line to the log; `line` is only made when the level is logged.
    pub fn log(level: i32, line: impl FnOnce() -> String) {
        let found = LOG.read().ok().and_then(|l| l.as_ref().filter(|l| l.level >= level).map(|l| (l.call, l.user)));
        if let Some((call, user)) = found
            && let Ok(line) = CString::new(line())
        {
            // SAFETY: the embedder gave this function with this argument to `sllm_set_log`, for calls on any thread;
            // `line` ends with a NUL and outlives the call.
            unsafe { call(user as *mut c_void, level, line.as_ptr()) };
        }
    }

    /// Sets the log.
    ///
    /// # Safety
    /// See the header.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sllm_set_log(log: sllm_log_fn, user: *mut c_void, level: i32) -> i32 {
        boundary(|| {
            if !(0..=2).contains(&level) {
                return Err(invalid("the level is none of SLLM_LOG_..."));
            }
            if let Ok(mut slot) = LOG.write() {
                *slot = log.map(|call| Log { call, user: user as usize, level });
            }
            Ok(())
        })
    }

    /// From the first call on, panics are written to the log, with their place in the source, and not to standard error.
    /// One that becomes an ordinary status, because a model's tokenizer or template caused it, is no error of the library.
    pub fn log_panics() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|info| {
                if !is_guarded() {
                    log(1, || info.to_string());
                }
            }));
        });
    }

    /// Without texts no panic becomes an ordinary status.
    #[cfg(not(feature = "tokenizer"))]
    fn is_guarded() -> bool {
        false
    }
}

#[cfg(all(test, feature = "tokenizer"))]
mod tests {
    use super::*;
    use shadowllm_host::text_guard::caught;
    use std::ffi::{CStr, c_char, c_void};
    use std::panic::{set_hook, take_hook};
    use std::sync::Mutex;

    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    unsafe extern "C" fn note(_: *mut c_void, _: i32, line: *const c_char) {
        // SAFETY: the log's lines end with a NUL and live until this function returns.
        let line = unsafe { CStr::from_ptr(line) };
        LINES.lock().unwrap().push(line.to_string_lossy().into_owned());
    }

    #[test]
    fn panics_that_become_ordinary_statuses_are_not_logged() {
        let before = take_hook();
        log_panics();
        // SAFETY: the function may be called on any thread, and takes no argument of its own.
        let set = unsafe { hosted::sllm_set_log(Some(note), std::ptr::null_mut(), 1) };
        let damaged = caught(|| panic!("by a template"));
        let status = boundary(|| panic!("by the library"));
        set_hook(before);
        assert_eq!((set, damaged, status), (SLLM_STATUS_OK, None::<()>, crate::status::SLLM_STATUS_INTERNAL));
        let lines = LINES.lock().unwrap();
        let with = |text| lines.iter().filter(|line| line.contains(text)).count();
        // Its place, and the status.
        assert_eq!((with("by a template"), with("by the library")), (0, 2), "{lines:?}");
    }
}
