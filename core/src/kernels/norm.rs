//! Norms of a row.

use crate::simd::{LANES, Lanes, Proof};

/// Sum over `x` of `f(x)`, in 16 chains which are then added in a tree. The tail is padded with zeros, so `f(0)` must
/// be 0. (A macro, because a closure would not be compiled for the instruction set.)
macro_rules! lane_sum {
    ($isa:expr, $x:expr, |$v:ident| $f:expr) => {{
        let x: &[f32] = $x;
        let (chunks, tail) = x.as_chunks::<LANES>();
        let mut acc = L::splat($isa, 0.0);
        for chunk in chunks {
            let $v = L::load($isa, chunk);
            acc = acc.add($f);
        }
        if !tail.is_empty() {
            let mut last = [0.0; LANES];
            last.iter_mut().zip(tail).for_each(|(to, x)| *to = *x);
            let $v = L::load($isa, &last);
            acc = acc.add($f);
        }
        acc.sum()
    }};
}

/// See [`super::Kernels::rms_norm`].
#[inline(always)]
pub(super) fn rms_norm<L: Lanes>(isa: Proof<L>, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let squares = lane_sum!(isa, x, |v| v.mul(v));
    let factor = 1.0 / libm::sqrtf(squares / x.len() as f32 + eps);
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * factor * w;
    }
}

/// See [`super::Kernels::layer_norm`].
#[inline(always)]
pub(super) fn layer_norm<L: Lanes>(isa: Proof<L>, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mean = lane_sum!(isa, x, |v| v) / x.len() as f32;
    for (o, x) in out.iter_mut().zip(x) {
        *o = x - mean;
    }
    let squares = lane_sum!(isa, out, |v| v.mul(v));
    let factor = 1.0 / libm::sqrtf(squares / x.len() as f32 + eps);
    for ((o, w), b) in out.iter_mut().zip(weight).zip(bias) {
        *o = *o * factor * w + b;
    }
}
