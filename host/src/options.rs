//! How a model is run: the one place of the host's defaults.

use crate::controls::Controls;
use crate::error::Result;
use crate::model::LoadedModel;
use crate::pool::Pool;
use shadowllm_core::sample::SamplerOptions;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{KvFormat, SessionOptions};

/// What a session is made for, and how it generates.
#[derive(Clone, Debug)]
pub struct Options {
    /// Positions, prompt and answer together; by default what the model was trained for, up to
    /// [`SessionOptions::CONTEXT`].
    pub context: Option<usize>,
    /// Tokens of a prompt that are computed together.
    pub batch: usize,
    /// Tokens whose logits are held at once; 1 unless all logits of a text are wanted.
    pub logit_rows: usize,
    /// Number format of the KV cache; by default f16, and f32 for an image with f32 weights.
    pub kv: Option<KvFormat>,
    /// Whether the session can skip, now or later. It takes some memory.
    pub skipping: bool,
    /// What it skips at first. Anything but [`Policy::Off`] implies `skipping`.
    pub dial: Dial,
    /// How tokens are chosen. The seed is fixed, so that the same calls give the same text.
    pub sampling: SamplerOptions,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// What answers are held to: stop strings, biases.
    pub controls: Controls,
    /// Threads; by default one per core.
    pub threads: Option<usize>,
    /// Bytes of weights held in memory at most; others are read from the file for each token. Unix only.
    pub memory_budget: Option<usize>,
    /// The first message of every conversation: what the model is to be.
    pub system: Option<String>,
    /// Whether the texts of control tokens are control tokens in what is said, so that it can end a turn and begin
    /// another. Those of the chat template are in any case.
    pub control_tokens: bool,
}

impl Default for Options {
    fn default() -> Self {
        let engine = SessionOptions::default();
        Options {
            context: None,
            batch: engine.batch,
            logit_rows: engine.logit_rows,
            kv: None,
            skipping: true,
            dial: Dial::default(),
            sampling: SamplerOptions::default(),
            max_tokens: 256,
            controls: Controls::default(),
            threads: None,
            memory_budget: None,
            system: None,
            control_tokens: false,
        }
    }
}

impl Options {
    /// The engine's options for a model.
    pub fn engine(&self, model: &shadowllm_core::Model) -> SessionOptions {
        let suitable = SessionOptions::of(model);
        SessionOptions {
            batch: self.batch,
            logit_rows: self.logit_rows,
            kv: self.kv.unwrap_or(suitable.kv),
            sparsity: self.skipping || self.dial.policy != Policy::Off,
            ..suitable
        }
        .within(self.context.unwrap_or(suitable.context))
    }

    /// The threads, within the memory budget.
    ///
    /// # Errors
    /// As [`Pool::new`] and `Pool::within`.
    pub fn pool(&self, model: &LoadedModel) -> Result<Pool> {
        let pool = Pool::new(self.threads.unwrap_or_else(Pool::cores))?;
        match self.memory_budget {
            None => Ok(pool),
            #[cfg(unix)]
            Some(budget) => pool.within(budget, model),
            #[cfg(not(unix))]
            Some(_) => {
                let _ = model;
                Err(crate::Error::Usage("a memory budget is not supported on this system: leave it out".into()))
            }
        }
    }
}
