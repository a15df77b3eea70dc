//! The quality of predictors, layer by layer: the share of importance in the best-scored neurons, and the rank
//! agreement of scores and importance, compared with static means and an oracle.

use super::autograd::Trace;
use super::statistics::Statistics;
use super::train::{Sample, Scores, grouped};
pub use crate::report::{LayerQuality, Quality};
use rayon::prelude::*;
use shadowllm_core::image::Config;

/// Shares of the neurons for which captured importance is measured.
pub const CAPTURED_AT: [f32; 4] = [0.1, 0.2, 0.3, 0.5];
/// One in this number of tokens is measured.
const STRIDE: usize = 8;
/// The scorers.
pub const SCORERS: [&str; 4] = ["static", "shadow", "per-layer", "oracle"];

/// Sums over tokens.
pub struct QualitySums {
    ffn: usize,
    group: usize,
    tokens: f64,
    statics: Vec<Vec<f32>>,
    layers: Vec<LayerQuality>,
}

impl QualitySums {
    /// Empty sums.
    pub fn new(c: &Config, statistics: &Statistics) -> Self {
        let later = &statistics.layers[1..];
        let mean = |s: &f64| (*s / statistics.tokens.max(1) as f64) as f32;
        let share = |values: Vec<f64>| {
            let sum: f64 = values.iter().sum::<f64>().max(1e-30);
            values.iter().map(|v| v / sum).collect::<Vec<f64>>()
        };
        let layers = later.iter().map(|l| {
            let mut sorted = l.neurons.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let runs = sorted.chunks(sorted.len().div_ceil(32)).map(|r| r.iter().sum()).collect();
            let active = l.active.iter().sum::<f64>() / (statistics.tokens.max(1) as f64 * l.active.len() as f64);
            LayerQuality { active, heads: share(l.heads.clone()), neurons: share(runs), ..LayerQuality::default() }
        });
        let statics =
            later.iter().map(|l| l.neurons.chunks(c.neuron_group).map(|g| g.iter().map(mean).sum()).collect());
        QualitySums {
            ffn: c.ffn,
            group: c.neuron_group,
            tokens: 0.0,
            layers: layers.collect(),
            statics: statics.collect(),
        }
    }

    /// Adds some tokens of a window.
    pub fn add(&mut self, trace: &Trace, sample: &Sample, scores: &[Scores; 2]) {
        let rows = (0..sample.tokens).step_by(STRIDE);
        self.tokens += rows.len() as f64;
        let (ffn, group, statics) = (self.ffn, self.group, &self.statics);
        self.layers.par_iter_mut().enumerate().for_each(|(l, q)| {
            let importance = grouped(&trace.neuron_importance(l + 1), ffn, group);
            let n = statics[l].len();
            for t in rows.clone() {
                let row = |v: &[f32]| v.get(t * n..(t + 1) * n).map(<[f32]>::to_vec).unwrap_or_default();
                let truth = row(&importance);
                let of = |s: &Scores| s.neurons.get(l).map(|v| row(v)).unwrap_or_default();
                let all = [statics[l].clone(), of(&scores[0]), of(&scores[1]), truth.clone()];
                for (i, scores) in all.iter().enumerate().filter(|(_, s)| s.len() == n) {
                    q.rank[i] += spearman(scores, &truth);
                    let captured = captured(scores, &truth);
                    q.captured[i].iter_mut().zip(captured).for_each(|(sum, c)| *sum += c);
                }
            }
        });
    }

    /// The means over all tokens.
    pub fn finish(&self) -> Quality {
        let mut layers = self.layers.clone();
        for q in &mut layers {
            q.rank.iter_mut().chain(q.captured.iter_mut().flatten()).for_each(|x| *x /= self.tokens.max(1.0));
        }
        Quality { captured_at: CAPTURED_AT.to_vec(), scorers: SCORERS.map(str::to_owned).to_vec(), layers }
    }
}

/// Share of all importance in the best-scored neurons.
fn captured(scores: &[f32], truth: &[f32]) -> [f64; 4] {
    let order = order(scores);
    let all: f64 = truth.iter().map(|x| f64::from(*x)).sum::<f64>().max(1e-30);
    CAPTURED_AT.map(|share| {
        let k = (share * scores.len() as f32).ceil() as usize;
        order[..k].iter().map(|i| f64::from(truth[*i])).sum::<f64>() / all
    })
}

/// Indices from the largest to the smallest.
fn order(x: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
    order
}

/// Ranks; equal values get the mean of their ranks.
fn ranks(x: &[f32]) -> Vec<f64> {
    let order = order(x);
    let mut ranks = vec![0.0; x.len()];
    let mut i = 0;
    while i < order.len() {
        let same = order[i..].iter().take_while(|j| x[**j] == x[order[i]]).count();
        order[i..i + same].iter().for_each(|j| ranks[*j] = i as f64 + (same - 1) as f64 / 2.0);
        i += same;
    }
    ranks
}

/// Spearman's rank correlation; 0 if one side is constant.
fn spearman(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        ab += (x - mean) * (y - mean);
        aa += (x - mean).powi(2);
        bb += (y - mean).powi(2);
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_agreement_of_known_orders() {
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0, 30.0, 40.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 0.5).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
        // The best-scored 50 % of 5 are 3.
        assert_eq!(captured(&[5.0, 4.0, 3.0, 2.0, 1.0], &[0.0, 1.0, 0.0, 1.0, 2.0])[3], 0.25);
    }
}
