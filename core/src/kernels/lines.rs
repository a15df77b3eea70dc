//! Matrices made of lines: what a block of 32 weights means, and the products of matrices stored by input.
//!
//! A block is arranged as GGML's: scale (and minimum) first, then the codes, low halves of the bytes the
//! first 16. Weights are exact in f32 (but for the one rounding of `scale * code + minimum`), inputs are not
//! quantized: the contract is that of the float formats, with every weight decoded first.

use super::RawInput;
use super::matmul::accumulate;
use super::matrix::Lines;
use crate::format::{BLOCK, Format, TILE_ROWS};
use crate::simd::{LANES, Lanes};
use core::ops::Range;

/// A block's arrangement.
pub(super) trait LineFormat: Copy {
    /// Bytes of a block.
    const BYTES: usize;

    /// The 32 weights.
    ///
    /// # Safety
    /// `block` must point to a block; `L`'s features must be there.
    unsafe fn weights<L: Lanes>(block: *const u8, table: &[i8; 16]) -> [L; 2];

    /// Writes 16 blocks as one tile.
    ///
    /// # Safety
    /// Every pointer must be to a block, and `tile` to room for a tile; `L`'s features must be there.
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8);
}

/// Copies one number of every block to the front of a tile.
///
/// # Safety
/// There must be a u16 at `at` in every block and room for 16 at `to`.
#[inline(always)]
unsafe fn gather_halves(blocks: &[*const u8; TILE_ROWS], at: usize, to: *mut u8) {
    // SAFETY: by the contract. Written in one go: what is read in one go must not wait for sixteen stores.
    unsafe {
        let halves: [u16; TILE_ROWS] = core::array::from_fn(|r| blocks[r].add(at).cast::<u16>().read_unaligned());
        to.cast::<[u16; TILE_ROWS]>().write_unaligned(halves);
    }
}

/// The same blocks behind their first `n` bytes.
///
/// # Safety
/// They must be that long.
#[inline(always)]
unsafe fn behind(blocks: &[*const u8; TILE_ROWS], n: usize) -> [*const u8; TILE_ROWS] {
    // SAFETY: by the contract.
    blocks.map(|b| unsafe { b.add(n) })
}

/// Transposes 16 blocks of 32 numbers.
///
/// # Safety
/// Every pointer must be to 32 numbers, `tile` to room for 512.
#[inline(always)]
unsafe fn gather_numbers<T: Copy>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
    for k in 0..BLOCK {
        for (r, block) in blocks.iter().enumerate() {
            // SAFETY: by the contract.
            unsafe {
                let number = block.cast::<T>().add(k).read_unaligned();
                tile.cast::<T>().add(k * TILE_ROWS + r).write_unaligned(number);
            }
        }
    }
}

/// [`Format::F32`].
#[derive(Clone, Copy)]
pub(super) struct F32Line;
impl LineFormat for F32Line {
    const BYTES: usize = Format::F32.block_bytes();

    #[inline(always)]
    unsafe fn weights<L: Lanes>(block: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: a block by the contract.
        unsafe { [L::load(block.cast()), L::load(block.cast::<f32>().add(LANES))] }
    }

    #[inline(always)]
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe { gather_numbers::<f32>(blocks, tile) }
    }
}

/// [`Format::F16`].
#[derive(Clone, Copy)]
pub(super) struct F16Line;
impl LineFormat for F16Line {
    const BYTES: usize = Format::F16.block_bytes();

    #[inline(always)]
    unsafe fn weights<L: Lanes>(block: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: a block by the contract.
        unsafe { [L::load_f16(block.cast()), L::load_f16(block.cast::<u16>().add(LANES))] }
    }

    #[inline(always)]
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe { gather_numbers::<u16>(blocks, tile) }
    }
}

/// Signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Int8Line;
impl LineFormat for Int8Line {
    const BYTES: usize = Format::Q8_0.block_bytes();

    #[inline(always)]
    unsafe fn weights<L: Lanes>(block: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: a block by the contract.
        unsafe {
            let scale = L::splat_f16(block.cast());
            let codes = block.add(2).cast::<i8>();
            [L::load_i8(codes).mul(scale), L::load_i8(codes.add(LANES)).mul(scale)]
        }
    }

    #[inline(always)]
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe {
            gather_halves(blocks, 0, tile);
            L::interleave(&behind(blocks, 2), BLOCK / 4, tile.add(2 * TILE_ROWS));
        }
    }
}

/// Nibbles through a table.
#[derive(Clone, Copy)]
pub(super) struct Table4Line;
impl LineFormat for Table4Line {
    const BYTES: usize = Format::Q4_0.block_bytes();

    #[inline(always)]
    unsafe fn weights<L: Lanes>(block: *const u8, table: &[i8; 16]) -> [L; 2] {
        // SAFETY: a block by the contract.
        unsafe {
            let scale = L::splat_f16(block.cast());
            let (low, high) = L::lookup(block.add(2), table);
            [low.mul(scale), high.mul(scale)]
        }
    }

    #[inline(always)]
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe {
            gather_halves(blocks, 0, tile);
            L::interleave(&behind(blocks, 2), BLOCK / 8, tile.add(2 * TILE_ROWS));
        }
    }
}

/// Unsigned nibbles with a minimum.
#[derive(Clone, Copy)]
pub(super) struct Affine4Line;
impl LineFormat for Affine4Line {
    const BYTES: usize = Format::Q4_1.block_bytes();

    #[inline(always)]
    unsafe fn weights<L: Lanes>(block: *const u8, _table: &[i8; 16]) -> [L; 2] {
        const CODES: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        // SAFETY: a block by the contract.
        unsafe {
            let (scale, min) = (L::splat_f16(block.cast()), L::splat_f16(block.add(2).cast()));
            let (low, high) = L::lookup(block.add(4), &CODES);
            [low.mul(scale).add(min), high.mul(scale).add(min)]
        }
    }

    #[inline(always)]
    unsafe fn gather<L: Lanes>(blocks: &[*const u8; TILE_ROWS], tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe {
            gather_halves(blocks, 0, tile);
            gather_halves(blocks, 2, tile.add(2 * TILE_ROWS));
            L::interleave(&behind(blocks, 4), BLOCK / 8, tile.add(4 * TILE_ROWS));
        }
    }
}

/// Inputs whose lines are added in one go: their sums stay in registers.
const TOGETHER: usize = 4;

/// Adds the lines of the inputs in `active` to outputs `32 * blocks`, one token.
///
/// # Safety
/// Every active line must be there with the blocks, `x` must have a value for each, `y` (which stands for the
/// first block's first output) 32 floats a block; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn gemv_inputs<L: Lanes, F: LineFormat>(
    table: &[i8; 16],
    lines: &Lines,
    active: &[u32],
    x: *const f32,
    blocks: Range<usize>,
    y: *mut f32,
) {
    let (chunks, rest) = active.as_chunks::<TOGETHER>();
    for (i, chunk) in chunks.iter().enumerate() {
        // What comes next is asked for now: its place is known, and no processor guesses it.
        let later = chunks.get(i + 1).unwrap_or(chunk);
        // SAFETY: by the contract.
        unsafe { add_inputs::<L, F, TOGETHER>(table, lines, chunk, later, x, blocks.clone(), y) };
    }
    for i in rest {
        // SAFETY: by the contract.
        unsafe { add_inputs::<L, F, 1>(table, lines, &[*i], &[*i], x, blocks.clone(), y) };
    }
}

/// Adds `N` lines.
///
/// # Safety
/// As [`gemv_inputs`].
#[inline(always)]
unsafe fn add_inputs<L: Lanes, F: LineFormat, const N: usize>(
    table: &[i8; 16],
    lines: &Lines,
    active: &[u32; N],
    later: &[u32; N],
    x: *const f32,
    blocks: Range<usize>,
    y: *mut f32,
) {
    // SAFETY: by the contract of `gemv_inputs`; later lines are in the list too.
    unsafe {
        let start = blocks.start * F::BYTES;
        let line: [*const u8; N] = core::array::from_fn(|i| lines.line(active[i] as usize).add(start));
        let next: [*const u8; N] = core::array::from_fn(|i| lines.line(later[i] as usize).add(start));
        let x: [L; N] = core::array::from_fn(|i| L::splat(*x.add(active[i] as usize)));
        for b in 0..blocks.len() {
            let at = y.add(b * BLOCK);
            let (mut low, mut high) = (L::load(at), L::load(at.add(LANES)));
            for i in 0..N {
                L::prefetch(next[i].wrapping_add(b * F::BYTES));
                let [a, b] = F::weights::<L>(line[i].add(b * F::BYTES), table);
                low = low.add(a.mul(x[i]));
                high = high.add(b.mul(x[i]));
            }
            low.store(at);
            high.store(at.add(LANES));
        }
    }
}

/// Outputs `32 * block..` of `n` tokens: every block is decoded once for all of them.
///
/// # Safety
/// The lines of all `x.width` inputs must have that block; `x` must have `n` rows; `out` must be valid for 32
/// floats at each multiple of `stride`; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn gemm_inputs<L: Lanes, F: LineFormat>(
    table: &[i8; 16],
    lines: &Lines,
    block: usize,
    x: &RawInput,
    n: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut weights = [0f32; BLOCK * BLOCK];
    // SAFETY: by the contract; `t + step <= n` before each call.
    unsafe {
        for t in 0..n {
            core::slice::from_raw_parts_mut(out.add(t * stride), BLOCK).fill(0.0);
        }
        for kb in 0..x.width / BLOCK {
            for (k, row) in weights.chunks_exact_mut(BLOCK).enumerate() {
                let [a, b] = F::weights::<L>(lines.line(kb * BLOCK + k).add(block * F::BYTES), table);
                a.store(row.as_mut_ptr());
                b.store(row.as_mut_ptr().add(LANES));
            }
            let mut t = 0;
            while n - t >= 8 {
                add_block::<L, 8>(&weights, x, kb, t, out, stride);
                t += 8;
            }
            while n - t >= 1 {
                add_block::<L, 1>(&weights, x, kb, t, out, stride);
                t += 1;
            }
        }
    }
}

/// Adds the products of 32 inputs with 32 outputs' weights, `T` tokens from `t`.
///
/// # Safety
/// As [`gemm_inputs`], with `t + T` rows.
#[inline(always)]
unsafe fn add_block<L: Lanes, const T: usize>(
    weights: &[f32; BLOCK * BLOCK],
    x: &RawInput,
    kb: usize,
    t: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: by the contract of `gemm_inputs`.
    unsafe {
        let rows: [*const f32; T] = core::array::from_fn(|i| x.values.add((t + i) * x.width + kb * BLOCK));
        for half in (0..BLOCK).step_by(LANES) {
            let mut acc: [L; T] = core::array::from_fn(|i| L::load(out.add((t + i) * stride + half)));
            accumulate::<L, f32, T>(&mut acc, weights.as_ptr().add(half), BLOCK, BLOCK, &rows);
            for (i, a) in acc.iter().enumerate() {
                a.store(out.add((t + i) * stride + half));
            }
        }
    }
}
