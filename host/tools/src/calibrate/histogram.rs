//! Quantiles of a stream of numbers, in bounded memory.

use shadowllm_core::sparsity::QUANTILES;

/// A bin is the upper half of an f32's bits, so that neighbouring bins differ by less than 1 %.
const BINS: usize = 1 << 16;

/// Counts of numbers, in bins that are in the numbers' order.
#[derive(Clone)]
pub struct Histogram {
    // 32 bits are too few for the zeros of a long text.
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BINS], total: 0 }
    }
}

/// Bin of a number: its bits, changed so that their order as integers is that of the numbers.
fn bin(x: f32) -> usize {
    let bits = x.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> 16) as usize
}

/// Smallest number of a bin.
fn lowest(bin: usize) -> f32 {
    let ordered = (bin as u32) << 16;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

impl Histogram {
    /// Counts a number.
    pub fn add(&mut self, x: f32) {
        self.counts[bin(x)] += 1;
        self.total += 1;
    }

    /// Counts several numbers.
    pub fn add_all(&mut self, values: impl IntoIterator<Item = f32>) {
        values.into_iter().for_each(|x| self.add(x));
    }

    /// The numbers that shares 0 %, 1 %, ... 100 % reach or exceed, interpolated inside bins.
    pub fn quantiles(&self) -> [f32; QUANTILES] {
        let mut out = [f32::NEG_INFINITY; QUANTILES];
        let (mut above, mut next) = (0u64, 0);
        for b in (0..BINS).rev().filter(|b| self.counts[*b] > 0) {
            let n = self.counts[b];
            while next < QUANTILES {
                let wanted = self.total as f64 * next as f64 / (QUANTILES - 1) as f64;
                if wanted > (above + n) as f64 {
                    break;
                }
                let inside = (wanted - above as f64) / n as f64;
                let (low, high) = (f64::from(lowest(b)), f64::from(lowest((b + 1).min(BINS - 1))));
                out[next] = (high + (low - high) * inside) as f32;
                next += 1;
            }
            above += n;
        }
        out
    }

    /// The counts, for saving.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// A histogram of saved counts.
    pub fn from_counts(counts: Vec<u64>) -> Option<Self> {
        let total = counts.iter().sum();
        (counts.len() == BINS).then_some(Histogram { counts, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_numbers() {
        let mut h = Histogram::default();
        h.add_all((0..10_000).map(|i| (i as f32 - 5000.0) / 1000.0));
        let q = h.quantiles();
        for share in [1, 10, 25, 50, 75, 90, 99] {
            let exact = 5.0 - share as f32 / 10.0;
            assert!((q[share] - exact).abs() <= 0.01 * exact.abs() + 0.005, "{share}: {} {exact}", q[share]);
        }
        assert!(q.windows(2).all(|w| w[0] >= w[1]));
    }

    /// More equal numbers than fit into 32 bits, as the zeros of a long text, do not start from 0 again.
    #[test]
    fn many_of_a_number() {
        let mut counts = vec![0; BINS];
        counts[bin(0.0)] = u64::from(u32::MAX);
        let mut h = Histogram::from_counts(counts).unwrap();
        h.add_all([0.0, 0.0, 1.0]);
        assert_eq!(h.counts()[bin(0.0)], (1 << 32) + 1);
        assert!(h.quantiles()[50] < 1e-30);
    }
}
