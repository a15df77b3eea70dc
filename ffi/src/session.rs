//! Sessions: the object, its options and its memory.

use crate::args::{Out, defaults, put, read, wanted};
use crate::exec::Exec;
use crate::message::boundary;
use crate::model::{Reference, sllm_model};
use crate::object::{Kind, Object, check, free, place, room};
use crate::status::{Failure, Result, SLLM_STATUS_BUFFER_TOO_SMALL, SLLM_STATUS_CANCELLED, invalid};
use crate::structs::{sllm_memory, sllm_session_options};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;
use shadowllm_core::ops::attention::KvCache;
use shadowllm_core::{Error, KvFormat, Model, Session, SessionOptions};

/// A session as handles point to it.
pub type sllm_session = Object<SessionState>;

/// A session with all that it uses. The fields are dropped in this order.
pub struct SessionState {
    pub session: Session<'static, 'static>,
    pub exec: Exec,
    pub model: Reference,
    pub options: sllm_session_options,
    /// The time that answers keep to.
    #[cfg(feature = "std")]
    pub pace: Option<shadowllm_host::pace::Pace>,
    /// Bytes that the session takes.
    pub bytes: usize,
}

impl Kind for SessionState {
    const TAG: u32 = u32::from_le_bytes(*b"sess");
}

/// Writes a number of a session.
///
/// # Safety
/// `session` is NULL or a live object, `to` NULL or points to a number.
pub unsafe fn number(session: *const sllm_session, to: *mut usize, of: impl FnOnce(&Session) -> usize) -> i32 {
    boundary(|| {
        // SAFETY: NULL or a live object, by the caller's word.
        let session = unsafe { check(session) }?;
        wanted(to)?;
        let number = session.with(|s| Ok(of(&s.session)))?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(to, number) };
        Ok(())
    })
}

/// One call on a session. A cancel that stopped the call is used up.
pub fn run(session: &sllm_session, body: impl FnOnce(&mut SessionState) -> Result<()>) -> Result<()> {
    let result = session.with(body);
    if result.as_ref().is_err_and(|e| e.code() == SLLM_STATUS_CANCELLED) {
        session.raised.store(false, Ordering::Relaxed);
    }
    result
}

/// More threads than this are refused; the library's own pool has the same limit.
const MOST_THREADS: u32 = 512;

/// The engine's options, checked.
fn engine_options(model: &Model, o: &sllm_session_options) -> Result<SessionOptions> {
    if o.dense_only > 1 || o.cores > 1 || o.exact > 1 || o.reserved != 0 {
        return Err(invalid("a session option is out of its range (dense_only, cores, exact: 0 or 1; reserved: 0)"));
    }
    if o.threads > MOST_THREADS {
        return Err(invalid("threads must be at most 512; best is the number of cores"));
    }
    let suitable = SessionOptions::of(model);
    let context = if o.context == 0 { suitable.context } else { o.context as usize };
    let kv = match o.kv_format {
        0 => suitable.kv,
        1 => KvFormat::F16,
        2 => KvFormat::F32,
        _ => return Err(invalid("kv_format is none of SLLM_KV_AUTO, SLLM_KV_F16 and SLLM_KV_F32")),
    };
    let batch = if o.batch == 0 { SessionOptions::default().batch } else { o.batch as usize };
    let ahead = if o.exact == 1 { SessionOptions::AHEAD } else { 0 };
    Ok(SessionOptions { batch, ahead, kv, sparsity: o.dense_only == 0, ..suitable }.within(context))
}

/// Bytes of a session, and the part of them that is the KV cache.
fn bytes(model: &Model, o: &sllm_session_options) -> Result<(usize, usize)> {
    let options = engine_options(model, o)?;
    let arena = Session::memory_required(model, &options)?.size();
    let all = room::<sllm_session>().checked_add(arena).ok_or(Error::BadOption("the context is too large"))?;
    Ok((all, KvCache::bytes(model.image().arch(), options.kv, options.context, options.batch)))
}

/// Makes a session in memory of which `heap_bytes` are the library's own.
///
/// # Safety
/// The session alone uses the memory until it is freed.
unsafe fn begin(
    model: &sllm_model,
    options: &sllm_session_options,
    exec: Exec,
    (memory, size): (*mut c_void, usize),
    heap_bytes: usize,
) -> Result<*mut sllm_session> {
    let (needed, _) = bytes(&model.model, options)?;
    if size < needed {
        let message = "the memory is smaller than sllm_session_size says";
        return Err(Failure::Fixed(SLLM_STATUS_BUFFER_TOO_SMALL, message));
    }
    let (at, rest) = place::<sllm_session>(memory, size)?;
    // SAFETY: `place` counted `rest` bytes after the object; the session alone uses them, and `MaybeUninit` takes any
    // content.
    let arena: &'static mut [MaybeUninit<u8>] = unsafe { core::slice::from_raw_parts_mut(at.add(1).cast(), rest) };
    let session = Session::new(model.model, engine_options(&model.model, options)?, arena)?;
    let state = SessionState {
        session,
        exec,
        model: model.retain(),
        options: *options,
        #[cfg(feature = "std")]
        pace: None,
        bytes: needed,
    };
    // SAFETY: `place` found room for the object, and the object stays there until it is freed.
    let object = unsafe {
        at.write(Object::new(state, heap_bytes));
        &*at
    };
    object.with(|s| {
        s.session.set_cancel(Some(&object.raised));
        s.session.set_progress(Some(&object.reached));
        Ok(())
    })?;
    Ok(at)
}

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_options_defaults(options: *mut sllm_session_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives `struct_size` bytes.
    boundary(|| unsafe { defaults(options, struct_size) })
}

/// Bytes that [`sllm_session_init`] needs.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_size(
    model: *const sllm_model,
    options: *const sllm_session_options,
    size: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (model, options) = unsafe { (check(model)?, read(options)?) };
        wanted(size)?;
        let (needed, _) = bytes(&model.model, &options)?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(size, needed) };
        Ok(())
    })
}

/// The memory that a session will take.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_estimate_memory(
    model: *const sllm_model,
    options: *const sllm_session_options,
    memory: *mut sllm_memory,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (model, options, out) = unsafe { (check(model)?, read(options)?, Out::new(memory)?) };
        let (session_bytes, kv_bytes) = bytes(&model.model, &options)?;
        let image_bytes = model.model.image().bytes().len() as u64;
        out.write(sllm_memory {
            struct_size: 0,
            reserved: 0,
            session_bytes: session_bytes as u64,
            kv_bytes: kv_bytes as u64,
            image_bytes,
            total_bytes: session_bytes as u64 + image_bytes,
        });
        Ok(())
    })
}

/// A session in memory that the caller gives.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_init(
    model: *mut sllm_model,
    options: *const sllm_session_options,
    memory: *mut c_void,
    size: usize,
    session: *mut *mut sllm_session,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (model, options) = unsafe { (check(model)?, read(options)?) };
        wanted(session)?;
        let exec = Exec::without_allocation(&options)?;
        // SAFETY: the caller gives the memory to the session alone; `session` is not NULL, checked by `wanted`.
        unsafe { put(session, begin(model, &options, exec, (memory, size), 0)?) };
        Ok(())
    })
}

/// Ends a session.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_free(session: *mut *mut sllm_session) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules.
    boundary(|| unsafe { free(session) })
}

/// Sessions on the heap, with threads of their own.
#[cfg(feature = "std")]
pub use hosted::on_heap;
#[cfg(feature = "std")]
mod hosted {
    use super::{begin, bytes, sllm_session};
    use crate::args::{Out, put, read, wanted};
    use crate::exec::{Exec, Threads};
    use crate::message::boundary;
    use crate::model::sllm_model;
    use crate::object::{check, give_back, take};
    use crate::status::Result;
    use crate::structs::{sllm_session_options, sllm_threads};
    use shadowllm_core::Executor;
    use shadowllm_host::cores::Cores;

    /// A session in heap memory.
    pub fn on_heap(model: &sllm_model, options: &sllm_session_options) -> Result<*mut sllm_session> {
        let (size, _) = bytes(&model.model, options)?;
        let exec = Exec::with_threads(options, model.loaded.as_ref())?;
        let memory = take(size)?;
        // SAFETY: new memory of `size` bytes, which the session alone uses.
        unsafe { begin(model, options, exec, (memory.cast(), size), size) }.inspect_err(|_| {
            // SAFETY: `take` gave the memory, and on failure `begin` leaves no object in it.
            unsafe { give_back(memory, size) }
        })
    }

    /// A session on the heap.
    ///
    /// # Safety
    /// See the header.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sllm_session_new(
        model: *mut sllm_model,
        options: *const sllm_session_options,
        session: *mut *mut sllm_session,
    ) -> i32 {
        boundary(|| {
            // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's
            // rules.
            let (model, options) = unsafe { (check(model)?, read(options)?) };
            wanted(session)?;
            let made = on_heap(model, &options)?;
            // SAFETY: not NULL, checked by `wanted`.
            unsafe { put(session, made) };
            Ok(())
        })
    }

    /// The threads and cores that the session really uses.
    ///
    /// # Safety
    /// See the header.
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn sllm_session_get_threads(session: *const sllm_session, threads: *mut sllm_threads) -> i32 {
        boundary(|| {
            // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's
            // rules.
            let (session, out) = unsafe { (check(session)?, Out::new(threads)?) };
            let (threads, cores) = session.with(|s| {
                Ok(match &s.exec.threads {
                    Threads::Own(pool, cores) => (pool.size() as u32, cores.clone()),
                    _ => (s.exec.width() as u32, Cores::all()),
                })
            })?;
            let core_mask = cores.ids.iter().filter(|id| **id < 64).fold(0, |mask, id| mask | 1u64 << id);
            let (count, is_bound) = (cores.ids.len() as u32, u32::from(cores.chosen && threads > 1));
            out.write(sllm_threads { struct_size: 0, threads, cores: count, is_bound, core_mask });
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
        boundary(|| {
            // SAFETY: handles are NULL or live objects, by the header's rules.
            unsafe { check(session) }?.with(|s| {
                s.exec.panic.store(true, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            })
        })
    }
}
