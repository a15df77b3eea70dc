//! Quantization of inputs to 8 bits, by block of 32.

use super::call::{Offset, Scale};
use crate::format::BLOCK;
use crate::simd::{LANES, Lanes, Proof};

/// See [`super::Kernels::quantize`].
#[inline(always)]
pub(super) fn quantize<L: Lanes>(isa: Proof<L>, x: &[f32], q: &mut [i8], scales: &mut [Scale], offsets: &mut [Offset]) {
    const { assert!(BLOCK == 2 * LANES) };
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    for (((block, q), scale), offset) in blocks.zip(scales).zip(offsets) {
        let ([lo, hi], []) = block.as_chunks::<LANES>() else { continue };
        let ([q_lo, q_hi], []) = q.as_chunks_mut::<LANES>() else { continue };
        let (lo, hi, zero) = (L::load(isa, lo), L::load(isa, hi), L::splat(isa, 0.0));
        let amax = lo.max(zero.sub(lo)).max(hi.max(zero.sub(hi))).largest();
        // At or below 127 / f32::MAX the quotient may be infinite: such blocks are quantized to zeros.
        let inverse = L::splat(isa, if amax > 127.0 / f32::MAX { 127.0 / amax } else { 0.0 });
        let (lo, hi) = (lo.mul(inverse).round(), hi.mul(inverse).round());
        // The sum is NaN where an input is NaN or infinite (infinity times 0). Instruction sets convert such numbers to
        // different integers, so the block becomes ones of scale NaN: its products are NaN everywhere.
        let all = lo.add(hi).sum();
        let (lo, hi, all, largest) = match all.is_nan() {
            true => (L::splat(isa, 1.0), L::splat(isa, 1.0), BLOCK as f32, f32::NAN),
            false => (lo, hi, all, amax / 127.0),
        };
        lo.store_i8(q_lo);
        hi.store_i8(q_hi);
        *scale = [largest, largest * all];
        *offset = [-128 * all as i32, -128 * lo.sum() as i32];
    }
}

/// Sum of a block's quants from its stored offset (exact: a multiple of 128 below 2^24).
#[inline(always)]
pub(super) fn block_sum(offset: i32) -> f32 {
    offset as f32 * (-1.0 / 128.0)
}
