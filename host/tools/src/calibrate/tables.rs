//! Builds the tables of the predictor section from the results of training.

use super::autograd::Trace;
use super::dense::dense_rows;
use super::histogram::Histogram;
use super::quality::{Quality, QualitySums};
use super::section::Section;
use super::statistics::Statistics;
use super::train::{Sample, Scores, Target, Training};
use shadowllm_core::Image;
use shadowllm_core::image::{Config, Role};
use shadowllm_core::sparsity::{GRID, Policy, QUANTILES, Slot, Table};
use shadowllm_host::Result;

/// The score of padding, which is below every threshold.
const NEVER: f32 = -1e30;

/// Distributions of scores over the held-out windows.
pub struct HeldOut {
    config: Config,
    /// For the shadow predictor and for the layers' own, in layers from 1 on: scores of heads and of neurons.
    scores: [Vec<[Histogram; 2]>; 2],
    /// Scores of gates (or activations), for every layer.
    gates: Vec<Histogram>,
    /// Norms of the down columns, for every layer.
    norms: Vec<Vec<f32>>,
    /// The factor of a gate's activation in its score, for every layer; the norms if there are no gates.
    worth: Vec<Vec<f32>>,
    quality: QualitySums,
}

impl HeldOut {
    /// Empty distributions.
    pub fn new(image: &Image, statistics: &Statistics) -> Self {
        let c = *image.config();
        let norms: Vec<Vec<f32>> = (0..c.layers).map(|layer| padded(&column_norms(image, layer), c.ffn, 0.0)).collect();
        let worth = |(norms, s): (&Vec<f32>, &super::statistics::LayerStatistics)| -> Vec<f32> {
            let up = s.up.iter().map(|u| (u / statistics.tokens.max(1) as f64) as f32);
            if s.up.is_empty() { norms.clone() } else { norms.iter().zip(up).map(|(n, u)| n * u).collect() }
        };
        let worth = norms.iter().zip(&statistics.layers).map(worth).collect();
        let scores = std::array::from_fn(|_| (1..c.layers).map(|_| Default::default()).collect());
        let gates = vec![Histogram::default(); c.layers];
        HeldOut { config: c, scores, gates, norms, worth, quality: QualitySums::new(&c, statistics) }
    }

    /// Adds a window.
    pub fn add(&mut self, trace: &Trace, sample: &Sample, scores: [Scores; 2]) {
        for (histograms, scores) in self.scores.iter_mut().zip(&scores) {
            let both = scores.heads.iter().zip(&scores.neurons);
            for ([heads, neurons], (h, n)) in histograms.iter_mut().zip(both) {
                heads.add_all(h.iter().copied());
                neurons.add_all(n.iter().copied());
            }
        }
        let (ffn, group) = (self.config.ffn, self.config.neuron_group);
        for (layer, histogram) in self.gates.iter_mut().enumerate() {
            let up = trace.up.get(layer);
            for (t, row) in trace.neurons[layer].chunks_exact(ffn).enumerate() {
                let value = |i: usize| {
                    let act = up.map_or(row[i], |up| row[i] / up[t * ffn + i]);
                    if act.is_finite() { act.abs() * self.worth[layer][i] } else { 0.0 }
                };
                let score = |g: usize| (g * group..((g + 1) * group).min(ffn)).map(value).sum::<f32>();
                histogram.add_all((0..ffn.div_ceil(group)).map(score));
            }
        }
        self.quality.add(trace, sample, &scores);
    }

    /// The quality of the predictors.
    pub fn quality(&self) -> Quality {
        self.quality.finish()
    }
}

/// Euclidean norms of the down projection's columns, `[ffn]`.
pub fn column_norms(image: &Image, layer: usize) -> Vec<f32> {
    let Some(((_, cols), values)) = dense_rows(image, Role::Down, layer) else { return Vec::new() };
    let mut squares = vec![0f64; cols];
    for row in values.chunks_exact(cols.max(1)) {
        squares.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
    }
    squares.into_iter().map(|s| s.sqrt() as f32).collect()
}

/// Builds the section with all tables; the budgets are still even.
///
/// # Errors
/// Errors of the autograd library, which do not occur with usual shapes.
pub fn section(
    c: &Config,
    policies: &[Policy],
    statistics: &Statistics,
    training: &Training,
    held_out: &HeldOut,
) -> Result<Section> {
    let mut section = Section::default();
    section.ranks = training.shape.target == Target::Importance;
    let wanted = |p: Policy| policies.contains(&p);
    if wanted(Policy::Static) {
        statics(&mut section, c, statistics);
    }
    let predictors = [
        (Policy::Shadow, Table::ShadowQuantiles, Table::ShadowBudget),
        (Policy::PerLayer, Table::PerLayerQuantiles, Table::PerLayerBudget),
    ];
    for ((policy, quantiles, budget), scores) in predictors.into_iter().zip(&held_out.scores) {
        if !wanted(policy) || training.shadow.is_none() {
            continue;
        }
        if policy == Policy::Shadow {
            shadow(&mut section, c, training)?
        } else {
            own(&mut section, c, training)?
        }
        let mut all = vec![f32::NEG_INFINITY; 2 * QUANTILES];
        all.extend(scores.iter().flatten().flat_map(|h| h.quantiles()));
        section.vector(quantiles, 0, &all);
        section.vector(budget, 0, &even(c, 2));
    }
    let per_neuron =
        |layers: &[Vec<f32>]| -> Vec<f32> { layers.iter().flat_map(|v| padded(v, c.neuron_width(), 0.0)).collect() };
    section.vector(Table::NeuronNorms, 0, &per_neuron(&held_out.norms));
    if wanted(Policy::Gate) {
        section.vector(Table::GateWeights, 0, &per_neuron(&held_out.worth));
        let gates = held_out.gates.iter().flat_map(|h| [[f32::NEG_INFINITY; QUANTILES], h.quantiles()].concat());
        section.vector(Table::GateQuantiles, 0, &gates.collect::<Vec<_>>());
        section.vector(Table::GateBudget, 0, &even(c, 2));
    }
    if wanted(Policy::Input) {
        let layer = |l: &super::statistics::LayerStatistics| {
            Slot::MAPS.map(|s| l.inputs[s.source() as usize].quantiles()).concat()
        };
        let all: Vec<f32> = statistics.layers.iter().flat_map(layer).collect();
        section.vector(Table::InputQuantiles, 0, &all);
        section.vector(Table::InputBudget, 0, &even(c, Policy::Input.slots()));
    }
    if section.has(Policy::Mixed) {
        section.vector(Table::MixedBudget, 0, &even(c, Policy::Mixed.slots()));
    }
    Ok(section)
}

/// A budget that divides every density of the grid evenly: [GRID, layers, slots].
fn even(c: &Config, slots: usize) -> Vec<f32> {
    (0..GRID).flat_map(|g| vec![g as f32 / (GRID - 1) as f32; c.layers * slots]).collect()
}

/// A copy of length `len`, filled up with `with`.
fn padded(values: &[f32], len: usize, with: f32) -> Vec<f32> {
    let mut out = values.to_vec();
    out.resize(len, with);
    out
}

/// Adds static scores with their quantiles, and means.
fn statics(section: &mut Section, c: &Config, statistics: &Statistics) {
    let mean =
        |sums: &[f64]| -> Vec<f32> { sums.iter().map(|s| (s / statistics.tokens.max(1) as f64) as f32).collect() };
    let (mut neurons, mut heads, mut quantiles) = (Vec::new(), Vec::new(), Vec::new());
    for layer in &statistics.layers {
        let groups: Vec<f32> = mean(&layer.neurons).chunks(c.neuron_group).map(|g| g.iter().sum()).collect();
        let of_heads = mean(&layer.heads);
        for scores in [&of_heads, &groups] {
            quantiles.extend(order(scores));
        }
        neurons.extend(padded(&groups, c.neuron_groups(), NEVER));
        heads.extend(of_heads);
    }
    section.vector(Table::StaticNeurons, 0, &neurons);
    section.vector(Table::StaticHeads, 0, &heads);
    section.vector(Table::StaticQuantiles, 0, &quantiles);
    section.vector(Table::StaticBudget, 0, &even(c, 2));
}

/// Quantiles of a few numbers: the thresholds that are reached by exactly a share of them.
fn order(scores: &[f32]) -> Vec<f32> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let kept = |q: usize| (q as f32 / (QUANTILES - 1) as f32 * scores.len() as f32 + 0.5) as usize;
    (0..QUANTILES).map(|q| sorted[kept(q).clamp(1, sorted.len()) - 1]).collect()
}

/// Rows of a second map and its bias for one kind of output; each layer's rows are padded to a multiple of 16.
fn outputs(w: &[f32], b: &[f32], per_layer: usize, all: usize, rank: usize) -> (Vec<f32>, Vec<f32>) {
    let pad = all.next_multiple_of(16);
    let weights = w.chunks_exact(per_layer * rank).flat_map(|rows| padded(rows, pad * rank, 0.0)).collect();
    let bias = b.chunks_exact(per_layer).flat_map(|b| padded(b, pad, NEVER)).collect();
    (weights, bias)
}

fn shadow(section: &mut Section, c: &Config, training: &Training) -> Result<()> {
    let Some(mlp) = &training.shadow else { return Ok(()) };
    let [w1, b1, w2, b2] = mlp.weights()?;
    let (rank, groups, later) = (training.shape.rank, training.groups(), c.layers - 1);
    section.matrix(Table::ShadowIn, 0, &w1, training.shape.tap.width(c));
    section.vector(Table::ShadowInBias, 0, &b1);
    let split = later * groups;
    let (w, b) = outputs(&w2[..split * rank], &b2[..split], groups, c.neuron_groups(), rank);
    section.matrix(Table::ShadowNeurons, 0, &w, rank);
    section.vector(Table::ShadowNeuronBias, 0, &b);
    let (w, b) = outputs(&w2[split * rank..], &b2[split..], c.heads, c.heads, rank);
    section.matrix(Table::ShadowHeads, 0, &w, rank);
    section.vector(Table::ShadowHeadBias, 0, &b);
    Ok(())
}

fn own(section: &mut Section, c: &Config, training: &Training) -> Result<()> {
    let (rank, groups) = (training.shape.layer_rank, training.groups());
    for layer in 0..c.layers {
        // Layer 0 is never predicted; it has tables only so that all layers have the same.
        let [w1, b1, w2, b2] = match layer.checked_sub(1).and_then(|l| training.own.get(l)) {
            Some(mlp) => mlp.weights()?,
            None => [rank * c.d_model, rank, (groups + c.heads) * rank, groups + c.heads].map(|n| vec![0.0; n]),
        };
        section.matrix(Table::LayerIn, layer, &w1, c.d_model);
        section.vector(Table::LayerInBias, layer, &b1);
        let (w, b) = outputs(&w2[..groups * rank], &b2[..groups], groups, c.neuron_groups(), rank);
        section.matrix(Table::LayerNeurons, layer, &w, rank);
        section.vector(Table::LayerNeuronBias, layer, &b);
        let (w, b) = outputs(&w2[groups * rank..], &b2[groups..], c.heads, c.heads, rank);
        section.matrix(Table::LayerHeads, layer, &w, rank);
        section.vector(Table::LayerHeadBias, layer, &b);
    }
    Ok(())
}

/// Adds mean activations and what they add to each layer's output, so that skipped neurons count with their mean.
pub fn centre(section: &mut Section, image: &Image, statistics: &Statistics) {
    let c = image.config();
    let (mut means, mut constants) = (Vec::new(), Vec::new());
    for (layer, s) in statistics.layers.iter().enumerate() {
        let mean: Vec<f32> = s.mean.iter().map(|m| (m / statistics.tokens.max(1) as f64) as f32).collect();
        if let Some(((_, cols), values)) = dense_rows(image, Role::Down, layer) {
            let dot = |row: &[f32]| row.iter().zip(&mean).map(|(w, m)| f64::from(*w) * f64::from(*m)).sum::<f64>();
            constants.extend(values.chunks_exact(cols.max(1)).map(|row| dot(row) as f32));
        }
        constants.resize((layer + 1) * c.d_model, 0.0);
        means.extend(padded(&mean, c.neuron_width(), 0.0));
    }
    section.vector(Table::NeuronMeans, 0, &means);
    section.vector(Table::DownMeans, 0, &constants);
}

/// Whether centring pays: if skipped neurons are not zero anyway, and the down projection takes floats.
pub fn centring_pays(c: &Config, target: Target) -> bool {
    target == Target::Importance && c.neuron_group < 32
}
