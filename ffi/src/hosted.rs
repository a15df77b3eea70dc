//! What takes an operating system: files, threads, memory of the library's own, the thread's last error, the log.

use crate::exec::{Clock, Exec, Threads};
use crate::model::{boxed, sllm_model};
use crate::object::{self, check, take};
use crate::sampler::{chooser, sllm_sampler};
use crate::session::{DEFAULTS, Running, begin, bytes, exec_without_threads, sllm_session};
use crate::status::{Failure, Result, SLLM_STATUS_INVALID_ARGUMENT, SLLM_STATUS_INVALID_UTF8};
use crate::status::{SLLM_STATUS_OUT_OF_MEMORY, null, status};
use crate::structs::{self, Out, put, slice, sllm_load_options, sllm_sampler_options, sllm_session_options};
use crate::structs::{sllm_threads, wanted};
use shadowllm_core::Executor;
use shadowllm_core::sparsity::Policy;
use shadowllm_host::cores::Cores;
use shadowllm_host::model::{LoadedModel, Loading};
use shadowllm_host::pool::Pool;
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::io::Write;
use std::path::Path;
use std::sync::{Once, RwLock};

/// Room for a message, its NUL included.
const MESSAGE: usize = 1024;

thread_local! {
    /// The thread's last message. In place, so that a failure takes no memory.
    static LAST: UnsafeCell<[u8; MESSAGE]> = const { UnsafeCell::new([0; MESSAGE]) };
}

/// Cuts what does not fit.
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

/// Keeps a failure's message for [`sllm_last_error_message`], and tells the log.
pub fn remember(failure: &Failure) {
    // At the end of a thread there may be nothing left to write to.
    let _ = LAST.try_with(|last| {
        // SAFETY: the thread's own, and no other reference is alive: messages are written here only.
        let buffer = unsafe { &mut *last.get() };
        let mut fill = Fill(&mut buffer[..MESSAGE - 1]);
        // It never fails.
        let _ = write!(fill, "{failure}");
        let end = MESSAGE - 1 - fill.0.len();
        // Whole characters only.
        let end = (0..=end).rev().find(|i| std::str::from_utf8(&buffer[..*i]).is_ok()).unwrap_or(0);
        // A NUL inside (of a path) would end it early.
        buffer[..end].iter_mut().filter(|b| **b == 0).for_each(|b| *b = b'?');
        buffer[end..].fill(0);
    });
    if failure.code() == crate::status::SLLM_STATUS_INTERNAL {
        log(1, || failure.to_string());
    }
}

/// What the thread's last failure was about.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_last_error_message() -> *const c_char {
    LAST.try_with(|last| last.get().cast_const().cast()).unwrap_or(c"".as_ptr())
}

type LogFn = unsafe extern "C" fn(*mut c_void, i32, *const c_char);
/// Gets the lines of the log.
pub type sllm_log_fn = Option<LogFn>;

/// Who is told what.
struct Log {
    call: LogFn,
    user: usize,
    level: i32,
}

static LOG: RwLock<Option<Log>> = RwLock::new(None);

/// Tells the log a line.
pub fn log(level: i32, line: impl FnOnce() -> String) {
    let found = LOG.read().ok().and_then(|l| l.as_ref().filter(|l| l.level >= level).map(|l| (l.call, l.user)));
    if let Some((call, user)) = found
        && let Ok(line) = CString::new(line())
    {
        // SAFETY: the function and its argument are the embedder's, for any thread.
        unsafe { call(user as *mut c_void, level, line.as_ptr()) };
    }
}

/// Sets the log.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_set_log(log: sllm_log_fn, user: *mut c_void, level: i32) -> i32 {
    status(|| {
        if !(0..=2).contains(&level) {
            return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the level is none of SLLM_LOG_..."));
        }
        if let Ok(mut slot) = LOG.write() {
            *slot = log.map(|call| Log { call, user: user as usize, level });
        }
        Ok(())
    })
}

/// Panics are for the log, with their place, not for standard error.
pub fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| log(1, || info.to_string()))));
}

/// A text from C, checked.
///
/// # Safety
/// NULL, or ends with a NUL.
pub unsafe fn text<'a>(from: *const c_char) -> Result<&'a str> {
    if from.is_null() {
        return Err(null("a text is NULL"));
    }
    // SAFETY: as promised.
    let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
    utf8(bytes)
}

/// Bytes that must be UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let message = format!("the text is not UTF-8 from byte {} on", e.valid_up_to());
        Failure::Text(SLLM_STATUS_INVALID_UTF8, message)
    })
}

const LOAD: sllm_load_options = sllm_load_options {
    struct_size: size_of::<sllm_load_options>() as u32,
    preload: 0,
    verify: 0,
    reserved: 0,
    progress: None,
    progress_user: std::ptr::null_mut(),
};

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_load_options_defaults(options: *mut sllm_load_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives that many bytes.
    status(|| unsafe { structs::defaults(options, struct_size, LOAD) })
}

/// Loads by `open` and hands the model out.
///
/// # Safety
/// As the header says of the pointers.
unsafe fn load(
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
    open: impl FnOnce(Loading) -> shadowllm_host::Result<LoadedModel>,
) -> Result<()> {
    quiet();
    // SAFETY: the header's rules for structures.
    let o = unsafe { structs::read(options, LOAD) }?;
    wanted(model)?;
    if o.preload > 1 || o.verify > 1 || o.reserved != 0 {
        let message = "a load option is out of its range (preload, verify: 0 or 1; reserved: 0)";
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, message));
    }
    let mut tell = |done, all| match o.progress {
        // SAFETY: the function and its argument are the caller's.
        Some(progress) => unsafe { progress(o.progress_user, done, all) == 0 },
        None => true,
    };
    let loading = Loading { preload: o.preload == 1, verify: o.verify == 1, progress: Some(&mut tell), isa: None };
    let loaded = open(loading)?;
    log(2, || {
        let (bytes, seconds) = (loaded.file_bytes(), loaded.load_time().as_secs_f64());
        let isa = loaded.model().kernels().isa().name();
        format!("{}: {:.1} MB in {:.3} s, kernels for {isa}", loaded.path().display(), bytes as f64 / 1e6, seconds)
    });
    // SAFETY: not NULL.
    unsafe { put(model, boxed(loaded)) };
    Ok(())
}

/// Maps an image.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open(
    path: *const c_char,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for texts and structures.
        unsafe {
            if path.is_null() {
                return Err(null("the path is NULL"));
            }
            load(options, model, |loading| LoadedModel::open_with(&native(CStr::from_ptr(path)), loading))
        }
    })
}

/// A path is bytes where the system's are.
#[cfg(unix)]
fn native(path: &CStr) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path.to_bytes()).into()
}

#[cfg(not(unix))]
fn native(path: &CStr) -> std::path::PathBuf {
    path.to_string_lossy().into_owned().into()
}

/// Maps a part of an open file.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open_fd(
    fd: i32,
    offset: u64,
    length: u64,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    status(|| {
        if fd < 0 {
            return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the file descriptor is negative"));
        }
        #[cfg(unix)]
        // SAFETY: the header's rules for structures; the descriptor is the caller's, and not closed here.
        unsafe {
            use std::os::fd::FromRawFd;
            let file = std::mem::ManuallyDrop::new(std::fs::File::from_raw_fd(fd));
            let len = (length > 0).then_some(length);
            load(options, model, |l| LoadedModel::open_part(Path::new("the open file"), &file, offset, len, l))
        }
        #[cfg(not(unix))]
        Err(Failure::Said(crate::status::SLLM_STATUS_UNSUPPORTED, "files are opened by path on this system"))
    })
}

/// A model over bytes in memory.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open_memory(
    data: *const c_void,
    size: usize,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    status(|| {
        // SAFETY: the caller keeps the bytes in place; the header's rules for structures.
        unsafe {
            let bytes: &'static [u8] = slice(data.cast(), size)?;
            load(options, model, |loading| LoadedModel::from_static_with("the image in memory", bytes, loading))
        }
    })
}

/// The embedder's threads, or the library's.
fn exec(model: &sllm_model, o: &sllm_session_options) -> Result<Exec> {
    if o.parallel_for.is_some() {
        return exec_without_threads(o);
    }
    let cores = if o.cores == 0 { Cores::fastest() } else { Cores::all() };
    let threads = if o.threads == 0 { cores.threads() } else { o.threads as usize };
    let pool = Pool::on(threads, &cores).map_err(|e| Failure::Text(SLLM_STATUS_OUT_OF_MEMORY, e.to_string()))?;
    let pool = within(pool, model, o.memory_budget)?;
    Ok(Exec::new(Threads::Own(pool, cores), Clock::new(o.clock, o.clock_user)))
}

/// The pool, which keeps no more of the model in memory than so many MB; 0 is no limit.
fn within(pool: Pool, model: &sllm_model, budget: u32) -> Result<Pool> {
    if budget == 0 {
        return Ok(pool);
    }
    #[cfg(unix)]
    if let Some(loaded) = &model.loaded {
        return Ok(pool.within((budget as usize).saturating_mul(1_000_000), loaded)?);
    }
    Err(Failure::Said(
        crate::status::SLLM_STATUS_UNSUPPORTED,
        "a memory_budget needs a model that sllm_model_open mapped, on Unix",
    ))
}

/// A session in memory of its own.
fn session(model: &sllm_model, options: &sllm_session_options) -> Result<*mut sllm_session> {
    let (size, _) = bytes(&model.model, options)?;
    let exec = exec(model, options)?;
    let memory = take(size)?;
    // SAFETY: fresh memory of that size, freed with the session.
    unsafe { begin(model, options, exec, (memory.cast(), size), size) }.inspect_err(|_| {
        // SAFETY: nothing was made in it.
        unsafe { object::give_back(memory, size) }
    })
}

/// A session.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_new(
    model: *mut sllm_model,
    options: *const sllm_session_options,
    out: *mut *mut sllm_session,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (model, options) = unsafe { (check(model)?, structs::read(options, DEFAULTS)?) };
        wanted(out)?;
        let made = session(model, &options)?;
        // SAFETY: not NULL.
        unsafe { put(out, made) };
        Ok(())
    })
}

/// A second session that goes on from where the first is.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_fork(from: *const sllm_session, fork: *mut *mut sllm_session) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let from = unsafe { check(from) }?;
        wanted(fork)?;
        let made = from.with(|r| {
            let mut made = session(r.model.model(), &r.options)?;
            // SAFETY: just made.
            unsafe { check(made) }?.with(|f| go_on(f, r)).inspect_err(|_| {
                // SAFETY: just made, and for nobody else.
                let _ = unsafe { object::free(&mut made) };
            })?;
            Ok(made)
        })?;
        // SAFETY: not NULL.
        unsafe { put(fork, made) };
        Ok(())
    })
}

fn go_on(fork: &mut Running, from: &Running) -> Result<()> {
    if from.session.policy() != Policy::Off {
        fork.session.set_dial(&from.session.dial())?;
    }
    Ok(fork.session.copy(&from.session)?)
}

/// What was applied of threads and cores.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_get_threads(session: *const sllm_session, threads: *mut sllm_threads) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (session, out) = unsafe { (check(session)?, Out::new(threads)?) };
        let found = session.with(|r| {
            Ok(match &r.exec.threads {
                Threads::Own(pool, cores) => (pool.size() as u32, cores.clone()),
                _ => (r.exec.threads() as u32, Cores::all()),
            })
        })?;
        let (threads, cores) = found;
        let mask = cores.ids.iter().filter(|id| **id < 64).fold(0, |mask, id| mask | 1u64 << id);
        let (count, is_bound) = (cores.ids.len() as u32, u32::from(cores.chosen && threads > 1));
        out.write(sllm_threads { struct_size: 0, threads, cores: count, is_bound, core_mask: mask });
        Ok(())
    })
}

/// A sampler.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_sampler_new(
    options: *const sllm_sampler_options,
    sampler: *mut *mut sllm_sampler,
) -> i32 {
    status(|| {
        wanted(sampler)?;
        // SAFETY: the header's rules for structures; the output is not NULL.
        unsafe { put(sampler, object::boxed(chooser(options)?)?) };
        Ok(())
    })
}

/// Makes the next step of the session panic, on one of its threads.
///
/// # Safety
/// As every function on a session.
#[cfg(feature = "test-panic")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_test_panic(session: *mut sllm_session) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        unsafe { check(session) }?.with(|r| {
            r.exec.panic.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
    })
}
