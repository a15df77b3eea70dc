//! What a session keeps for skipping, and the moments of a forward pass at which it decides.

use super::dial::{Allocation, Dial, MAPS, Policy, SLOTS};
use super::observed::Observed;
use super::predictor::{GRID, Output, Predictor, Table, Tap};
use super::select::{count_of, interpolate, kth_largest, typical_kth};
use crate::active::Units;
use crate::arena::Arena;
use crate::error::Error;
use crate::exec::Executor;
use crate::format::{BLOCK, Matrix, TILE_ROWS};
use crate::image::Config;
use crate::kernels::{Activation, Kernels};
use crate::ops::buffer::Rows;
use crate::ops::linear::{Product, linear};
use crate::random::uniform;
use core::ops::Range;

/// Tokens decoded between two times that thresholds are taken anew from what was seen.
const RETHINK: usize = 16;
/// Of all tokens, every so many is looked at.
const STRIDE: usize = 4;
/// Slot of the heads in a layer's budget.
const HEADS: usize = 0;
/// Slot of the neurons.
const NEURONS: usize = 1;

/// A session's part in skipping.
pub(crate) struct State<'m> {
    config: Config,
    dial: Dial,
    /// The dial's policy, [`Policy::Auto`] resolved.
    policy: Policy,
    pub active: Units<'m>,
    /// [layers, SLOTS]: shares that are kept, and the scores that this takes.
    shares: &'m mut [f32],
    thresholds: &'m mut [f32],
    /// [layers, heads] and [layers, groups]: what the prompt used.
    head_statistics: &'m mut [f32],
    neuron_statistics: &'m mut [f32],
    /// What inputs of maps were, in images that store maps by input.
    observed: Option<Observed<'m>>,
    /// Outputs of a predictor.
    scores: &'m mut [f32],
    scratch: &'m mut [f32],
    tap: Rows<'m>,
    hidden: Rows<'m>,
    /// Tokens decoded since the last prefill.
    decoded: usize,
    random: u64,
    /// Whether this pass skips, and whether it chooses anew.
    acting: bool,
    fresh: bool,
    /// Bytes of predictors that this pass has read, and the nanoseconds they took.
    pub bytes: usize,
    pub nanoseconds: u64,
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE_ROWS)
}

impl<'m> State<'m> {
    pub fn new(arena: &mut Arena<'m>, c: &Config, predictor: Option<&Predictor>) -> Result<Self, Error> {
        let groups = c.neuron_groups();
        let (tap, rank) = predictor.map_or((0, 0), |p| (p.tap().width(c), p.rank()));
        let widest = c.neuron_width().max(c.d_model).max(c.heads * c.head_slot());
        let active = Units::new(arena, c.layers, c.heads, groups)?;
        Ok(State {
            config: *c,
            dial: Dial::default(),
            policy: Policy::Off,
            active,
            shares: arena.zeros(c.layers * SLOTS)?,
            thresholds: arena.zeros(c.layers * SLOTS)?,
            head_statistics: arena.zeros(c.layers * c.heads)?,
            neuron_statistics: arena.zeros(c.layers * groups)?,
            observed: match c.attention_by_input || c.ffn_by_input {
                true => Some(Observed::new(arena, c.layers)?),
                false => None,
            },
            scores: arena.zeros(c.layers * padded(groups).max(padded(c.heads)).max(widest))?,
            scratch: arena.zeros(widest)?,
            tap: Rows::new(arena, 1, tap.max(BLOCK))?,
            hidden: Rows::new(arena, 1, rank.max(BLOCK))?,
            decoded: 0,
            random: 0,
            acting: false,
            fresh: false,
            bytes: 0,
            nanoseconds: 0,
        })
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Takes a dial over, or refuses it and stays as it was; `shares` [layers, slots] stand for its density.
    pub fn set(&mut self, dial: &Dial, shares: Option<&[f32]>, predictor: Option<&Predictor>) -> Result<(), Error> {
        let share = |d: f32| d > 0.0 && d <= 1.0;
        if !share(dial.density) || dial.fixed.iter().flatten().any(|d| !(0.0..=1.0).contains(d)) {
            return Err(Error::BadDensity);
        }
        let policy = match dial.policy {
            Policy::Auto => predictor.and_then(|p| p.best(dial.density)).ok_or(Error::NoPredictor("auto"))?,
            other => other,
        };
        let c = self.config;
        if policy.by_input() && !(c.attention_by_input || c.ffn_by_input && policy != Policy::Mixed) {
            return Err(Error::NotByInput);
        }
        let calibration = predictor.and_then(|p| p.calibration(policy));
        if shares.is_some_and(|s| s.len() != c.layers * policy.slots()) {
            return Err(Error::BadOption("shares must be given for every slot of every layer"));
        }
        if policy.calibrated() && calibration.is_none() {
            return Err(Error::NoPredictor(policy.name()));
        }
        (self.dial, self.policy) = (*dial, policy);
        (self.decoded, self.random) = (0, dial.seed);
        if policy != Policy::Given {
            self.active.set_all();
        }
        // Policies without a budget of their own take that of the nearest kin.
        let kin = if policy.by_input() { Policy::Input } else { Policy::Static };
        let kin = predictor.and_then(|p| p.calibration(kin));
        for layer in 0..c.layers {
            for slot in 0..policy.slots() {
                let at = layer * SLOTS + slot;
                let i = layer * policy.slots() + slot;
                self.shares[at] = match shares {
                    Some(shares) => shares[i],
                    None => self.share(calibration.or(kin).map(|c| c.budget), layer, slot),
                };
                let share = self.shares[at];
                self.thresholds[at] = calibration.map_or(f32::NEG_INFINITY, |c| c.threshold(layer, slot, share));
            }
        }
        if let (Policy::Static, Some(p)) = (policy, predictor) {
            self.choose_static(p);
        }
        Ok(())
    }

    /// Share of a slot that is kept at the dial's density.
    fn share(&self, budget: Option<&[f32]>, layer: usize, slot: usize) -> f32 {
        let (d, slots) = (self.dial.density, self.policy.slots());
        if layer == 0 || d >= 1.0 && self.dial.fixed.iter().all(Option::is_none) {
            return 1.0;
        }
        if let Some(fixed) = self.dial.fixed[slot] {
            return fixed;
        }
        let global = budget.map_or(d, |budget| {
            let per_density = self.config.layers * slots;
            let column: [f32; GRID] = core::array::from_fn(|g| budget[g * per_density + layer * slots + slot]);
            interpolate(&column, d)
        });
        match self.dial.allocation {
            Allocation::Global => global,
            Allocation::Local => d,
            Allocation::Hybrid => (global + d) / 2.0,
        }
    }

    fn choose_static(&mut self, p: &Predictor) {
        let (heads, groups) = (self.config.heads, self.config.neuron_groups());
        for layer in 1..self.config.layers {
            let (head, neuron) = (self.thresholds[layer * SLOTS + HEADS], self.thresholds[layer * SLOTS + NEURONS]);
            if let Some(scores) = p.vector(Table::StaticHeads, 0) {
                self.active.choose_heads(layer, |h| scores[layer * heads + h] >= head);
            }
            if let Some(scores) = p.vector(Table::StaticNeurons, 0) {
                self.active.choose_neurons(layer, |g| scores[layer * groups + g] >= neuron);
            }
        }
    }

    /// Begins a pass; `decoding` says that it is a single token that may be skipped for.
    pub fn begin(&mut self, decoding: bool) {
        self.acting = decoding && self.policy != Policy::Off;
        (self.bytes, self.nanoseconds) = (0, 0);
        if !decoding {
            self.decoded = 0;
            return;
        }
        let refresh = self.dial.refresh;
        self.fresh = if refresh == 0 { self.decoded == 0 } else { self.decoded.is_multiple_of(refresh) };
        self.decoded += 1;
        match self.policy {
            Policy::Random if self.fresh => self.choose_random(),
            Policy::Prompt if self.fresh => self.choose_by_statistics(),
            Policy::PromptInput if self.fresh && (self.decoded - 1).is_multiple_of(RETHINK) => self.rethink(),
            _ => {}
        }
    }

    /// What earlier tokens told: statistics of heads and of neurons, and the state of chance.
    pub fn told(&self) -> ([&[f32]; 2], u64) {
        ([self.head_statistics, self.neuron_statistics], self.random)
    }

    /// Takes over what [`State::told`] returned elsewhere, number by number; what to use is then chosen anew.
    pub fn tell(&mut self, numbers: &mut dyn Iterator<Item = f32>, random: u64) {
        let slots = self.head_statistics.iter_mut().chain(self.neuron_statistics.iter_mut());
        slots.zip(numbers).for_each(|(slot, number)| *slot = number);
        (self.decoded, self.random) = (0, random);
    }

    /// The dial.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Forgets what earlier tokens told.
    pub fn forget(&mut self) {
        self.head_statistics.fill(0.0);
        self.neuron_statistics.fill(0.0);
        if let Some(observed) = &mut self.observed {
            observed.forget();
        }
        (self.decoded, self.random) = (0, self.dial.seed);
    }

    /// Whether heads and neurons are chosen by list in this pass.
    pub fn lists(&self) -> Option<&Units<'m>> {
        (self.acting && self.policy.lists_neurons()).then_some(&self.active)
    }

    /// What a predictor's scores of a layer's slot must reach.
    fn least(&mut self, p: &Predictor, layer: usize, slot: usize, scores: Range<usize>) -> f32 {
        let at = layer * SLOTS + slot;
        if p.ranks() { typical_kth(&self.scores[scores], self.shares[at], self.scratch) } else { self.thresholds[at] }
    }

    /// Groups that are neurons, not padding.
    fn real_groups(&self) -> usize {
        self.config.ffn.div_ceil(self.config.neuron_group)
    }

    fn choose_random(&mut self) {
        let (heads, groups) = (self.config.heads, self.real_groups());
        for layer in 1..self.config.layers {
            let counts = [(HEADS, heads), (NEURONS, groups)]
                .map(|(slot, n)| (count_of(self.shares[layer * SLOTS + slot], n), n));
            // A fair choice of k out of n in one go: each is taken with chance (left to take) / (left).
            let [mut head, mut neuron] = counts;
            let state = &mut self.random;
            let mut take = |left: &mut (usize, usize)| {
                let taken = uniform(state) * left.1 as f32 <= left.0 as f32 && left.0 > 0;
                *left = (left.0 - usize::from(taken), left.1.saturating_sub(1));
                taken
            };
            self.active.choose_heads(layer, |_| take(&mut head));
            self.active.choose_neurons(layer, |g| g < groups && take(&mut neuron));
        }
    }

    fn choose_by_statistics(&mut self) {
        let (heads, all, groups) = (self.config.heads, self.config.neuron_groups(), self.real_groups());
        for layer in 1..self.config.layers {
            let scores = &self.head_statistics[layer * heads..(layer + 1) * heads];
            let least = kth_largest(scores, count_of(self.shares[layer * SLOTS + HEADS], heads), self.scratch);
            self.active.choose_heads(layer, |h| scores[h] >= least);
            let scores = &self.neuron_statistics[layer * all..layer * all + groups];
            let least = kth_largest(scores, count_of(self.shares[layer * SLOTS + NEURONS], groups), self.scratch);
            self.active.choose_neurons(layer, |g| g < groups && scores[g] >= least);
        }
    }

    /// The input of a layer's attention is there (and the heads' output of the layer before).
    pub fn at_attention(
        &mut self,
        exec: &dyn Executor,
        kernels: &Kernels,
        predictor: Option<&Predictor>,
        layer: usize,
        normed: &Rows,
        heads: &Rows,
    ) {
        let Some(p) = predictor.filter(|_| self.acting && self.fresh && self.policy.asks_shadow()) else { return };
        let start = exec.nanoseconds();
        self.shadow(exec, kernels, p, layer, normed, heads);
        self.nanoseconds += exec.nanoseconds().saturating_sub(start);
    }

    /// Gathers what feeds the shadow predictor; when it is complete, asks it.
    fn shadow(
        &mut self,
        exec: &dyn Executor,
        kernels: &Kernels,
        p: &Predictor,
        layer: usize,
        normed: &Rows,
        heads: &Rows,
    ) {
        let (tap, d) = (p.tap(), normed.width);
        let stream_at = tap.width(&self.config) - if tap.has(Tap::STREAM) { d } else { 0 };
        let heads_at = if tap.has(Tap::EMBEDDING) { d } else { 0 };
        if layer == 0 && tap.has(Tap::EMBEDDING) {
            self.tap.values[..d].copy_from_slice(&normed.values[..d]);
        }
        if layer != 1 {
            return;
        }
        if tap.has(Tap::HEADS) {
            self.tap.values[heads_at..heads_at + heads.width].copy_from_slice(&heads.values[..heads.width]);
        }
        if tap.has(Tap::STREAM) {
            self.tap.values[stream_at..stream_at + d].copy_from_slice(&normed.values[..d]);
        }
        let Some(first) = p.matrix(Table::ShadowIn, 0) else { return };
        let bias = p.vector(Table::ShadowInBias, 0);
        let width = self.tap.width;
        let shared = self.tap.share();
        // SAFETY: no tasks are running.
        unsafe { shared.quantize(kernels, 0, shared.values(0..width)) };
        let input = crate::kernels::Input { width: first.geometry().input_width(), ..self.tap.input() };
        self.bytes += hidden(exec, kernels, &mut self.hidden, first, bias, &input);
        let later = 1..self.config.layers;
        self.choose_neurons(
            exec,
            kernels,
            p,
            p.output([Table::ShadowNeurons, Table::ShadowNeuronBias], 0),
            later.clone(),
        );
        if !self.policy.by_input() {
            self.choose_heads(exec, kernels, p, p.output([Table::ShadowHeads, Table::ShadowHeadBias], 0), later);
        }
    }

    /// Heads of `layers` by what the predictor's output says of them, one layer after the other.
    fn choose_heads(
        &mut self,
        exec: &dyn Executor,
        kernels: &Kernels,
        p: &Predictor,
        asked: Option<Output>,
        layers: Range<usize>,
    ) {
        let heads = self.config.heads;
        let Some(asked) = asked else { return };
        self.bytes += output(exec, kernels, &self.hidden, asked, self.scores);
        for (i, layer) in layers.enumerate() {
            let at = i * padded(heads);
            let least = self.least(p, layer, HEADS, at..at + heads);
            self.active.choose_heads(layer, |h| self.scores[at + h] >= least);
        }
    }

    /// The same for groups of neurons.
    fn choose_neurons(
        &mut self,
        exec: &dyn Executor,
        kernels: &Kernels,
        p: &Predictor,
        asked: Option<Output>,
        layers: Range<usize>,
    ) {
        let Some(asked) = asked else { return };
        self.bytes += output(exec, kernels, &self.hidden, asked, self.scores);
        for (i, layer) in layers.enumerate() {
            let at = i * padded(self.config.neuron_groups());
            let least = self.least(p, layer, self.policy.neuron_slot(), at..at + self.real_groups());
            self.active.choose_neurons(layer, |g| self.scores[at + g] >= least);
        }
    }

    /// The input of a layer's FFN is there: the next layer's own predictor is asked.
    pub fn at_feed_forward(
        &mut self,
        exec: &dyn Executor,
        kernels: &Kernels,
        predictor: Option<&Predictor>,
        layer: usize,
        normed: &Rows,
    ) {
        let next = layer + 1;
        let asked = self.acting && self.fresh && self.policy == Policy::PerLayer && next < self.config.layers;
        let Some(p) = predictor.filter(|_| asked) else { return };
        let start = exec.nanoseconds();
        self.own(exec, kernels, p, next, normed);
        self.nanoseconds += exec.nanoseconds().saturating_sub(start);
    }

    /// Asks layer `next`'s own predictor.
    fn own(&mut self, exec: &dyn Executor, kernels: &Kernels, p: &Predictor, next: usize, normed: &Rows) {
        let Some(first) = p.matrix(Table::LayerIn, next) else { return };
        let bias = p.vector(Table::LayerInBias, next);
        self.bytes += hidden(exec, kernels, &mut self.hidden, first, bias, &normed.input());
        let neurons = p.output([Table::LayerNeurons, Table::LayerNeuronBias], next);
        self.choose_neurons(exec, kernels, p, neurons, next..next + 1);
        let heads = p.output([Table::LayerHeads, Table::LayerHeadBias], next);
        self.choose_heads(exec, kernels, p, heads, next..next + 1);
    }

    /// Takes thresholds from what was seen.
    fn rethink(&mut self) {
        let Some(observed) = &mut self.observed else { return };
        for layer in 1..self.config.layers {
            for map in 0..MAPS {
                let at = layer * SLOTS + map;
                self.thresholds[at] = match self.shares[at] {
                    share if share >= 1.0 => 0.0,
                    share => observed.threshold(layer, map, share),
                };
            }
        }
    }

    /// The inputs of a map are there, `width` of each of the tokens' rows: keeps statistics.
    pub fn observe(&mut self, layer: usize, map: usize, rows: &Rows, width: usize, tokens: usize) {
        // Looking costs time: of decoded tokens too, some are enough.
        let looks = self.policy == Policy::PromptInput && (tokens > 1 || self.decoded.is_multiple_of(STRIDE));
        let Some(observed) = self.observed.as_mut().filter(|_| looks) else { return };
        for row in rows.values.chunks_exact(rows.width).take(tokens).step_by(STRIDE) {
            observed.add(layer, map, &row[..width]);
        }
    }

    /// The magnitude that inputs of a map must exceed to be read.
    pub fn input_threshold(&mut self, layer: usize, map: usize, x: &[f32]) -> f32 {
        if !self.acting || layer == 0 {
            return 0.0;
        }
        match self.policy {
            Policy::Mixed if map >= 4 => 0.0,
            Policy::Input | Policy::Mixed | Policy::PromptInput => self.thresholds[layer * SLOTS + map].max(0.0),
            Policy::InputTop => {
                let share = self.shares[layer * SLOTS + map];
                let k = if share <= 0.0 { 0 } else { count_of(share, x.len()) };
                let magnitudes = &mut self.scores[..x.len()];
                magnitudes.iter_mut().zip(x).for_each(|(m, x)| *m = x.abs());
                // The largest that is left out.
                kth_largest(magnitudes, k + 1, self.scratch).max(0.0)
            }
            _ => 0.0,
        }
    }

    /// Whether the gate decides about a layer, and so must be computed first.
    pub fn gate_first(&self, layer: usize) -> bool {
        self.acting && self.policy == Policy::Gate && layer > 0
    }

    /// Chooses a layer's groups by their gates, `[ffn]` before the activation.
    pub fn choose_by_gate(&mut self, predictor: Option<&Predictor>, kernels: &Kernels, layer: usize, gates: &[f32]) {
        let width = self.config.neuron_width();
        let h = &mut self.scores[..width];
        h.copy_from_slice(&gates[..width]);
        kernels.activate(self.config.activation, None, h);
        let weights = predictor.and_then(|p| p.vector(Table::GateWeights, 0)).map(|w| &w[layer * width..]);
        let (least, group, scores) =
            (self.thresholds[layer * SLOTS + NEURONS], self.config.neuron_group, &*self.scores);
        self.bytes += weights.map_or(0, |_| 4 * width);
        self.active.choose_neurons(layer, |g| group_score(scores, weights, g, group) >= least);
    }

    /// A layer's heads are computed: keeps statistics, or leaves out what the oracle would have.
    pub fn after_heads(&mut self, layer: usize, heads: &mut Rows, tokens: usize) -> usize {
        let (n, slot) = (self.config.heads, self.config.head_slot());
        let norm = |x: &[f32]| libm::sqrtf(x.iter().map(|x| x * x).sum());
        if self.policy == Policy::Prompt {
            for row in heads.values.chunks_exact(heads.width).take(tokens) {
                for (s, head) in self.head_statistics[layer * n..].iter_mut().zip(row.chunks_exact(slot)) {
                    *s += norm(head);
                }
            }
        }
        if !self.acting || self.policy != Policy::Oracle || layer == 0 {
            return 0;
        }
        for (s, head) in self.scores[..n].iter_mut().zip(heads.values.chunks_exact(slot)) {
            *s = norm(head);
        }
        let least = kth_largest(&self.scores[..n], count_of(self.shares[layer * SLOTS + HEADS], n), self.scratch);
        let dropped = (0..n).filter(|h| self.scores[*h] < least);
        dropped.map(|h| heads.clear_range(h * slot..(h + 1) * slot)).count()
    }

    /// A layer's neurons are computed: keeps statistics, or leaves out what the oracle or (without a gate) the
    /// threshold on activations does. Returns how many neurons an oracle would not have computed.
    pub fn after_neurons(&mut self, predictor: Option<&Predictor>, layer: usize, h: &mut Rows, tokens: usize) -> usize {
        let (all, groups, group) = (self.config.neuron_groups(), self.real_groups(), self.config.neuron_group);
        let width = self.config.neuron_width();
        let norms = predictor.and_then(|p| p.vector(Table::NeuronNorms, 0)).map(|v| &v[layer * width..]);
        if self.policy == Policy::Prompt {
            for row in h.values.chunks_exact(h.width).take(tokens) {
                for (g, s) in self.neuron_statistics[layer * all..].iter_mut().enumerate().take(groups) {
                    *s += group_score(row, norms, g, group);
                }
            }
        }
        let by_activation = self.policy == Policy::Gate && !self.config.gated;
        if !self.acting || layer == 0 || !(self.policy == Policy::Oracle || by_activation) {
            return 0;
        }
        for g in 0..groups {
            self.scores[g] = group_score(h.values, norms, g, group);
        }
        let least = if by_activation {
            self.thresholds[layer * SLOTS + NEURONS]
        } else {
            let k = count_of(self.shares[layer * SLOTS + NEURONS], groups);
            kth_largest(&self.scores[..groups], k, self.scratch)
        };
        // What is zero anyway is nobody's choice.
        let dropped = (0..groups).filter(|g| self.scores[*g] < least || self.scores[*g] == 0.0);
        let dropped = dropped.map(|g| h.clear_range(g * group..(g + 1) * group)).count();
        if by_activation { 0 } else { dropped * group }
    }

    /// Mean activations of a layer's neurons and what they add to its output, where skipped neurons count with
    /// their mean: where the same ones are always skipped. What a predictor skips is small for this token, and its
    /// mean over all tokens is not: centred, SmolLM2's shadow predictor at 70 % of the neurons has a KL divergence of
    /// .85, and .57 without; its per-layer ones .80 and .45.
    pub fn means<'p>(&self, predictor: Option<&Predictor<'p>>, layer: usize) -> Option<(&'p [f32], &'p [f32])> {
        let centred = self.policy == Policy::Static;
        if !self.acting || !centred || layer == 0 || self.active.neurons(layer).is_none() {
            return None;
        }
        let p = predictor?;
        let (width, d) = (self.config.neuron_width(), self.config.d_model);
        let means = &p.vector(Table::NeuronMeans, 0)?[layer * width..(layer + 1) * width];
        Some((means, &p.vector(Table::DownMeans, 0)?[layer * d..(layer + 1) * d]))
    }
}

/// Sum of a group's |h|, each times what it is worth.
fn group_score(h: &[f32], weights: Option<&[f32]>, g: usize, group: usize) -> f32 {
    let range = g * group..(g + 1) * group;
    match weights {
        Some(w) => h[range.clone()].iter().zip(&w[range]).map(|(h, w)| h.abs() * w).sum(),
        None => h[range].iter().map(|h| h.abs()).sum(),
    }
}

/// `hidden = relu(first x + bias)`, quantized; returns the bytes read.
fn hidden(
    exec: &dyn Executor,
    kernels: &Kernels,
    hidden: &mut Rows,
    first: Matrix,
    bias: Option<&[f32]>,
    x: &crate::kernels::Input,
) -> usize {
    let rank = first.geometry().output_width();
    let width = hidden.width;
    let bytes = linear(exec, kernels, &[Product::new(first, bias, hidden.values, width)], x, 1);
    kernels.activate(Activation::Relu, None, &mut hidden.values[..rank]);
    let shared = hidden.share();
    // SAFETY: no tasks are running.
    unsafe { shared.quantize(kernels, 0, shared.values(0..rank)) };
    bytes + bias.map_or(0, |b| 4 * b.len())
}

/// `scores = second hidden + bias`; returns the bytes read.
fn output(exec: &dyn Executor, kernels: &Kernels, hidden: &Rows, (second, bias): Output, scores: &mut [f32]) -> usize {
    let stride = scores.len();
    let input = crate::kernels::Input { width: second.geometry().input_width(), ..hidden.input() };
    let bytes = linear(exec, kernels, &[Product::new(second, bias, scores, stride)], &input, 1);
    bytes + bias.map_or(0, |b| 4 * b.len())
}
