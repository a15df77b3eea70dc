//! The parts that were most active for the tokens read so far.

use super::{Choice, Chooser, group_score, norm};
use crate::ops::buffer::Rows;
use crate::sparsity::memory::Memory;
use crate::sparsity::plan::Decider;
use crate::sparsity::predictor::Predictor;
use crate::sparsity::select::{count_of, kth_largest};
use crate::sparsity::slot::Slot;
use crate::sparsity::tables::Table;

pub struct Prompt;

impl Chooser for Prompt {
    fn before_token(&self, c: &mut Choice) {
        for layer in 1..c.config.layers {
            for part in c.plan.parts(Decider::Prompt) {
                let (row, n) = (c.row(part), c.count(layer, part));
                let k = count_of(c.share(layer, part), n);
                let Memory { head_statistics, neuron_statistics, units, .. } = &mut c.memory;
                let statistics = if part == Slot::Heads { head_statistics } else { neuron_statistics };
                let scores = &statistics[layer * row..layer * row + n];
                let least = kth_largest(scores, k, c.scratch);
                // Of equally active parts (in a ReLU model often parts that were never active) the first ones fill up
                // the share.
                let mut ties = k.saturating_sub(scores.iter().filter(|s| **s > least).count());
                let chosen = |i: usize| {
                    let tie = i < n && scores[i] == least && ties > 0;
                    ties -= usize::from(tie);
                    i < n && scores[i] > least || tie
                };
                match part {
                    Slot::Heads => units.choose_heads(layer, chosen),
                    _ => units.choose_neurons(layer, chosen),
                }
            }
        }
    }

    fn after_heads(&self, c: &mut Choice, layer: usize, heads: &mut Rows, tokens: usize) -> usize {
        if !c.learns {
            return 0;
        }
        let (row, n, slot) = (c.row(Slot::Heads), c.shapes[layer].heads, c.shapes[layer].head_slot);
        let sums = &mut c.memory.head_statistics[layer * row..layer * row + n];
        for row in heads.values.chunks_exact(heads.width).take(tokens) {
            sums.iter_mut().zip(row.chunks_exact(slot)).for_each(|(sum, head)| *sum += norm(head));
        }
        0
    }

    fn after_neurons(&self, c: &mut Choice, p: Option<&Predictor>, layer: usize, h: &mut Rows, tokens: usize) -> usize {
        if !c.learns {
            return 0;
        }
        let (row, n, group) = (c.row(Slot::Neurons), c.count(layer, Slot::Neurons), c.shapes[layer].group);
        let norms = p.and_then(|p| p.layer_vector(Table::NeuronNorms, layer, c.config.neuron_width()));
        let sums = &mut c.memory.neuron_statistics[layer * row..layer * row + n];
        for row in h.values.chunks_exact(h.width).take(tokens) {
            sums.iter_mut().enumerate().for_each(|(g, sum)| *sum += group_score(row, norms, g, group));
        }
        0
    }
}
