//! How a step reaches the workers, and how its publisher hears that it is over. A file of its own, so that `.ci/run loom`
//! can try every order of its events (`tests/loom` includes it).

#[cfg(loom)]
use crate::claims::{Claims, Task};
#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::Mutex,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    thread::{self, Thread},
};
#[cfg(not(loom))]
use shadowllm_core::claims::{Claims, Task};
#[cfg(not(loom))]
use std::{
    hint::spin_loop,
    sync::Mutex,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, Thread},
};

/// Looks at memory before a waiting thread parks: some tens of microseconds.
const SPINS: u32 = if cfg!(loom) { 0 } else { 4_000 };

/// Keeps what is written before it ahead of what is read after it, for all threads. The accesses around it do that by
/// themselves, being sequentially consistent; loom takes such accesses for less, and needs a fence.
#[inline(always)]
fn in_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// The current step, and who sleeps.
pub struct Steps {
    claims: Claims,
    panicked: AtomicBool,
    parked: AtomicUsize,
    stop: AtomicBool,
    /// The thread that ended the step's last task, give or take one that ended at the same time.
    last: AtomicUsize,
    /// The thread that publishes, and whether it sleeps until the step is done.
    owner: Mutex<Option<Thread>>,
    owner_sleeps: AtomicBool,
}

impl Steps {
    /// A step that is over.
    pub fn new() -> Steps {
        Steps {
            claims: Claims::default(),
            panicked: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            last: AtomicUsize::new(0),
            owner: Mutex::new(None),
            owner_sleeps: AtomicBool::new(false),
        }
    }

    /// Makes this thread the one that publishes.
    pub fn own(&self) {
        if let Ok(mut owner) = self.owner.lock() {
            *owner = Some(thread::current());
        }
    }

    /// Whether a task panicked since this was asked last.
    pub fn panicked(&self) -> bool {
        self.panicked.swap(false, Ordering::Relaxed)
    }

    /// Who ended the last task: a worker's number, or 0 for the publisher.
    pub fn last(&self) -> usize {
        self.last.load(Ordering::Relaxed)
    }

    /// Takes tasks of the current step until there are none left; returns its epoch. `who` is the worker's number from 1,
    /// 0 the publisher's.
    fn work(&self, who: usize) -> usize {
        loop {
            let claim = match self.claims.claim() {
                Ok(claim) => claim,
                Err(epoch) => return epoch,
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim.run())).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.last.store(who, Ordering::Relaxed);
            let over = claim.finish();
            in_order();
            if over
                && self.owner_sleeps.load(Ordering::SeqCst)
                && let Ok(Some(owner)) = self.owner.lock().as_deref()
            {
                owner.unpark();
            }
        }
    }

    /// A worker's life: it works at every step until [`Steps::end`]. `rests` sleeps for a while and says true where the
    /// worker has to rest; `begins` is called before it takes tasks.
    pub fn serve(&self, who: usize, rests: impl Fn() -> bool, begins: impl Fn()) {
        let mut idle = 0;
        let mut last = self.work(who);
        while !self.stop.load(Ordering::Relaxed) {
            if rests() {
                continue;
            }
            if self.claims.epoch() != last {
                begins();
                last = self.work(who);
                idle = 0;
            } else if idle < SPINS {
                idle += 1;
                spin_loop();
            } else {
                self.parked.fetch_add(1, Ordering::SeqCst);
                in_order();
                // Whoever publishes after this line sees `parked` and wakes us; whoever did before is seen.
                if self.claims.epoch() == last && !self.stop.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.parked.fetch_sub(1, Ordering::SeqCst);
                idle = 0;
            }
        }
    }

    /// Calls `unpark`, which wakes all workers, where one of them sleeps.
    pub fn wake(&self, unpark: impl Fn()) {
        in_order();
        if self.parked.load(Ordering::SeqCst) > 0 {
            unpark();
        }
    }

    /// Publishes a step, works at it, and returns when it is over. `nap` calls what it is given, which sleeps.
    ///
    /// # Safety
    /// One thread at a time publishes: the one that called [`Steps::own`] last.
    pub unsafe fn publish(&self, tasks: usize, task: Task, unpark: impl Fn(), nap: impl Fn(&dyn Fn())) {
        // SAFETY: the step before is over, since its publisher waited below, as this one does for `task`.
        unsafe { self.claims.begin(tasks, task) };
        self.wake(unpark);
        self.work(0);
        let mut spins = 0;
        while self.claims.done() < tasks {
            if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                nap(&|| self.sleep(tasks));
            }
        }
    }

    /// Sleeps until all tasks are done, or for less.
    fn sleep(&self, tasks: usize) {
        // A swap, though a store would do: an emulator of Arm on x86 lets the load below overtake a store.
        self.owner_sleeps.swap(true, Ordering::SeqCst);
        in_order();
        // Whoever ends the last task after this line sees that we sleep; whoever did before is seen.
        if self.claims.done() < tasks {
            thread::park();
        }
        self.owner_sleeps.store(false, Ordering::SeqCst);
    }

    /// Lets the workers return, once they are woken.
    pub fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
