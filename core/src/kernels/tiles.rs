//! Where a panel's tiles come from: stored as tiles, or put together from the lines of 16 outputs.

use super::lines::LineFormat;
use super::matmul::prefetch_ahead;
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
    tile_bytes: usize,
    group: *const u8,
    next: *const u8,
    left: usize,
}

impl StoredTiles {
    /// The tiles that `walk` visits.
    pub(super) fn new(walk: &Walk, tile_bytes: usize) -> Self {
        StoredTiles { walk: *walk, tile_bytes, group: walk.start, next: walk.start, left: walk.inner }
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
            unsafe { prefetch_ahead::<L>(tile, self.tile_bytes) };
        }
        tile
    }
}

/// Bytes of the largest tile (f32).
pub(super) const LARGEST_TILE: usize = 2048;

/// Tiles put together from lines, one at a time in `tile`.
pub(super) struct GatheredTiles<'a, F> {
    rows: &'a [*const u8; TILE_ROWS],
    /// The lines that will be asked for after these.
    later: &'a [*const u8; TILE_ROWS],
    /// Bytes of every line consumed.
    at: usize,
    tile: *mut u8,
    format: PhantomData<F>,
}

impl<F> Clone for GatheredTiles<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for GatheredTiles<'_, F> {}

impl<'a, F: LineFormat> GatheredTiles<'a, F> {
    /// Tiles of the outputs whose lines begin at `rows`, to be made in `tile`.
    ///
    /// # Safety
    /// As many blocks as tiles are asked for must be readable behind every row, and [`LARGEST_TILE`] bytes
    /// writable at `tile`, by nobody else.
    pub(super) unsafe fn new(
        rows: &'a [*const u8; TILE_ROWS],
        later: &'a [*const u8; TILE_ROWS],
        tile: *mut u8,
    ) -> Self {
        GatheredTiles { rows, later, at: 0, tile, format: PhantomData }
    }
}

// SAFETY: `gather` writes a whole tile.
unsafe impl<L: Lanes, F: LineFormat> Tiles<L> for GatheredTiles<'_, F> {
    #[inline(always)]
    unsafe fn next(&mut self, once: bool) -> *const u8 {
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
            F::gather::<L>(&blocks, self.tile);
        }
        self.tile
    }
}
