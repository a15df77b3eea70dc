//! Tokens one by one after a prompt, with figures of speed and memory.

use crate::controls::{Choose, Freely};
use crate::error::{Error, Result};
use crate::speculate::Drafter;
use shadowllm_core::sample::Sampler;
use shadowllm_core::{Executor, Session};
use std::time::Instant;

/// The figures of a generation.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Figures {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Seconds from the start to the first token; 0 when none was generated.
    pub seconds_to_first_token: f64,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: f64,
    /// Seconds of decoding (all tokens but the first).
    pub decode_seconds: f64,
    /// Decoded tokens per second.
    pub tokens_per_second: f64,
    /// Bytes of weights and cache read per decoded token, on average.
    pub bytes_per_token: u64,
    /// Decoded tokens that were guessed right, so that they needed no pass of their own.
    pub guessed_tokens: usize,
    /// Of the generated tokens, those that were the only ones the grammar allowed: consecutive ones are read at once.
    pub forced_tokens: usize,
    /// Seconds spent on finding out what the grammar allows.
    pub grammar_seconds: f64,
    /// Passes over the weights in which tokens of the answer were read.
    pub passes: usize,
    /// Seconds of these passes.
    pub pass_seconds: f64,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// An end-of-sequence token.
    EndOfText,
    /// The largest number of tokens was reached.
    Length,
    /// No position is left.
    ContextFull,
    /// One of the stop strings.
    StopString,
    /// The caller stopped it.
    Stopped,
    /// The session was cancelled.
    Cancelled,
}

/// A generation, token by token. It borrows nothing: every step gets session, threads and sampler, which must be the
/// same ones each time. It allocates nothing.
#[derive(Debug)]
pub struct Generation {
    most: usize,
    start: Instant,
    /// The time of the first token.
    first: Instant,
    figures: Figures,
    /// Bytes read by all decoded tokens.
    bytes: u64,
    /// Guesses the next tokens, in an exact session.
    drafter: Option<Drafter>,
    /// The token that was returned last, which the session has not read yet.
    last: Option<u32>,
    /// Earlier tokens that the session has not read either.
    unread: Vec<u32>,
    stop: Option<Stop>,
}

impl Generation {
    /// Reads `prompt`; at most `most` tokens will be generated.
    ///
    /// # Errors
    /// Errors of the session: an empty prompt, one longer than the context, an id out of range.
    pub fn begin(
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &mut Sampler,
        prompt: &[u32],
        most: usize,
    ) -> Result<Self> {
        let start = Instant::now();
        session.prefill(exec, prompt)?;
        let seconds = start.elapsed().as_secs_f64();
        prompt.iter().for_each(|id| sampler.accept(*id));
        let figures = Figures {
            prompt_tokens: prompt.len(),
            prompt_tokens_per_second: prompt.len() as f64 / seconds.max(1e-9),
            ..Figures::default()
        };
        let drafter = (session.options().ahead > 0).then(Drafter::default);
        let unread = Vec::new();
        Ok(Generation { most, start, first: start, figures, bytes: 0, drafter, last: None, unread, stop: None })
    }

    /// The next token; `None` after the last one.
    ///
    /// # Errors
    /// Errors of the session, such as a cancelled step.
    pub fn next(&mut self, session: &mut Session, exec: &dyn Executor, sampler: &mut Sampler) -> Result<Option<u32>> {
        self.next_by(session, exec, sampler, &mut Freely)
    }

    /// [`Generation::next`] with tokens that somebody else chooses.
    ///
    /// # Errors
    /// As [`Generation::next`] and [`Choose::choose`].
    pub fn next_by(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &mut Sampler,
        choose: &mut dyn Choose,
    ) -> Result<Option<u32>> {
        if self.stop.is_none() {
            let step = self.step(session, exec, sampler, choose);
            if let Err(Error::Engine { source: shadowllm_core::Error::Cancelled, .. }) = step {
                self.stop = Some(Stop::Cancelled);
            }
            self.stop = step?;
            self.figures.grammar_seconds = choose.spent().as_secs_f64();
            // The pass that only found the end has no token.
            if self.stop.is_none() {
                self.measure();
            }
        }
        Ok(if self.stop.is_some() { None } else { self.last })
    }

    /// Reads the last token and chooses the next one, or sets why there is none.
    fn step(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &mut Sampler,
        choose: &mut dyn Choose,
    ) -> Result<Option<Stop>> {
        if let Some(token) = self.last.take() {
            sampler.accept(token);
            if self.figures.generated_tokens == self.most {
                return Ok(Some(Stop::Length));
            }
            if let Some(forced) = choose.forced() {
                self.unread.push(token);
                self.figures.forced_tokens += 1;
                return Ok(self.hand_out(session, forced));
            }
            if choose.is_over() {
                return Ok(Some(Stop::EndOfText));
            }
            let begun = Instant::now();
            let read = self.read(session, exec, sampler, token);
            self.figures.passes += 1;
            self.figures.pass_seconds += begun.elapsed().as_secs_f64();
            match read {
                Ok(()) => {}
                Err(shadowllm_core::Error::ContextFull { .. }) => return Ok(Some(Stop::ContextFull)),
                Err(e) => return Err(Error::from(e)),
            }
        } else if self.most == 0 {
            return Ok(Some(Stop::Length));
        } else if choose.is_over() {
            return Ok(Some(Stop::EndOfText));
        } else if let Some(forced) = choose.forced() {
            self.figures.forced_tokens += 1;
            return Ok(self.hand_out(session, forced));
        }
        let token = choose.choose(session, sampler)?;
        Ok(self.hand_out(session, token))
    }

    /// Makes a token the next one, or reports that it ends the text.
    fn hand_out(&mut self, session: &Session, token: u32) -> Option<Stop> {
        if self.figures.generated_tokens == 0 {
            self.first = Instant::now();
            self.figures.seconds_to_first_token = (self.first - self.start).as_secs_f64();
        }
        if session.model().config().eos().contains(&token) {
            return Some(Stop::EndOfText);
        }
        self.figures.generated_tokens += 1;
        self.last = Some(token);
        None
    }

    /// Reads a token of the answer, together with earlier ones that were not read.
    fn read(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &Sampler,
        token: u32,
    ) -> std::result::Result<(), shadowllm_core::Error> {
        let weights = match &mut self.drafter {
            _ if !self.unread.is_empty() => {
                self.unread.push(token);
                session.prefill(exec, &self.unread)?;
                self.unread.clear();
                session.traffic().weights
            }
            Some(drafter) => {
                drafter.read(session, exec, sampler, token)?;
                self.figures.guessed_tokens = drafter.free();
                drafter.bytes()
            }
            None => {
                session.decode(exec, token)?;
                session.traffic().weights
            }
        };
        let cache = session.model().kv_bytes_per_token(session.options().kv, session.position() - 1);
        self.bytes += (weights + cache) as u64;
        Ok(())
    }

    /// Updates the figures of decoding.
    fn measure(&mut self) {
        let decoded = self.figures.generated_tokens.saturating_sub(1);
        if decoded > 0 {
            self.figures.decode_seconds = self.first.elapsed().as_secs_f64();
            self.figures.tokens_per_second = decoded as f64 / self.figures.decode_seconds;
            self.figures.bytes_per_token = self.bytes / decoded as u64;
        }
    }

    /// Treats the last token as an end token.
    pub fn end(&mut self) {
        if self.stop.is_none() && self.last.take().is_some() {
            self.figures.generated_tokens -= 1;
            self.stop = Some(Stop::EndOfText);
        }
    }

    /// Ends it here for a reason, unless it has ended already.
    pub fn stop(&mut self, why: Stop) {
        self.stop.get_or_insert(why);
    }

    /// Why it has ended; `None` while it goes on.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// The figures so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }
}

/// Reads `prompt`, then generates up to `most` tokens, and calls `each` with the session and each token; it returns
/// false to stop. This allocates nothing.
///
/// # Errors
/// As [`Generation::begin`] and [`Generation::next`]; errors of `each`.
pub fn generate(
    session: &mut Session,
    exec: &dyn Executor,
    sampler: &mut Sampler,
    prompt: &[u32],
    most: usize,
    each: &mut dyn FnMut(u32, &Session) -> Result<bool>,
) -> Result<(Figures, Stop)> {
    let mut generation = Generation::begin(session, exec, sampler, prompt, most)?;
    while let Some(token) = generation.next(session, exec, sampler)? {
        if !each(token, session)? {
            generation.stop(Stop::Stopped);
        }
    }
    Ok((generation.figures(), generation.stopped().unwrap_or(Stop::Stopped)))
}

/// Peak resident memory of this process in bytes, if the system reports it.
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
