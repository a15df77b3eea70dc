//! Contextual sparsity: which heads, neurons and inputs are read for a token.
//!
//! ```text
//!   Dial (policy, density) ─> State ─> Units (heads, groups of neurons per layer) ─> ops
//!   Plan (the policy's row) ──^  │       and thresholds (inputs per linear map)
//!                                ├─ chooser/: one file for each way to choose
//!                                ├─ Memory: what outlives a token
//!                                └─ Predictor (a section of the image: thresholds, budgets, low-rank maps)
//! ```
//! The operations of a layer only get lists of indices and thresholds, which a [`Policy`] fills. It acts on single
//! tokens (decode); a prefill is always dense. Layer 0 is always dense too, because the shadow predictor reads its
//! outputs (ShadowLLM, arXiv 2406.16635).

mod chooser;
mod dial;
mod memory;
mod observed;
mod plan;
mod predictor;
mod select;
mod slot;
mod state;
mod tables;

pub(crate) use chooser::Run;
pub use dial::{Allocation, Dial, SLOTS};
pub use plan::{Calibrated, Decider, Plan, Policy};
pub use predictor::{Predictor, fingerprint, threshold_of};
pub use select::interpolate;
pub use slot::{Slot, Source};
pub(crate) use state::{Kind, State};
pub use tables::{GRID, HEADER_LEN, MAGIC, QUANTILES, RANKS, Table, Tap, VERSION};
