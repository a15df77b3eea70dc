//! Skipping in tests: dials, and sessions that may skip.

use crate::folder::Random;
#[cfg(feature = "calibrate")]
pub use crate::small::{Small, Unseen, quick, small_models};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Executor, KvFormat, Session, SessionOptions};
use shadowllm_host::model::LoadedModel;

/// This policy at this density.
pub fn dial(policy: Policy, density: f32) -> Dial {
    Dial { policy, density, ..Dial::default() }
}

/// Made-up token ids.
pub fn made_up_ids(n: usize, vocab: usize) -> Vec<u32> {
    let mut random = Random(5);
    (0..n).map(|_| (f64::from(random.draw().abs()) * 1e6) as u32 % vocab as u32).collect()
}

/// Calls `each` with a session that may skip, and returns its result.
///
/// # Panics
/// When the model refuses.
pub fn with_session<T>(model: &LoadedModel, each: impl FnOnce(&mut Session) -> T) -> T {
    let options = SessionOptions { context: 48, batch: 16, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: true };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    each(&mut session)
}

/// Logits after a prefilled prompt, and after each decoded token.
///
/// # Panics
/// When the session refuses.
pub fn trail(session: &mut Session, exec: &dyn Executor, prompt: &[u32], rest: &[u32]) -> Vec<Vec<f32>> {
    let mut all = vec![session.prefill(exec, prompt).unwrap().to_vec()];
    all.extend(rest.iter().map(|id| session.decode(exec, *id).unwrap().to_vec()));
    all
}
