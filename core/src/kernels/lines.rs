//! Products of matrices whose lines are inputs, with blocks along the outputs ([`crate::format::Order::ColumnLines`]) or
//! without any (floats).
//!
//! Inputs are not quantized. `x` times a block's scale is rounded once, and the product is used for all 32 codes of the
//! block. The contract is
//! ```text
//! for k in 0..K:    y = y + code[k] * (scale[k] * x[k])     floats: y = y + w[k] * x[k]
//!                   and with a minimum    y = y + min[k] * x[k]
//! ```

use super::call::{Call, RawInput};
use super::codes::Codes;
use super::prefetch::DISTANCE;
use crate::format::{BLOCK, Lines};
use crate::simd::{LANES, Lanes, Proof};

/// Inputs whose lines are added together, so that sums stay in registers.
const IN_ONE_GO: usize = 4;

/// Adds the lines of the active inputs to blocks of 32 outputs, for one token.
///
/// ```text
/// for every four active inputs:
///     for every 16 blocks of outputs: their scales times x
///         for every block: outputs += codes * (scale * x) of the first, the second, ... input
/// ```
///
/// # Safety
/// As [`super::call::MatrixKernel`], for the blocks of outputs.
#[inline(always)]
pub(super) unsafe fn gemv_lines<L: Lanes, C: Codes>(isa: Proof<L>, call: &Call) {
    let (_, active, blocks) = call.inputs();
    let (chunks, rest) = active.as_chunks::<IN_ONE_GO>();
    // Later lines are prefetched: no hardware prefetcher can predict which inputs are active.
    let ahead = DISTANCE / (blocks.len() * C::BYTES * IN_ONE_GO).max(1) + 1;
    for (i, chunk) in chunks.iter().enumerate() {
        let prefetch = chunks.get(i + ahead).unwrap_or(chunk);
        // SAFETY: the caller meets the requirements of a matrix kernel, and these are some of its active inputs.
        unsafe { add_lines::<L, C, IN_ONE_GO>(isa, call, chunk, prefetch) };
    }
    for i in rest {
        // SAFETY: the caller meets the requirements of a matrix kernel, and this is one of its active inputs.
        unsafe { add_lines::<L, C, 1>(isa, call, &[*i], &[*i]) };
    }
}

/// Writes `x` times each of the 16 f16 at `at` if they all end before `end`, else `x` times the first `n` of them.
///
/// # Safety
/// `n` f16 must be readable at `at`, and all bytes from `at` to `end`.
#[inline(always)]
unsafe fn times<L: Lanes>(at: *const u8, end: *const u8, n: usize, x: L, out: &mut [f32; LANES]) {
    let isa = x.isa();
    // SAFETY: 16 f16 are read only if they end before `end`, else the `n` that the caller promises.
    unsafe {
        if at.wrapping_add(2 * LANES) <= end {
            return L::load_f16(isa, &*at.cast()).mul(x).store(out);
        }
        for (i, out) in out.iter_mut().enumerate().take(n) {
            *out = L::splat_f16(isa, at.cast::<u16>().add(i).read_unaligned()).mul(x).to_array()[0];
        }
    }
}

/// Adds `N` lines.
///
/// # Safety
/// As [`gemv_lines`]; both lists must be of active inputs.
#[inline(always)]
unsafe fn add_lines<L: Lanes, C: Codes, const N: usize>(
    isa: Proof<L>,
    call: &Call,
    active: &[u32; N],
    prefetch: &[u32; N],
) {
    let (lines, _, blocks) = call.inputs();
    // A local copy of the table, so that the compiler knows that stores to the outputs do not change it.
    let (all, table) = (lines.blocks(), *call.table);
    let bytes = all * const { C::SHARED + C::BYTES };
    let (mut line, mut next) = ([core::ptr::null(); N], [core::ptr::null(); N]);
    let (mut scales, mut mins) = ([[0f32; LANES]; N], [[0f32; LANES]; N]);
    // Loops, because closures would not be compiled for the instruction set. SAFETY: the caller's active inputs have
    // lines of `all` blocks and values; `out` has 32 floats for each of `blocks`, which are below `all`.
    unsafe {
        let mut factors = [L::splat(isa, 0.0); N];
        for i in 0..N {
            line[i] = lines.line(active[i] as usize);
            next[i] = lines.line(prefetch[i] as usize);
            factors[i] = L::splat(isa, *call.x.values.add(active[i] as usize));
        }
        let mut first = blocks.start;
        while first < blocks.end {
            let n = LANES.min(blocks.end - first);
            for i in 0..N {
                let (at, end) = (line[i].add(2 * first), line[i].add(bytes));
                if C::SHARED > 0 {
                    L::prefetch(isa, next[i].add(2 * first));
                    times(at, end, n, factors[i], &mut scales[i]);
                }
                if C::AFFINE {
                    L::prefetch(isa, next[i].add(2 * (all + first)));
                    times(at.add(2 * all), end, n, factors[i], &mut mins[i]);
                }
            }
            for b in 0..n {
                let codes = all * C::SHARED + (first + b) * C::BYTES;
                let at = call.out.add((first + b - blocks.start) * BLOCK);
                let (mut low, mut high) = (L::load(isa, &*at.cast()), L::load(isa, &*at.add(LANES).cast()));
                for i in 0..N {
                    // A cache line holds the codes of several blocks, so that only the first of them prefetches.
                    if C::BYTES >= 64 || b % (64 / C::BYTES).max(1) == 0 {
                        L::prefetch(isa, next[i].add(codes));
                    }
                    let factor = if C::SHARED > 0 { L::splat(isa, scales[i][b]) } else { factors[i] };
                    let [a, c] = C::times::<L>(&*line[i].add(codes).cast(), &table, factor);
                    (low, high) = (low.add(a), high.add(c));
                    if C::AFFINE {
                        let min = L::splat(isa, mins[i][b]);
                        (low, high) = (low.add(min), high.add(min));
                    }
                }
                low.store(&mut *at.cast());
                high.store(&mut *at.add(LANES).cast());
            }
            first += n;
        }
    }
}

/// A block of 32 outputs for all tokens, from all inputs: every block is decoded once for all of them.
///
/// ```text
/// for every k-block:
///     decode the codes of its 32 inputs for these outputs, and their scales
///     for every run of tokens that fits into registers: outputs += codes * (scale * x), input by input
/// ```
///
/// # Safety
/// As [`super::call::MatrixKernel`], for the first of the blocks of outputs.
#[inline(always)]
pub(super) unsafe fn gemm_lines<L: Lanes, C: Codes>(isa: Proof<L>, call: &Call) {
    let (lines, _, blocks) = call.inputs();
    let (n, table) = (call.tokens, *call.table);
    let mut block = Block { weights: [0.0; BLOCK * BLOCK], scales: [1.0; BLOCK], mins: [1.0; BLOCK] };
    // SAFETY: the caller's inputs all have lines with this block; `t` plus the number of tokens is at most `n`, the
    // number of tokens that have rows and outputs.
    unsafe {
        for t in 0..n {
            core::slice::from_raw_parts_mut(call.out.add(t * call.stride), BLOCK).fill(0.0);
        }
        for kb in 0..call.x.blocks() {
            block.read::<L, C>(isa, lines, kb, blocks.start, &table);
            let mut t = 0;
            while L::SUMS >= 8 && n - t >= 8 {
                block.add::<L, C, 8>(isa, call, kb, t);
                t += 8;
            }
            while L::SUMS >= 4 && n - t >= 4 {
                block.add::<L, C, 4>(isa, call, kb, t);
                t += 4;
            }
            while n - t >= 1 {
                block.add::<L, C, 1>(isa, call, kb, t);
                t += 1;
            }
        }
    }
}

/// The weights of 32 inputs and 32 outputs.
struct Block {
    /// [input, output], without scales.
    weights: [f32; BLOCK * BLOCK],
    /// By input.
    scales: [f32; BLOCK],
    /// By input.
    mins: [f32; BLOCK],
}

impl Block {
    /// Reads the inputs of k-block `kb` for block `block` of the outputs.
    ///
    /// # Safety
    /// These inputs must have lines with that block.
    #[inline(always)]
    unsafe fn read<L: Lanes, C: Codes>(
        &mut self,
        isa: Proof<L>,
        lines: &Lines,
        kb: usize,
        block: usize,
        table: &[i8; 16],
    ) {
        let all = lines.blocks();
        for k in 0..BLOCK {
            // SAFETY: the caller's matrix has a line for this input, with scales, minima and codes of `all` blocks; `k`
            // is below 32.
            unsafe {
                let line = lines.line(kb * BLOCK + k);
                let halves = line.cast::<u16>().add(block);
                if C::SHARED > 0 {
                    self.scales[k] = L::splat_f16(isa, halves.read_unaligned()).to_array()[0];
                }
                if C::AFFINE {
                    self.mins[k] = L::splat_f16(isa, halves.add(all).read_unaligned()).to_array()[0];
                }
                let codes = &*line.add(all * C::SHARED + block * C::BYTES).cast();
                let [a, b] = C::read::<L>(isa, codes, table);
                let row = self.weights.as_mut_ptr().add(k * BLOCK);
                a.store(&mut *row.cast());
                b.store(&mut *row.add(LANES).cast());
            }
        }
    }

    /// Adds the products with k-block `kb` of `T` tokens from `t`.
    ///
    /// # Safety
    /// As [`gemm_lines`], with `t + T` rows.
    #[inline(always)]
    unsafe fn add<L: Lanes, C: Codes, const T: usize>(&self, isa: Proof<L>, call: &Call, kb: usize, t: usize) {
        let RawInput { width, values, .. } = call.x;
        let (scales, mins) = (self.scales.as_ptr(), self.mins.as_ptr());
        let [mut factors, mut minima] = [[[0f32; BLOCK]; T]; 2];
        // SAFETY: the caller gives rows and outputs of tokens below `t + T`; `half` is 0 or 16, within 32 outputs.
        unsafe {
            for i in 0..T {
                for half in (0..BLOCK).step_by(LANES) {
                    let x = L::load(isa, &*values.add((t + i) * width + kb * BLOCK + half).cast());
                    let factor = if C::SHARED > 0 { L::load(isa, &*scales.add(half).cast()).mul(x) } else { x };
                    factor.store(&mut *factors[i].as_mut_ptr().add(half).cast());
                    if C::AFFINE {
                        let to = &mut *minima[i].as_mut_ptr().add(half).cast();
                        L::load(isa, &*mins.add(half).cast()).mul(x).store(to);
                    }
                }
            }
            for half in (0..BLOCK).step_by(LANES) {
                let mut acc = [L::splat(isa, 0.0); T];
                for (i, a) in acc.iter_mut().enumerate() {
                    *a = L::load(isa, &*call.out.add((t + i) * call.stride + half).cast());
                }
                for k in 0..BLOCK {
                    let row = L::load(isa, &*self.weights.as_ptr().add(k * BLOCK + half).cast());
                    for (i, a) in acc.iter_mut().enumerate() {
                        *a = a.add(row.mul(L::splat(isa, factors[i][k])));
                        if C::AFFINE {
                            *a = a.add(L::splat(isa, minima[i][k]));
                        }
                    }
                }
                for (i, a) in acc.iter().enumerate() {
                    a.store(&mut *call.out.add((t + i) * call.stride + half).cast());
                }
            }
        }
    }
}
