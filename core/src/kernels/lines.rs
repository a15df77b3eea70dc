//! Products of matrices whose lines are inputs, with blocks along the outputs ([`crate::format::Order::ColumnLines`]).
//!
//! Inputs are not quantized; `x` times a block's scale is rounded once for its 32 codes. The contract is
//! ```text
//! for k in 0..K:    y = y + code[k] * (scale[k] * x[k])     floats: y = y + w[k] * x[k]
//!                   and with a minimum    y = y + min[k] * x[k]
//! ```

use super::RawInput;
use super::codes::Codes;
use super::prefetch::AHEAD;
use crate::format::{BLOCK, Lines};
use crate::simd::{LANES, Lanes};
use core::ops::Range;

/// Inputs whose lines are added in one go: their sums stay in registers.
const TOGETHER: usize = 4;

/// Adds the lines of the inputs in `active` to outputs `32 * blocks`, one token.
///
/// # Safety
/// Every active line must be there with the blocks, `x` must have a value for each, `y` (which stands for the
/// first block's first output) 32 floats a block; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn gemv_inputs<L: Lanes, C: Codes>(
    table: &[i8; 16],
    lines: &Lines,
    active: &[u32],
    x: *const f32,
    blocks: Range<usize>,
    y: *mut f32,
) {
    let (chunks, rest) = active.as_chunks::<TOGETHER>();
    // What comes later is asked for now: its place is known, and no processor guesses it.
    let ahead = AHEAD / (blocks.len() * C::BYTES * TOGETHER).max(1) + 1;
    for (i, chunk) in chunks.iter().enumerate() {
        let later = chunks.get(i + ahead).unwrap_or(chunk);
        // SAFETY: by the contract.
        unsafe { add_inputs::<L, C, TOGETHER>(table, lines, chunk, later, x, blocks.clone(), y) };
    }
    for i in rest {
        // SAFETY: by the contract.
        unsafe { add_inputs::<L, C, 1>(table, lines, &[*i], &[*i], x, blocks.clone(), y) };
    }
}

/// Writes `x` times the 16 halves from `at` on, as far as there are so many before `end`, else times `n` of them.
///
/// # Safety
/// There must be `n` halves at `at`; `L`'s features must be there.
#[inline(always)]
unsafe fn times<L: Lanes>(at: *const u8, end: *const u8, n: usize, x: L, out: &mut [f32; LANES]) {
    // SAFETY: reads before `end`, or halves that are there.
    unsafe {
        if at.wrapping_add(2 * LANES) <= end {
            return L::load_f16(at.cast()).mul(x).store(out.as_mut_ptr());
        }
        for (i, out) in out.iter_mut().enumerate().take(n) {
            *out = L::splat_f16(at.cast::<u16>().add(i)).mul(x).to_array()[0];
        }
    }
}

/// Adds `N` lines.
///
/// # Safety
/// As [`gemv_inputs`].
#[inline(always)]
unsafe fn add_inputs<L: Lanes, C: Codes, const N: usize>(
    table: &[i8; 16],
    lines: &Lines,
    active: &[u32; N],
    later: &[u32; N],
    x: *const f32,
    blocks: Range<usize>,
    y: *mut f32,
) {
    let all = lines.blocks();
    let bytes = all * const { C::SHARED + C::BYTES };
    let (mut line, mut next) = ([core::ptr::null(); N], [core::ptr::null(); N]);
    let (mut scales, mut mins) = ([[0f32; LANES]; N], [[0f32; LANES]; N]);
    // Loops and no closures: what a closure computes is not compiled for the instruction set.
    // SAFETY: by the contract of `gemv_inputs`; later lines are in the list too.
    unsafe {
        let mut factors = [L::splat(0.0); N];
        for i in 0..N {
            line[i] = lines.line(active[i] as usize);
            next[i] = lines.line(later[i] as usize);
            factors[i] = L::splat(*x.add(active[i] as usize));
        }
        let mut first = blocks.start;
        while first < blocks.end {
            let n = LANES.min(blocks.end - first);
            for i in 0..N {
                let (at, end) = (line[i].add(2 * first), line[i].add(bytes));
                if C::SHARED > 0 {
                    L::prefetch(next[i].add(2 * first));
                    times(at, end, n, factors[i], &mut scales[i]);
                }
                if C::AFFINE {
                    L::prefetch(next[i].add(2 * (all + first)));
                    times(at.add(2 * all), end, n, factors[i], &mut mins[i]);
                }
            }
            for b in 0..n {
                let codes = all * C::SHARED + (first + b) * C::BYTES;
                let at = y.add((first + b - blocks.start) * BLOCK);
                let (mut low, mut high) = (L::load(at), L::load(at.add(LANES)));
                for i in 0..N {
                    // A cache line holds several blocks' codes.
                    if C::BYTES >= 64 || b % (64 / C::BYTES).max(1) == 0 {
                        L::prefetch(next[i].add(codes));
                    }
                    let factor = if C::SHARED > 0 { L::splat(scales[i][b]) } else { factors[i] };
                    let [a, c] = C::times::<L>(line[i].add(codes), table, factor);
                    (low, high) = (low.add(a), high.add(c));
                    if C::AFFINE {
                        let min = L::splat(mins[i][b]);
                        (low, high) = (low.add(min), high.add(min));
                    }
                }
                low.store(at);
                high.store(at.add(LANES));
            }
            first += n;
        }
    }
}

/// Outputs `32 * block..` of `n` tokens: every block is decoded once for all of them.
///
/// # Safety
/// The lines of all `x.width` inputs must have that block; `x` must have `n` rows; `out` must be valid for 32
/// floats at each multiple of `stride`; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn gemm_inputs<L: Lanes, C: Codes>(
    table: &[i8; 16],
    lines: &Lines,
    block: usize,
    x: &RawInput,
    n: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut weights = [0f32; BLOCK * BLOCK];
    let [mut scales, mut mins] = [[1f32; BLOCK]; 2];
    // SAFETY: by the contract; `t + step <= n` before each call.
    unsafe {
        for t in 0..n {
            core::slice::from_raw_parts_mut(out.add(t * stride), BLOCK).fill(0.0);
        }
        for kb in 0..x.width / BLOCK {
            for k in 0..BLOCK {
                let (line, all) = (lines.line(kb * BLOCK + k), lines.blocks());
                let halves = line.cast::<u16>().add(block);
                if C::SHARED > 0 {
                    scales[k] = L::splat_f16(halves).to_array()[0];
                }
                if C::AFFINE {
                    mins[k] = L::splat_f16(halves.add(all)).to_array()[0];
                }
                let [a, b] = C::read::<L>(line.add(all * C::SHARED + block * C::BYTES), table);
                let row = weights.as_mut_ptr().add(k * BLOCK);
                a.store(row);
                b.store(row.add(LANES));
            }
            let mut t = 0;
            while L::TOGETHER >= 8 && n - t >= 8 {
                add_block::<L, C, 8>(&weights, [&scales, &mins], x, kb, t, out, stride);
                t += 8;
            }
            while L::TOGETHER >= 4 && n - t >= 4 {
                add_block::<L, C, 4>(&weights, [&scales, &mins], x, kb, t, out, stride);
                t += 4;
            }
            while n - t >= 1 {
                add_block::<L, C, 1>(&weights, [&scales, &mins], x, kb, t, out, stride);
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
unsafe fn add_block<L: Lanes, C: Codes, const T: usize>(
    weights: &[f32; BLOCK * BLOCK],
    [scales, mins]: [&[f32; BLOCK]; 2],
    x: &RawInput,
    kb: usize,
    t: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: by the contract of `gemm_inputs`.
    unsafe {
        let [mut factors, mut minima] = [[[0f32; BLOCK]; T]; 2];
        for i in 0..T {
            for half in (0..BLOCK).step_by(LANES) {
                let x = L::load(x.values.add((t + i) * x.width + kb * BLOCK + half));
                L::load(scales.as_ptr().add(half)).mul(x).store(factors[i].as_mut_ptr().add(half));
                if C::AFFINE {
                    L::load(mins.as_ptr().add(half)).mul(x).store(minima[i].as_mut_ptr().add(half));
                }
            }
        }
        for half in (0..BLOCK).step_by(LANES) {
            let mut acc = [L::splat(0.0); T];
            for (i, a) in acc.iter_mut().enumerate() {
                *a = L::load(out.add((t + i) * stride + half));
            }
            for k in 0..BLOCK {
                let row = L::load(weights.as_ptr().add(k * BLOCK + half));
                for (i, a) in acc.iter_mut().enumerate() {
                    *a = a.add(row.mul(L::splat(factors[i][k])));
                    if C::AFFINE {
                        *a = a.add(L::splat(minima[i][k]));
                    }
                }
            }
            for (i, a) in acc.iter().enumerate() {
                a.store(out.add((t + i) * stride + half));
            }
        }
    }
}
