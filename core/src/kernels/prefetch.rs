//! Prefetching of weights that a decode will read soon.

use super::call::Call;
use super::gemm::Panel;
use super::heads::Heads;
use crate::format::{SUPER, TILE_ROWS};
use crate::simd::{Lanes, Proof};
use core::marker::PhantomData;

/// How far ahead of a read weights are prefetched, in bytes. The processor's own prefetcher stops at the end of every
/// page, and cannot predict which groups are skipped in between. Measured: prefetching this far ahead, at the
/// addresses that will really be read, raises one thread from half to most of the bandwidth.
pub(super) const DISTANCE: usize = 8192;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Prefetches tiles of `P`, [`DISTANCE`] ahead of the tiles that are read. `SUPERS` says whether runs also contain the
/// numbers of super-blocks.
pub(super) struct Prefetcher<P, const SUPERS: bool> {
    at: *const u8,
    /// Tiles to the end of the run.
    left: usize,
    /// Where the next run begins.
    then: *const u8,
    /// The bits of an address in a page, if only the first tile of each page is prefetched; else none.
    mask: usize,
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

    /// Whether one token leaves all but the beginning of each page to the processor, where that follows streams: panels (whose runs
    /// have the numbers of super-blocks) and, if one thread has the memory to itself (`alone`), columns but those of K-quants.
    /// Measured on a Zen 4 in comparison with prefetching all: panels of 4 bits 1.05 to 1.2 times as fast, of Q6_K 1.24; with two
    /// threads columns 0.7 times as fast, with one 1.1 times, but those of Q4_K 0.75.
    const fn by_page(alone: bool) -> bool {
        P::L::FOLLOWS_STREAMS && (SUPERS || alone && P::H::SUPERS == 0)
    }

    /// A prefetcher for the first run of a call, of `tiles` tiles.
    #[inline(always)]
    pub(super) fn new(call: &Call, tiles: usize) -> Self {
        let (runs, tiles) = (call.runs(), tiles.max(1));
        let begin = |i: usize| {
            runs.list.get(i).map_or(runs.next, |run| if SUPERS && P::H::SUPERS > 0 { run.supers } else { run.start })
        };
        // The first tile to be prefetched lies in this run or, where runs are short, in a later one.
        let (mut into, mut run) = (const { DISTANCE / Self::STEP }, 0);
        while into >= tiles && run < runs.list.len() {
            (into, run) = (into - tiles, run + 1);
        }
        Prefetcher {
            at: begin(run).wrapping_add(into * Self::STEP),
            left: tiles.saturating_sub(into).max(1),
            then: begin(run + 1),
            mask: if Self::by_page(call.alone) && call.tokens == 1 { PAGE - 1 } else { 0 },
            kind: PhantomData,
        }
    }

    /// Prefetches one tile, or leaves that to the processor.
    #[inline(always)]
    pub(super) fn next(&mut self, isa: Proof<P::L>) {
        if self.at as usize & self.mask < Self::STEP {
            for line in 0..const { Self::STEP.div_ceil(64) } {
                P::L::prefetch(isa, self.at.wrapping_add(line * 64));
            }
        }
        // After the end of the run the count wraps, and the next run is prefetched to its end.
        self.left = self.left.wrapping_sub(1);
        self.at = core::hint::select_unpredictable(self.left == 0, self.then, self.at.wrapping_add(Self::STEP));
    }
}
