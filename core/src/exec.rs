//! Running a step's tasks. The engine has no threads; the caller's executor may have some.

use crate::active::Units;

/// Optional services of an executor beside running tasks. The defaults do nothing.
pub trait Hooks {
    /// A clock in nanoseconds, from any start; 0 without a clock. It measures the time of predictors and passes.
    fn nanoseconds(&self) -> u64 {
        0
    }

    /// Called before a layer's weights are read, so that an executor can bring them in from slower storage. `active`
    /// lists the heads and neurons to be read (`None`: all), of this layer and, as far as they are already chosen, of
    /// later layers. The number after the last layer stands for the output matrix.
    fn before_layer(&self, layer: usize, active: Option<&Units>) {
        let _ = (layer, active);
    }

    /// Called before the experts of a mixture are read: those that the tokens of the batch use, in any order, some of
    /// them several times.
    fn before_experts(&self, layer: usize, experts: &[u32]) {
        let _ = (layer, experts);
    }
}

/// Runs the independent tasks of one step.
///
/// # Safety
/// `run` must call `task` exactly once with each of `0..tasks`, never twice at the same time with the same number, and
/// return only after all calls have returned: tasks write to places that are disjoint because their task numbers are
/// different.
pub unsafe trait Executor: Hooks {
    /// How many tasks may run at the same time (a hint for cutting work; results never depend on it).
    fn width(&self) -> usize;

    /// Runs `task(0)`, ..., `task(tasks - 1)` in any order, at once or one by one, and waits for all.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));

    /// Surrounds one forward pass of many `run` calls, so that workers may be woken once for all of them.
    fn pass(&self, forward: &mut dyn FnMut()) {
        forward();
    }
}

/// Runs everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Hooks for Serial {}

// SAFETY: a plain loop calls each number once and returns after the last.
unsafe impl Executor for Serial {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        for i in 0..tasks {
            task(i);
        }
    }
}
