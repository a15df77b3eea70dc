//! Tasks of steps, claimed by threads that come at any time.

use shadowllm_core::claims::Claims;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Threads claim all the time, also late and too often: each task of each step runs exactly once, while its step is
/// running.
#[test]
fn late_claims_take_tasks_of_the_current_step_or_none() {
    const STEPS: usize = 20_000;
    /// The most steps: on a busy machine the other threads may start late.
    const MOST: usize = 100 * STEPS;
    let (claims, over, late) = (Claims::default(), AtomicBool::new(false), AtomicUsize::new(0));
    let one = |claims: &Claims| {
        let claim = claims.claim().ok()?;
        claim.run();
        claim.finish();
        Some(())
    };
    std::thread::scope(|threads| {
        for _ in 0..5 {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    late.fetch_add(usize::from(one(&claims).is_some()), Ordering::Relaxed);
                }
            });
        }
        let claimed = || late.load(Ordering::Relaxed) > 0;
        for step in (0..MOST).take_while(|step| *step < STEPS || !claimed()) {
            if step % 64 == 0 {
                std::thread::yield_now();
            }
            let tasks = 2 + step % 7;
            let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            let task = |i: usize| _ = ran[i].fetch_add(1, Ordering::Relaxed);
            // SAFETY: the step before is over, and `task` lives until this one is over, which is waited for below.
            unsafe { claims.begin(tasks, &task) };
            while one(&claims).is_some() {}
            while claims.done() < tasks {
                std::thread::yield_now();
            }
            assert!(ran.iter().all(|r| r.load(Ordering::Relaxed) == 1), "step {step}: {ran:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(late.into_inner() > 0, "no thread but the publisher claimed anything");
}

#[test]
fn a_step_that_is_over_has_nothing_to_claim() {
    let claims = Claims::default();
    assert!(claims.claim().is_err() && claims.done() == 0);
    let before = claims.epoch();
    // SAFETY: no step is running, and the task is `'static`.
    unsafe { claims.begin(2, &|_| {}) };
    assert_ne!(claims.epoch(), before);
    let first = claims.claim().unwrap();
    let second = claims.claim().unwrap();
    assert!(!second.finish() && claims.claim().is_err());
    assert!(first.finish() && claims.claim().is_err());
}
