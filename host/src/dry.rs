//! DRY ("don't repeat yourself"): a token that would lengthen a repetition of the text so far becomes less likely, the more
//! so the longer the repetition is. Parameters, breakers and arithmetic are those of llama.cpp's sampler of this name.

use crate::error::{Error, Result};
use shadowllm_core::sample::Candidate;
use std::collections::HashMap;
use std::fmt;

/// Repetitions do not go across tokens with one of these.
pub const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];
/// The natural logarithm of the largest f32.
const LARGEST: f32 = 88.722_84;

/// The strength of the penalty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dry {
    /// Scales all penalties; 0 for none.
    pub multiplier: f32,
    /// The factor for each further token of a repetition.
    pub base: f32,
    /// Repetitions shorter than this are free.
    pub allowed_length: usize,
    /// Number of last tokens in which repetitions are looked for; 0 for all.
    pub last: usize,
}

impl Default for Dry {
    fn default() -> Self {
        Dry { multiplier: 0.0, base: 1.75, allowed_length: 2, last: 0 }
    }
}

impl Dry {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the number that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.multiplier >= 0.0 && self.multiplier.is_finite()) {
            return Err(Error::Usage(format!("the DRY multiplier {} is not 0 or more (0 is none)", self.multiplier)));
        }
        if !(self.base >= 1.0 && self.base.is_finite()) {
            return Err(Error::Usage(format!("the DRY base {} is not 1 or more", self.base)));
        }
        Ok(())
    }
}

/// Finds repetitions, and knows which tokens break them.
pub struct Repetitions {
    dry: Dry,
    breaks: Box<dyn Fn(u32) -> bool + Send + Sync>,
    /// The last tokens, the latest first.
    latest: Vec<u32>,
    /// For each place of `latest`, how many tokens from there on are those of its beginning.
    same: Vec<usize>,
}

impl fmt::Debug for Repetitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repetitions({:?})", self.dry)
    }
}

impl Repetitions {
    /// `breaks` says of a token whether its text has one of the [`BREAKERS`].
    pub fn new(dry: Dry, breaks: Box<dyn Fn(u32) -> bool + Send + Sync>) -> Self {
        Repetitions { dry, breaks, latest: Vec::new(), same: Vec::new() }
    }

    /// Lowers the scores of tokens that would lengthen a repetition at the end of `tokens`. Candidates are in the order of
    /// their ids.
    pub fn lower(&mut self, tokens: &[u32], list: &mut [Candidate]) {
        for (id, length) in self.lengths(tokens) {
            let exponent = (length - self.dry.allowed_length) as f32;
            let most = if self.dry.base > 1.000_001 { (LARGEST / self.dry.base.ln()).floor() } else { f32::INFINITY };
            let penalty = self.dry.multiplier * self.dry.base.powf(exponent.min(most));
            if let Some(candidate) = list.get_mut(id as usize).filter(|_| !(self.breaks)(id)) {
                candidate.score -= penalty;
            }
        }
    }

    /// Tokens that would lengthen a repetition, and the length of the longest one.
    fn lengths(&mut self, tokens: &[u32]) -> HashMap<u32, usize> {
        let mut lengths = HashMap::new();
        let reach = if self.dry.last == 0 { tokens.len() } else { tokens.len().min(self.dry.last) };
        if reach <= self.dry.allowed_length {
            return lengths;
        }
        self.latest.clear();
        self.latest.extend(tokens.iter().rev().take(reach));
        let limit = self.latest.iter().position(|id| (self.breaks)(*id)).unwrap_or(reach);
        if limit < self.dry.allowed_length {
            return lengths;
        }
        self.compare();
        for (i, same) in self.same.iter().enumerate().skip(1) {
            let length = limit.min(*same);
            if length >= self.dry.allowed_length {
                let longest = lengths.entry(self.latest[i - 1]).or_insert(0);
                *longest = length.max(*longest);
            }
        }
        lengths
    }

    /// The Z algorithm (Gusfield 1997): in time linear in the number of tokens.
    fn compare(&mut self) {
        let (text, same) = (&self.latest, &mut self.same);
        same.clear();
        same.resize(text.len(), 0);
        let (mut begin, mut end) = (0, 0);
        for i in 1..text.len() {
            let mut length = if i < end { same[i - begin].min(end - i) } else { 0 };
            while text.get(i + length).is_some_and(|id| *id == text[length]) {
                length += 1;
            }
            same[i] = length;
            if i + length > end {
                (begin, end) = (i, i + length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(dry: Dry, tokens: &[u32], breaker: Option<u32>) -> Vec<f32> {
        let mut list: Vec<Candidate> = (0..10).map(|id| Candidate { id, score: 0.0 }).collect();
        Repetitions::new(dry, Box::new(move |id| Some(id) == breaker)).lower(tokens, &mut list);
        list.iter().map(|c| c.score).collect()
    }

    /// The cases of llama.cpp's own test (`test_dry` of `test-sampling.cpp`): tokens that are equally likely, and their
    /// probabilities after the penalty.
    #[test]
    fn penalties_are_those_of_llama_cpp() {
        let check = |tokens: &[u32], wanted: &[f32], multiplier: f32, allowed_length, last, breaker| {
            let dry = Dry { multiplier, base: 1.1, allowed_length, last };
            let all = scores(dry, tokens, breaker);
            let sum: f32 = all[..wanted.len()].iter().map(|s| s.exp()).sum();
            for (score, wanted) in all.iter().zip(wanted) {
                assert!((score.exp() / sum - wanted).abs() < 1e-5, "{tokens:?}: {all:?}");
            }
        };
        check(&[0, 1], &[0.25; 4], 1.0, 2, 4, None);
        check(&[0, 1, 2, 0, 1], &[0.296_923, 0.296_923, 0.109_232, 0.296_923], 1.0, 2, 5, None);
        check(&[0, 1, 3, 4, 0, 1], &[0.2; 5], 1.0, 2, 6, Some(3));
        check(&[0, 1, 2, 0, 1], &[0.241_818, 0.241_818, 0.032_727, 0.241_818, 0.241_818], 2.0, 2, 5, None);
        check(&[0, 1, 2, 3, 4, 0, 1], &[0.2; 5], 1.0, 4, 7, None);
    }

    #[test]
    fn longer_repetitions_weigh_more() {
        let dry = Dry { multiplier: 0.5, ..Dry::default() };
        let found = scores(dry, &[1, 2, 3, 4, 5, 1, 2, 3, 4], None);
        assert!((found[5] + 0.5 * 1.75f32.powi(2)).abs() < 1e-5, "{found:?}");
        // Within the last 3 tokens there is no repetition, and a breaker itself is never made less likely.
        assert_eq!(scores(Dry { last: 3, ..dry }, &[1, 2, 3, 4, 5, 1, 2, 3, 4], None), [0.0; 10]);
        assert_eq!(scores(dry, &[1, 2, 3, 4, 5, 1, 2, 3, 4], Some(5)), [0.0; 10]);
        // A very long repetition does not overflow.
        let long = scores(Dry { multiplier: 1.0, ..dry }, &[7; 4000], None);
        assert!(long[7].is_finite() && long[7] < -1e30, "{long:?}");
    }

    #[test]
    fn useless_numbers_are_refused() {
        let said = |dry: Dry| dry.check().unwrap_err().to_string();
        assert!(said(Dry { multiplier: -1.0, ..Dry::default() }).contains("multiplier -1"));
        assert!(said(Dry { base: 0.5, ..Dry::default() }).contains("base 0.5"));
        assert!(said(Dry { multiplier: f32::NAN, ..Dry::default() }).contains("NaN"));
        assert!(Dry::default().check().is_ok());
    }
}
