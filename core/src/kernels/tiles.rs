//! Where a panel's tiles come from: stored as tiles, or put together from lines.

use super::codes::Codes;
use super::prefetch::{Scout, Walk};
use crate::format::{PanelTiles, TILE_ROWS};
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
    tiles: PanelTiles,
    group: *const u8,
    next: *const u8,
    left: usize,
    scout: Scout,
}

impl StoredTiles {
    /// The tiles that `walk` visits.
    #[inline(always)]
    pub(super) fn new(walk: &Walk, tile_bytes: usize) -> Self {
        let Walk { tiles, soon } = *walk;
        let scout = Scout::new(soon, tiles.inner, tile_bytes);
        StoredTiles { tiles, group: tiles.start, next: tiles.start, left: tiles.inner, scout }
    }
}

// SAFETY: visits what the walk says, which stays inside the matrix.
unsafe impl<L: Lanes> Tiles<L> for StoredTiles {
    #[inline(always)]
    unsafe fn next(&mut self, once: bool) -> *const u8 {
        let tile = self.next;
        self.left -= 1;
        if self.left == 0 {
            self.group = self.group.wrapping_add(self.tiles.outer_stride);
            (self.next, self.left) = (self.group, self.tiles.inner);
        } else {
            self.next = self.next.wrapping_add(self.tiles.inner_stride);
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
    /// Makes the next `n` tiles, at most 8. `once` says that they are read for one token only, so that what will
    /// be gathered later should be asked of the memory now.
    ///
    /// # Safety
    /// There must be so many more, and room for them at `room`; `L`'s features must be there.
    unsafe fn run(&mut self, n: usize, once: bool, room: *mut u8);
}

/// Tiles out of the lines of 16 outputs.
pub(super) struct GatheredRows<'a, C> {
    rows: &'a [*const u8; TILE_ROWS],
    /// The lines that will be asked for after these.
    later: &'a [*const u8; TILE_ROWS],
    /// Blocks of a line.
    blocks: usize,
    kb: usize,
    codes: PhantomData<C>,
}

impl<'a, C: Codes> GatheredRows<'a, C> {
    /// Tiles of the outputs whose lines of so many blocks begin at `rows`.
    ///
    /// # Safety
    /// The lines must be there.
    pub(super) unsafe fn new(
        rows: &'a [*const u8; TILE_ROWS],
        later: &'a [*const u8; TILE_ROWS],
        blocks: usize,
    ) -> Self {
        GatheredRows { rows, later, blocks, kb: 0, codes: PhantomData }
    }
}

/// The same lines from a byte on.
///
/// # Safety
/// They must be that long.
#[inline(always)]
unsafe fn behind(rows: &[*const u8; TILE_ROWS], at: usize) -> [*const u8; TILE_ROWS] {
    let mut behind = *rows;
    for row in &mut behind {
        // SAFETY: by the contract.
        *row = unsafe { row.add(at) };
    }
    behind
}

impl<L: Lanes, C: Codes> Gather<L> for GatheredRows<'_, C> {
    #[inline(always)]
    unsafe fn run(&mut self, n: usize, once: bool, room: *mut u8) {
        let (tile, kb) = (C::FORMAT.tile_bytes(), self.kb);
        let codes = self.blocks * C::SHARED + kb * C::BYTES;
        self.kb += n;
        // SAFETY: blocks by the contract of `new`; the rest by this one's.
        unsafe {
            if once {
                for r in 0..TILE_ROWS {
                    if C::SHARED > 0 {
                        L::prefetch(self.later[r].wrapping_add(2 * kb));
                    }
                    let mut at = 0;
                    while at < n * C::BYTES {
                        L::prefetch(self.later[r].wrapping_add(codes + at));
                        at += 64;
                    }
                    if self.kb == self.blocks {
                        L::prefetch(self.later[r].wrapping_add(codes + n * C::BYTES - 1));
                    }
                }
            }
            for i in 0..C::SHARED / 2 {
                let halves = behind(self.rows, 2 * (i * self.blocks + kb));
                L::gather_halves(&halves, n, room.add(2 * TILE_ROWS * i), tile);
            }
            C::gather_rows::<L>(&behind(self.rows, codes), n, room.add(C::SHARED * TILE_ROWS), tile);
        }
    }
}
