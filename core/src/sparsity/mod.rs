//! Contextual sparsity: which heads, neurons and inputs a token needs.
//!
//! ```text
//!   Dial (policy, density) ─> State ─> Units (heads, groups of neurons per layer) ─> ops
//!                               ▲        and thresholds (inputs per linear map)
//!                 Predictor (a section of the image: thresholds, budgets, low-rank maps)
//! ```
//! The operators see lists of indices and thresholds only; a [`Policy`] fills them. It acts on single tokens
//! (decode); a prefill is always dense. Layer 0 is always dense too: the shadow predictor is fed by it
//! (ShadowLLM, arXiv 2406.16635).

mod dial;
mod observed;
mod predictor;
mod select;
mod state;

pub use dial::{Allocation, Dial, MAPS, Policy, SLOTS};
pub use predictor::{
    ENTRY_LEN, GRID, HEADER_LEN, MAGIC, Predictor, QUANTILES, RANKS, Table, Tap, VERSION, fingerprint,
};
pub use select::{interpolate, threshold_of};
pub(crate) use state::State;
