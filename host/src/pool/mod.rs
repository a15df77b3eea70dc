//! The threads that run a forward pass.
//!
//! A pass has some two hundred short steps, so starting a step must take much less than a microsecond: workers are
//! woken once per pass and spin between its steps. Outside a pass they spin for a moment, then park.
//!
//! A step is published as one word, and claiming a task is one addition to it ([`Claims`]). The publisher works too,
//! and waits until all *tasks* are done, not until all workers have arrived: a worker that has lost its core delays
//! only the task that it has claimed. A publisher spins only shortly for such a task and then sleeps, which gives its
//! own core to the worker. A worker for which others wait too long, because its core has other work, rests for a while:
//! it takes no tasks. So does one that the system has put on the publisher's core: two threads on one core take longer
//! than one.

mod steps;

use crate::cores::{Cores, here};
use crate::error::{Error, Result};
use crate::signals::blocked;
#[cfg(unix)]
use crate::{model::LoadedModel, residency::Residency};
#[cfg(unix)]
use shadowllm_core::Units;
use shadowllm_core::claims::{Claims, Task};
use shadowllm_core::{Executor, Hooks};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};
use steps::Steps;

/// Share of a pass that may be spent waiting for one worker, or on one core with it.
const MOST_WAITING: f64 = 0.25;
/// Nanoseconds from which on a worker rests for it before the pass is over.
const LONG_WAITING: u64 = 2_000_000;
/// Nanoseconds of a worker's first rest, and of its longest one: each time that it is still slow, its rest doubles.
const REST: [u64; 2] = [50_000_000, 1_600_000_000];

struct Shared {
    steps: Steps,
    born: Instant,
    /// For each worker the end of its rest, in nanoseconds since the pool was created.
    rests: Vec<AtomicU64>,
    /// The core on which each worker began to take tasks of a step last.
    cores: Vec<AtomicUsize>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }

    /// Sleeps and says true where a worker has still to rest.
    fn rests(&self, who: usize) -> bool {
        let until = &self.rests[who - 1];
        let left = match until.load(Ordering::Relaxed) {
            0 => return false,
            at => at.saturating_sub(self.now()),
        };
        if left == 0 {
            until.store(0, Ordering::Relaxed);
            return false;
        }
        thread::park_timeout(Duration::from_nanos(left));
        true
    }
}

/// What passes record about a worker.
#[derive(Clone)]
struct Watch {
    /// Nanoseconds that others waited for it, or shared a core with it, in this pass.
    waited: u64,
    /// Nanoseconds of its next rest.
    rest: u64,
}

impl Watch {
    /// Whether it cost too large a share of a pass of `pass` nanoseconds.
    fn is_slow(&self, pass: u64) -> bool {
        self.waited as f64 > MOST_WAITING * pass as f64
    }
}

/// A pool of `threads - 1` workers and the calling thread. One forward pass at a time runs in it. A pass that another
/// thread or a task starts meanwhile runs on its own thread only.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, JoinHandle<()>)>,
    busy: AtomicBool,
    /// When the current pass began, in nanoseconds since the pool was created.
    began: AtomicU64,
    watches: Mutex<Vec<Watch>>,
    #[cfg(unix)]
    residency: Option<Box<Mutex<Residency>>>,
}

thread_local! {
    static OWNS: Cell<usize> = const { Cell::new(0) };
}

impl Pool {
    /// The most threads, which is more than any machine gains from.
    pub const MOST: usize = 512;

    /// A pool that runs `threads` tasks at a time.
    ///
    /// # Errors
    /// [`Error::Usage`] for 0 or more than [`Pool::MOST`] threads; when the system gives no more threads.
    pub fn new(threads: usize) -> Result<Pool> {
        Self::on(threads, &Cores { ids: Vec::new(), chosen: false })
    }

    /// [`Pool::new`], with its workers restricted to these cores if others were left out. The calling thread is not
    /// restricted.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn on(threads: usize, cores: &Cores) -> Result<Pool> {
        if threads == 0 || threads > Self::MOST {
            return Err(Error::Usage(format!(
                "{threads} threads are out of range: give 1 to {}, best the number of cores",
                Self::MOST
            )));
        }
        let shared = Arc::new(Shared {
            steps: Steps::new(),
            born: Instant::now(),
            rests: (1..threads).map(|_| AtomicU64::new(0)).collect(),
            cores: (1..threads).map(|_| AtomicUsize::new(usize::MAX)).collect(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            busy: AtomicBool::new(false),
            began: AtomicU64::new(0),
            watches: Mutex::new(vec![Watch { waited: 0, rest: REST[0] }; threads - 1]),
            #[cfg(unix)]
            residency: None,
        };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let cores = cores.clone();
            let thread = thread::Builder::new().name(format!("shadowllm-{i}"));
            let worker = blocked(|| {
                thread.spawn(move || {
                    // If the system refuses, it places the thread itself.
                    let _ = cores.chosen && cores.bind();
                    let begins = || shared.cores[i - 1].store(here(), Ordering::Relaxed);
                    shared.steps.serve(i, || shared.rests(i), begins);
                })
            });
            let failed = |e| {
                Error::Resources(format!(
                    "cannot start thread {i} of {threads}: {e}; use fewer threads, or allow more (ulimit -u)"
                ))
            };
            let handle = worker.map_err(failed)?;
            pool.workers.push((handle.thread().clone(), handle));
        }
        Ok(pool)
    }

    /// Keeps at most `budget` bytes of a model's weights in memory: other weights are read from its file when a pass
    /// reaches them. The pool must then run only passes of that model.
    ///
    /// # Errors
    /// As [`Residency::new`].
    #[cfg(unix)]
    pub fn within(mut self, budget: usize, model: &LoadedModel) -> Result<Pool> {
        self.residency = Some(Box::new(Mutex::new(Residency::new(model, budget)?)));
        Ok(self)
    }

    /// The most tasks at a time.
    pub fn size(&self) -> usize {
        self.workers.len() + 1
    }

    /// Cores of this machine that the process may use.
    pub fn cores() -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }

    fn unpark(&self) {
        self.workers.iter().for_each(|(thread, _)| thread.unpark());
    }

    fn publish(&self, tasks: usize, task: Task) {
        let began = self.shared.now();
        let nap = |sleep: &dyn Fn()| {
            let since = self.shared.now();
            sleep();
            if let Some(worker) = self.shared.steps.last().checked_sub(1) {
                self.lost(worker, self.shared.now() - since);
            }
        };
        // SAFETY: only the thread that took the pool publishes.
        unsafe { self.shared.steps.publish(tasks, task, || self.unpark(), nap) };
        let mine = here();
        for (worker, core) in self.shared.cores.iter().enumerate() {
            if mine != usize::MAX && core.load(Ordering::Relaxed) == mine {
                self.lost(worker, self.shared.now() - began);
            }
        }
    }

    /// Records time that a worker cost; where that is long, the worker rests from now on.
    fn lost(&self, worker: usize, nanoseconds: u64) {
        let Ok(mut watches) = self.watches.lock() else { return };
        let watch = &mut watches[worker];
        watch.waited += nanoseconds;
        let pass = self.shared.now() - self.began.load(Ordering::Relaxed);
        if watch.waited > LONG_WAITING && watch.is_slow(pass) {
            self.rest(worker, watch);
        }
    }

    /// Makes a worker rest, unless it does, and forgets what it cost.
    fn rest(&self, worker: usize, watch: &mut Watch) {
        watch.waited = 0;
        self.shared.cores[worker].store(usize::MAX, Ordering::Relaxed);
        let until = &self.shared.rests[worker];
        if until.load(Ordering::Relaxed) == 0 {
            until.store(self.shared.now() + watch.rest, Ordering::Relaxed);
            watch.rest = (2 * watch.rest).min(REST[1]);
        }
    }

    /// Makes workers rest that cost too large a share of a pass's `pass` nanoseconds.
    fn rest_slow_workers(&self, pass: u64) {
        let Ok(mut watches) = self.watches.lock() else { return };
        for (worker, watch) in watches.iter_mut().enumerate() {
            if watch.is_slow(pass) {
                self.rest(worker, watch);
            } else if self.shared.rests[worker].load(Ordering::Relaxed) == 0 {
                watch.waited = 0;
                watch.rest = (watch.rest - watch.rest / 16).max(REST[0]);
            }
        }
    }

    /// Takes the pool for this thread; false when another has it.
    fn take(&self) -> bool {
        let free = !self.busy.swap(true, Ordering::Acquire);
        if free {
            self.shared.steps.own();
        }
        free
    }
}

impl Hooks for Pool {
    fn nanoseconds(&self) -> u64 {
        self.shared.now()
    }

    #[cfg(unix)]
    fn before_layer(&self, layer: usize, active: Option<&Units>) {
        if let Some(Ok(mut residency)) = self.residency.as_ref().map(|r| r.lock()) {
            residency.stage(layer, active);
        }
    }

    #[cfg(unix)]
    fn before_experts(&self, layer: usize, experts: &[u32]) {
        if let Some(Ok(mut residency)) = self.residency.as_ref().map(|r| r.lock()) {
            residency.experts(layer, experts);
        }
    }
}

// SAFETY: `publish` gives out each number below `tasks` once (one claim each) and returns when that many calls have
// returned; the serial branch is a plain loop.
unsafe impl Executor for Pool {
    /// Without workers that rest.
    fn width(&self) -> usize {
        1 + self.shared.rests.iter().filter(|until| until.load(Ordering::Relaxed) == 0).count()
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let mine = OWNS.get() == std::ptr::from_ref(self).addr();
        let serial = self.workers.is_empty() || tasks <= 1 || tasks > Claims::MOST;
        if serial || !(mine || self.take()) {
            return (0..tasks).for_each(task);
        }
        // A step inside a step would wait for itself, so it runs on this thread only.
        OWNS.set(0);
        self.publish(tasks, task);
        if mine {
            OWNS.set(std::ptr::from_ref(self).addr());
        } else {
            self.busy.store(false, Ordering::Release);
        }
        assert!(!self.shared.steps.panicked(), "a task panicked");
    }

    fn pass(&self, forward: &mut dyn FnMut()) {
        /// Releases the pool, also when the pass panics.
        struct Owned<'a>(&'a Pool);
        impl Drop for Owned<'_> {
            fn drop(&mut self) {
                OWNS.set(0);
                self.0.busy.store(false, Ordering::Release);
            }
        }
        if self.workers.is_empty() || !self.take() {
            return forward();
        }
        let _owned = Owned(self);
        OWNS.set(std::ptr::from_ref(self).addr());
        let began = self.shared.now();
        self.began.store(began, Ordering::Relaxed);
        self.shared.steps.wake(|| self.unpark());
        forward();
        self.rest_slow_workers(self.shared.now() - began);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.steps.end();
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker only ends by returning, so its result has no information.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_task_runs_once_in_every_step() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 7, 64, 1000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let step = |i: usize| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                };
                pool.pass(&mut || (0..50).for_each(|_| pool.run(tasks, &step)));
                pool.run(tasks, &step);
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 51), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn two_threads_may_share_a_pool_and_steps_may_nest() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.run(8, &|_| {
                            pool.run(2, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 200 * 16);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives() {
        let pool = Pool::new(2).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.pass(&mut || pool.run(16, &|i| assert!(i != 3, "wanted")));
        }));
        assert!(caught.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(16, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 16);
    }

    #[test]
    fn slow_workers_rest() {
        let pool = Pool::new(2).unwrap();
        let me = thread::current().id();
        // The worker's core seems to have other work.
        let slow = |_: usize| {
            if thread::current().id() != me {
                thread::sleep(Duration::from_millis(20));
            }
        };
        let start = Instant::now();
        while pool.width() == 2 && start.elapsed() < Duration::from_secs(20) {
            pool.pass(&mut || (0..10).for_each(|_| pool.run(4, &slow)));
        }
        assert_eq!(pool.width(), 1);
        let mine = AtomicUsize::new(0);
        let count = |_: usize| {
            mine.fetch_add(usize::from(thread::current().id() == me), Ordering::Relaxed);
        };
        pool.pass(&mut || pool.run(64, &count));
        // On a slow machine the rest may already be over.
        let still = pool.width() == 1;
        assert!(!still || mine.load(Ordering::Relaxed) == 64, "the worker took tasks while it rested");
        while pool.width() == 1 && start.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(pool.width(), 2, "it rests for good");
    }

    /// Two threads on one core take longer than one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn a_worker_on_the_publishers_core_rests() {
        let one = Cores { ids: Cores::all().ids[..1].to_vec(), chosen: true };
        let alone = move || {
            assert!(one.bind());
            let pool = Pool::on(2, &one).unwrap();
            let work = |_: usize| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(100) {}
            };
            let start = Instant::now();
            while pool.width() == 2 && start.elapsed() < Duration::from_secs(20) {
                pool.pass(&mut || (0..100).for_each(|_| pool.run(4, &work)));
            }
            pool.width()
        };
        assert_eq!(thread::spawn(alone).join().unwrap(), 1);
    }

    #[test]
    fn impossible_thread_counts_are_refused() {
        assert!(Pool::new(0).is_err());
        assert!(Pool::new(1000).is_err());
    }
}
