//! Angles of the rotary position embedding.

/// See [`super::Kernels::angles`].
pub(super) fn angles(position: usize, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    for ((f, c), s) in frequencies.iter().zip(cos).zip(sin) {
        let angle = position as f32 * f;
        *c = libm::cosf(angle);
        *s = libm::sinf(angle);
    }
}
