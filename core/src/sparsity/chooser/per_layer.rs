//! One predictor in each layer, whose input is the layer before (DejaVu, arXiv 2310.17157).

use super::{Choice, Chooser, Run, low_rank};
use crate::ops::buffer::Rows;
use crate::sparsity::plan::Decider;
use crate::sparsity::slot::Slot;
use crate::sparsity::tables::Table;

pub struct PerLayer;

impl Chooser for PerLayer {
    fn before_feed_forward(&self, c: &mut Choice, run: &Run, layer: usize, normed: &Rows) {
        let next = layer + 1;
        let Some(p) = run.predictor.filter(|_| next < c.config.layers) else { return };
        low_rank::timed(c, run, |c| {
            let Some(first) = p.matrix(Table::LayerIn, next) else { return };
            low_rank::hidden(c, run, first, p.vector(Table::LayerInBias, next), &normed.input());
            for part in c.plan.parts(Decider::PerLayer) {
                let tables = match part {
                    Slot::Heads => [Table::LayerHeads, Table::LayerHeadBias],
                    _ => [Table::LayerNeurons, Table::LayerNeuronBias],
                };
                low_rank::choose(c, run, p, part, p.output(tables, next), next..next + 1);
            }
        });
    }
}
