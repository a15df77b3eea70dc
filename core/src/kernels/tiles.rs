//! Where a panel's tiles come from: stored as tiles, or put together from lines.

use super::lines::LineFormat;
use super::matmul::Scout;
use super::matrix::Walk;
use crate::format::TILE_ROWS;
use crate::simd::Lanes;
use core::marker::PhantomData;

/// The tiles of one panel, in the order of the inputs. Copied to start over.
///
/// # Safety
/// [`Tiles::next`] must return pointers to whole tiles.
pub(super) unsafe trait Tiles<L: Lanes>: Copy {
    /// The next tile, valid until the one after it is asked for. `once` says that the weights are read for
    /// one token only, so that later ones should be asked of the memory now.
    ///
    /// # Safety
    /// There must be one more, and `L`'s features must be there.
    unsafe fn next(&mut self, once: bool) -> *const u8;
}

/// Tiles as they are stored.
#[derive(Clone, Copy)]
pub(super) struct StoredTiles {
    walk: Walk,
    group: *const u8,
    next: *const u8,
    left: usize,
    scout: Scout,
}

impl StoredTiles {
    /// The tiles that `walk` visits.
    #[inline(always)]
    pub(super) fn new(walk: &Walk, tile_bytes: usize) -> Self {
        let scout = Scout::new(walk.soon, walk.inner, tile_bytes);
        StoredTiles { walk: *walk, group: walk.start, next: walk.start, left: walk.inner, scout }
    }
}

// SAFETY: visits what the walk says, which stays inside the matrix.
unsafe impl<L: Lanes> Tiles<L> for StoredTiles {
    #[inline(always)]
    unsafe fn next(&mut self, once: bool) -> *const u8 {
        let tile = self.next;
        self.left -= 1;
        if self.left == 0 {
            self.group = self.group.wrapping_add(self.walk.outer_stride);
            (self.next, self.left) = (self.group, self.walk.inner);
        } else {
            self.next = self.next.wrapping_add(self.walk.inner_stride);
        }
        if once {
            // SAFETY: features by the caller.
            unsafe { self.scout.next::<L>() };
        }
        tile
    }
}

/// Tiles one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Run {
    next: *const u8,
    tile_bytes: usize,
}

impl Run {
    /// Those that begin at `start`.
    pub(super) fn new(start: *const u8, tile_bytes: usize) -> Self {
        Run { next: start, tile_bytes }
    }
}

// SAFETY: as many tiles as its maker promises.
unsafe impl<L: Lanes> Tiles<L> for Run {
    #[inline(always)]
    unsafe fn next(&mut self, _once: bool) -> *const u8 {
        let tile = self.next;
        self.next = tile.wrapping_add(self.tile_bytes);
        tile
    }
}

/// The tiles of one panel, to be put together in the order of the inputs.
pub(super) trait Gather<L: Lanes> {
    /// Makes the next tile. `once` says that it is read for one token only, so that what will be gathered later
    /// should be asked of the memory now.
    ///
    /// # Safety
    /// There must be one more, and room for it at `tile`; `L`'s features must be there.
    unsafe fn next(&mut self, once: bool, tile: *mut u8);
}

/// Tiles out of the lines of 16 outputs.
pub(super) struct GatheredRows<'a, F> {
    rows: &'a [*const u8; TILE_ROWS],
    /// The lines that will be asked for after these.
    later: &'a [*const u8; TILE_ROWS],
    /// Bytes of every line consumed.
    at: usize,
    format: PhantomData<F>,
}

impl<'a, F: LineFormat> GatheredRows<'a, F> {
    /// Tiles of the outputs whose lines begin at `rows`.
    ///
    /// # Safety
    /// As many blocks as tiles are asked for must be readable behind every row.
    pub(super) unsafe fn new(rows: &'a [*const u8; TILE_ROWS], later: &'a [*const u8; TILE_ROWS]) -> Self {
        GatheredRows { rows, later, at: 0, format: PhantomData }
    }
}

impl<L: Lanes, F: LineFormat> Gather<L> for GatheredRows<'_, F> {
    #[inline(always)]
    unsafe fn next(&mut self, once: bool, tile: *mut u8) {
        let at = self.at;
        self.at += F::BYTES;
        if once && (at == 0 || at / 64 != (at - F::BYTES) / 64) {
            for later in self.later {
                // SAFETY: a hint, whatever the address; features by the caller.
                unsafe { L::prefetch(later.wrapping_add(at)) };
            }
        }
        // SAFETY: blocks by the contract of `new`.
        unsafe {
            let blocks = core::array::from_fn(|r| self.rows[r].add(at));
            F::gather::<L>(&blocks, tile);
        }
    }
}
