//! Prefetching of weights that a decode will read soon.

use super::call::Call;
use super::gemm::Panel;
use super::heads::Heads;
use crate::format::{Matrix, SUPER, TILE_ROWS};
use crate::simd::{Lanes, Proof};
use core::marker::PhantomData;

/// How far ahead of a read weights are prefetched, in bytes. The processor's own prefetcher stops at the end of every
/// page, and cannot predict bundles at a distance from each other. Measured: prefetching this far ahead, at the
/// addresses that will really be read, raises one thread from half to most of the bandwidth.
pub(super) const DISTANCE: usize = 8192;

/// Bytes of a page.
const PAGE: usize = 4096;

/// The addresses of two runs of tiles that will be read soon: the run [`Matrix::prefetch_runs`] after the one that is
/// read now, and the next run. They are hints, and may be any addresses.
pub type Prefetch = [*const u8; 2];

/// Prefetches tiles of `P`, [`DISTANCE`] ahead of the tiles that are read. `SUPERS` says whether runs also contain the
/// numbers of super-blocks.
pub(super) struct Prefetcher<P, const SUPERS: bool> {
    at: *const u8,
    /// Tiles to the end of the run.
    left: usize,
    /// Where the next run begins.
    then: *const u8,
    /// Whether only the first tile of each page is prefetched.
    pages: bool,
    kind: PhantomData<P>,
}

impl<P, const SUPERS: bool> Clone for Prefetcher<P, SUPERS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P, const SUPERS: bool> Copy for Prefetcher<P, SUPERS> {}

impl<P: Panel, const SUPERS: bool> Prefetcher<P, SUPERS> {
    /// Bytes of a tile, with its share of the super-block's numbers where runs contain these.
    const STEP: usize = P::TILE + if SUPERS { 2 * TILE_ROWS * P::H::SUPERS / SUPER } else { 0 };

    /// Whether one token leaves all but the beginning of each page to the processor, where that follows streams: always, or
    /// if `alone`, for one thread that has the memory to itself. Measured on a Zen 4, one and two threads, in comparison with
    /// prefetching all: 8-bit tiles 1.43 and 0.98 times as fast, 4-bit ones 1.11 and 0.93, those of K-quants 0.83 and 0.82,
    /// 16-bit ones 0.90 and 0.94.
    const fn by_page(alone: bool) -> bool {
        P::L::FOLLOWS_STREAMS && P::H::SUPERS == 0 && (Self::STEP / 512 == 1 || alone && Self::STEP < 512)
    }

    /// A prefetcher for the runs of a call, of `tiles` tiles.
    #[inline(always)]
    pub(super) fn new(call: &Call, runs: Prefetch, tiles: usize) -> Self {
        let (tiles, ahead) = (tiles.max(1), const { DISTANCE / Self::STEP });
        // The comparison avoids a division: runs of weights that are read for one token are mostly longer.
        let into = if ahead < tiles { ahead } else { ahead % tiles };
        let at = runs[0].wrapping_add(into * Self::STEP);
        Prefetcher {
            at,
            left: tiles - into,
            then: runs[1],
            pages: Self::by_page(call.alone) && call.tokens == 1,
            kind: PhantomData,
        }
    }

    /// Prefetches one tile, or leaves that to the processor.
    #[inline(always)]
    pub(super) fn next(&mut self, isa: Proof<P::L>) {
        if !self.pages || self.at as usize % PAGE < Self::STEP {
            for line in 0..const { Self::STEP.div_ceil(64) } {
                P::L::prefetch(isa, self.at.wrapping_add(line * 64));
            }
        }
        self.left -= 1;
        self.at = if self.left == 0 { self.then } else { self.at.wrapping_add(Self::STEP) };
        if self.left == 0 {
            self.left = usize::MAX;
        }
    }
}

impl Matrix<'_> {
    /// How many runs (panels of `Rows`, k-blocks of `Columns`) ahead of its reads a decode prefetches weights.
    pub fn prefetch_runs(&self) -> usize {
        DISTANCE / self.geometry().unit_bytes().max(1)
    }
}
