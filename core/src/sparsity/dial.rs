//! The caller's setting: a policy, and how much it may read.

use super::plan::Policy;
use super::slot::Slot;

/// Columns of a budget at most.
pub const SLOTS: usize = Slot::MAPS.len();

/// How a budget is divided among layers, and between heads and neurons or among maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// As calibration found best.
    #[default]
    Global,
    /// Every layer and part alike.
    Local,
    /// The mean of both: no layer goes without.
    Hybrid,
}

/// What to skip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dial {
    /// Who decides.
    pub policy: Policy,
    /// Share of the skippable weight bytes that is read, above 0 and at most 1; 1 is dense.
    pub density: f32,
    /// Tokens decoded with one choice of heads and neurons: 1 chooses anew for every token, 0 once after each
    /// prefill.
    pub refresh: usize,
    /// How the density is divided.
    pub allocation: Allocation,
    /// Shares of single slots in place of the budget's, in the order of the policy's [`Plan::slots`](super::Plan::slots).
    pub fixed: [Option<f32>; SLOTS],
    /// Start of the random policy's choices.
    pub seed: u64,
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
        }
    }
}
