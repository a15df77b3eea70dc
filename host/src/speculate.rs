//! Guesses of the next tokens, for answers that are the dense model's: where the guesses come from, and how many are
//! read.
//!
//! The cost of a guess of n tokens is the time of making it, and the time by which a pass over 1 + n tokens is longer
//! than a pass over one. Its gain is the number of tokens before the first wrong one. Both are measured while the
//! answer is made: the time of passes by their length, and the share of guessed tokens that are right, by the number of
//! tokens before them that are the same. When no guess pays, every token is decoded as without guessing.

use shadowllm_core::sample::Sampler;
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{Error, Executor, Session, SessionOptions, lookup};
use std::time::Instant;

/// The most tokens that are guessed.
const MOST: usize = SessionOptions::AHEAD;
/// The lengths of guesses that are compared. There are kernels for passes over 2, 4, 8 and 16 tokens.
const LENGTHS: [usize; 7] = [1, 2, 3, 5, 7, 11, MOST];
/// The assumed cost of one more token in a pass before it was measured, in passes of one token.
const MARGIN: f64 = 0.1;
/// The weight of a new measurement in a running mean.
const NEW: f64 = 0.15;
/// After this number of tokens without a guess by the model itself, one is tried again, in case it has become worth its
/// cost.
const RETRY: usize = 128;
/// The number of guesses by the model itself before their share of right tokens is used.
const TRIALS: usize = 3;

/// The source of a guess. Copies are divided into classes by the number of tokens before them that are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Copy(usize),
    Own,
}

impl Origin {
    const COUNT: usize = 6;

    /// A copy's class: 1, 2, 3, 4 to 7, 8 tokens and more.
    fn copy(same: usize) -> Self {
        Origin::Copy(match same {
            0..=3 => same.saturating_sub(1),
            4..=7 => 3,
            _ => 4,
        })
    }

    fn index(self) -> usize {
        match self {
            Origin::Copy(class) => class,
            Origin::Own => Self::COUNT - 1,
        }
    }
}

/// The guessed tokens; those before `at` were right.
#[derive(Clone, Copy, Debug)]
struct Guesses {
    origin: Origin,
    tokens: [u32; MOST],
    len: usize,
    /// The next one to be compared.
    at: usize,
}

/// Guesses for one answer. Allocates nothing.
#[derive(Debug)]
pub struct Drafter {
    /// The share of guessed tokens that were right, by origin.
    right: [f64; Origin::COUNT],
    /// Seconds of a pass over one token; 0 before the first.
    one: f64,
    /// The cost of one more token in a pass, in passes of one token, by the number of tokens; 0 where not measured.
    margins: [f64; MOST + 2],
    /// Seconds to decode a token under the dial.
    sparse: f64,
    guesses: Option<Guesses>,
    /// Guesses by the model itself so far, and tokens since the last.
    own: (usize, usize),
    /// Bytes of weights that were read for the last token, guesses included.
    bytes: usize,
    /// Tokens that needed no pass of their own.
    free: usize,
}

impl Default for Drafter {
    fn default() -> Self {
        Drafter {
            right: [0.2, 0.4, 0.6, 0.75, 0.9, 0.8],
            one: 0.0,
            margins: [0.0; MOST + 2],
            sparse: 0.0,
            guesses: None,
            own: (0, 0),
            bytes: 0,
            free: 0,
        }
    }
}

/// Takes a measurement into a running mean, which is 0 before the first.
fn renew(mean: &mut f64, measured: f64) {
    *mean = if *mean == 0.0 { measured } else { *mean + NEW * (measured - *mean) };
}

impl Drafter {
    /// Reads a token of the answer, and in the same pass as many guesses as pay. Afterwards the session is as after a
    /// dense decode.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn read(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &Sampler,
        token: u32,
    ) -> Result<(), Error> {
        self.learn(token);
        self.bytes = 0;
        if session.has_ahead(token) {
            self.free += 1;
            return session.decode_ahead(exec, &[token]).map(drop);
        }
        session.admit(&[token])?;
        let count = self.guess(session, exec, sampler, token)?;
        let mut tokens = [token; 1 + MOST];
        tokens[1..].copy_from_slice(&self.guesses.map_or([0; MOST], |g| g.tokens));
        let start = Instant::now();
        session.decode_ahead(exec, &tokens[..1 + count])?;
        self.took(1 + count, start.elapsed().as_secs_f64());
        self.bytes += session.traffic().weights;
        Ok(())
    }

    /// Bytes of weights that were read for the last token, guesses included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tokens so far that needed no pass of their own.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Compares the actual token with the guessed one.
    fn learn(&mut self, token: u32) {
        let Some(guesses) = &mut self.guesses else { return };
        let right = guesses.tokens[guesses.at] == token;
        let mean = &mut self.right[guesses.origin.index()];
        // The limits keep every origin in use, however often it failed.
        *mean = (*mean + NEW * (f64::from(u8::from(right)) - *mean)).clamp(0.02, 0.99);
        guesses.at += 1;
        if !right || guesses.at == guesses.len {
            self.guesses = None;
        }
    }

    /// The time of a pass over this number of tokens, in passes of one.
    fn cost(&self, tokens: usize) -> f64 {
        // The nearest number of tokens that was measured.
        let measured = (2..self.margins.len()).filter(|n| self.margins[*n] > 0.0).min_by_key(|n| n.abs_diff(tokens));
        1.0 + measured.map_or(MARGIN, |n| self.margins[n]) * (tokens - 1) as f64
    }

    fn took(&mut self, tokens: usize, seconds: f64) {
        if tokens == 1 {
            renew(&mut self.one, seconds);
        } else if self.one > 0.0 {
            let margin = ((seconds / self.one - 1.0) / (tokens - 1) as f64).max(0.001);
            renew(&mut self.margins[tokens], margin);
        }
    }

    /// The number of guessed tokens, at most `most`, that gives the most tokens per second, and how many times as fast
    /// that is as without guesses. Each guess is right with the probability `right` and takes `each` passes of one
    /// token to make.
    fn best(&self, most: usize, right: f64, each: f64) -> (usize, f64) {
        let gain = |n: usize| {
            let tokens = (1.0 - right.powi(n as i32 + 1)) / (1.0 - right);
            tokens / (self.cost(1 + n) + each * n as f64)
        };
        let lengths = LENGTHS.into_iter().filter(|n| *n <= most).map(|n| (n, gain(n)));
        lengths.fold((0, 1.0), |best, next| if next.1 > best.1 { next } else { best })
    }

    /// Guesses the tokens after a token, and returns how many of the guesses are worth reading.
    fn guess(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &Sampler,
        token: u32,
    ) -> Result<usize, Error> {
        self.guesses = None;
        self.own.1 += 1;
        if self.one == 0.0 {
            return Ok(0);
        }
        let found = lookup(session.tokens(), token);
        let len = found.tokens.len().min(session.options().ahead).min(MOST);
        let mut tokens = [0; MOST];
        tokens[..len].copy_from_slice(&found.tokens[..len]);
        let origin = Origin::copy(found.same);
        let (count, gain) = self.best(len, self.right[origin.index()], 0.0);
        if let Some(count) = self.own(session, exec, sampler, token, gain)? {
            return Ok(count);
        }
        // A guess is also compared with the actual tokens when it is not worth reading, so that its share of right ones
        // stays current.
        self.guesses = (len > 0).then_some(Guesses { origin, tokens, len: count.max(1), at: 0 });
        Ok(count)
    }

    /// Lets the model guess under its dial if that is expected to gain more than a copy.
    fn own(
        &mut self,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &Sampler,
        token: u32,
        gain: f64,
    ) -> Result<Option<usize>, Error> {
        if session.policy() == Policy::Off {
            return Ok(None);
        }
        let most = MOST.min(session.options().ahead);
        let each = if self.sparse > 0.0 { self.sparse / self.one } else { 0.7 };
        let (mut count, own_gain) = self.best(most, self.right[Origin::Own.index()], each);
        let (tried, since) = self.own;
        let trial = tried < TRIALS || since >= RETRY;
        if count == 0 && trial {
            count = 2.min(most);
        }
        if count == 0 || (own_gain <= gain && !(trial && gain <= 1.0)) {
            return Ok(None);
        }
        // Guesses use the same random numbers as the answer, so that both choose the same token when the logits are
        // alike.
        let (mut sampler, mut tokens) = (sampler.clone(), [0; MOST]);
        let start = Instant::now();
        let made = session.draft(exec, token, &mut tokens[..count], &mut |logits, room| {
            let next = sampler.sample(logits, room).ok()?;
            sampler.accept(next);
            Some(next)
        })?;
        renew(&mut self.sparse, start.elapsed().as_secs_f64() / count as f64);
        self.own = (tried + 1, 0);
        self.bytes += session.traffic().weights;
        self.guesses = (made > 0).then_some(Guesses { origin: Origin::Own, tokens, len: made, at: 0 });
        Ok(Some(made))
    }
}
