//! Signals belong to the program, so threads of this library block them.

/// Calls `start`, which starts threads. They block all signals except those that a fault of the thread itself raises.
#[cfg(unix)]
pub fn blocked<T>(start: impl FnOnce() -> T) -> T {
    const OWN: [libc::c_int; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];
    // SAFETY: both sets are plain data that the system fills in; a thread may change its own mask.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        for signal in OWN {
            libc::sigdelset(&mut all, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    };
    let result = start();
    // SAFETY: the set is the one that the system filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}

/// Calls `start`.
#[cfg(not(unix))]
pub fn blocked<T>(start: impl FnOnce() -> T) -> T {
    start()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    /// The blocked signals of a thread, as the system reports them.
    fn mask() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn threads_take_no_signals_and_the_caller_does_as_before() {
        let bit = |signal: libc::c_int| 1 << (signal - 1);
        let before = mask();
        let inside = super::blocked(|| std::thread::spawn(mask)).join().unwrap();
        assert_eq!(mask(), before);
        for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGTERM, libc::SIGALRM, libc::SIGCHLD] {
            assert_ne!(inside & bit(signal), 0, "signal {signal}");
        }
        assert_eq!(inside & bit(libc::SIGSEGV), 0);
    }
}
