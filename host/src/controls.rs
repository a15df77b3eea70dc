//! Constraints of an answer beyond the sampler's options: stop strings, biases, a grammar; and the likelihoods of its
//! tokens.

use crate::dry::{Dry, Repetitions};
use crate::error::{Error, Result};
use crate::grammar::{Following, Grammar};
use crate::stops;
use shadowllm_core::Session;
use shadowllm_core::sample::{Candidate, Sampler};
use std::time::{Duration, Instant};

/// The most likeliest tokens that are listed beside each token.
pub const MOST_LISTED: usize = 64;
/// The most tokens with a bias.
const MOST_BIASED: usize = 4096;

/// The constraints of an answer.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// Texts before which the answer ends; they are not a part of it.
    pub stop: Vec<String>,
    /// Tokens, and numbers that are added to their logits; minus infinity excludes a token.
    pub bias: Vec<(u32, f32)>,
    /// Log-probabilities of the tokens, with this number of the likeliest ones beside each.
    pub logprobs: Option<usize>,
    /// The penalty of repetitions.
    pub dry: Dry,
    /// The form of the answer.
    pub grammar: Option<Grammar>,
}

impl Controls {
    /// Checks the constraints for a model with this number of tokens.
    ///
    /// # Errors
    /// Names the stop string, the token or the number.
    pub fn check(&self, vocab: usize) -> Result<()> {
        stops::check(&self.stop)?;
        self.dry.check()?;
        if self.bias.len() > MOST_BIASED {
            return Err(Error::Usage(format!("{} biases are given: give {MOST_BIASED} at most", self.bias.len())));
        }
        if let Some(n) = self.logprobs.filter(|n| *n > MOST_LISTED) {
            return Err(Error::Usage(format!("the {n} likeliest tokens are asked for: ask for {MOST_LISTED} at most")));
        }
        match self.bias.iter().find(|(id, bias)| *id as usize >= vocab || bias.is_nan() || *bias == f32::INFINITY) {
            Some((id, _)) if *id as usize >= vocab => {
                Err(Error::Usage(format!("token {id} has a bias, and the model has the tokens 0 to {}", vocab - 1)))
            }
            Some((id, bias)) => Err(Error::Usage(format!("the bias {bias} of token {id} is not below infinity"))),
            None => Ok(()),
        }
    }
}

/// The likelihood of a token by the model's logits, before biases, penalties and temperature.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Likely {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Likely {
    /// The likelihood of token `id` by `logits`, with the `most` likeliest tokens.
    pub fn of(logits: &[f32], id: u32, most: usize) -> Self {
        let number = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit };
        let largest = logits.iter().copied().map(number).fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(number(*logit) - largest).exp()).sum();
        let logprob = |logit: f32| (f64::from(number(logit) - largest) - sum.ln()) as f32;
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit =
            |a: &u32, b: &u32| number(logits[*b as usize]).total_cmp(&number(logits[*a as usize])).then(a.cmp(b));
        if most < order.len() {
            order.select_nth_unstable_by(most, by_logit);
            order.truncate(most);
        }
        order.sort_unstable_by(by_logit);
        let top = order.into_iter().map(|id| (id, logprob(logits[id as usize]))).collect();
        Likely { logprob: logits.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logprob(*logit)), top }
    }
}

/// Chooses the tokens of an answer.
pub trait Choose {
    /// The next token.
    ///
    /// # Errors
    /// When the session has no logits, or no token can follow.
    fn choose(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<u32>;

    /// The next token, if the grammar allows only one, so that no logits are needed.
    fn forced(&mut self) -> Option<u32> {
        None
    }

    /// Whether no token can follow.
    fn is_over(&self) -> bool {
        false
    }

    /// Time spent on what a grammar allows.
    fn spent(&self) -> Duration {
        Duration::ZERO
    }
}

/// The sampler alone.
pub struct Freely;

impl Choose for Freely {
    fn choose(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<u32> {
        Ok(session.sample(sampler)?)
    }
}

/// The sampler, after the constraints are applied.
#[derive(Debug, Default)]
pub struct Controlled {
    bias: Vec<(u32, f32)>,
    logprobs: Option<usize>,
    repetitions: Option<Repetitions>,
    grammar: Option<Following>,
    spent: Duration,
    /// The log-probability of the last token, if `logprobs` is set.
    pub likely: Option<Likely>,
}

impl Controlled {
    /// A chooser with these constraints, which must have been checked. `breaks` is asked which tokens break repetitions
    /// ([`Repetitions::new`]).
    pub fn new(controls: &Controls, breaks: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        let begun = Instant::now();
        let grammar = controls.grammar.as_ref().map(Grammar::follow);
        let spent = if grammar.is_some() { begun.elapsed() } else { Duration::ZERO };
        let repetitions = (controls.dry.multiplier > 0.0).then(|| Repetitions::new(controls.dry, Box::new(breaks)));
        let Controls { bias, logprobs, .. } = controls;
        Controlled { bias: bias.clone(), logprobs: *logprobs, repetitions, grammar, spent, likely: None }
    }

    /// Whether log-probabilities are computed.
    pub fn asks(&self) -> bool {
        self.logprobs.is_some()
    }

    fn adjust(&self, list: &mut [Candidate]) {
        for (id, bias) in &self.bias {
            if let Some(candidate) = list.get_mut(*id as usize) {
                candidate.score += bias;
            }
        }
        if let Some(grammar) = &self.grammar {
            let ruled_out = list.iter_mut().filter(|candidate| !grammar.allows(candidate.id));
            ruled_out.for_each(|candidate| candidate.score = f32::NEG_INFINITY);
        }
    }

    /// Chooses among the tokens that the grammar allows.
    fn chosen(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<u32> {
        let mut repetitions = self.repetitions.take();
        let tokens = repetitions.as_ref().map(|_| session.tokens().to_vec()).unwrap_or_default();
        let mut spent = Duration::ZERO;
        let id = session.sample_adjusted(sampler, &mut |list| {
            if let Some(repetitions) = &mut repetitions {
                repetitions.lower(&tokens, list);
            }
            let begun = Instant::now();
            self.adjust(list);
            spent = begun.elapsed();
        });
        self.repetitions = repetitions;
        if self.grammar.is_some() {
            self.spent += spent;
        }
        Ok(id?)
    }
}

impl Choose for Controlled {
    fn choose(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<u32> {
        if let Some(grammar) = &mut self.grammar {
            let begun = Instant::now();
            grammar.look()?;
            self.spent += begun.elapsed();
        }
        let id = self.chosen(session, sampler)?;
        self.likely = self.logprobs.map(|most| Likely::of(session.logits(), id, most));
        if let Some(grammar) = &mut self.grammar {
            if !grammar.allows(id) {
                let message = "the biases rule out every token that the grammar allows here: give fewer";
                return Err(Error::Usage(message.into()));
            }
            let begun = Instant::now();
            grammar.accept(id)?;
            self.spent += begun.elapsed();
        }
        Ok(id)
    }

    fn forced(&mut self) -> Option<u32> {
        self.likely = None;
        self.grammar.as_mut().and_then(Following::forced)
    }

    fn spent(&self) -> Duration {
        self.spent
    }

    fn is_over(&self) -> bool {
        self.grammar.as_ref().is_some_and(Following::is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        // Python: [x - log(sum(exp(y) for y in l)) for x in l] of 1, 2, 3, -1.
        let likely = Likely::of(&[1.0, 2.0, 3.0, f32::NAN, -1.0], 1, 2);
        assert!((likely.logprob + 1.419_72).abs() < 1e-4, "{likely:?}");
        assert_eq!(likely.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1]);
        assert!((likely.top[0].1 + 0.419_72).abs() < 1e-4, "{likely:?}");
        assert_eq!(Likely::of(&[1.0, 2.0], 3, 9).logprob, f32::NEG_INFINITY);
        let all = Likely::of(&[0.5, 0.5, 0.5], 0, 9).top;
        assert!(all.iter().map(|(id, _)| *id).eq(0..3) && all.iter().all(|(_, p)| (p + 3f32.ln()).abs() < 1e-6));
    }

    #[test]
    fn useless_controls_are_refused() {
        let said = |controls: Controls| controls.check(10).unwrap_err().to_string();
        assert!(said(Controls { bias: vec![(10, 1.0)], ..Controls::default() }).contains("token 10"));
        assert!(said(Controls { bias: vec![(1, f32::NAN)], ..Controls::default() }).contains("token 1"));
        assert!(said(Controls { bias: vec![(1, f32::INFINITY)], ..Controls::default() }).contains("inf"));
        assert!(said(Controls { logprobs: Some(65), ..Controls::default() }).contains("65"));
        assert!(said(Controls { stop: vec![String::new()], ..Controls::default() }).contains("empty"));
        assert!(Controls { bias: vec![(1, f32::NEG_INFINITY)], ..Controls::default() }.check(10).is_ok());
    }
}
