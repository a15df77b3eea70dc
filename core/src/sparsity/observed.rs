//! Histograms of the inputs that a session has computed, which give thresholds without calibration.

use super::slot::{Slot, Source};
use crate::arena::Arena;
use crate::error::Error;

/// Bins of magnitudes, four to an octave: a bin is a float's exponent and the first two bits of its fraction.
const BINS: usize = 192;
const SHIFT: u32 = f32::MANTISSA_DIGITS - 1 - 2;
/// The bin of 2^-40, which also counts smaller magnitudes; the last bin also counts those above 2^8.
const LOWEST: u32 = (127 - 40) << 2;

/// Counts of magnitudes, [layers, sources, BINS].
pub struct Observed<'m> {
    pub counts: &'m mut [u32],
}

impl<'m> Observed<'m> {
    /// Empty histograms.
    pub fn new(arena: &mut Arena<'m>, layers: usize) -> Result<Self, Error> {
        Ok(Observed { counts: arena.rows(layers, Source::COUNT * BINS)? })
    }

    fn bins(&mut self, layer: usize, slot: Slot) -> &mut [u32] {
        &mut self.counts[(layer * Source::COUNT + slot.source() as usize) * BINS..][..BINS]
    }

    /// Counts the inputs of a slot.
    pub fn add(&mut self, layer: usize, slot: Slot, x: &[f32]) {
        let bins = self.bins(layer, slot);
        for x in x {
            let bin = (x.abs().to_bits() >> SHIFT).saturating_sub(LOWEST) as usize;
            let count = &mut bins[bin.min(BINS - 1)];
            *count = count.saturating_add(1);
        }
    }

    /// The magnitude that a share of a slot's inputs exceeds; 0 when none were counted.
    pub fn threshold(&mut self, layer: usize, slot: Slot, share: f32) -> f32 {
        let bins = self.bins(layer, slot);
        let edge = |bin: usize| f32::from_bits((bin as u32 + LOWEST) << SHIFT);
        let mut left = bins.iter().map(|n| *n as f32).sum::<f32>() * share;
        for bin in (1..BINS).rev() {
            let n = bins[bin] as f32;
            if n > 0.0 && left < n {
                return edge(bin + 1) - (edge(bin + 1) - edge(bin)) * left / n;
            }
            left -= n;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::MaybeUninit;

    #[test]
    fn a_share_of_what_was_seen_exceeds_the_threshold() {
        let mut memory = [MaybeUninit::uninit(); 2 * Source::COUNT * BINS * 4 + 64];
        let mut seen = Observed::new(&mut Arena::new(&mut memory), 2).unwrap();
        assert_eq!(seen.threshold(1, Slot::Q, 0.5), 0.0);
        let x: [f32; 1000] = core::array::from_fn(|i| (i as f32 - 500.0) / 300.0);
        seen.add(1, Slot::Gate, &x);
        for share in [0.1f32, 0.3, 0.5, 0.9] {
            let least = seen.threshold(1, Slot::Up, share);
            let above = x.iter().filter(|x| x.abs() > least).count() as f32 / 1000.0;
            assert!((above - share).abs() < 0.02, "{share}: {above} above {least}");
        }
        // Zeros exceed no threshold; half of the counted inputs exceed this one.
        seen.counts.fill(0);
        seen.add(0, Slot::O, &[0.0, 0.0, 1.0, -2.0]);
        assert_eq!(seen.threshold(0, Slot::O, 0.9), 0.0);
        assert!((1.0..2.0).contains(&seen.threshold(0, Slot::O, 0.25)));
        assert_eq!(seen.threshold(1, Slot::Up, 0.5), 0.0);
    }
}
