//! The parts that are truly largest, found by computing everything: for evaluation.

use super::{Choice, Chooser, clear_below, group_score, kth_score, norm};
use crate::ops::buffer::Rows;
use crate::sparsity::predictor::Predictor;
use crate::sparsity::select::count_of;
use crate::sparsity::slot::Slot;
use crate::sparsity::tables::Table;

pub struct Oracle;

impl Chooser for Oracle {
    fn after_heads(&self, c: &mut Choice, layer: usize, heads: &mut Rows, _: usize) -> usize {
        if !c.acting || layer == 0 {
            return 0;
        }
        let (n, slot) = (c.shapes[layer].heads, c.shapes[layer].head_slot);
        for (score, head) in c.scores[..n].iter_mut().zip(heads.values.chunks_exact(slot)) {
            *score = norm(head);
        }
        let k = count_of(c.share(layer, Slot::Heads), n);
        let least = kth_score(c, n, k);
        let dropped = (0..n).filter(|h| c.scores[*h] < least);
        dropped.map(|h| heads.clear_range(h * slot..(h + 1) * slot)).count()
    }

    fn after_neurons(&self, c: &mut Choice, p: Option<&Predictor>, layer: usize, h: &mut Rows, _: usize) -> usize {
        if !c.acting || layer == 0 {
            return 0;
        }
        let (n, group) = (c.count(layer, Slot::Neurons), c.shapes[layer].group);
        let norms = p.and_then(|p| p.layer_vector(Table::NeuronNorms, layer, c.config.neuron_width()));
        (0..n).for_each(|g| c.scores[g] = group_score(h.values, norms, g, group));
        let k = count_of(c.share(layer, Slot::Neurons), n);
        let least = kth_score(c, n, k);
        clear_below(c, layer, least, h) * group
    }
}
