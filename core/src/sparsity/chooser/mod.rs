//! How heads, neurons and inputs are chosen: each file has the implementation of a [`Chooser`].

mod gate;
mod inputs;
mod low_rank;
mod oracle;
mod per_layer;
mod prompt;
mod random;
mod shadow;
mod r#static;

use super::memory::Memory;
use super::plan::{Decider, Plan};
use super::predictor::Predictor;
use super::select::kth_largest;
use super::slot::Slot;
use crate::exec::Executor;
use crate::format::TILE_ROWS;
use crate::image::{Config, LayerShape};
use crate::kernels::Kernels;
use crate::ops::buffer::Rows;
use core::ops::Range;

/// What choosers run with: an executor, kernels, and the image's predictor.
#[derive(Clone, Copy)]
pub struct Run<'r, 'a> {
    /// Runs the tasks.
    pub exec: &'r dyn Executor,
    /// Computes them.
    pub kernels: &'r Kernels,
    /// The image's predictor.
    pub predictor: Option<&'r Predictor<'a>>,
}

/// The data of a choice: what choosers read, and the memory that they fill.
pub struct Choice<'m> {
    /// The model's sizes: tables of several layers have rows of the largest layer's length.
    pub config: Config,
    /// The sizes of each layer.
    pub shapes: &'m [LayerShape],
    /// The policy's row.
    pub plan: &'static Plan,
    /// The part that outlives the token.
    pub memory: Memory<'m>,
    /// [layers, [`Slot::COUNT`]]: shares to be read.
    pub shares: &'m mut [f32],
    /// Scores of the parts of all layers.
    pub scores: &'m mut [f32],
    /// Room for the scores of a layer.
    pub scratch: &'m mut [f32],
    /// Input of the shadow predictor.
    pub tap: Rows<'m>,
    /// Hidden units of a predictor.
    pub hidden: Rows<'m>,
    /// Whether this pass skips.
    pub acting: bool,
    /// Whether policies gather statistics from this pass, because its tokens are final.
    pub learns: bool,
    /// Whether this pass makes a new choice.
    pub fresh: bool,
    /// Bytes of predictors that this pass has read.
    pub bytes: usize,
    /// Nanoseconds that predictors took in this pass.
    pub nanoseconds: u64,
}

impl Choice<'_> {
    /// Share of a slot to be read; heads and neurons may use the share of another slot.
    fn share(&self, layer: usize, slot: Slot) -> f32 {
        self.shares[layer * Slot::COUNT + self.plan.share_of(slot) as usize]
    }

    /// The score that a part of the slot needs to be read.
    fn threshold(&self, layer: usize, slot: Slot) -> f32 {
        self.memory.thresholds[layer * Slot::COUNT + self.plan.share_of(slot) as usize]
    }

    /// Length of a layer's row of scores: heads, or groups of neurons and of padding.
    fn row(&self, part: Slot) -> usize {
        if part == Slot::Heads { self.config.heads } else { self.config.neuron_groups() }
    }

    /// The number of heads or groups in this row that the layer really has.
    fn count(&self, layer: usize, part: Slot) -> usize {
        let shape = &self.shapes[layer];
        if part == Slot::Heads { shape.heads } else { shape.neurons.div_ceil(shape.group) }
    }
}

impl Memory<'_> {
    /// Makes those heads or groups of neurons of a layer active for which `chosen` is true.
    fn choose(&mut self, part: Slot, layer: usize, chosen: impl FnMut(usize) -> bool) {
        match part {
            Slot::Heads => self.units.choose_heads(layer, chosen),
            _ => self.units.choose_neurons(layer, chosen),
        }
    }
}

/// A way to choose. Its methods are called at certain points of a session; those that a chooser does not need do
/// nothing.
///
/// Choices are made for layers from 1 on; layer 0 is always read whole.
pub trait Chooser {
    /// A dial was set: shares and thresholds are filled, everything is active.
    fn set(&self, _: &mut Choice, _: Option<&Predictor>) {}

    /// A token is about to be decoded, for which a new choice is due.
    fn before_token(&self, _: &mut Choice) {}

    /// The input of a layer's attention is computed, and the heads' outputs of the layer before. Only for a new choice.
    fn before_attention(&self, _: &mut Choice, _: &Run, _layer: usize, _normed: &Rows, _heads: &Rows) {}

    /// The input of a layer's feed-forward network is computed. Only for a new choice.
    fn before_feed_forward(&self, _: &mut Choice, _: &Run, _layer: usize, _normed: &Rows) {}

    /// Whether it decides by the gate, which must then be computed before the neurons.
    fn gate_first(&self) -> bool {
        false
    }

    /// Chooses a layer's groups by their gates, `[ffn]` before the activation.
    fn after_gate(&self, _: &mut Choice, _: &Run, _layer: usize, _gates: &[f32]) {}

    /// A layer's heads are computed, also in a prefill: takes statistics, or clears heads. Returns the number of
    /// cleared heads.
    fn after_heads(&self, _: &mut Choice, _layer: usize, _heads: &mut Rows, _tokens: usize) -> usize {
        0
    }

    /// A layer's neurons are computed, also in a prefill: takes statistics, or clears neurons. Returns the number of
    /// neurons that a perfect predictor would not have computed.
    fn after_neurons(
        &self,
        _: &mut Choice,
        _: Option<&Predictor>,
        _layer: usize,
        _neurons: &mut Rows,
        _tokens: usize,
    ) -> usize {
        0
    }

    /// Inputs of a slot are computed, also in a prefill: a row for the token of each position.
    fn observe(&self, _: &mut Choice, _layer: usize, _slot: Slot, _rows: &Rows, _positions: Range<usize>) {}

    /// The magnitude that inputs `x` of a slot must exceed to be read.
    fn input_threshold(&self, _: &mut Choice, _layer: usize, _slot: Slot, _x: &[f32]) -> f32 {
        0.0
    }

    /// Whether skipped neurons count with their mean, and not as zero: this helps if the same neurons are always
    /// skipped.
    fn centred(&self) -> bool {
        false
    }
}

/// Reads everything, or what the caller lists.
struct All;
impl Chooser for All {}

/// The chooser of a decider.
pub fn of(decider: Decider) -> &'static dyn Chooser {
    match decider {
        Decider::All | Decider::Given => &All,
        Decider::Static => &r#static::Static,
        Decider::Random => &random::Random,
        Decider::Prompt => &prompt::Prompt,
        Decider::Shadow => &shadow::Shadow,
        Decider::PerLayer => &per_layer::PerLayer,
        Decider::Gate => &gate::Gate,
        Decider::Constant => &inputs::Constant,
        Decider::Top => &inputs::Top,
        Decider::Observed => &inputs::FromObserved,
        Decider::Oracle => &oracle::Oracle,
    }
}

/// The number of scores of a layer in a predictor's output, for `n` parts.
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE_ROWS)
}

/// Euclidean norm.
fn norm(x: &[f32]) -> f32 {
    libm::sqrtf(x.iter().map(|x| x * x).sum())
}

/// Sum of a group's |h|, each times its weight.
fn group_score(h: &[f32], weights: Option<&[f32]>, g: usize, group: usize) -> f32 {
    let range = g * group..(g + 1) * group;
    match weights {
        Some(w) => h[range.clone()].iter().zip(&w[range]).map(|(h, w)| h.abs() * w).sum(),
        None => h[range].iter().map(|h| h.abs()).sum(),
    }
}

/// The `k`th largest of the first `n` scores.
fn kth_score(c: &mut Choice, n: usize, k: usize) -> f32 {
    kth_largest(&c.scores[..n], k, c.scratch)
}

/// Clears the groups of a layer's neurons whose score is below `least`, or zero; returns the number of cleared neurons.
fn clear_below(c: &Choice, layer: usize, least: f32, h: &mut Rows) -> usize {
    let (n, group) = (c.count(layer, Slot::Neurons), c.shapes[layer].group);
    // A group whose neurons are all zero is left out even if the share has room for it.
    let dropped = (0..n).filter(|g| c.scores[*g] < least || c.scores[*g] == 0.0);
    dropped.map(|g| h.clear_range(g * group..(g + 1) * group)).count()
}
