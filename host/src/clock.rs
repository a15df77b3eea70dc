//! The time that a thread takes of the processor: other programs and pauses of a machine do not count.

use std::time::Duration;

/// The time that this thread has used so far.
#[cfg(unix)]
pub fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system fills in the time, or leaves it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time since the first call, where the system's clock of threads is not known.
#[cfg(not(unix))]
pub fn used() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}
