//! Norms and the quantization of inputs.

use crate::format::BLOCK;
use crate::simd::{LANES, Lanes};

/// Sum over `x` of `f(x)` in 16 chains, then the lanes' tree; the tail is padded with zeros, so `f(0)` of
/// the padding is counted too and must be 0.
macro_rules! lane_sum {
    ($L:ty, $x:expr, |$v:ident| $f:expr) => {{
        let x: &[f32] = $x;
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut acc = <$L>::splat(0.0);
        for chunk in chunks {
            let $v = <$L>::load(chunk.as_ptr());
            acc = acc.add($f);
        }
        if !tail.is_empty() {
            let mut last = [0.0; LANES];
            last[..tail.len()].copy_from_slice(tail);
            let $v = <$L>::load(last.as_ptr());
            acc = acc.add($f);
        }
        acc.sum()
    }};
}

/// See [`super::Kernels::quantize`].
///
/// # Safety
/// Lengths as there; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn quantize<L: Lanes>(x: &[f32], q: &mut [i8], scales: &mut [f32], offsets: &mut [i32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    for (((block, q), scale), offset) in blocks.zip(scales).zip(offsets) {
        // SAFETY: 32 elements in both blocks.
        unsafe {
            let (lo, hi) = (L::load(block.as_ptr()), L::load(block.as_ptr().add(LANES)));
            let zero = L::splat(0.0);
            let amax = lo.max(zero.sub(lo)).max(hi.max(zero.sub(hi))).largest();
            // At and below 127 / f32::MAX the quotient may be infinite: such blocks count as zeros.
            let inverse = L::splat(if amax > 127.0 / f32::MAX { 127.0 / amax } else { 0.0 });
            let (lo, hi) = (lo.mul(inverse).round(), hi.mul(inverse).round());
            lo.store_i8(q.as_mut_ptr());
            hi.store_i8(q.as_mut_ptr().add(LANES));
            *scale = amax / 127.0;
            *offset = -128 * lo.add(hi).sum() as i32;
        }
    }
}

/// See [`super::Kernels::rms_norm`].
///
/// # Safety
/// Lengths as there; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn rms_norm<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: chunks of 16 by construction.
    let squares = unsafe { lane_sum!(L, x, |v| v.mul(v)) };
    let factor = 1.0 / libm::sqrtf(squares / x.len() as f32 + eps);
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * factor * w;
    }
}

/// See [`super::Kernels::layer_norm`].
///
/// # Safety
/// Lengths as there; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn layer_norm<L: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    // SAFETY: chunks of 16 by construction.
    let mean = unsafe { lane_sum!(L, x, |v| v) } / x.len() as f32;
    for (o, x) in out.iter_mut().zip(x) {
        *o = x - mean;
    }
    // SAFETY: as above.
    let squares = unsafe { lane_sum!(L, out, |v| v.mul(v)) };
    let factor = 1.0 / libm::sqrtf(squares / x.len() as f32 + eps);
    for ((o, w), b) in out.iter_mut().zip(weight).zip(bias) {
        *o = *o * factor * w + b;
    }
}
