//! The sources of a panel's tiles: tiles as they are stored, or tiles put together from lines.

use super::call::{Call, RowStarts};
use super::codes::{Affine4Codes, Affine5Codes, Codes, Int5Codes, Int6Codes, Int8Codes, Table4Codes, upper_bits};
use super::gemm::Panel;
use super::heads::Heads;
use super::prefetch::Prefetcher;
use crate::format::{BLOCK, Lines, PanelTiles, TILE_ROWS};
use crate::simd::{LANES, Lanes, Proof, join_nibbles, zip};
use core::marker::PhantomData;

/// The tiles of one panel, in the order of the inputs. A copy starts over from the same tile.
pub(super) trait Tiles<L: Lanes>: Copy {
    /// The address of the next tile, which stays valid as long as the memory that the tiles are in.
    fn next(&mut self) -> *const u8;

    /// Prefetches a tile that will be read later.
    fn prefetch(&mut self, _isa: Proof<L>) {}

    /// The address of the numbers of the next tile's super-block.
    fn supers(&self) -> *const u8;
}

/// Tiles of `P` as they are stored.
pub(super) struct StoredTiles<P> {
    tiles: PanelTiles,
    group: *const u8,
    next: *const u8,
    supers: *const u8,
    left: usize,
    prefetcher: Prefetcher<P, true>,
}

impl<P> Clone for StoredTiles<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for StoredTiles<P> {}

impl<P: Panel> StoredTiles<P> {
    /// The tiles of a call's first run.
    #[inline(always)]
    pub(super) fn new(call: &Call) -> Self {
        let tiles = call.runs().tiles;
        // All super-blocks of a panel form one run.
        let run = if P::H::SUPERS > 0 { tiles.outer * tiles.inner } else { tiles.inner };
        let prefetcher = Prefetcher::new(call, run);
        StoredTiles {
            tiles,
            group: tiles.start,
            next: tiles.start,
            supers: tiles.supers,
            left: tiles.inner,
            prefetcher,
        }
    }
}

impl<P: Panel> Tiles<P::L> for StoredTiles<P> {
    #[inline(always)]
    fn next(&mut self) -> *const u8 {
        let tile = self.next;
        self.left -= 1;
        if self.left == 0 {
            self.group = self.group.wrapping_add(self.tiles.outer_stride);
            self.supers = self.supers.wrapping_add(self.tiles.outer_stride);
            (self.next, self.left) = (self.group, self.tiles.inner);
        } else {
            self.next = self.next.wrapping_add(self.tiles.inner_stride);
        }
        tile
    }

    #[inline(always)]
    fn prefetch(&mut self, isa: Proof<P::L>) {
        if self.tiles.inner_stride == P::TILE {
            return self.prefetcher.next(isa);
        }
        // Tiles apart from each other: after each lies that of the next panel, which is read next. All but the first of these
        // are prefetched.
        for line in 0..const { P::TILE.div_ceil(64) } {
            P::L::prefetch(isa, self.next.wrapping_add(P::TILE + line * 64));
        }
    }

    #[inline(always)]
    fn supers(&self) -> *const u8 {
        self.supers
    }
}

/// Tiles that follow each other; those of one super-block, in formats with super-blocks.
#[derive(Clone, Copy)]
pub(super) struct Run {
    next: *const u8,
    tile_bytes: usize,
    supers: *const u8,
}

impl Run {
    /// Tiles from address `start` on.
    pub(super) fn new(start: *const u8, tile_bytes: usize, supers: *const u8) -> Self {
        Run { next: start, tile_bytes, supers }
    }
}

impl<L: Lanes> Tiles<L> for Run {
    #[inline(always)]
    fn next(&mut self) -> *const u8 {
        let tile = self.next;
        self.next = tile.wrapping_add(self.tile_bytes);
        tile
    }

    #[inline(always)]
    fn supers(&self) -> *const u8 {
        self.supers
    }
}

/// The tiles of one panel, to be put together in the order of the inputs.
pub(super) trait Gather {
    /// Puts the next `n` tiles together, at most 8; in formats with super-blocks these are all tiles of one, and the
    /// address of its numbers is returned. `once` says that they are read for one token only, so that lines of other
    /// outputs are prefetched.
    ///
    /// # Safety
    /// The lines must be readable and have `n` more blocks; `n` tiles must be writable at `room`.
    unsafe fn run<L: Lanes>(&mut self, isa: Proof<L>, n: usize, once: bool, room: *mut u8) -> *const u8;
}

/// Tiles out of the lines of 16 outputs.
pub(super) struct GatheredRows<'a, C> {
    rows: &'a RowStarts,
    /// Lines to be prefetched.
    prefetch: &'a RowStarts,
    /// Blocks of a line.
    blocks: usize,
    kb: usize,
    codes: PhantomData<C>,
}

impl<'a, C: Codes> GatheredRows<'a, C> {
    /// Tiles of the outputs whose lines of `blocks` blocks begin at `rows`.
    pub(super) fn new(rows: &'a RowStarts, prefetch: &'a RowStarts, blocks: usize) -> Self {
        GatheredRows { rows, prefetch, blocks, kb: 0, codes: PhantomData }
    }

    /// Prefetches the blocks of other lines at the places of the next `n` blocks of these.
    #[inline(always)]
    fn prefetch<L: Lanes>(&self, isa: Proof<L>, n: usize) {
        let codes = self.blocks * C::SHARED + self.kb * C::BYTES;
        for line in self.prefetch {
            if C::SHARED > 0 {
                L::prefetch(isa, line.wrapping_add(2 * self.kb));
            }
            let mut at = 0;
            while at < n * C::BYTES {
                L::prefetch(isa, line.wrapping_add(codes + at));
                at += 64;
            }
            if self.kb + n == self.blocks {
                L::prefetch(isa, line.wrapping_add(codes + n * C::BYTES - 1));
            }
        }
    }
}

/// The same lines, `at` bytes further on.
#[inline(always)]
fn advance(rows: &RowStarts, at: usize) -> RowStarts {
    let mut rows = *rows;
    for row in &mut rows {
        *row = row.wrapping_add(at);
    }
    rows
}

impl<C: Codes> Gather for GatheredRows<'_, C> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&mut self, isa: Proof<L>, n: usize, once: bool, room: *mut u8) -> *const u8 {
        let (tile, kb) = (C::FORMAT.tile_bytes(), self.kb);
        if once {
            self.prefetch(isa, n);
        }
        self.kb += n;
        // SAFETY: the caller's lines have `n` more blocks, from `kb` on, with scales before codes (of at least 16
        // bytes), and `n` tiles fit in `room`.
        unsafe {
            for i in 0..C::SHARED / 2 {
                let halves = advance(self.rows, 2 * (i * self.blocks + kb));
                L::gather_halves(isa, &halves, n, room.add(2 * TILE_ROWS * i), tile);
            }
            let codes = advance(self.rows, self.blocks * C::SHARED + kb * C::BYTES);
            C::gather_rows::<L>(isa, &codes, n, room.add(C::SHARED * TILE_ROWS), tile);
        }
        core::ptr::null()
    }
}

/// Codes of 32 outputs in the line of an input.
pub(super) trait InputCodes: Codes {
    /// Writes the codes of a tile of outputs `16 * half..16 * half + 16` of 32, which are the same part of 32 lines.
    ///
    /// # Safety
    /// [`Codes::BYTES`] must be readable at every line, and a tile's codes writable at `tile`.
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8);
}

impl InputCodes for Int8Codes {
    #[inline(always)]
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
        for quad in 0..BLOCK / 4 {
            // SAFETY: the caller gives 32 readable bytes at every line, of which one half is read, and a tile of eight
            // quads of 64 bytes.
            unsafe {
                let part = |i: usize| lines[4 * quad + i].add(half * LANES).cast::<u128>().read_unaligned();
                zip([part(0), part(1), part(2), part(3)], tile.add(64 * quad));
            }
        }
    }
}

/// Nibbles of tiles: a quad has inputs `4 * quad..` in the low halves of its bytes, and the inputs 16 further on in the
/// high halves.
///
/// # Safety
/// As [`InputCodes::gather`].
#[inline(always)]
unsafe fn gather_nibbles(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
    for quad in 0..4 {
        // SAFETY: the caller gives 16 readable bytes of nibbles at every line, and a tile with four times 64 bytes of
        // them.
        unsafe {
            let part = |i: usize| join_nibbles(&*lines[4 * quad + i].cast(), &*lines[16 + 4 * quad + i].cast(), half);
            zip([part(0), part(1), part(2), part(3)], tile.add(64 * quad));
        }
    }
}

/// Upper bits of tiles (`BITS` a code), which are stored after the nibbles of lines.
///
/// # Safety
/// As [`InputCodes::gather`], for `BITS` upper bits.
#[inline(always)]
unsafe fn gather_upper<const BITS: usize>(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
    // `[part][output][input of a quad]`: a byte has the bits of `8 / BITS` quads.
    let mut upper = [[[0u8; 4]; TILE_ROWS]; BITS];
    let quads = 8 / BITS.max(1);
    for (k, line) in lines.iter().enumerate() {
        // SAFETY: the caller gives lines with 16 readable bytes of nibbles and `4 * BITS` of upper bits after them.
        let bits = unsafe { upper_bits::<BITS>(line.add(LANES)) };
        let (quad, i) = (k / 4, k % 4);
        for r in 0..TILE_ROWS {
            upper[quad / quads][r][i] |= bits[half * TILE_ROWS + r] << (quad % quads * BITS);
        }
    }
    // SAFETY: the caller's tile has room for these bytes after its 256 bytes of nibbles.
    unsafe { tile.add(16 * TILE_ROWS).cast::<[[[u8; 4]; TILE_ROWS]; BITS]>().write_unaligned(upper) }
}

macro_rules! gather_packed {
    ($codes:ty, $bits:literal) => {
        impl InputCodes for $codes {
            #[inline(always)]
            unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
                // SAFETY: the caller meets the requirements of `gather`, which are those of both functions.
                unsafe {
                    gather_nibbles(lines, half, tile);
                    if $bits > 0 {
                        gather_upper::<$bits>(lines, half, tile);
                    }
                }
            }
        }
    };
}
gather_packed!(Table4Codes, 0);
gather_packed!(Affine4Codes, 0);
gather_packed!(Int5Codes, 1);
gather_packed!(Affine5Codes, 1);
gather_packed!(Int6Codes, 2);

/// Tiles out of the lines of 32 inputs.
pub(super) struct GatheredInputs<'a, H, C> {
    lines: &'a Lines,
    panel: usize,
    kb: usize,
    kinds: PhantomData<(H, C)>,
}

impl<'a, H: Heads, C: InputCodes> GatheredInputs<'a, H, C> {
    /// Tiles of `panel`.
    pub(super) fn new(lines: &'a Lines, panel: usize) -> Self {
        GatheredInputs { lines, panel, kb: 0, kinds: PhantomData }
    }
}

impl<H: Heads, C: InputCodes> Gather for GatheredInputs<'_, H, C> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(&mut self, _isa: Proof<L>, n: usize, _once: bool, room: *mut u8) -> *const u8 {
        let outputs = self.lines.blocks() * BLOCK;
        // SAFETY: `kb` is a k-block of the matrix, and lines of inputs share heads.
        let supers = unsafe { self.lines.supers(self.kb) }.wrapping_add(2 * TILE_ROWS * H::SUPERS * self.panel);
        for i in 0..n {
            // SAFETY: the caller's matrix has `n` more k-blocks, each with 32 lines and heads for all outputs, and `n`
            // tiles fit in `room`.
            unsafe {
                let tile = room.add(i * (size_of::<H>() + TILE_ROWS * C::BYTES));
                tile.cast::<H>().write_unaligned(H::of_panel(self.lines.heads(self.kb), outputs, self.panel));
                let skip = self.panel / 2 * C::BYTES;
                let (first, stride) = self.lines.of_block(self.kb);
                let mut lines = [first; BLOCK];
                for (k, line) in lines.iter_mut().enumerate() {
                    *line = first.add(k * stride + skip);
                }
                C::gather(&lines, self.panel % 2, tile.add(size_of::<H>()));
            }
            self.kb += 1;
        }
        supers
    }
}
