//! Reading ahead: the next token and guesses of those after it are read together, in one dense pass.
//!
//! A pass over a few tokens reads the weights once, and costs little more than a pass over one. Tokens that were
//! guessed right need no pass of their own; a wrong guess and all after it are dropped. The logits are those of a dense
//! decode, bit for bit, because the bits do not depend on the batch: guessing changes the time that a text takes, never
//! the text (speculative decoding, arXiv 2211.17192, with a verification that needs no rejection sampling: the caller's
//! sampler chooses from the same logits, in the same order).
//!
//! Guesses come from the text itself ([`lookup`]; prompt lookup decoding, github.com/apoorvumang/prompt-lookup-decoding),
//! or from the model under the dial ([`Session::draft`]; self-speculative decoding, arXiv 2309.08168).

use super::session::Session;
use crate::error::Error;
use crate::exec::Executor;
use crate::sample::Candidate;
use crate::sparsity::{Kind, State};

/// The most tokens at the end of a text that are compared.
const LONGEST: usize = 32;

/// The tokens that followed an earlier place of the text which resembles its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess<'t> {
    /// The tokens that followed, up to the text's end.
    pub tokens: &'t [u32],
    /// The number of tokens before them that equal those at the text's end.
    pub same: usize,
}

/// The guess for what follows `text` and then `last`, which is the text's next token: the place where the most tokens
/// before it are the same, the latest of several.
pub fn lookup(text: &[u32], last: u32) -> Guess<'_> {
    let mut best = Guess { tokens: &[], same: 0 };
    for (at, _) in text.iter().enumerate().rev().filter(|(_, id)| **id == last) {
        let before = text[..at].iter().rev().zip(text.iter().rev()).take(LONGEST - 1);
        let same = 1 + before.take_while(|(a, b)| a == b).count();
        if same > best.same {
            best = Guess { tokens: &text[at + 1..], same };
        }
        if same == LONGEST {
            break;
        }
    }
    best
}

/// Chooses a guess by logits, with room for as many candidates; `None` ends the guessing.
pub type Choose<'c> = &'c mut dyn FnMut(&[f32], &mut [Candidate]) -> Option<u32>;

impl Session<'_, '_> {
    /// Reads one token, the first of `tokens`, and guesses of the next ones, the others, in one pass, densely, whatever
    /// the dial is. The session is then in the state after the first, as after a decode without a dial: position, logits
    /// and a saved state are the same. While [`Session::decode`] gets the guessed tokens, it has nothing to compute. The
    /// first guess for which there is no room (the option `ahead`, the context) or that is not a token is left out, with
    /// all after it. Policies gather no statistics from these tokens.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn decode_ahead(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<&[f32], Error> {
        let (token, guesses) = tokens.split_first().ok_or(Error::NoTokens)?;
        if self.follows(*token) {
            return Ok(self.logits());
        }
        self.begin(&[*token], Kind::Verify)?;
        let start = self.position;
        let room = self.options.ahead.min(self.options.context - start - 1);
        let vocab = self.model.config().vocab as u32;
        let count = 1 + guesses.iter().take(room).take_while(|id| **id < vocab).count();
        let nanoseconds = exec.nanoseconds();
        self.run(exec, &tokens[..count], count)?;
        (self.position, self.ahead, self.has_logits) = (start + 1, count - 1, true);
        self.show_position();
        self.count(exec.nanoseconds().saturating_sub(nanoseconds));
        Ok(self.logits())
    }

    /// If this token was read ahead, moves the position past it and returns true.
    pub(super) fn follows(&mut self, token: u32) -> bool {
        if !self.has_ahead(token) {
            return false;
        }
        self.position += 1;
        self.ahead -= 1;
        self.row += 1;
        // Its bytes were counted with the token that began the pass.
        self.traffic = Default::default();
        self.count(0);
        self.show_position();
        true
    }

    /// Whether [`Session::decode`] has nothing to do for this token, because it was read ahead.
    pub fn has_ahead(&self, token: u32) -> bool {
        self.ahead > 0 && self.tokens[self.position] == token
    }

    /// Guesses the tokens after `token`: decodes it under the dial, passes the logits to `choose`, continues with the
    /// token that it returns, and so on until `choose` returns none, or `guesses` or the context is full; returns the
    /// number of guesses. [`Session::traffic`] is that of all these decodes. The session is then at its old position,
    /// without logits. Policies gather no statistics, and the next choice is made when it would have been made; a choice
    /// that lasts for several tokens ([`crate::sparsity::Dial::refresh`]) may have been renewed meanwhile.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn draft(
        &mut self,
        exec: &dyn Executor,
        token: u32,
        guesses: &mut [u32],
        choose: Choose,
    ) -> Result<usize, Error> {
        let (start, mut last, mut count, mut bytes) = (self.position, token, 0, 0);
        let room = guesses.len().min(self.options.context.saturating_sub(start + 1));
        let mark = self.sparsity.as_ref().map(State::mark);
        let mut result = Ok(());
        for guess in &mut guesses[..room] {
            result = self.begin(&[last], Kind::Draft).and_then(|()| self.read(exec, &[last]));
            bytes += self.traffic.weights;
            let logits = self.logit_row();
            let next = if result.is_ok() { choose(&self.buffers.logits[logits], self.candidates) } else { None };
            let Some(next) = next else { break };
            (*guess, last, count) = (next, next, count + 1);
        }
        (self.position, self.has_logits, self.traffic.weights) = (start, false, bytes);
        self.show_position();
        if let (Some(state), Some(mark)) = (&mut self.sparsity, mark) {
            state.go_back(mark);
        }
        result.map(|()| count)
    }
}
