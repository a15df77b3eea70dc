//! Executors: the calling thread, the library's own threads, or the embedder's `parallel_for`; and the clock.

use crate::status::{Result, invalid};
use crate::structs::{sllm_clock_fn, sllm_parallel_for_fn, sllm_session_options, sllm_task_fn};
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering};
use shadowllm_core::claims::{Claims, Task};
use shadowllm_core::{Executor, Hooks, Serial};
#[cfg(feature = "std")]
use {
    crate::status::{Failure, SLLM_STATUS_UNSUPPORTED},
    shadowllm_core::Units,
    shadowllm_host::{cores::Cores, model::LoadedModel, pool::Pool},
};

/// A session's executor.
pub struct Exec {
    pub threads: Threads,
    pub clock: Clock,
    /// Whether the next step will panic.
    #[cfg(feature = "test-panic")]
    pub panic: AtomicBool,
}

impl Exec {
    /// The executor of a session that allocates nothing: the embedder's threads, or else the calling thread.
    pub fn without_allocation(o: &sllm_session_options) -> Result<Exec> {
        if o.memory_budget != 0 {
            return Err(invalid("a memory_budget needs sllm_session_new and the library's own threads"));
        }
        let threads = match ParallelFor::new(o.parallel_for, o.parallel_for_user, o.threads as usize) {
            Some(theirs) => Threads::Theirs(theirs),
            None if o.threads > 1 => return Err(invalid("several threads need sllm_session_new, or a parallel_for")),
            None => Threads::Serial,
        };
        Ok(Exec::new(threads, Clock::new(o.clock, o.clock_user)))
    }

    /// The embedder's threads, or else the library's own. `loaded` is the mapped image to which a memory budget
    /// applies.
    #[cfg(feature = "std")]
    pub fn with_threads(o: &sllm_session_options, loaded: Option<&LoadedModel>) -> Result<Exec> {
        crate::reserve::check_reserve()?;
        let cores = if o.cores == 0 { Cores::fastest() } else { Cores::all() };
        let threads = if o.threads == 0 { cores.threads() } else { o.threads as usize };
        if o.parallel_for.is_some() {
            return Exec::without_allocation(&sllm_session_options { threads: threads as u32, ..*o });
        }
        let pool = Pool::on(threads, &cores)?;
        let pool = within_budget(pool, loaded, o.memory_budget)?;
        Ok(Exec::new(Threads::Own(pool, cores), Clock::new(o.clock, o.clock_user)))
    }

    fn new(threads: Threads, clock: Clock) -> Self {
        Exec {
            threads,
            clock,
            #[cfg(feature = "test-panic")]
            panic: AtomicBool::new(false),
        }
    }
}

/// The pool, which keeps at most `megabytes` of the image in memory; 0 is no limit.
#[cfg(feature = "std")]
fn within_budget(pool: Pool, loaded: Option<&LoadedModel>, megabytes: u32) -> Result<Pool> {
    if megabytes == 0 {
        return Ok(pool);
    }
    #[cfg(unix)]
    if let Some(loaded) = loaded {
        return Ok(pool.within((megabytes as usize).saturating_mul(1_000_000), loaded)?);
    }
    let message = "a memory_budget needs a model that sllm_model_open mapped, on Unix";
    Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, message))
}

/// The threads that run the tasks.
pub enum Threads {
    /// The calling thread.
    Serial,
    /// The library's own threads, and the cores they are bound to.
    #[cfg(feature = "std")]
    Own(Pool, Cores),
    /// The embedder's.
    Theirs(ParallelFor),
}

/// The clock of the statistics.
pub enum Clock {
    /// No clock: all times are 0.
    #[cfg(not(feature = "std"))]
    None,
    /// The system's.
    #[cfg(feature = "std")]
    System(std::time::Instant),
    /// The embedder's.
    Theirs(unsafe extern "C" fn(*mut c_void) -> u64, *mut c_void),
}

impl Clock {
    pub fn new(clock: sllm_clock_fn, user: *mut c_void) -> Clock {
        match clock {
            Some(clock) => Clock::Theirs(clock, user),
            #[cfg(feature = "std")]
            None => Clock::System(std::time::Instant::now()),
            #[cfg(not(feature = "std"))]
            None => Clock::None,
        }
    }

    fn nanoseconds(&self) -> u64 {
        match self {
            #[cfg(not(feature = "std"))]
            Clock::None => 0,
            #[cfg(feature = "std")]
            Clock::System(start) => start.elapsed().as_nanos() as u64,
            // SAFETY: the header asks the embedder to keep the function and its argument valid for the session's life.
            Clock::Theirs(clock, user) => unsafe { clock(*user) },
        }
    }
}

impl Hooks for Exec {
    fn nanoseconds(&self) -> u64 {
        self.clock.nanoseconds()
    }

    #[cfg(feature = "std")]
    fn before_layer(&self, layer: usize, active: Option<&Units>) {
        if let Threads::Own(pool, _) = &self.threads {
            pool.before_layer(layer, active);
        }
    }

    #[cfg(feature = "std")]
    fn before_experts(&self, layer: usize, experts: &[u32]) {
        if let Threads::Own(pool, _) = &self.threads {
            pool.before_experts(layer, experts);
        }
    }
}

// SAFETY: `Serial` and the pool run each task once themselves; `ParallelFor` claims each task by an atomic counter.
unsafe impl Executor for Exec {
    fn width(&self) -> usize {
        match &self.threads {
            Threads::Serial => 1,
            #[cfg(feature = "std")]
            Threads::Own(pool, _) => pool.width(),
            Threads::Theirs(theirs) => theirs.width,
        }
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        #[cfg(feature = "test-panic")]
        let panics = |i: usize| assert!(i > 0, "a panic that a test asked for");
        #[cfg(feature = "test-panic")]
        let task: Task = if self.panic.swap(false, Ordering::Relaxed) { &panics } else { task };
        match &self.threads {
            Threads::Serial => Serial.run(tasks, task),
            #[cfg(feature = "std")]
            Threads::Own(pool, _) => pool.run(tasks, task),
            Threads::Theirs(theirs) => theirs.run(tasks, task),
        }
    }

    fn pass(&self, forward: &mut dyn FnMut()) {
        match &self.threads {
            #[cfg(feature = "std")]
            Threads::Own(pool, _) => pool.pass(forward),
            _ => forward(),
        }
    }
}

/// The embedder's `parallel_for`. It cannot break the executor's rule that each task runs once: a call claims the next
/// task whatever its index, surplus calls find no task, and forgotten tasks run on the calling thread.
pub struct ParallelFor {
    call: unsafe extern "C" fn(*mut c_void, u32, sllm_task_fn, *mut c_void),
    user: *mut c_void,
    width: usize,
    step: Step,
}

/// The current step. It lives as long as the session, so that late calls still find it, and claim a task of the step that
/// is then under way, or none.
struct Step {
    claims: Claims,
    panicked: AtomicBool,
}

impl Step {
    /// Runs one task, if one is left.
    fn one(&self) -> bool {
        let Ok(claim) = self.claims.claim() else { return false };
        let result = crate::status::catch(|| {
            claim.run();
            Ok(())
        });
        if result.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        claim.finish();
        true
    }
}

/// The function that the embedder calls for each task.
unsafe extern "C" fn one_task(data: *mut c_void, _index: u32) {
    // SAFETY: `data` is NULL or the pointer that `ParallelFor::run` passed, to the step, which lives as long as the
    // session; the header forbids any other.
    if let Some(step) = unsafe { data.cast::<Step>().as_ref() } {
        step.one();
    }
}

impl ParallelFor {
    /// `None` without a function.
    pub fn new(call: sllm_parallel_for_fn, user: *mut c_void, width: usize) -> Option<Self> {
        let step = Step { claims: Claims::default(), panicked: AtomicBool::new(false) };
        Some(ParallelFor { call: call?, user, width: width.max(1), step })
    }

    fn run(&self, tasks: usize, task: Task) {
        if !(2..=Claims::MOST).contains(&tasks) {
            return (0..tasks).for_each(task);
        }
        let (count, step) = (tasks as u32, &self.step);
        // SAFETY: a session runs one step at a time, and this function waits below until all tasks are done.
        unsafe { step.claims.begin(tasks, task) };
        // SAFETY: the header asks the embedder to keep the function and its argument valid for the session's life, and the
        // step lives as long as the session.
        unsafe { (self.call)(self.user, count, Some(one_task), core::ptr::from_ref(step).cast_mut().cast()) };
        while step.one() {}
        while step.claims.done() < tasks {
            core::hint::spin_loop();
        }
        assert!(!step.panicked.swap(false, Ordering::Relaxed), "a task panicked");
    }
}
