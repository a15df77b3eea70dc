//! Guessing what follows, for answers that are the dense model's: which guess, and how many tokens of it.
//!
//! A guess of n tokens costs what a pass over 1 + n tokens costs more than a pass over one, and what making it costs. It
//! brings as many tokens as are right before the first wrong one. Both are measured while the answer is made: the time
//! of passes by their length, and how often a guess's token is right, by how much of the text before it is the same.
//! Where no guess pays, every token is decoded as without guessing.

use shadowllm_core::sample::Sampler;
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{Error, Executor, Session, SessionOptions, lookup};
use std::time::Instant;

/// Tokens guessed at most.
const MOST: usize = SessionOptions::AHEAD;
/// Lengths of guesses that are weighed against each other. Passes over 2, 4, 8 and 16 tokens are those with kernels.
const LENGTHS: [usize; 7] = [1, 2, 3, 5, 7, 11, MOST];
/// What one more token of a pass is taken to cost before it was measured, in passes of one token.
const MARGIN: f64 = 0.1;
/// The weight of a new measurement in a mean of the recent ones.
const NEW: f64 = 0.15;
/// After how many tokens without one a guess by the model itself is tried again, should it pay by then.
const RETRY: usize = 128;
/// Guesses by the model itself that are made before they are judged.
const TRIALS: usize = 3;

/// Where a guess came from. Copies are told apart by the number of tokens before them that are the same.
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

/// What is guessed to follow, and how much of it has come true.
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
    /// How often a guess's next token was right, by origin.
    right: [f64; Origin::COUNT],
    /// Seconds of a pass over one token; 0 before the first.
    one: f64,
    /// What one more token of a pass cost, in passes of one token, by the number of tokens; 0 where not measured.
    margins: [f64; MOST + 2],
    /// Seconds of a token that the model decodes under its dial.
    sparse: f64,
    guesses: Option<Guesses>,
    /// Guesses by the model itself so far, and tokens since the last.
    own: (usize, usize),
    /// Bytes of weights that the last token took, guesses included.
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

impl Drafter {
    /// Reads a token of the answer, and in the same pass the guesses that are worth it. Afterwards the session is as after
    /// a dense decode.
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
            return session.decode_ahead(exec, token, &[]).map(drop);
        }
        session.admit(&[token])?;
        let count = self.guess(session, exec, sampler, token)?;
        let tokens = self.guesses.map_or([0; MOST], |g| g.tokens);
        let start = Instant::now();
        session.decode_ahead(exec, token, &tokens[..count])?;
        self.took(1 + count, start.elapsed().as_secs_f64());
        self.bytes += session.traffic().weights;
        Ok(())
    }

    /// Bytes of weights that the last token took, guesses included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tokens so far that needed no pass of their own.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Compares the token that came with the one that was guessed.
    fn learn(&mut self, token: u32) {
        let Some(guesses) = &mut self.guesses else { return };
        let right = guesses.tokens[guesses.at] == token;
        let mean = &mut self.right[guesses.origin.index()];
        // Rare origins first move fast enough, and none is given up for good.
        *mean = (*mean + NEW * (f64::from(u8::from(right)) - *mean)).clamp(0.02, 0.99);
        guesses.at += 1;
        if !right || guesses.at == guesses.len {
            self.guesses = None;
        }
    }

    /// Seconds of a pass over so many tokens, in passes of one.
    fn cost(&self, tokens: usize) -> f64 {
        // The nearest number of tokens that was measured.
        let measured = (2..self.margins.len()).filter(|n| self.margins[*n] > 0.0).min_by_key(|n| n.abs_diff(tokens));
        1.0 + measured.map_or(MARGIN, |n| self.margins[n]) * (tokens - 1) as f64
    }

    fn took(&mut self, tokens: usize, seconds: f64) {
        if tokens == 1 {
            self.one = if self.one == 0.0 { seconds } else { self.one + NEW * (seconds - self.one) };
        } else if self.one > 0.0 {
            let margin = ((seconds / self.one - 1.0) / (tokens - 1) as f64).max(0.001);
            let mean = &mut self.margins[tokens];
            *mean = if *mean == 0.0 { margin } else { *mean + NEW * (margin - *mean) };
        }
    }

    /// The number of guessed tokens that brings the most tokens per second, of `most` at most, where each of them is
    /// right as often as said and takes so many passes of one token to guess; and how many times as fast as without.
    fn best(&self, most: usize, right: f64, each: f64) -> (usize, f64) {
        let gain = |n: usize| {
            let tokens = (1.0 - right.powi(n as i32 + 1)) / (1.0 - right);
            tokens / (self.cost(1 + n) + each * n as f64)
        };
        let lengths = LENGTHS.into_iter().filter(|n| *n <= most).map(|n| (n, gain(n)));
        lengths.fold((0, 1.0), |best, next| if next.1 > best.1 { next } else { best })
    }

    /// Guesses what follows a token, and returns how many of the guesses are worth reading.
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
        // Compared with what comes even where it is not worth reading, so that it can become so.
        self.guesses = (len > 0).then_some(Guesses { origin, tokens, len: count.max(1), at: 0 });
        Ok(count)
    }

    /// Lets the model guess under its dial, where that is expected to gain more than a copy does.
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
        // With the answer's own random numbers, so that likely tokens are chosen alike.
        let (mut sampler, mut tokens) = (sampler.clone(), [0; MOST]);
        let start = Instant::now();
        let made = session.draft(exec, token, &mut tokens[..count], &mut |logits, room| {
            let next = sampler.sample(logits, room).ok()?;
            sampler.accept(next);
            Some(next)
        })?;
        let seconds = start.elapsed().as_secs_f64() / count as f64;
        self.sparse = if self.sparse == 0.0 { seconds } else { self.sparse + NEW * (seconds - self.sparse) };
        self.own = (tried + 1, 0);
        self.bytes += session.traffic().weights;
        self.guesses = (made > 0).then_some(Guesses { origin: Origin::Own, tokens, len: made, at: 0 });
        Ok(Some(made))
    }
}
