//! Listing the inputs that matter.

use crate::simd::{LANES, Lanes};

/// See [`super::Kernels::select_inputs`].
///
/// # Safety
/// `quants` and `list` must be as long as `x`; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn select_inputs<L: Lanes>(
    x: &[f32],
    quants: Option<&[i8]>,
    threshold: f32,
    list: &mut [u32],
) -> usize {
    let mut n = 0;
    let (chunks, tail) = x.as_chunks::<LANES>();
    for (i, chunk) in chunks.iter().enumerate() {
        // SAFETY: 16 of everything from `i * LANES` on, and `n` is at most that.
        unsafe {
            let quants = quants.map_or(core::ptr::null(), |q| q.as_ptr().add(i * LANES));
            let list = list.as_mut_ptr().add(n);
            n += L::select(chunk.as_ptr(), quants, threshold, (i * LANES) as u32, list);
        }
    }
    for (i, value) in (x.len() - tail.len()..).zip(tail) {
        // SAFETY: `quants` and `list` are as long as `x`, and `n` is at most `i`.
        unsafe {
            if !(value.abs() <= threshold || quants.is_some_and(|q| *q.get_unchecked(i) == 0)) {
                *list.get_unchecked_mut(n) = i as u32;
                n += 1;
            }
        }
    }
    n
}
