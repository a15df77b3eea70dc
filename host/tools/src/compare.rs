//! What skipping costs: the same tokens under a policy and densely, side by side.

use crate::decimal;
use crate::eval::{no_windows, not_finite};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Executor, Session};
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use std::time::Instant;

/// Result of one dial over all windows.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// The policy that was set.
    pub policy: &'static str,
    /// The policy that was used: the one that `auto` stood for.
    pub used: &'static str,
    /// The density that was set.
    #[serde(serialize_with = "decimal::serialize")]
    pub density: f32,
    /// Perplexity of the scored tokens.
    pub perplexity: f64,
    /// Perplexity of the same tokens in the dense model.
    pub dense_perplexity: f64,
    /// Mean Kullback-Leibler divergence of the next-token distribution from the dense one, in nats.
    pub kl: f64,
    /// Its standard error, over the scored tokens.
    pub kl_error: f64,
    /// Standard error of the difference between the mean log-likelihoods of this run and the dense one, which is the
    /// logarithm of the ratio of the perplexities.
    pub nll_error: f64,
    /// Share of tokens whose likeliest successor is the same as in the dense model.
    pub top1: f64,
    /// Share of the skippable weight bytes that was read.
    pub realised_density: f64,
    /// Bytes of weights read, including the predictor's, as a share of the bytes of a dense token.
    pub share: f64,
    /// Bytes of weights read per token, the predictor included.
    pub bytes_per_token: f64,
    /// Of these, the predictor's.
    pub predictor_bytes_per_token: f64,
    /// Share of the decoding time that the predictor took.
    pub predictor_time: f64,
    /// Decoded tokens per second.
    pub tokens_per_second: f64,
    /// Scored tokens.
    pub tokens: usize,
}

/// Sums over scored tokens.
#[derive(Clone, Default)]
pub(crate) struct Sums {
    pub(crate) nll: f64,
    pub(crate) dense_nll: f64,
    pub(crate) kl: f64,
    /// Sums of squares: of divergences, and of differences between log-likelihoods.
    kl_squares: f64,
    nll_squares: f64,
    same: usize,
    pub(crate) tokens: usize,
    weights: usize,
    pub(crate) skippable: usize,
    predictor: usize,
    predictor_seconds: f64,
    seconds: f64,
}

/// Windows of a text and how they are read.
pub struct Windows<'a> {
    /// The text.
    pub ids: &'a [u32],
    /// Tokens per window; windows do not overlap.
    pub window: usize,
    /// Tokens of a window that are prefilled densely; the others are decoded under the policy, and their
    /// successors scored.
    pub context: usize,
    /// The most windows.
    pub most: usize,
}

impl<'a> Windows<'a> {
    /// All whole windows; a text that is shorter than a window counts as one.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing would be scored.
    pub fn all(&self) -> Result<Vec<&'a [u32]>> {
        if self.most == 0 {
            return Err(no_windows());
        }
        // One to read, and one to score.
        let least = self.context.saturating_add(2);
        if self.window < least {
            let (window, context) = (self.window, self.context);
            return Err(Error::Usage(format!(
                "a window of {window} tokens leaves none to score after --dense-prefix {context}: give a longer --window"
            )));
        }
        let whole: Vec<_> = self.ids.chunks_exact(self.window).take(self.most).collect();
        let rest = if whole.is_empty() && self.ids.len() >= least { vec![self.ids] } else { vec![] };
        let all = if whole.is_empty() { rest } else { whole };
        if all.is_empty() {
            return Err(Error::Usage(format!(
                "the text is too short to score anything after {} tokens that are read densely: give a longer one, or a \
                 smaller --window, of which half is read densely unless --dense-prefix says otherwise",
                self.context
            )));
        }
        Ok(all)
    }
}

/// Log-probabilities and the likeliest token of a row of logits; `None` if these are none of which anything follows. Some of
/// them may be minus infinity, but not all.
fn log_softmax(logits: &mut [f32]) -> Option<usize> {
    let (best, top) =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |m, (i, x)| if *x > m.1 { (i, *x) } else { m });
    // Not a number if one of the logits is not, or if the largest is infinite.
    let sum: f64 = logits.iter().map(|x| f64::from((x - top).exp())).sum();
    let shift = top + sum.ln() as f32;
    logits.iter_mut().for_each(|x| *x -= shift);
    shift.is_finite().then_some(best)
}

/// Standard error of the mean of `n` values with these sums.
fn standard_error(sum: f64, squares: f64, n: f64) -> f64 {
    let variance = (squares - sum * sum / n).max(0.0) / (n - 1.0).max(1.0);
    (variance / n).sqrt()
}

/// Divergence of log-probabilities `q` from log-probabilities `p`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    // What never comes costs nothing, however unlikely the other side takes it to be.
    let term = |(p, q): (&f32, &f32)| if p.exp() > 0.0 { f64::from(p.exp() * (p - q)) } else { 0.0 };
    let kl: f64 = p.iter().zip(q).map(term).sum();
    kl.max(0.0)
}

/// The dense model, which is measured for its speed, and then these dials, of which others that skip nothing are left out.
pub fn with_dense(dials: &[Dial]) -> Vec<Dial> {
    let skipping = dials.iter().copied().filter(|d| d.policy != Policy::Off);
    std::iter::once(Dial::default()).chain(skipping).collect()
}

/// Measures every dial on every window; `session` must have room for a window, and sparsity.
///
/// # Errors
/// [`Error::Usage`] when nothing would be scored; errors of the session, and logits that are not finite.
pub fn compare(
    session: &mut Session,
    pool: &Pool,
    windows: &Windows,
    dials: &[Dial],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Outcome>> {
    let all = windows.all()?;
    let mut sums = vec![Sums::default(); dials.len()];
    let mut used = vec![Policy::Off; dials.len()];
    for (w, ids) in all.iter().enumerate() {
        session.set_dial(&Dial::default())?;
        let dense = dense_rows(session, pool, ids, windows.context)?;
        for (i, dial) in dials.iter().enumerate() {
            session.set_dial(dial)?;
            used[i] = session.policy();
            measure(session, pool, ids, windows.context, &dense, &mut sums[i])?;
            progress(w * dials.len() + i + 1, all.len() * dials.len());
        }
    }
    let model = session.model();
    let outcome = |((dial, used), s): ((&Dial, &Policy), &Sums)| {
        let n = s.tokens as f64;
        Outcome {
            policy: dial.policy.name(),
            used: used.name(),
            density: dial.density,
            perplexity: (s.nll / n).exp(),
            dense_perplexity: (s.dense_nll / n).exp(),
            kl: s.kl / n,
            kl_error: standard_error(s.kl, s.kl_squares, n),
            nll_error: standard_error(s.nll - s.dense_nll, s.nll_squares, n),
            top1: s.same as f64 / n,
            realised_density: s.skippable as f64 / n / model.skippable_bytes(used.by_input()) as f64,
            share: s.weights as f64 / n / model.weight_bytes_per_token() as f64,
            bytes_per_token: s.weights as f64 / n,
            predictor_bytes_per_token: s.predictor as f64 / n,
            predictor_time: s.predictor_seconds / s.seconds,
            tokens_per_second: n / s.seconds,
            tokens: s.tokens,
        }
    };
    Ok(dials.iter().zip(&used).zip(&sums).map(outcome).collect())
}

/// Dense log-probabilities after every token from `context` on, with each row's likeliest token.
pub(crate) struct Dense {
    rows: Vec<f32>,
    best: Vec<usize>,
}

/// Reads a window densely.
///
/// # Errors
/// Errors of the session, and logits that are not finite.
pub(crate) fn dense_rows(session: &mut Session, pool: &Pool, ids: &[u32], context: usize) -> Result<Dense> {
    let mut dense = Dense { rows: Vec::new(), best: Vec::new() };
    session.rewind(0)?;
    let mut broken = None;
    session.prefill_each(pool, &ids[..ids.len() - 1], &mut |i, row| {
        if i >= context {
            let at = dense.rows.len();
            dense.rows.extend_from_slice(row);
            match log_softmax(&mut dense.rows[at..]) {
                Some(best) if dense.rows[at + ids[i + 1] as usize].is_finite() => dense.best.push(best),
                _ => broken = broken.or(Some(i + 1)),
            }
        }
    })?;
    broken.map_or(Ok(dense), |tokens| Err(not_finite(tokens)))
}

/// Reads a window under the session's dial and adds to the sums.
///
/// # Errors
/// As [`dense_rows`].
pub(crate) fn measure(
    session: &mut Session,
    exec: &dyn Executor,
    ids: &[u32],
    context: usize,
    dense: &Dense,
    sums: &mut Sums,
) -> Result<()> {
    let vocab = session.model().config().vocab;
    session.rewind(0)?;
    if context > 0 {
        session.prefill(exec, &ids[..context])?;
    }
    let mut row = vec![0.0; vocab];
    let rows = dense.rows.chunks_exact(vocab).zip(&dense.best);
    for ((pair, dense), best) in ids[context..].windows(2).zip(rows).map(|(pair, (d, b))| ((pair, d), b)) {
        let start = Instant::now();
        row.copy_from_slice(session.decode(exec, pair[0])?);
        sums.seconds += start.elapsed().as_secs_f64();
        let traffic = session.traffic();
        sums.weights += traffic.weights;
        sums.skippable += traffic.skippable;
        sums.predictor += traffic.predictor;
        sums.predictor_seconds += traffic.predictor_nanoseconds as f64 / 1e9;
        let next = pair[1] as usize;
        let likeliest = log_softmax(&mut row).filter(|_| row[next].is_finite());
        let likeliest = likeliest.ok_or_else(|| not_finite(session.position()))?;
        sums.same += usize::from(likeliest == *best);
        sums.nll -= f64::from(row[next]);
        sums.dense_nll -= f64::from(dense[next]);
        let (kl, worse) = (divergence(dense, &row), f64::from(dense[next] - row[next]));
        sums.kl += kl;
        sums.kl_squares += kl * kl;
        sums.nll_squares += worse * worse;
        sums.tokens += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_which_nothing_follows() {
        let (none, least) = (f32::NAN, f32::NEG_INFINITY);
        for mut row in [[none; 3], [1.0, none, 2.0], [1.0, f32::INFINITY, 2.0], [least; 3]] {
            assert_eq!(log_softmax(&mut row), None);
        }
        let mut masked = [1.0, least, 3.0];
        assert_eq!(log_softmax(&mut masked), Some(2));
        let mut other = [2.0, 1.0, 3.0];
        assert_eq!(log_softmax(&mut other), Some(2));
        assert_eq!(divergence(&masked, &masked), 0.0);
        assert!(divergence(&masked, &other) > 0.0 && divergence(&other, &masked) == f64::INFINITY);
    }
}
