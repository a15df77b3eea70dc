//! Sessions on several threads that share one pool, whose workers park and rest meanwhile: the logits are those of each session
//! alone. `.ci/run tsan` runs this under ThreadSanitizer.

use shadowllm_core::sparsity::Dial;
use shadowllm_core::{Executor, Isa, Serial, Session, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use std::sync::Mutex;
use std::time::Duration;

fn options() -> SessionOptions {
    SessionOptions { context: 32, batch: 8, sparsity: true, ..SessionOptions::default() }
}

/// Logits of a prompt and of a few tokens after it, at full and at half density.
fn logits(session: &mut Session, exec: &dyn Executor, first: u32) -> Vec<f32> {
    let mut all = Vec::new();
    for density in [1.0, 0.5] {
        session.set_dial(&Dial { density, ..Dial::default() }).unwrap();
        session.rewind(0).unwrap();
        session.prefill(exec, &[first, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        for token in [first + 1, 5, 11] {
            session.decode(exec, token).unwrap();
        }
        all.extend_from_slice(session.logits());
    }
    all
}

#[test]
fn sessions_share_a_pool_whose_workers_park_and_rest() {
    let rounds = if cfg!(debug_assertions) { 2 } else { 6 };
    let model = LoadedModel::open("models/story.sllm".as_ref(), Some(Isa::Scalar)).unwrap();
    let with = |body: &dyn Fn(&mut Session)| {
        let mut memory = model.memory(&options()).unwrap();
        body(&mut model.session(options(), &mut memory).unwrap());
    };
    let alone: Vec<Vec<f32>> = (0..3)
        .map(|first| {
            let found = Mutex::new(Vec::new());
            with(&|session| *found.lock().unwrap() = logits(session, &Serial, first));
            found.into_inner().unwrap()
        })
        .collect();
    for threads in [2, 3, 6] {
        let pool = Pool::new(threads).unwrap();
        std::thread::scope(|scope| {
            for (first, expected) in alone.iter().enumerate() {
                let (pool, with) = (&pool, &with);
                scope.spawn(move || {
                    with(&|session| {
                        for round in 0..rounds {
                            assert!(
                                logits(session, pool, first as u32) == *expected,
                                "{threads} threads, round {round}"
                            );
                            // Long enough for workers to park.
                            std::thread::sleep(Duration::from_millis(3 * (round % 2)));
                        }
                    });
                });
            }
        });
    }
}
