//! Perplexity of a text.

use shadowllm_core::Session;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_host::{Error, Result};

/// Result of an evaluation.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Perplexity {
    /// exp(mean_nll).
    pub perplexity: f64,
    /// Mean negative log-likelihood of the scored tokens, in nats.
    pub mean_nll: f64,
    /// Scored tokens.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Tokens of a window: fewer than were asked for if the text is shorter.
    pub window: usize,
}

/// Negative log-likelihood of `target` under `logits`, in nats, summed in f64.
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let top = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - top)
}

/// Negative log-likelihoods of all tokens but the first, each given the tokens before it.
///
/// # Errors
/// Errors of the session, and logits that are not finite.
pub fn token_nlls(session: &mut Session, pool: &Pool, ids: &[u32]) -> Result<Vec<f64>> {
    session.rewind(0)?;
    let mut nlls = Vec::with_capacity(ids.len().saturating_sub(1));
    session.prefill_each(pool, ids, &mut |i, logits| {
        if let Some(next) = ids.get(i + 1) {
            nlls.push(nll(logits, *next));
        }
    })?;
    match nlls.iter().position(|nll| !nll.is_finite()) {
        Some(i) => Err(not_finite(i + 1)),
        None => Ok(nlls),
    }
}

/// The error of logits after some tokens that are not finite.
pub fn not_finite(tokens: usize) -> Error {
    Error::Other(format!(
        "the logits after {tokens} tokens are not finite, so nothing can be scored: the model's weights hold such numbers, or \
         make ones too large for single precision; pack it from an undamaged source"
    ))
}

/// The error of measuring on no windows.
pub(crate) fn no_windows() -> Error {
    Error::Usage("--max-windows must be at least 1".into())
}

/// The tokens that the tokenizer puts before a text: a beginning token, or none.
///
/// # Errors
/// When the tokenizer fails.
pub fn beginning(text: &Text) -> Result<Vec<u32>> {
    let (mut all, rest) = (text.encode("a", true)?, text.encode("a", false)?);
    all.truncate(all.len().saturating_sub(rest.len()));
    Ok(all)
}

/// The text with this beginning before every window of `window` tokens, which include the beginning. So a window's
/// first token, which is not scored, is not a token of the text.
///
/// # Errors
/// [`Error::Usage`] when the beginning leaves no room for two tokens of text.
pub fn begin_windows(ids: &[u32], beginning: &[u32], window: usize) -> Result<Vec<u32>> {
    if beginning.is_empty() {
        return Ok(ids.to_vec());
    }
    let room = window.checked_sub(beginning.len()).filter(|room| *room > 0);
    let room = room.ok_or_else(|| Error::Usage(format!("--window {window} has no room after the beginning token")))?;
    Ok(ids.chunks(room).flat_map(|part| [beginning, part].concat()).collect())
}

/// Perplexity over non-overlapping windows of `window` tokens, in which every token but the first is scored; a shorter
/// rest at the end is left out, unless it is the whole text.
///
/// # Errors
/// [`Error::Usage`] for a window below 2, no windows or a text of fewer than two tokens; errors of the session.
pub fn perplexity(
    session: &mut Session,
    pool: &Pool,
    ids: &[u32],
    window: usize,
    max_windows: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity> {
    if window < 2 {
        return Err(Error::Usage("--window must be at least 2: a window's first token is not scored".into()));
    }
    if max_windows == 0 {
        return Err(no_windows());
    }
    if ids.len() < 2 {
        return Err(Error::Usage("the text has fewer than two tokens, so there is nothing to score".into()));
    }
    let all: Vec<&[u32]> = ids.chunks(window).filter(|w| w.len() == window).collect();
    let windows = if all.is_empty() { vec![ids] } else { all };
    let count = windows.len().min(max_windows);
    let (mut sum, mut tokens) = (0.0, 0);
    for (i, w) in windows[..count].iter().enumerate() {
        let nlls = token_nlls(session, pool, w)?;
        sum += nlls.iter().sum::<f64>();
        tokens += nlls.len();
        progress(i + 1, count);
    }
    let mean_nll = sum / tokens as f64;
    Ok(Perplexity { perplexity: mean_nll.exp(), mean_nll, tokens, windows: count, window: windows[0].len() })
}
