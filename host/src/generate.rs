//! Prompt in, text out, with the figures people ask for.

use crate::error::{Error, Result};
use shadowllm_core::sample::Sampler;
use shadowllm_core::{Executor, Session};
use std::time::Instant;

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Figures {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Seconds from the start to the first token; 0 when none was asked for.
    pub seconds_to_first_token: f64,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: f64,
    /// Seconds of decoding (all tokens but the first).
    pub decode_seconds: f64,
    /// Decoded tokens per second.
    pub tokens_per_second: f64,
    /// Bytes of weights and cache read per decoded token, on average.
    pub bytes_per_token: u64,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// An end-of-sequence token.
    EndOfText,
    /// As many tokens as asked for.
    Length,
    /// No position left.
    ContextFull,
    /// The caller said so.
    Stopped,
}

/// Reads `prompt`, then generates up to `most` tokens; each goes to `each` with the session it comes from, which
/// returns false to stop.
/// Allocates nothing per token.
///
/// # Errors
/// What the session refuses: an empty prompt, one longer than the context, an id out of range.
pub fn generate(
    session: &mut Session,
    exec: &dyn Executor,
    sampler: &mut Sampler,
    prompt: &[u32],
    most: usize,
    each: &mut dyn FnMut(u32, &Session) -> Result<bool>,
) -> Result<(Figures, Stop)> {
    let start = Instant::now();
    session.prefill(exec, prompt)?;
    let read = start.elapsed().as_secs_f64();
    let mut figures = Figures {
        prompt_tokens: prompt.len(),
        prompt_tokens_per_second: prompt.len() as f64 / read.max(1e-9),
        ..Figures::default()
    };
    prompt.iter().for_each(|id| sampler.accept(*id));
    let (mut first, mut bytes) = (start, 0u64);
    let stop = loop {
        if figures.generated_tokens == most {
            break Stop::Length;
        }
        let token = session.sample(sampler)?;
        if figures.generated_tokens == 0 {
            first = Instant::now();
            figures.seconds_to_first_token = (first - start).as_secs_f64();
        }
        if session.model().config().eos().contains(&token) {
            break Stop::EndOfText;
        }
        figures.generated_tokens += 1;
        if !each(token, session)? {
            break Stop::Stopped;
        }
        sampler.accept(token);
        if figures.generated_tokens == most {
            break Stop::Length;
        }
        match session.decode(exec, token) {
            Ok(_) => {}
            Err(shadowllm_core::Error::ContextFull { .. }) => break Stop::ContextFull,
            Err(e) => return Err(Error::from(e)),
        }
        let cache = session.model().kv_bytes_per_token(session.options().kv, session.position() - 1);
        bytes += (session.traffic().weights + cache) as u64;
    };
    let decoded = figures.generated_tokens.saturating_sub(1);
    if decoded > 0 {
        figures.decode_seconds = first.elapsed().as_secs_f64();
        figures.tokens_per_second = decoded as f64 / figures.decode_seconds;
        figures.bytes_per_token = bytes / decoded as u64;
    }
    Ok((figures, stop))
}

/// Peak resident memory of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
    }
    #[cfg(not(target_os = "linux"))]
    None
}
