//! Who runs the tasks. The engine has no threads: an executor does, and belongs to the caller.

use crate::sparsity::ActiveSet;

/// Runs the independent tasks of one step.
///
/// # Safety
/// `run` must call `task` exactly once with each of `0..tasks`, never twice at the same time with the same
/// number, and return only after all calls have returned: tasks write to disjoint places that are handed
/// out by task number.
pub unsafe trait Executor {
    /// How many tasks may run at the same time (a hint for cutting work; results never depend on it).
    fn threads(&self) -> usize;

    /// Runs `task(0)`, ..., `task(tasks - 1)` in any order, at once or one by one, and waits for all.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));

    /// A clock in nanoseconds, from any start, for executors that have one: it tells what predictors take.
    fn nanoseconds(&self) -> u64 {
        0
    }

    /// A layer's weights are about to be read: of heads and neurons those in `active` where it is given, else all. What
    /// the layers behind it will need is in it too, as far as is known by now. The number behind the last layer's stands
    /// for the output matrix. For executors that bring weights from a slower place.
    fn layer(&self, layer: usize, active: Option<&ActiveSet>) {
        let _ = (layer, active);
    }

    /// Surrounds one forward pass of many `run` calls, so that workers may be woken once for all of them.
    fn pass(&self, forward: &mut dyn FnMut()) {
        forward();
    }
}

/// Runs everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: a plain loop calls each number once and returns after the last.
unsafe impl Executor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        for i in 0..tasks {
            task(i);
        }
    }
}
