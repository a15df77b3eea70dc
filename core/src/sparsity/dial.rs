//! The caller's setting: a policy, and the share of the weights that it may read.

use super::plan::Policy;
use super::slot::Slot;

/// The most columns of a budget.
pub const SLOTS: usize = Slot::MAPS.len();

/// How a budget is divided among layers, and between heads and neurons or among maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// As calibration found it best.
    #[default]
    Global,
    /// The same share for every layer and part.
    Local,
    /// The mean of both, so that every layer gets a share.
    Hybrid,
}

/// What to skip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dial {
    /// The policy, which decides.
    pub policy: Policy,
    /// Share of the skippable weight bytes that is read, above 0 and at most 1; 1 is dense.
    pub density: f32,
    /// How many tokens are decoded with one choice of heads and neurons: 1 chooses for every token, 0 once after each
    /// prefill.
    pub refresh: usize,
    /// How the density is divided among slots.
    pub allocation: Allocation,
    /// Shares of single slots in place of the budget's, in the order of the policy's [`Plan::slots`](super::Plan::slots).
    pub fixed: [Option<f32>; SLOTS],
    /// Seed of the random policy.
    pub seed: u64,
    /// Of an output matrix that has a sketch in the image, the rows are read whose logits are estimated at no more than
    /// this below the largest one (0 or more); the other logits are estimates. Infinity reads all rows and no sketch.
    pub window: f32,
}

impl Dial {
    /// The default window. Of an output matrix in q8_0 it reads 55 % (Gemma 3 270M), 57 % (Qwen2.5-Coder-0.5B) and 65 %
    /// (SmolLM2-135M) of the bytes, at a divergence of .003, .002 and .006 nats: simulated on 200 logits of each model.
    pub const WINDOW: f32 = 8.0;

    /// The same dial for another policy and density. Shares of single slots belong to a policy, and stay only with it.
    #[must_use]
    pub fn with(&self, policy: Policy, density: f32) -> Dial {
        let fixed = if policy == self.policy { self.fixed } else { [None; SLOTS] };
        Dial { policy, density, fixed, ..*self }
    }
}

impl Default for Dial {
    fn default() -> Self {
        Dial {
            policy: Policy::Off,
            density: 1.0,
            refresh: 1,
            allocation: Allocation::Global,
            fixed: [None; SLOTS],
            seed: 0,
            window: Self::WINDOW,
        }
    }
}
