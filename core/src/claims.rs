//! The tasks of a step, given out to threads one by one: what executors with threads share.
//!
//! A step's number of tasks and the next of them are parts of one word, so that one addition claims a task *of the step
//! whose tasks are counted there*. A thread that comes late, or was held up anywhere in here, claims a task of the current
//! step or none: it can never take a number from one step and the task from another.

use core::sync::atomic::{AtomicUsize, Ordering};

/// What a step calls with each number of a task.
pub type Task<'a> = &'a (dyn Fn(usize) + Sync);

const _: () = assert!(size_of::<Task>() == size_of::<[usize; 2]>());

/// Bits that count the next task, and bits that count all. The rest distinguish steps.
const BITS: [u32; 2] = if usize::BITS == 64 { [20, 20] } else { [13, 11] };
const MASKS: [usize; 2] = [(1 << BITS[0]) - 1, (1 << BITS[1]) - 1];

/// The current step: epoch | tasks | next in one word, the task, and how many are done. A new one is a step that is over.
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
    /// Tasks of a step at most: few enough that every thread can count one beyond the last.
    pub const MOST: usize = MASKS[0] / 4;

    /// Publishes a step of `tasks` tasks. The first of them may run before this returns.
    ///
    /// # Safety
    /// No step is under way. `task` lives until [`Claims::done`] says `tasks`, which the caller waits for.
    ///
    /// # Panics
    /// For more than [`Claims::MOST`] tasks.
    pub unsafe fn begin(&self, tasks: usize, task: Task) {
        assert!(tasks <= Self::MOST, "more tasks than a step counts");
        // SAFETY: a reference to a trait object is two words, asserted above; `Claim::run` makes the same reference of them,
        // and only while the step is under way.
        let parts = unsafe { core::mem::transmute::<Task, [usize; 2]>(task) };
        self.done.store(0, Ordering::Relaxed);
        self.task[0].store(parts[0], Ordering::Relaxed);
        self.task[1].store(parts[1], Ordering::Relaxed);
        let epoch = (self.epoch() + 1) << (BITS[0] + BITS[1]);
        self.word.store(epoch | tasks << BITS[0], Ordering::SeqCst);
    }

    /// Which step this is, counted round a circle.
    pub fn epoch(&self) -> usize {
        self.word.load(Ordering::SeqCst) >> (BITS[0] + BITS[1])
    }

    /// The next task of the current step; its epoch when none is left.
    pub fn claim(&self) -> Result<Claim<'_>, usize> {
        let split = |word: usize| (word & MASKS[0], word >> BITS[0] & MASKS[1], word >> (BITS[0] + BITS[1]));
        // Looked at first, so that each thread counts beyond the last task once at most.
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
        // SAFETY: this task is claimed and not finished, so whoever published its step still waits: the reference is alive,
        // and its two words are not written before the step is over. They were written before the word was published
        // (release), which the claim read (acquire).
        let task: Task = unsafe { core::mem::transmute::<[usize; 2], Task>(parts) };
        task(self.index);
    }

    /// Counts it as done, and says whether it was the step's last.
    pub fn finish(self) -> bool {
        self.claims.done.fetch_add(1, Ordering::SeqCst) + 1 == self.tasks
    }
}
