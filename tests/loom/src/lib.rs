//! Every order in which two threads can claim, run, park and wake: the engine's own files, with loom's atomics in place of the
//! processor's. `.ci/run loom` runs this; without `--cfg loom` there is nothing here.
#![cfg(loom)]

#[path = "../../../core/src/claims.rs"]
pub mod claims;
#[path = "../../../host/src/pool/steps.rs"]
pub mod steps;

#[cfg(test)]
mod tests {
    use crate::claims::Claims;
    use crate::steps::Steps;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    const TASKS: usize = 2;
    const STEPS: usize = 2;

    /// What tasks write to, each to its own; loom reports two accesses at a time.
    struct Counts([UnsafeCell<usize>; TASKS]);

    // SAFETY: loom checks every access.
    unsafe impl Sync for Counts {}

    impl Counts {
        fn new() -> Counts {
            Counts([UnsafeCell::new(0), UnsafeCell::new(0)])
        }

        fn count(&self, task: usize) {
            // SAFETY: as above.
            self.0[task].with_mut(|n| unsafe { *n += 1 });
        }

        fn all_are(&self, expected: usize) {
            // SAFETY: as above.
            self.0.iter().for_each(|n| assert_eq!(n.with(|n| unsafe { *n }), expected));
        }
    }

    /// A pool of two threads, which runs steps of two tasks; `task` is called with the step, the task and its counts.
    fn pool(task: impl Fn(usize, usize, &Counts) + Sync + Send + Copy + 'static, panics: bool) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let steps = Arc::new(Steps::new());
            let theirs = Arc::clone(&steps);
            let worker = thread::spawn(move || theirs.serve(1, || false, || ()));
            steps.own();
            for step in 0..STEPS {
                let counts = Counts::new();
                let run = |i: usize| task(step, i, &counts);
                // SAFETY: this thread alone publishes.
                unsafe { steps.publish(TASKS, &run, || worker.thread().unpark(), |sleep| sleep()) };
                counts.all_are(1);
                assert_eq!(steps.panicked(), panics && step == 0);
            }
            steps.end();
            worker.thread().unpark();
            worker.join().unwrap();
        });
    }

    #[test]
    fn every_task_of_every_step_runs_once() {
        pool(|_, i, counts| counts.count(i), false);
    }

    #[test]
    fn a_panic_reaches_the_publisher_and_the_next_step_runs() {
        std::panic::set_hook(Box::new(|info| {
            // Only what loom or a check found; not the panic that the test wants.
            if !info.to_string().contains("wanted") {
                eprintln!("{info}");
            }
        }));
        let panicking = |step: usize, i: usize, counts: &Counts| {
            counts.count(i);
            assert!(step > 0 || i != 1, "wanted");
        };
        pool(panicking, true);
    }

    /// An embedder's thread, which claims when it likes: a task of the step under way, or none.
    #[test]
    fn late_and_surplus_claims_take_each_task_once() {
        fn one(claims: &Claims) -> bool {
            let Ok(claim) = claims.claim() else { return false };
            claim.run();
            claim.finish();
            true
        }
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let claims = Arc::new(Claims::default());
            let theirs = Arc::clone(&claims);
            let other = thread::spawn(move || (0..3).for_each(|_| _ = one(&theirs)));
            for _ in 0..STEPS {
                let counts = Counts::new();
                let run = |i: usize| counts.count(i);
                // SAFETY: the step before is over, and this one is waited for before `run` goes.
                unsafe { claims.begin(TASKS, &run) };
                while one(&claims) {}
                while claims.done() < TASKS {
                    // The other thread has a task: nothing goes on before it runs.
                    thread::yield_now();
                }
                counts.all_are(1);
            }
            other.join().unwrap();
        });
    }
}
