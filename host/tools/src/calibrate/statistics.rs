//! Statistics of heads, neurons and inputs over the calibration text.

use super::autograd::Trace;
use super::checkpoint::Checkpoint;
use super::criteria::Criterion;
use super::histogram::Histogram;
use rayon::prelude::*;
use shadowllm_core::image::Config;
use shadowllm_core::sparsity::Source;
use shadowllm_host::{Error, Result};

/// One layer's sums.
#[derive(Clone)]
pub struct LayerStatistics {
    /// Importance of the heads.
    pub heads: Vec<f64>,
    /// Importance of the neurons.
    pub neurons: Vec<f64>,
    /// Sum of the neurons' activations.
    pub mean: Vec<f64>,
    /// The number of tokens for which each neuron is not zero.
    pub active: Vec<f64>,
    /// Sum of |up|, in gated networks.
    pub up: Vec<f64>,
    /// Magnitudes of the inputs, by [`Source`].
    pub inputs: [Histogram; Source::COUNT],
}

/// Sums over all tokens.
pub struct Statistics {
    /// The criterion of importance.
    pub criterion: Criterion,
    /// Number of tokens.
    pub tokens: u64,
    /// The sums of each layer.
    pub layers: Vec<LayerStatistics>,
}

fn add(sums: &mut [f64], values: impl IntoIterator<Item = f32>) {
    sums.iter_mut().zip(values).for_each(|(s, v)| *s += f64::from(v));
}

impl Statistics {
    /// Empty sums.
    pub fn new(c: &Config, criterion: Criterion) -> Self {
        let layer = LayerStatistics {
            heads: vec![0.0; c.heads],
            neurons: vec![0.0; c.ffn],
            mean: vec![0.0; c.ffn],
            active: vec![0.0; c.ffn],
            up: vec![0.0; if c.gated { c.ffn } else { 0 }],
            inputs: Default::default(),
        };
        Statistics { criterion, tokens: 0, layers: vec![layer; c.layers] }
    }

    /// Adds a window.
    pub fn add(&mut self, trace: &Trace) {
        self.tokens += trace.tokens as u64;
        let criterion = self.criterion;
        self.layers.par_iter_mut().enumerate().for_each(|(layer, s)| {
            // A window counts in proportion to its tokens.
            let weigh = |v: Vec<f32>| v.into_iter().map(|x| x * trace.tokens as f32);
            add(&mut s.heads, weigh(trace.head_criterion(criterion, layer)));
            add(&mut s.neurons, weigh(trace.neuron_criterion(criterion, layer)));
            let h = &trace.neurons[layer];
            for row in h.chunks_exact(s.mean.len()) {
                add(&mut s.mean, row.iter().copied());
                add(&mut s.active, row.iter().map(|h| if *h == 0.0 { 0.0 } else { 1.0 }));
            }
            if let (false, Some(up)) = (s.up.is_empty(), trace.up.get(layer)) {
                up.chunks_exact(s.up.len()).for_each(|row| add(&mut s.up, row.iter().map(|u| u.abs())));
            }
            let sources = [&trace.attention_input, &trace.head_output, &trace.ffn_input, &trace.neurons];
            for (histogram, source) in s.inputs.iter_mut().zip(sources) {
                histogram.add_all(source[layer].iter().map(|x| x.abs()));
            }
        });
    }

    /// Saves all sums.
    pub fn save(&self, kept: &mut Checkpoint) {
        kept.put_f64("statistics.tokens".into(), &[self.tokens as f64]);
        for (l, s) in self.layers.iter().enumerate() {
            for (name, sums) in s.sums() {
                kept.put_f64(format!("statistics.{l}.{name}"), sums);
            }
            for (i, h) in s.inputs.iter().enumerate() {
                kept.put_u64(format!("statistics.{l}.inputs.{i}"), h.counts());
            }
        }
    }

    /// Restores what [`Statistics::save`] saved.
    ///
    /// # Errors
    /// When the lengths do not fit.
    pub fn restore(&mut self, kept: &Checkpoint) -> Result<()> {
        self.tokens = kept.f64("statistics.tokens")?.first().map_or(0, |n| *n as u64);
        let bad = || Error::Other("the state of an interrupted calibration does not fit".into());
        for (l, s) in self.layers.iter_mut().enumerate() {
            for (name, sums) in s.sums_mut() {
                let values = kept.f64(&format!("statistics.{l}.{name}"))?;
                if values.len() != sums.len() {
                    return Err(bad());
                }
                sums.copy_from_slice(&values);
            }
            for (i, h) in s.inputs.iter_mut().enumerate() {
                *h = Histogram::from_counts(kept.u64(&format!("statistics.{l}.inputs.{i}"))?).ok_or_else(bad)?;
            }
        }
        Ok(())
    }
}

impl LayerStatistics {
    fn sums(&self) -> [(&'static str, &[f64]); 5] {
        [
            ("heads", &self.heads),
            ("neurons", &self.neurons),
            ("mean", &self.mean),
            ("active", &self.active),
            ("up", &self.up),
        ]
    }

    fn sums_mut(&mut self) -> [(&'static str, &mut [f64]); 5] {
        [
            ("heads", &mut self.heads),
            ("neurons", &mut self.neurons),
            ("mean", &mut self.mean),
            ("active", &mut self.active),
            ("up", &mut self.up),
        ]
    }
}
