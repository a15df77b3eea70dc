//! Sessions: their memory, reading tokens, choosing tokens, the dial.

use crate::exec::{Clock, Exec, ParallelFor, Threads};
use crate::model::{Reference, sllm_model};
use crate::object::{Kind, Object, check, free, place, room};
use crate::sampler::{greedy, sllm_sampler};
use crate::status::{Failure, Result, SLLM_STATUS_BUFFER_TOO_SMALL, SLLM_STATUS_CANCELLED};
use crate::status::{SLLM_STATUS_INVALID_ARGUMENT, SLLM_STATUS_NO_LOGITS, SLLM_STATUS_OK, status};
use crate::structs::{self, Out, put, slice, sllm_dial, sllm_session_options, wanted};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};
use shadowllm_core::ops::attention::KvCache;
use shadowllm_core::sparsity::{Allocation, Dial, Policy};
use shadowllm_core::{Error, KvFormat, Model, Session, SessionOptions};

/// A session behind its handle.
pub type sllm_session = Object<Running>;

/// A session with all it needs. The fields are dropped in this order.
pub struct Running {
    pub session: Session<'static, 'static>,
    pub exec: Exec,
    pub model: Reference,
    pub options: sllm_session_options,
    /// Bytes that the session takes.
    pub bytes: usize,
    /// Changes with everything that is read or taken back: tells whether it is as someone left it.
    pub version: u64,
}

impl Kind for Running {
    const TAG: u32 = u32::from_le_bytes(*b"sess");
}

impl Running {
    /// Notes that the session changes.
    pub fn touch(&mut self) -> &mut Self {
        self.version += 1;
        self
    }
}

/// Positions where nobody asks for more or fewer.
const CONTEXT: usize = 4096;
/// Threads at most, as for the library's own.
const MOST_THREADS: u32 = 512;

/// Everything by default.
pub const DEFAULTS: sllm_session_options = sllm_session_options {
    struct_size: size_of::<sllm_session_options>() as u32,
    context: 0,
    batch: 0,
    kv_format: 0,
    dense_only: 0,
    threads: 0,
    cores: 0,
    memory_budget: 0,
    parallel_for: None,
    parallel_for_user: core::ptr::null_mut(),
    clock: None,
    clock_user: core::ptr::null_mut(),
};

fn bad<T>(message: &'static str) -> Result<T> {
    Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, message))
}

/// The engine's options for these.
fn engine_options(model: &Model, o: &sllm_session_options) -> Result<SessionOptions> {
    if o.dense_only > 1 || o.cores > 1 {
        return bad("a session option is out of its range (dense_only, cores: 0 or 1)");
    }
    if o.threads > MOST_THREADS {
        return bad("threads must be at most 512, best the number of cores");
    }
    let default = SessionOptions::default();
    let context = if o.context == 0 { model.config().max_positions.min(CONTEXT) } else { o.context as usize };
    let kv = match o.kv_format {
        0 if model.is_f32() => KvFormat::F32,
        0 | 1 => KvFormat::F16,
        2 => KvFormat::F32,
        _ => return bad("kv_format is none of SLLM_KV_AUTO, SLLM_KV_F16 and SLLM_KV_F32"),
    };
    let batch = if o.batch == 0 { default.batch } else { o.batch as usize }.min(context);
    Ok(SessionOptions { context, batch, kv, sparsity: o.dense_only == 0, ..default })
}

/// Bytes of a session, and of these the KV cache's.
pub fn bytes(model: &Model, o: &sllm_session_options) -> Result<(usize, usize)> {
    let options = engine_options(model, o)?;
    let arena = Session::memory_required(model, &options)?.size();
    let all = room::<sllm_session>().checked_add(arena).ok_or(Error::BadOption("the context is too large"))?;
    Ok((all, KvCache::bytes(model.config(), options.kv, options.context)))
}

/// The embedder's threads or the calling one.
pub fn exec_without_threads(o: &sllm_session_options) -> Result<Exec> {
    if o.memory_budget != 0 {
        return bad("a memory_budget takes sllm_session_new, and no parallel_for");
    }
    let threads = match ParallelFor::new(o.parallel_for, o.parallel_for_user, o.threads as usize) {
        Some(theirs) => Threads::Theirs(theirs),
        None if o.threads > 1 => return bad("several threads take sllm_session_new, or a parallel_for"),
        None => Threads::Serial,
    };
    Ok(Exec::new(threads, Clock::new(o.clock, o.clock_user)))
}

/// A session in memory, `heap_bytes` of it the library's own.
///
/// # Safety
/// The memory is there, and for nobody else, until the session is freed.
pub unsafe fn begin(
    model: &sllm_model,
    options: &sllm_session_options,
    exec: Exec,
    (memory, size): (*mut c_void, usize),
    heap_bytes: usize,
) -> Result<*mut sllm_session> {
    let (needed, _) = bytes(&model.model, options)?;
    if size < needed {
        return Err(Failure::Said(SLLM_STATUS_BUFFER_TOO_SMALL, "the memory is smaller than sllm_session_size says"));
    }
    let (at, rest) = place::<sllm_session>(memory, size)?;
    // SAFETY: `place` counted so many bytes behind the object; they are the session's until it is freed, and
    // nothing is assumed about what they hold.
    let arena: &'static mut [MaybeUninit<u8>] = unsafe { core::slice::from_raw_parts_mut(at.add(1).cast(), rest) };
    let session = Session::new(model.model, engine_options(&model.model, options)?, arena)?;
    // No two sessions have versions in common, also not those that lie where another lay.
    static SESSIONS: AtomicUsize = AtomicUsize::new(0);
    let version = (SESSIONS.fetch_add(1, Ordering::Relaxed) as u64) << 32;
    let running = Running { session, exec, model: model.retain(), options: *options, bytes: needed, version };
    // SAFETY: `place` found room for it. The flag stays where it is until the session is freed.
    let object = unsafe {
        at.write(Object::new(running, heap_bytes));
        &*at
    };
    object.with(|r| {
        r.session.set_cancel(Some(&object.raised));
        Ok(())
    })?;
    Ok(at)
}

/// One call on a session; a cancel that stopped it is spent.
pub fn run(session: &sllm_session, body: impl FnOnce(&mut Running) -> Result<()>) -> Result<()> {
    let result = session.with(body);
    if result.as_ref().is_err_and(|e| e.code() == SLLM_STATUS_CANCELLED) {
        session.raised.store(false, Ordering::Relaxed);
    }
    result
}

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_options_defaults(options: *mut sllm_session_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives that many bytes.
    status(|| unsafe { structs::defaults(options, struct_size, DEFAULTS) })
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
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (model, options) = unsafe { (check(model)?, structs::read(options, DEFAULTS)?) };
        wanted(size)?;
        let (needed, _) = bytes(&model.model, &options)?;
        // SAFETY: not NULL.
        unsafe { put(size, needed) };
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
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (model, options) = unsafe { (check(model)?, structs::read(options, DEFAULTS)?) };
        wanted(session)?;
        let exec = exec_without_threads(&options)?;
        // SAFETY: the caller gives the memory; the output is not NULL.
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
    // SAFETY: the header's rules for handles.
    status(|| unsafe { free(session) })
}

/// Reads tokens.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_prefill(session: *mut sllm_session, tokens: *const u32, count: usize) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and arrays.
        let (session, tokens) = unsafe { (check(session)?, slice(tokens, count)?) };
        run(session, |r| {
            let r = r.touch();
            r.session.prefill(&r.exec, tokens)?;
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
    status(|| {
        // SAFETY: the header's rules for handles.
        run(unsafe { check(session) }?, |r| {
            let r = r.touch();
            r.session.decode(&r.exec, token)?;
            Ok(())
        })
    })
}

/// The logits, or why there are none.
pub fn logits(session: &Session) -> Result<(*const f32, usize)> {
    match session.logits() {
        [] => Err(Failure::Said(SLLM_STATUS_NO_LOGITS, "there are no logits yet: prefill or decode first")),
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
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        wanted(logits_out)?;
        wanted(count)?;
        let (logits, len) = session.with(|r| logits(&r.session))?;
        // SAFETY: not NULL.
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
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        wanted(token)?;
        let chosen = session.with(|r| {
            logits(&r.session)?;
            if sampler.is_null() {
                return Ok(r.session.sample(&mut greedy()?)?);
            }
            // SAFETY: the header's rules for handles.
            unsafe { check(sampler) }?.with(|s| Ok(r.session.sample(&mut s.0)?))
        })?;
        // SAFETY: not NULL.
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
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        wanted(position)?;
        let at = session.with(|r| Ok(r.session.position()))?;
        // SAFETY: not NULL.
        unsafe { put(position, at) };
        Ok(())
    })
}

/// Goes back.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_rewind(session: *mut sllm_session, position: usize) -> i32 {
    // SAFETY: the header's rules for handles.
    status(|| run(unsafe { check(session) }?, |r| Ok(r.touch().session.rewind(position)?)))
}

/// Stops the call under way.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_cancel(session: *mut sllm_session) -> i32 {
    // SAFETY: the header's rules for handles. On the way of success there are only two atomic accesses.
    match unsafe { check(session) } {
        Ok(session) => {
            session.raised.store(true, Ordering::Relaxed);
            SLLM_STATUS_OK
        }
        Err(failure) => status(|| Err(failure)),
    }
}

/// Takes a cancel back.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_reset_cancel(session: *mut sllm_session) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        unsafe { check(session) }?.raised.store(false, Ordering::Relaxed);
        Ok(())
    })
}

/// Densities of the levels from light on.
const LEVELS: [f32; 3] = [0.9, 0.8, 0.6];

/// The dial, by level.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_set_sparsity(session: *mut sllm_session, level: i32) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let session = unsafe { check(session) }?;
        let dial = match level {
            0 => Dial::default(),
            1..=3 => Dial { policy: Policy::Auto, density: LEVELS[level as usize - 1], ..Dial::default() },
            _ => return bad("the level is none of SLLM_SPARSITY_OFF to SLLM_SPARSITY_STRONG"),
        };
        run(session, |r| Ok(r.session.set_dial(&dial)?))
    })
}

const DIAL: sllm_dial = sllm_dial {
    struct_size: size_of::<sllm_dial>() as u32,
    policy: 0,
    density: 1.0,
    refresh: 1,
    allocation: 0,
    reserved: 0,
    seed: 0,
};

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_dial_defaults(dial: *mut sllm_dial, struct_size: u32) -> i32 {
    // SAFETY: the caller gives that many bytes.
    status(|| unsafe { structs::defaults(dial, struct_size, DIAL) })
}

/// The dial, in full.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_set_dial(session: *mut sllm_session, dial: *const sllm_dial) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let session = unsafe { check(session) }?;
        wanted(dial)?;
        // SAFETY: as above.
        let d = unsafe { structs::read(dial, DIAL) }?;
        let policy = u8::try_from(d.policy).ok().and_then(Policy::from_code).filter(|p| *p != Policy::Given);
        let Some(policy) = policy else { return bad("the policy is none of SLLM_POLICY_...") };
        let allocation = match d.allocation {
            0 => Allocation::Global,
            1 => Allocation::Local,
            2 => Allocation::Hybrid,
            _ => return bad("the allocation is none of SLLM_ALLOCATION_..."),
        };
        if d.reserved != 0 {
            return bad("a dial's reserved field must be 0");
        }
        let (refresh, seed) = (d.refresh as usize, d.seed);
        let dial = Dial { policy, density: d.density, refresh, allocation, seed, ..Dial::default() };
        run(session, |r| Ok(r.session.set_dial(&dial)?))
    })
}

/// The dial in force.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_get_dial(session: *const sllm_session, dial: *mut sllm_dial) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (session, out) = unsafe { (check(session)?, Out::new(dial)?) };
        let (d, policy) = session.with(|r| Ok((r.session.dial(), r.session.policy())))?;
        out.write(sllm_dial {
            struct_size: 0,
            policy: policy as i32,
            density: d.density,
            refresh: u32::try_from(d.refresh).unwrap_or(u32::MAX),
            allocation: d.allocation as i32,
            reserved: 0,
            seed: d.seed,
        });
        Ok(())
    })
}
