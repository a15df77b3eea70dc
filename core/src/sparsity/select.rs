//! Choosing by score.

/// Linear interpolation in a table over 0..=1; `at` is clamped to that range.
pub fn interpolate(table: &[f32], at: f32) -> f32 {
    let last = table.len().saturating_sub(1);
    let place = at.clamp(0.0, 1.0) * last as f32;
    let low = (place as usize).min(last);
    let high = (low + 1).min(last);
    match (table.get(low), table.get(high)) {
        // Equal values are returned as they are, so that infinities do not become NaN.
        (Some(a), Some(b)) if a == b || place == low as f32 => *a,
        (Some(a), Some(b)) => a + (b - a) * (place - low as f32),
        _ => 0.0,
    }
}

/// A share of `n` as a number of parts: at least one.
pub(super) fn count_of(share: f32, n: usize) -> usize {
    ((share * n as f32 + 0.5) as usize).clamp(1, n.max(1))
}

/// The `k`th largest score; `scratch` must be as long as `scores`.
pub(super) fn kth_largest(scores: &[f32], k: usize, scratch: &mut [f32]) -> f32 {
    if k >= scores.len() {
        return f32::NEG_INFINITY;
    }
    let scratch = &mut scratch[..scores.len()];
    scratch.copy_from_slice(scores);
    let (_, kth, _) = scratch.select_nth_unstable_by(k.saturating_sub(1), |a, b| b.total_cmp(a));
    *kth
}

/// Number of scores in the sample of [`typical_kth`].
const SAMPLE: usize = 256;

/// The score that about a share of the scores reach, found from a sample spread evenly over all.
pub(super) fn typical_kth(scores: &[f32], share: f32, scratch: &mut [f32]) -> f32 {
    let stride = scores.len().div_ceil(SAMPLE).max(1);
    let mut n = 0;
    for (to, score) in scratch.iter_mut().zip(scores.iter().step_by(stride)) {
        *to = *score;
        n += 1;
    }
    let k = count_of(share, n.max(1));
    if n == 0 || share >= 1.0 || k >= n {
        return f32::NEG_INFINITY;
    }
    let (_, kth, _) = scratch[..n].select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}
