//! The neurons with the largest gates (CATS, arXiv 2404.08763). Without a gate, all neurons are computed and the
//! smallest are cleared, so that their down projection is not read.

use super::{Choice, Chooser, Run, clear_below, group_score};
use crate::ops::buffer::Rows;
use crate::sparsity::predictor::Predictor;
use crate::sparsity::slot::Slot;
use crate::sparsity::tables::Table;

pub struct Gate;

impl Chooser for Gate {
    fn gate_first(&self) -> bool {
        true
    }

    fn after_gate(&self, c: &mut Choice, run: &Run, layer: usize, gates: &[f32]) {
        let (width, shape) = (c.config.neuron_width(), c.shapes[layer]);
        let h = &mut c.scores[..gates.len()];
        h.copy_from_slice(gates);
        run.kernels.activate(&shape.activation, None, h);
        let weights = run.predictor.and_then(|p| p.layer_vector(Table::GateWeights, layer, width));
        c.bytes += weights.map_or(0, |w| 4 * w.len());
        let (least, scores) = (c.threshold(layer, Slot::Neurons), &*c.scores);
        c.memory.choose(Slot::Neurons, layer, |g| group_score(scores, weights, g, shape.group) >= least);
    }

    fn after_neurons(&self, c: &mut Choice, p: Option<&Predictor>, layer: usize, h: &mut Rows, _: usize) -> usize {
        if !c.acting || layer == 0 || c.shapes[layer].gated {
            return 0;
        }
        let (n, group) = (c.count(layer, Slot::Neurons), c.shapes[layer].group);
        let norms = p.and_then(|p| p.layer_vector(Table::NeuronNorms, layer, c.config.neuron_width()));
        (0..n).for_each(|g| c.scores[g] = group_score(h.values, norms, g, group));
        clear_below(c, layer, c.threshold(layer, Slot::Neurons), h);
        // Although they were cleared, they were computed, so nothing counts as left out.
        0
    }
}
