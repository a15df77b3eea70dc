//! How a model is run, with all defaults of the host.

use crate::controls::Controls;
use crate::error::Result;
use crate::model::LoadedModel;
use crate::pool::Pool;
use shadowllm_core::sample::SamplerOptions;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{KvFormat, SessionOptions};

/// The limits of a session, and how it generates.
#[derive(Clone, Debug)]
pub struct Options {
    /// Positions of prompt and answer together; by default the context that the model was trained for, up to
    /// [`SessionOptions::CONTEXT`].
    pub context: Option<usize>,
    /// Tokens of a prompt that are computed together.
    pub batch: usize,
    /// Tokens whose logits are kept at once; 1 unless all logits of a text are needed.
    pub logit_rows: usize,
    /// Number format of the KV cache; by default f16, and f32 for an image with f32 weights.
    pub kv: Option<KvFormat>,
    /// Whether the session can skip, now or later; this takes some memory.
    pub skipping: bool,
    /// The dial in the beginning. Any policy except [`Policy::Off`] implies `skipping`.
    pub dial: Dial,
    /// How tokens are chosen. The seed is fixed, so that the same calls give the same text.
    pub sampling: SamplerOptions,
    /// Whether answers are those of the dense model, bit for bit: tokens are guessed, from the text so far or by the
    /// model under the dial, and several guesses are checked in one dense pass. The dial then changes only the time of
    /// an answer.
    pub exact: bool,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Constraints of answers: stop strings, biases.
    pub controls: Controls,
    /// Threads; by default one per core.
    pub threads: Option<usize>,
    /// The most bytes of weights in memory; other weights are read from the file for each token. Unix only.
    pub memory_budget: Option<usize>,
    /// The system message, which begins every conversation.
    pub system: Option<String>,
    /// Whether the texts of control tokens in messages become control tokens, so that a message can end a turn and
    /// begin another. Those of the chat template always do.
    pub control_tokens: bool,
    /// What the chat template is given besides the messages: tools, documents, `enable_thinking`.
    #[cfg(feature = "tokenizer")]
    pub variables: crate::text::Variables,
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
            exact: false,
            sampling: SamplerOptions::default(),
            max_tokens: 256,
            controls: Controls::default(),
            threads: None,
            memory_budget: None,
            system: None,
            control_tokens: false,
            #[cfg(feature = "tokenizer")]
            variables: crate::text::Variables::new(),
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
            ahead: if self.exact { SessionOptions::AHEAD } else { 0 },
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
