//! The skipping of a session: holds the dial, and calls the policy's choosers at the points of a pass.

use super::chooser::{self, Choice, Run, padded};
use super::dial::{Allocation, Dial};
use super::memory::Memory;
use super::plan::Policy;
use super::predictor::Predictor;
use super::select::interpolate;
use super::slot::Slot;
use super::tables::{GRID, Table};
use crate::active::Units;
use crate::arena::Arena;
use crate::error::Error;
use crate::format::BLOCK;
use crate::image::{Image, LayerShape, crc32};
use crate::ops::buffer::Rows;
use core::ops::Range;

/// The data of a session that may skip.
pub(crate) struct State<'m> {
    dial: Dial,
    choice: Choice<'m>,
}

/// The kinds of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens of a text: all weights are read, and policies gather statistics from them.
    Prefill,
    /// A token of an answer: the dial decides what is skipped, and policies gather statistics from it.
    Decode,
    /// A token to guess the next one from: the dial decides what is skipped. It may be dropped again, so policies
    /// gather no statistics.
    Draft,
    /// A token of an answer and guesses of the next ones: all weights are read, and policies gather no statistics.
    Verify,
}

impl<'m> State<'m> {
    /// Everything is read.
    pub fn new(arena: &mut Arena<'m>, image: &Image, predictor: Option<&Predictor>) -> Result<Self, Error> {
        let (c, shape) = (image.config(), |layer: usize| LayerShape::of(&image.arch().layer(layer)));
        let (tap, rank) = predictor.map_or((0, 0), |p| (p.tap().width(c), p.rank()));
        let widest = c.neuron_width().max(c.d_model.next_multiple_of(BLOCK)).max(c.heads * c.head_slot());
        let scores = padded(c.neuron_groups()).max(padded(c.heads)).max(widest);
        Ok(State {
            dial: Dial::default(),
            choice: Choice {
                config: *c,
                plan: Policy::Off.plan(),
                shapes: arena.fill(c.layers, |layer| Ok(shape(layer)))?,
                memory: Memory::new(arena, c, shape)?,
                shares: arena.rows(c.layers, Slot::COUNT)?,
                scores: arena.rows(c.layers, scores)?,
                scratch: arena.zeros(widest)?,
                tap: Rows::new(arena, 1, tap.max(BLOCK))?,
                hidden: Rows::new(arena, 1, rank.max(BLOCK))?,
                acting: false,
                fresh: false,
                learns: false,
                bytes: 0,
                nanoseconds: 0,
            },
        })
    }

    /// The dial's policy, [`Policy::Auto`] resolved.
    pub fn policy(&self) -> Policy {
        self.choice.plan.policy
    }

    /// [`Dial::window`], if this pass skips.
    pub fn window(&self) -> Option<f32> {
        (self.choice.acting && self.dial.window < f32::INFINITY).then_some(self.dial.window)
    }

    /// The dial.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// The active heads and neurons, whether or not this pass skips.
    pub fn units(&mut self) -> &mut Units<'m> {
        &mut self.choice.memory.units
    }

    /// Sets the dial, or refuses it and changes nothing; `shares` [layers, slots], if given, replace its density.
    pub fn set(&mut self, dial: &Dial, shares: Option<&[f32]>, predictor: Option<&Predictor>) -> Result<(), Error> {
        let policy = self.admit(dial, shares, predictor)?;
        let calibration = predictor.and_then(|p| p.calibration(policy));
        // Policies without a budget of their own use that of a related policy.
        let related = if policy.by_input() { Policy::Input } else { Policy::Static };
        let budget = calibration.or(predictor.and_then(|p| p.calibration(related))).map(|c| c.budget);
        let (c, plan) = (&mut self.choice, policy.plan());
        (self.dial, c.plan) = (*dial, plan);
        (c.memory.decoded, c.memory.random) = (0, dial.seed);
        if policy != Policy::Given {
            c.memory.units.set_all();
        }
        for layer in 0..c.config.layers {
            for (column, slot) in plan.slots.iter().enumerate() {
                let i = layer * plan.slots.len() + column;
                let share = match shares {
                    Some(shares) => shares[i],
                    None => share(dial, budget, layer, column, (i, c.config.layers * plan.slots.len())),
                };
                let at = layer * Slot::COUNT + *slot as usize;
                c.shares[at] = share;
                c.memory.thresholds[at] = calibration.map_or(f32::NEG_INFINITY, |c| c.threshold(layer, *slot, share));
            }
        }
        plan.deciders().for_each(|decider| chooser::of(decider).set(c, predictor));
        Ok(())
    }

    /// Checks a dial, and returns the policy that it stands for.
    fn admit(&self, dial: &Dial, shares: Option<&[f32]>, predictor: Option<&Predictor>) -> Result<Policy, Error> {
        let share = |d: f32| d > 0.0 && d <= 1.0;
        if !share(dial.density) || dial.fixed.iter().flatten().any(|d| !(0.0..=1.0).contains(d)) {
            return Err(Error::BadDensity);
        }
        if dial.window.is_nan() || dial.window < 0.0 {
            return Err(Error::BadOption("the window of the output matrix must be 0 or more"));
        }
        let policy = match dial.policy {
            Policy::Auto => match predictor.and_then(|p| p.best(dial.density)) {
                Some(best) => best,
                // At density 1 everything is read, which needs no calibration.
                None if dial.density == 1.0 => Policy::Off,
                None => return Err(Error::NoPredictor("auto")),
            },
            other => other,
        };
        let c = &self.choice.config;
        if !policy.plan().suits(c) {
            return Err(Error::NotByInput);
        }
        if shares.is_some_and(|s| s.len() != c.layers * policy.slots()) {
            return Err(Error::BadOption("shares must be given for every slot of every layer"));
        }
        if policy.calibrated() && predictor.and_then(|p| p.calibration(policy)).is_none() {
            return Err(Error::NoPredictor(policy.name()));
        }
        Ok(policy)
    }

    /// Begins a pass.
    pub fn begin(&mut self, kind: Kind) {
        let c = &mut self.choice;
        c.acting = matches!(kind, Kind::Decode | Kind::Draft) && c.plan.policy != Policy::Off;
        c.learns = matches!(kind, Kind::Prefill | Kind::Decode);
        (c.bytes, c.nanoseconds) = (0, 0);
        match kind {
            Kind::Prefill => c.memory.decoded = 0,
            Kind::Verify => {}
            Kind::Decode | Kind::Draft => self.choose(),
        }
    }

    /// Decides whether a new choice is made for the token of this pass.
    fn choose(&mut self) {
        let c = &mut self.choice;
        let decoded = c.memory.decoded;
        c.fresh = if self.dial.refresh == 0 { decoded == 0 } else { decoded.is_multiple_of(self.dial.refresh) };
        c.memory.decoded = decoded.saturating_add(1);
        if c.fresh {
            c.plan.deciders().for_each(|decider| chooser::of(decider).before_token(c));
        }
    }

    /// Forgets all tokens, so that later choices are those of a session that never read them.
    pub fn forget(&mut self) {
        self.choice.memory.forget(self.dial.seed);
    }

    /// A number that differs between dials: a checksum of policy, refresh, seed and shares.
    pub fn dial_checksum(&self) -> u32 {
        let (c, d) = (&self.choice, &self.dial);
        let crc = crc32(&[c.plan.policy as u8], 0);
        let crc = [d.refresh as u64, d.seed].iter().fold(crc, |crc, n| crc32(&n.to_le_bytes(), crc));
        c.shares.iter().fold(crc, |crc, share| crc32(&share.to_le_bytes(), crc))
    }

    /// What choosers remember.
    pub fn memory(&self) -> &Memory<'m> {
        &self.choice.memory
    }

    /// Restores what the choosers of another session remembered; `dial_checksum` is that of its dial.
    pub fn restore(&mut self, words: &mut dyn Iterator<Item = u32>, dial_checksum: u32) {
        let same_dial = dial_checksum == self.dial_checksum();
        self.choice.memory.restore(words, same_dial, self.dial.seed);
    }

    /// The number of decoded tokens and the state of chance, to go back to.
    pub fn mark(&self) -> (usize, u64) {
        (self.choice.memory.decoded, self.choice.memory.random)
    }

    /// Goes back to a mark.
    pub fn go_back(&mut self, (decoded, random): (usize, u64)) {
        (self.choice.memory.decoded, self.choice.memory.random) = (decoded, random);
    }

    /// Bytes of predictors that this pass has read, and the nanoseconds that they took; both counts restart at 0.
    pub fn take_costs(&mut self) -> (usize, u64) {
        (core::mem::take(&mut self.choice.bytes), core::mem::take(&mut self.choice.nanoseconds))
    }

    /// The heads and neurons of this pass, if they are chosen by list.
    pub fn lists(&self) -> Option<&Units<'m>> {
        (self.choice.acting && self.choice.plan.lists_units()).then_some(&self.choice.memory.units)
    }

    /// The input of a layer's attention is computed, and the heads' outputs of the layer before.
    pub fn before_attention(&mut self, run: &Run, layer: usize, normed: &Rows, heads: &Rows) {
        let c = &mut self.choice;
        if c.acting && c.fresh {
            c.plan.deciders().for_each(|d| chooser::of(d).before_attention(c, run, layer, normed, heads));
        }
    }

    /// The input of a layer's feed-forward network is computed.
    pub fn before_feed_forward(&mut self, run: &Run, layer: usize, normed: &Rows) {
        let c = &mut self.choice;
        if c.acting && c.fresh {
            c.plan.deciders().for_each(|d| chooser::of(d).before_feed_forward(c, run, layer, normed));
        }
    }

    /// Inputs of a slot are computed, a row for the token of each position.
    pub fn observe(&mut self, layer: usize, slot: Slot, rows: &Rows, positions: Range<usize>) {
        chooser::of(self.choice.plan.inputs).observe(&mut self.choice, layer, slot, rows, positions);
    }

    /// The magnitude that inputs of a slot must exceed to be read.
    pub fn input_threshold(&mut self, layer: usize, slot: Slot, x: &[f32]) -> f32 {
        let c = &mut self.choice;
        if !c.acting || layer == 0 || !c.plan.skips_inputs(slot) {
            return 0.0;
        }
        chooser::of(c.plan.inputs).input_threshold(c, layer, slot, x)
    }

    /// Whether the gate decides about a layer, and so must be computed first.
    pub fn gate_first(&self, layer: usize) -> bool {
        self.choice.acting && layer > 0 && self.neurons().gate_first()
    }

    /// Chooses a layer's groups by their gates, `[ffn]` before the activation.
    pub fn after_gate(&mut self, run: &Run, layer: usize, gates: &[f32]) {
        self.neurons().after_gate(&mut self.choice, run, layer, gates);
    }

    /// A layer's heads are computed. Returns the number that an oracle would not have computed; these are cleared.
    pub fn after_heads(&mut self, layer: usize, heads: &mut Rows, tokens: usize) -> usize {
        chooser::of(self.choice.plan.heads).after_heads(&mut self.choice, layer, heads, tokens)
    }

    /// A layer's neurons are computed. Returns the number that an oracle would not have computed; these are cleared.
    pub fn after_neurons(&mut self, predictor: Option<&Predictor>, layer: usize, h: &mut Rows, tokens: usize) -> usize {
        self.neurons().after_neurons(&mut self.choice, predictor, layer, h, tokens)
    }

    /// Mean activations of a layer's neurons and what they add to its output, if skipped neurons count with their mean.
    pub fn means<'p>(&self, predictor: Option<&Predictor<'p>>, layer: usize) -> Option<(&'p [f32], &'p [f32])> {
        let c = &self.choice;
        if !c.acting || layer == 0 || !self.neurons().centred() || c.memory.units.neurons(layer).is_none() {
            return None;
        }
        let p = predictor?;
        let means = p.layer_vector(Table::NeuronMeans, layer, c.config.neuron_width())?;
        Some((means, p.layer_vector(Table::DownMeans, layer, c.config.d_model)?))
    }

    fn neurons(&self) -> &'static dyn chooser::Chooser {
        chooser::of(self.choice.plan.neurons)
    }
}

/// Share of a budget's column that is kept at the dial's density; `place` is its index in a density's row of the budget,
/// and that row's length.
fn share(dial: &Dial, budget: Option<&[f32]>, layer: usize, column: usize, place: (usize, usize)) -> f32 {
    let density = dial.density;
    if layer == 0 || density >= 1.0 && dial.fixed.iter().all(Option::is_none) {
        return 1.0;
    }
    if let Some(fixed) = dial.fixed[column] {
        return fixed;
    }
    let global = budget.map_or(density, |budget| {
        let shares: [f32; GRID] = core::array::from_fn(|g| budget[g * place.1 + place.0]);
        interpolate(&shares, density)
    });
    match dial.allocation {
        Allocation::Global => global,
        Allocation::Local => density,
        Allocation::Hybrid => (global + density) / 2.0,
    }
}
