//! The tasks of a step, which threads claim one by one: the shared part of executors with threads.
//!
//! A step's number of tasks and the number of its next task are parts of one word, so that one addition claims a task
//! *of the step that the word belongs to*. A thread that comes late, or was interrupted anywhere in this code, claims a
//! task of the current step or none. It can never combine a number of one step with the task of another.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(loom)] // tests/loom includes this file
use loom::sync::atomic::{AtomicUsize, Ordering};

/// The function that a step calls with the number of each task.
pub type Task<'a> = &'a (dyn Fn(usize) + Sync);

const _: () = assert!(size_of::<Task>() == size_of::<[usize; 2]>());

/// Bits for the number of the next task, and bits for the number of tasks. The other bits distinguish steps.
const BITS: [u32; 2] = if usize::BITS == 64 { [20, 20] } else { [13, 11] };
const MASKS: [usize; 2] = [(1 << BITS[0]) - 1, (1 << BITS[1]) - 1];

/// The current step: epoch | tasks | next in one word, the task, and the number of finished tasks. The initial value is
/// a finished step.
#[derive(Debug, Default)]
pub struct Claims {
    word: AtomicUsize,
    task: [AtomicUsize; 2],
    done: AtomicUsize,
}

/// A claimed task. Its step does not end before it is [finished](Claim::finish).
#[must_use]
#[derive(Debug)]
pub struct Claim<'c> {
    claims: &'c Claims,
    index: usize,
    tasks: usize,
}

impl Claims {
    /// The most tasks of a step: few enough that every thread can count one task too many.
    pub const MOST: usize = MASKS[0] / 4;

    /// Publishes a step of `tasks` tasks. The first of them may run before this returns.
    ///
    /// # Safety
    /// No step may be running, and the caller must keep `task` alive until [`Claims::done`] returns `tasks`.
    ///
    /// # Panics
    /// For more than [`Claims::MOST`] tasks.
    pub unsafe fn begin(&self, tasks: usize, task: Task) {
        assert!(tasks <= Self::MOST, "more tasks than a step counts");
        // SAFETY: a reference to a trait object is two words (asserted above); `Claim::run` turns them back into the
        // same reference, and only while the step is running.
        let parts = unsafe { core::mem::transmute::<Task, [usize; 2]>(task) };
        self.done.store(0, Ordering::Relaxed);
        self.task[0].store(parts[0], Ordering::Relaxed);
        self.task[1].store(parts[1], Ordering::Relaxed);
        let epoch = (self.epoch() + 1) << (BITS[0] + BITS[1]);
        // A swap, though a store would do: loom takes the order of stores and additions for looser than it is.
        self.word.swap(epoch | tasks << BITS[0], Ordering::SeqCst);
    }

    /// The number of this step, which wraps around.
    pub fn epoch(&self) -> usize {
        self.word.load(Ordering::SeqCst) >> (BITS[0] + BITS[1])
    }

    /// Claims the next task of the current step; returns the step's epoch when none is left.
    pub fn claim(&self) -> Result<Claim<'_>, usize> {
        let split = |word: usize| (word & MASKS[0], word >> BITS[0] & MASKS[1], word >> (BITS[0] + BITS[1]));
        // Read first, so that each thread counts beyond the last task at most once.
        let (next, tasks, epoch) = split(self.word.load(Ordering::Acquire));
        if next >= tasks {
            return Err(epoch);
        }
        let (index, tasks, epoch) = split(self.word.fetch_add(1, Ordering::AcqRel));
        if index < tasks { Ok(Claim { claims: self, index, tasks }) } else { Err(epoch) }
    }

    /// Tasks of the current step that are finished.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

impl Claim<'_> {
    /// Runs the task.
    pub fn run(&self) {
        let words = &self.claims.task;
        let parts = [words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed)];
        // SAFETY: this task is claimed and not finished, so the caller of `begin` still keeps the reference alive, and
        // its two words are not overwritten before the step is over. They were written before the word was published
        // (release), which the claim has read (acquire).
        let task: Task = unsafe { core::mem::transmute::<[usize; 2], Task>(parts) };
        task(self.index);
    }

    /// Counts it as done, and says whether it was the step's last.
    pub fn finish(self) -> bool {
        self.claims.done.fetch_add(1, Ordering::SeqCst) + 1 == self.tasks
    }
}
