//! Single inputs of maps that are stored by input: those whose magnitude exceeds a threshold.

use super::{Choice, Chooser};
use crate::ops::buffer::Rows;
use crate::sparsity::select::{count_of, kth_largest};
use crate::sparsity::slot::Slot;
use core::ops::Range;

/// Thresholds are updated from the observed inputs once in this number of decoded tokens.
const REFRESH: usize = 16;
/// One in this number of positions is observed: observing takes time, and a sample is enough. The position decides, and
/// not the place in a pass, so that it makes no difference in how many parts a text is read.
const STRIDE: usize = 4;

/// Constant thresholds from calibration (TEAL, arXiv 2408.14690).
pub struct Constant;

/// The largest inputs of each token.
pub struct Top;

/// Thresholds with which the tokens read so far would have met their shares.
pub struct FromObserved;

impl Chooser for Constant {
    fn input_threshold(&self, c: &mut Choice, layer: usize, slot: Slot, _: &[f32]) -> f32 {
        c.threshold(layer, slot).max(0.0)
    }
}

impl Chooser for Top {
    fn input_threshold(&self, c: &mut Choice, layer: usize, slot: Slot, x: &[f32]) -> f32 {
        let share = c.share(layer, slot);
        let k = if share <= 0.0 { 0 } else { count_of(share, x.len()) };
        let magnitudes = &mut c.scores[..x.len()];
        magnitudes.iter_mut().zip(x).for_each(|(m, x)| *m = x.abs());
        // The largest magnitude that is left out.
        kth_largest(magnitudes, k + 1, c.scratch).max(0.0)
    }
}

impl Chooser for FromObserved {
    fn before_token(&self, c: &mut Choice) {
        if (c.memory.decoded - 1).is_multiple_of(REFRESH) {
            refresh_thresholds(c);
        }
    }

    fn observe(&self, c: &mut Choice, layer: usize, slot: Slot, rows: &Rows, positions: Range<usize>) {
        let Some(observed) = c.memory.observed.as_mut().filter(|_| c.learns) else { return };
        let rows = positions.zip(rows.values.chunks_exact(rows.width));
        for (_, row) in rows.filter(|(at, _)| at.is_multiple_of(STRIDE)) {
            observed.add(layer, slot, row);
        }
    }

    fn input_threshold(&self, c: &mut Choice, layer: usize, slot: Slot, _: &[f32]) -> f32 {
        c.threshold(layer, slot).max(0.0)
    }
}

fn refresh_thresholds(c: &mut Choice) {
    let Some(observed) = &mut c.memory.observed else { return };
    for layer in 1..c.config.layers {
        for slot in Slot::MAPS {
            let at = layer * Slot::COUNT + slot as usize;
            c.memory.thresholds[at] = match c.shares[at] {
                share if share >= 1.0 => 0.0,
                share => observed.threshold(layer, slot, share),
            };
        }
    }
}
