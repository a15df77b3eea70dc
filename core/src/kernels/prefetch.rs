//! Weights that a decode will read soon, asked of the memory ahead of their use.

use crate::format::Matrix;
use crate::simd::{Lanes, Proof};

/// Bytes between a read of weights and the weights that are prefetched meanwhile. The processor's own prefetcher stops at
/// every page and starts anew, and knows nothing of bundles that lie apart: measured, asking this far ahead, at the places
/// that will really be read, brings one thread from half to most of the bandwidth.
pub(super) const DISTANCE: usize = 8192;

/// Where the two runs of tiles begin that will be read soon: the run that lies [`Matrix::prefetch_runs`] after the one
/// that is read now, and the run after it. Hints: any address will do.
pub type Prefetch = [*const u8; 2];

/// Prefetches tiles, [`DISTANCE`] ahead of a walk through runs of them.
#[derive(Clone, Copy)]
pub(super) struct Prefetcher {
    at: *const u8,
    tile_bytes: usize,
    /// Tiles to the end of the run.
    left: usize,
    /// Where the run after it begins.
    then: *const u8,
}

impl Prefetcher {
    /// For a run of `tiles`.
    #[inline(always)]
    pub(super) fn new(runs: Prefetch, tiles: usize, tile_bytes: usize) -> Prefetcher {
        let tiles = tiles.max(1);
        let into = DISTANCE / tile_bytes.max(1) % tiles.max(1);
        Prefetcher { at: runs[0].wrapping_add(into * tile_bytes), tile_bytes, left: tiles - into, then: runs[1] }
    }

    /// Prefetches one tile.
    #[inline(always)]
    pub(super) fn next<L: Lanes>(&mut self, isa: Proof<L>) {
        for line in 0..self.tile_bytes.div_ceil(64) {
            L::prefetch(isa, self.at.wrapping_add(line * 64));
        }
        self.left -= 1;
        self.at = if self.left == 0 { self.then } else { self.at.wrapping_add(self.tile_bytes) };
        if self.left == 0 {
            self.left = usize::MAX;
        }
    }
}

impl Matrix<'_> {
    /// How many runs (panels of `Rows`, k-blocks of `Columns`) ahead a decode prefetches weights.
    pub fn prefetch_runs(&self) -> usize {
        DISTANCE / self.geometry().unit_bytes().max(1)
    }
}
