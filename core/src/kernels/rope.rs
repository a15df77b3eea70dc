//! Rotary position embedding (arXiv 2104.09864), in the half-split arrangement of Hugging Face's models: dimensions i
//! and i + head_dim / 2 are rotated together.

/// See [`super::Kernels::angles`].
pub(super) fn angles(position: usize, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    for ((f, c), s) in frequencies.iter().zip(cos).zip(sin) {
        let angle = position as f32 * f;
        *c = libm::cosf(angle);
        *s = libm::sinf(angle);
    }
}

/// Rotates one head in place, `[head_dim]`, by the angles of its position, `[head_dim / 2]` cosines and sines.
///
/// # Panics
/// When the head is shorter than the cosines.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
