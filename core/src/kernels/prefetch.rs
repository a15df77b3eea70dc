//! Weights that a decode will read soon, asked of the memory ahead of their use.

use crate::format::{Matrix, PanelTiles};
use crate::simd::Lanes;

/// How far ahead of its use a decode asks for weights. The processor's own prefetcher stops at every page and starts
/// anew, and knows nothing of bundles that lie apart: measured, asking this far ahead, at the places that will really
/// be read, brings one thread from half to most of the bandwidth.
pub(super) const AHEAD: usize = 8192;

/// Where a walk through runs of tiles will be [`AHEAD`] later.
#[derive(Clone, Copy)]
pub(super) struct Scout {
    at: *const u8,
    tile_bytes: usize,
    /// Tiles to the end of that run.
    left: usize,
    /// Where the run after it begins.
    then: *const u8,
}

impl Scout {
    /// For a run of `tiles`; `soon` are the starts of the runs that lie `AHEAD / bytes of a run` and one more further
    /// on.
    #[inline(always)]
    pub(super) fn new(soon: Soon, tiles: usize, tile_bytes: usize) -> Scout {
        let tiles = tiles.max(1);
        let into = AHEAD / tile_bytes % tiles;
        Scout { at: soon[0].wrapping_add(into * tile_bytes), tile_bytes, left: tiles - into, then: soon[1] }
    }

    /// Asks for one tile.
    ///
    /// # Safety
    /// `L`'s features must be there.
    #[inline(always)]
    pub(super) unsafe fn next<L: Lanes>(&mut self) {
        for line in 0..self.tile_bytes.div_ceil(64) {
            // SAFETY: a hint, whatever the address.
            unsafe { L::prefetch(self.at.wrapping_add(line * 64)) };
        }
        self.left -= 1;
        self.at = if self.left == 0 { self.then } else { self.at.wrapping_add(self.tile_bytes) };
        if self.left == 0 {
            self.left = usize::MAX;
        }
    }
}

/// Where the two runs of tiles begin that will be read soon: the run that lies [`Matrix::runs_ahead`] after the one
/// that is read now, and the run after it. Hints: any address will do.
pub type Soon = [*const u8; 2];

/// The way a kernel walks through the tiles of one panel.
#[derive(Clone, Copy)]
pub struct Walk {
    /// The tiles.
    pub tiles: PanelTiles,
    /// The runs that will be read soon.
    pub soon: Soon,
}

impl Matrix<'_> {
    /// How to visit the tiles of panel `p` in the order of the inputs.
    ///
    /// # Panics
    /// When there is no panel `p`, or no tiles.
    pub fn walk(&self, p: usize) -> Walk {
        Walk { tiles: self.panel_tiles(p), soon: [self.unit_start(0); 2] }
    }

    /// How many runs (panels of `Rows`, k-blocks of `Columns`) ahead a decode asks for weights.
    pub fn runs_ahead(&self) -> usize {
        AHEAD / self.geometry().unit_bytes().max(1)
    }

    /// Where the run of unit `u` begins, a hint: there may be no such unit.
    pub fn hint(&self, u: usize) -> *const u8 {
        self.unit_start(u)
    }
}
