//! Who runs a session's tasks: the calling thread, the library's threads, or the embedder's.

use crate::structs::{sllm_clock_fn, sllm_parallel_for_fn};
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(feature = "std")]
use shadowllm_core::sparsity::ActiveSet;
use shadowllm_core::{Executor, Serial};

/// A session's executor.
pub struct Exec {
    pub threads: Threads,
    pub clock: Clock,
    /// Whether the next step is to panic.
    #[cfg(feature = "test-panic")]
    pub panic: AtomicBool,
}

impl Exec {
    pub fn new(threads: Threads, clock: Clock) -> Self {
        Exec {
            threads,
            clock,
            #[cfg(feature = "test-panic")]
            panic: AtomicBool::new(false),
        }
    }
}

/// Who runs the tasks.
pub enum Threads {
    /// The calling thread.
    Serial,
    /// The library's threads, and the cores they were kept to.
    #[cfg(feature = "std")]
    Own(shadowllm_host::pool::Pool, shadowllm_host::cores::Cores),
    /// The embedder's.
    Theirs(ParallelFor),
}

/// Who tells the time.
pub enum Clock {
    /// Nobody.
    #[cfg(not(feature = "std"))]
    None,
    /// The system.
    #[cfg(feature = "std")]
    System(std::time::Instant),
    /// The embedder.
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
            // SAFETY: the function and its argument are the embedder's, valid as long as the session.
            Clock::Theirs(clock, user) => unsafe { clock(*user) },
        }
    }
}

// SAFETY: `Serial` and the pool keep the promise themselves, `ParallelFor` by its own claims.
unsafe impl Executor for Exec {
    fn threads(&self) -> usize {
        match &self.threads {
            Threads::Serial => 1,
            #[cfg(feature = "std")]
            Threads::Own(pool, _) => pool.threads(),
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

    fn nanoseconds(&self) -> u64 {
        self.clock.nanoseconds()
    }

    #[cfg(feature = "std")]
    fn layer(&self, layer: usize, active: Option<&ActiveSet>) {
        if let Threads::Own(pool, _) = &self.threads {
            pool.layer(layer, active);
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

type Task<'a> = &'a (dyn Fn(usize) + Sync);
const _: () = assert!(size_of::<Task>() == size_of::<[usize; 2]>());

/// `next` of a step that is over: nothing is left to claim, however often it is asked.
const OVER: usize = usize::MAX / 2;

/// The embedder's `parallel_for`. It cannot break the executor's promise: whatever index it calls with, a call claims
/// the next task; surplus calls find none, and tasks it forgets run on the calling thread.
pub struct ParallelFor {
    call: unsafe extern "C" fn(*mut c_void, u32, crate::structs::sllm_task_fn, *mut c_void),
    user: *mut c_void,
    width: usize,
    step: Step,
}

/// The step under way; it lives as long as the session, so that late calls find it.
struct Step {
    task: [AtomicUsize; 2],
    tasks: AtomicUsize,
    next: AtomicUsize,
    done: AtomicUsize,
    panicked: AtomicBool,
}

impl Step {
    /// Runs one task, if one is left.
    fn one(&self) -> bool {
        let i = self.next.fetch_add(1, Ordering::AcqRel);
        if i >= OVER || i >= self.tasks.load(Ordering::Relaxed) {
            return false;
        }
        let parts = [self.task[0].load(Ordering::Relaxed), self.task[1].load(Ordering::Relaxed)];
        // SAFETY: task `i` is claimed and not done, so `ParallelFor::run` still waits and the closure that the parts
        // are of is alive; they were written before `next` was set to 0 (release).
        let task: Task = unsafe { core::mem::transmute::<[usize; 2], Task>(parts) };
        let result = crate::status::catch(|| {
            task(i);
            Ok(())
        });
        if result.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }
}

/// What the embedder calls for each task.
unsafe extern "C" fn one_task(data: *mut c_void, _index: u32) {
    // SAFETY: the data that `parallel_for` was given is the session's step.
    if let Some(step) = unsafe { data.cast::<Step>().as_ref() } {
        step.one();
    }
}

impl ParallelFor {
    /// `None` without a function.
    pub fn new(call: sllm_parallel_for_fn, user: *mut c_void, width: usize) -> Option<Self> {
        let word = || AtomicUsize::new(0);
        let step = Step {
            task: [word(), word()],
            tasks: word(),
            next: AtomicUsize::new(OVER),
            done: word(),
            panicked: AtomicBool::new(false),
        };
        Some(ParallelFor { call: call?, user, width: width.max(1), step })
    }

    fn run(&self, tasks: usize, task: Task) {
        let Some(count) = u32::try_from(tasks).ok().filter(|n| *n > 1) else { return (0..tasks).for_each(task) };
        let step = &self.step;
        // SAFETY: the two words are only turned back into the reference while this waits below.
        let parts = unsafe { core::mem::transmute::<Task, [usize; 2]>(task) };
        step.task[0].store(parts[0], Ordering::Relaxed);
        step.task[1].store(parts[1], Ordering::Relaxed);
        step.tasks.store(tasks, Ordering::Relaxed);
        step.done.store(0, Ordering::Relaxed);
        step.next.store(0, Ordering::Release);
        // SAFETY: the function and its argument are the embedder's; the step lives as long as the session.
        unsafe { (self.call)(self.user, count, Some(one_task), core::ptr::from_ref(step).cast_mut().cast()) };
        while step.one() {}
        while step.done.load(Ordering::Acquire) < tasks {
            core::hint::spin_loop();
        }
        step.next.store(OVER, Ordering::Release);
        assert!(!step.panicked.swap(false, Ordering::Relaxed), "a task panicked");
    }
}
