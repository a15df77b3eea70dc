//! Training the predictors on a stream of traces, of which only a few windows are kept.
//!
//! The defaults were chosen by these measurements: the share of importance in the best-scored 10 % and 20 % of the
//! neurons of tests/vectors/brown-opt, as the mean of the layers, with predictors trained on 60,000 tokens (an oracle:
//! .992, 1.000; static means: .355, .528), by `shadowllm calibrate OPT --text TEXT --tokens 60000 --budget-windows 0
//! --policies shadow`:
//!
//! | `--rank` | `--tap` | `--target` | 10 % | 20 % |
//! |---:|---|---|---:|---:|
//! | 32 | embedding, heads, stream | active | .889 | .973 |
//! | 32 | stream | active | .889 | .972 |
//! | 32 | embedding, heads | active | .790 | .923 |
//! | 32 | heads (ShadowLLM's) | active | .379 | .554 |
//! | 64 | embedding, heads, stream | active | .919 | .983 |
//! | 128 | embedding, heads, stream | active | .934 | .988 |
//! | 32 | embedding, heads, stream | importance | .866 | .965 |
//!
//! So the stream after layer 0 alone has all the information. Rank 32 is the default because of its size: at rank 128,
//! the predictor of that model is 30 % of the bytes that a dense token reads.

use super::autograd::Trace;
use super::checkpoint::Checkpoint;
use super::mlp::{Mlp, uniform};
use rayon::prelude::*;
use shadowllm_core::image::Config;
use shadowllm_core::sparsity::Tap;
use shadowllm_host::Result;
use std::collections::VecDeque;

/// The number of windows from which training steps draw rows.
const KEPT: usize = 24;
/// The number of first windows that only set the targets' scale and the predictors' static means.
const WARM_UP: usize = 8;
/// Number of rows in a training step.
const ROWS: usize = 256;
/// Logarithms of importance are clamped to this number of standard deviations.
const SPREAD: f32 = 4.0;

/// The target of a predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whether a group of neurons is active: binary cross-entropy. For activations with exact zeros.
    Active,
    /// The logarithm of importance, standardised per layer: squared error.
    Importance,
}

impl Target {
    /// The target for a model's activation.
    pub fn of(c: &Config) -> Self {
        match c.activation.kind {
            kind if kind.is_sparse() => Target::Active,
            _ => Target::Importance,
        }
    }
}

/// Shape of the predictors.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rank of the shadow predictor.
    pub rank: usize,
    /// Rank of each layer's own.
    pub layer_rank: usize,
    /// The input of the shadow predictor.
    pub tap: Tap,
    /// The target for neurons.
    pub target: Target,
    /// Step size at the start; it falls to 0 along a cosine.
    pub rate: f64,
    /// Steps per window of text.
    pub steps: usize,
    /// Seed of all random choices.
    pub seed: u64,
}

/// A window prepared for training: inputs of the predictors, and their targets, one byte each.
pub struct Sample {
    /// Rows.
    pub tokens: usize,
    /// [tokens, tap].
    pub tap: Vec<f32>,
    /// For layers from 1 on, [tokens, d_model]: the input of the feed-forward network of the layer before.
    pub before: Vec<Vec<f32>>,
    /// For layers from 1 on, [tokens, groups].
    pub neurons: Vec<Vec<f32>>,
    /// For layers from 1 on, [tokens, heads].
    pub heads: Vec<Vec<f32>>,
    /// For layers from 1 on, [tokens, groups + heads]: targets in 0..=255.
    targets: Vec<Vec<u8>>,
}

/// Mean and inverse standard deviation of the logarithms of a layer's importances.
#[derive(Clone, Copy, Default)]
struct Scale {
    mean: f32,
    inverse: f32,
}

impl Scale {
    /// From the sum of the logarithms, the sum of their squares, and their number.
    fn of((sum, squares, n): (f64, f64, f64)) -> Scale {
        let mean = sum / n.max(1.0);
        let deviation = (squares / n.max(1.0) - mean * mean).max(1e-12).sqrt();
        Scale { mean: mean as f32, inverse: (1.0 / deviation) as f32 }
    }

    fn apply(&self, importance: f32) -> f32 {
        ((log(importance) - self.mean) * self.inverse).clamp(-SPREAD, SPREAD)
    }
}

fn log(importance: f32) -> f32 {
    importance.max(1e-12).ln()
}

/// A target as a byte.
fn to_byte(z: f32) -> u8 {
    ((z + SPREAD) * (255.0 / (2.0 * SPREAD))).round() as u8
}

fn of_byte(b: u8) -> f32 {
    f32::from(b) * (2.0 * SPREAD / 255.0) - SPREAD
}

/// The predictors in training.
pub struct Training {
    config: Config,
    /// Their shape.
    pub shape: Shape,
    scales: Vec<[Scale; 2]>,
    sums: Vec<[(f64, f64, f64); 2]>,
    /// Mean targets of groups and heads of each layer, during the warm-up.
    means: Vec<Vec<f64>>,
    kept: VecDeque<Sample>,
    windows: usize,
    random: u64,
    /// The shadow predictor: neurons of all layers, then heads of all layers.
    pub shadow: Option<Mlp>,
    /// Each layer's own, from layer 1 on: neurons, then heads.
    pub own: Vec<Mlp>,
}

/// Sums over groups of neurons of `values` [tokens, ffn].
pub fn grouped(values: &[f32], ffn: usize, group: usize) -> Vec<f32> {
    if group == 1 {
        return values.to_vec();
    }
    let row = |row: &[f32]| row.chunks(group).map(|g| g.iter().sum()).collect::<Vec<f32>>();
    values.chunks_exact(ffn).flat_map(row).collect()
}

impl Training {
    /// The state before any training.
    pub fn new(config: &Config, shape: Shape) -> Self {
        let later = config.layers - 1;
        let groups = config.ffn.div_ceil(config.neuron_group);
        Training {
            config: *config,
            shape,
            scales: vec![[Scale::default(); 2]; later],
            sums: vec![[(0.0, 0.0, 0.0); 2]; later],
            means: vec![vec![0.0; groups + config.heads]; later],
            kept: VecDeque::new(),
            windows: 0,
            random: shape.seed,
            shadow: None,
            own: Vec::new(),
        }
    }

    /// Groups of neurons of a layer.
    pub fn groups(&self) -> usize {
        self.config.ffn.div_ceil(self.config.neuron_group)
    }

    /// The input of the shadow predictor, [tokens, tap], padded as in the engine.
    fn tap(&self, trace: &Trace) -> Vec<f32> {
        let c = &self.config;
        let (d, slot) = (c.d_model.next_multiple_of(32), c.head_slot());
        let mut out = Vec::with_capacity(trace.tokens * self.shape.tap.width(c));
        let mut pad = |row: &[f32], width: usize| {
            out.extend_from_slice(row);
            out.resize(out.len() + width - row.len(), 0.0);
        };
        for t in 0..trace.tokens {
            let stream = |layer: usize| &trace.attention_input[layer][t * c.d_model..(t + 1) * c.d_model];
            if self.shape.tap.has(Tap::EMBEDDING) {
                pad(stream(0), d);
            }
            if self.shape.tap.has(Tap::HEADS) {
                let width = c.heads * c.head_dim;
                let row = &trace.head_output[0][t * width..(t + 1) * width];
                row.chunks_exact(c.head_dim).for_each(|head| pad(head, slot));
            }
            if self.shape.tap.has(Tap::STREAM) {
                pad(stream(1), d);
            }
        }
        out
    }

    /// Makes a sample of a trace; targets are filled only after the warm-up, when the scales are known.
    pub fn sample(&self, trace: &Trace) -> Sample {
        let c = &self.config;
        let later = 1..c.layers;
        let importance = |layer: usize| grouped(&trace.neuron_importance(layer), c.ffn, c.neuron_group);
        let neurons: Vec<Vec<f32>> = match self.shape.target {
            // Inactive groups have no importance, whatever their gradients.
            Target::Active => later.clone().map(|l| grouped(&trace.neurons[l], c.ffn, c.neuron_group)).collect(),
            Target::Importance => later.clone().into_par_iter().map(importance).collect(),
        };
        let heads: Vec<Vec<f32>> = later.clone().map(|l| trace.head_importance(l)).collect();
        let before = later.map(|l| trace.ffn_input[l - 1].clone()).collect();
        let mut sample =
            Sample { tokens: trace.tokens, tap: self.tap(trace), before, neurons, heads, targets: Vec::new() };
        if self.windows >= WARM_UP {
            sample.targets = self.targets(&sample);
        }
        sample
    }

    fn targets(&self, sample: &Sample) -> Vec<Vec<u8>> {
        let (groups, heads) = (self.groups(), self.config.heads);
        let active = self.shape.target == Target::Active;
        let layer = |(l, scale): (usize, &[Scale; 2])| {
            let rows = sample.neurons[l].chunks_exact(groups).zip(sample.heads[l].chunks_exact(heads));
            let neuron = |x: &f32| match active {
                true => {
                    if *x != 0.0 {
                        255
                    } else {
                        0
                    }
                }
                false => to_byte(scale[0].apply(*x)),
            };
            let row = |(n, h): (&[f32], &[f32])| -> Vec<u8> {
                n.iter().map(neuron).chain(h.iter().map(|x| to_byte(scale[1].apply(*x)))).collect()
            };
            rows.flat_map(row).collect()
        };
        self.scales.par_iter().enumerate().map(layer).collect()
    }

    /// Adds to the sums of scales and static means; the last window of the warm-up sets them.
    fn warm_up(&mut self, sample: &Sample) -> Result<()> {
        for (l, sums) in self.sums.iter_mut().enumerate() {
            for (sum, values) in sums.iter_mut().zip([&sample.neurons[l], &sample.heads[l]]) {
                for x in values {
                    let y = f64::from(log(*x));
                    *sum = (sum.0 + y, sum.1 + y * y, sum.2 + 1.0);
                }
            }
        }
        self.windows += 1;
        if self.windows == WARM_UP {
            self.scales = self.sums.iter().map(|s| s.map(Scale::of)).collect();
        }
        Ok(())
    }

    /// Means of the targets, as outputs of a predictor.
    fn static_means(&mut self) -> Vec<Vec<f32>> {
        let samples: Vec<&Sample> = self.kept.iter().collect();
        let active = self.shape.target == Target::Active;
        let groups = self.groups();
        let mut rows = 0.0;
        for sample in samples {
            rows += sample.tokens as f64;
            for (means, targets) in self.means.iter_mut().zip(&sample.targets) {
                for row in targets.chunks_exact(means.len()) {
                    means.iter_mut().zip(row).for_each(|(m, b)| *m += f64::from(*b));
                }
            }
        }
        let output = |(i, sum): (usize, &f64)| {
            let mean = sum / rows.max(1.0) / 255.0;
            if active && i < groups {
                let p = mean.clamp(1e-3, 1.0 - 1e-3);
                (p / (1.0 - p)).ln() as f32
            } else {
                (mean * 2.0 - 1.0) as f32 * SPREAD
            }
        };
        self.means.iter().map(|m| m.iter().enumerate().map(output).collect()).collect()
    }

    fn make(&mut self) -> Result<()> {
        let (groups, c, shape) = (self.groups(), self.config, self.shape);
        let means = self.static_means();
        let neurons = means.iter().flat_map(|m| &m[..groups]);
        let bias: Vec<f32> = neurons.chain(means.iter().flat_map(|m| &m[groups..])).copied().collect();
        self.shadow = Some(Mlp::new(shape.tap.width(&c), shape.rank, &bias, shape.seed)?);
        let own = means.iter().enumerate();
        self.own = own
            .map(|(l, m)| Mlp::new(c.d_model, shape.layer_rank, m, shape.seed + 1 + l as u64))
            .collect::<super::failure::Result<_>>()?;
        Ok(())
    }

    /// Trains on a window; `progress` in 0..1 sets the step size.
    pub fn learn(&mut self, trace: &Trace, progress: f64) -> Result<()> {
        let sample = self.sample(trace);
        if self.windows < WARM_UP {
            return self.warm_up(&sample);
        }
        self.windows += 1;
        // Training uses the targets only.
        self.kept.push_back(Sample { neurons: Vec::new(), heads: Vec::new(), ..sample });
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        if self.kept.len() < KEPT / 3 {
            return Ok(());
        }
        if self.shadow.is_none() {
            self.make()?;
        }
        let rate = self.shape.rate * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
        for _ in 0..self.shape.steps {
            self.step(rate)?;
        }
        Ok(())
    }

    /// One step of every predictor, on rows of the kept windows.
    fn step(&mut self, rate: f64) -> Result<()> {
        let kept = &self.kept;
        let random = &mut self.random;
        let mut pick = |n: usize| ((uniform(random) + 1.0) * 0.5 * n as f32) as usize % n;
        let rows: Vec<(usize, usize)> = (0..ROWS)
            .map(|_| {
                let window = pick(kept.len());
                (window, pick(kept[window].tokens))
            })
            .collect();
        let active = self.shape.target == Target::Active;
        let (groups, heads, later) = (self.groups(), self.config.heads, self.config.layers - 1);
        let width = groups + heads;
        let slope = move |y: &mut f32, target: u8, neuron: bool| {
            *y = if active && neuron {
                1.0 / (1.0 + (-*y).exp()) - f32::from(target) / 255.0
            } else {
                *y - of_byte(target)
            };
        };
        let target = |layer: usize, i: usize| {
            let (w, t) = rows[i];
            &kept[w].targets[layer][t * width..(t + 1) * width]
        };
        if let Some(shadow) = &mut self.shadow {
            let tap = self.shape.tap.width(&self.config);
            let x: Vec<f32> = rows.iter().flat_map(|(w, t)| &kept[*w].tap[t * tap..(t + 1) * tap]).copied().collect();
            shadow.step(&x, ROWS, rate, &|outputs| {
                outputs.par_chunks_exact_mut(later * width).enumerate().for_each(|(i, row)| {
                    let (neurons, rest) = row.split_at_mut(later * groups);
                    for l in 0..later {
                        let target = target(l, i);
                        let ys = neurons[l * groups..(l + 1) * groups].iter_mut().zip(target);
                        ys.for_each(|(y, t)| slope(y, *t, true));
                        let ys = rest[l * heads..(l + 1) * heads].iter_mut().zip(&target[groups..]);
                        ys.for_each(|(y, t)| slope(y, *t, false));
                    }
                });
            })?;
        }
        let d = self.config.d_model;
        for (l, own) in self.own.iter_mut().enumerate() {
            let row = |(w, t): &(usize, usize)| &kept[*w].before[l][t * d..(t + 1) * d];
            let x: Vec<f32> = rows.iter().flat_map(row).copied().collect();
            own.step(&x, ROWS, rate, &|outputs| {
                for (i, row) in outputs.chunks_exact_mut(width).enumerate() {
                    for (n, (y, t)) in row.iter_mut().zip(target(l, i)).enumerate() {
                        slope(y, *t, n < groups);
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Saves all results of training, but not the windows from which rows are drawn.
    ///
    /// # Errors
    /// Errors of the autograd library, which do not occur with usual shapes.
    pub fn save(&self, kept: &mut Checkpoint) -> Result<()> {
        kept.put_u32("training.windows".into(), &[self.windows as u32, self.random as u32, (self.random >> 32) as u32]);
        let scales = self.scales.iter().flatten().flat_map(|s| [s.mean, s.inverse]);
        kept.put_f32("training.scales".into(), &scales.collect::<Vec<_>>());
        let sums = self.sums.iter().flatten().flat_map(|s| [s.0, s.1, s.2]);
        kept.put_f64("training.sums".into(), &sums.collect::<Vec<_>>());
        for (i, mlp) in self.shadow.iter().chain(&self.own).enumerate() {
            for (j, values) in mlp.save()?.iter().enumerate() {
                kept.put_f32(format!("training.mlp.{i}.{j}"), values);
            }
        }
        Ok(())
    }

    /// Restores what [`Training::save`] saved.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn restore(&mut self, kept: &Checkpoint) -> Result<()> {
        if let [windows, low, high] = kept.u32("training.windows")?[..] {
            (self.windows, self.random) = (windows as usize, u64::from(high) << 32 | u64::from(low));
        }
        let scales = kept.f32("training.scales")?;
        for (scale, v) in self.scales.iter_mut().flatten().zip(scales.as_chunks::<2>().0) {
            *scale = Scale { mean: v[0], inverse: v[1] };
        }
        let sums = kept.f64("training.sums")?;
        for (sum, v) in self.sums.iter_mut().flatten().zip(sums.as_chunks::<3>().0) {
            *sum = (v[0], v[1], v[2]);
        }
        if kept.f32("training.mlp.0.0").is_ok() {
            self.make()?;
            for (i, mlp) in self.shadow.iter_mut().chain(&mut self.own).enumerate() {
                let saved: Result<Vec<_>> = (0..13).map(|j| kept.f32(&format!("training.mlp.{i}.{j}"))).collect();
                mlp.restore(&saved?)?;
            }
        }
        Ok(())
    }

    /// Scores of the shadow predictor and of the layers' own for a window: for layers from 1 on, [tokens, groups] and
    /// [tokens, heads].
    pub fn scores(&self, sample: &Sample) -> Result<[Scores; 2]> {
        let (groups, heads, later) = (self.groups(), self.config.heads, self.config.layers - 1);
        let mut shadow = Scores::default();
        if let Some(mlp) = &self.shadow {
            let all = mlp.outputs(&sample.tap, sample.tokens)?;
            let part = |from: usize, n: usize| -> Vec<f32> {
                all.chunks_exact(later * (groups + heads)).flat_map(|row| &row[from..from + n]).copied().collect()
            };
            shadow.neurons = (0..later).map(|l| part(l * groups, groups)).collect();
            shadow.heads = (0..later).map(|l| part(later * groups + l * heads, heads)).collect();
        }
        let mut own = Scores::default();
        for (mlp, before) in self.own.iter().zip(&sample.before) {
            let all = mlp.outputs(before, sample.tokens)?;
            let part = |from: usize, n: usize| -> Vec<f32> {
                all.chunks_exact(groups + heads).flat_map(|row| &row[from..from + n]).copied().collect()
            };
            own.neurons.push(part(0, groups));
            own.heads.push(part(groups, heads));
        }
        Ok([shadow, own])
    }
}

/// Scores of the layers from 1 on.
#[derive(Default)]
pub struct Scores {
    /// [tokens, groups].
    pub neurons: Vec<Vec<f32>>,
    /// [tokens, heads].
    pub heads: Vec<Vec<f32>>,
}
