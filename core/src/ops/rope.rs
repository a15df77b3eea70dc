//! Rotary position embedding (arXiv 2104.09864), in the half-split arrangement of Hugging Face's models:
//! dimension i turns with dimension i + head_dim / 2.

/// Turns one head in place.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
