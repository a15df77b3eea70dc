//! The likelihoods of answers under a model, and how often the likeliest answer is right.

use super::{Choice, Question, Task};
use crate::eval::{nll, not_finite};
use shadowllm_core::Session;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_host::{Error, Result};

/// A choice in tokens; neither part is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChoice {
    /// The tokens that are given.
    pub context: Vec<u32>,
    /// The tokens that are scored.
    pub continuation: Vec<u32>,
    /// Characters of the answer, without the space before it; the harness divides by them for normalised accuracy.
    pub characters: usize,
}

impl EncodedChoice {
    /// Positions that scoring it needs; its last token is never read.
    pub fn positions(&self) -> usize {
        (self.context.len() + self.continuation.len()).saturating_sub(1)
    }

    /// The end of the context, shortened so that the continuation fits in `positions` positions, but at least one
    /// token.
    fn context_within(&self, positions: usize) -> &[u32] {
        let over = self.positions().saturating_sub(positions);
        &self.context[over.min(self.context.len().saturating_sub(1))..]
    }
}

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The choices.
    pub choices: Vec<EncodedChoice>,
    /// Index of the right answer.
    pub gold: usize,
}

/// Turns questions into tokens.
pub struct Encoder<'a> {
    text: &'a Text,
    /// The model's beginning token.
    bos: Option<u32>,
    /// Whether the tokenizer puts the beginning token before every text.
    begins: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder for a model with this tokenizer and beginning token.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(text: &'a Text, bos: Option<u32>) -> Result<Self> {
        let begins = bos.is_some() && text.encode("", true)?.first().copied() == bos;
        Ok(Encoder { text, bos, begins })
    }

    /// A question in tokens.
    ///
    /// # Errors
    /// When the tokenizer refuses a text, or a continuation is empty.
    pub fn encode(&self, question: &Question) -> Result<Encoded> {
        let choices = question.choices.iter().map(|c| self.choice(c)).collect::<Result<_>>()?;
        Ok(Encoded { choices, gold: question.gold })
    }

    /// Context and continuation are encoded together and split after the number of tokens of the context alone, as in
    /// the harness. Spaces at the end of the context belong to the continuation, because tokens join them to its first
    /// word.
    fn choice(&self, choice: &Choice) -> Result<EncodedChoice> {
        let Choice { context, continuation } = choice;
        // Without the tokens that a tokenizer may add at the end of a text.
        let ids = self.text.encode(&format!("{context}{continuation}"), false)?;
        // If both merge into fewer tokens, at least the last one is still scored.
        let at = self.text.encode(context.trim_end(), false)?.len().min(ids.len().saturating_sub(1));
        // With a beginning token, the context may be empty.
        let start = if self.begins || at == 0 { self.bos } else { None };
        let (before, scored) = ids.split_at(at);
        let before: Vec<u32> = start.into_iter().chain(before.iter().copied()).collect();
        if before.is_empty() || scored.is_empty() {
            return Err(Error::Other(format!(
                "the answer '{continuation}' after '{context}' cannot be scored with this model: in tokens, one of them \
                 is empty"
            )));
        }
        let answer = continuation.strip_prefix(' ').unwrap_or(continuation);
        Ok(EncodedChoice { context: before, continuation: scored.into(), characters: answer.chars().count() })
    }
}

/// Log-likelihood of `continuation` after `context`, in nats. The context except its last token is read at once. The
/// last token and the continuation are decoded one by one, so that skipping, which acts on decoded tokens only, acts on
/// every scored token. `known` is the number of tokens of the context that the session has already read in an earlier
/// call: it goes back to that position, unless its policy learns from the context and would forget it by that.
///
/// # Errors
/// What the session refuses: an empty context, one that is too long, an id out of range, a `known` beyond its position.
pub fn log_likelihood(
    session: &mut Session,
    pool: &Pool,
    context: &[u32],
    continuation: &[u32],
    known: usize,
) -> Result<f64> {
    let vocab = session.model().config().vocab as u32;
    // The last token is never read, so the session would not check it.
    if let Some(&id) = continuation.iter().find(|id| **id >= vocab) {
        return Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into());
    }
    let (mut token, before) = context.split_last().ok_or(shadowllm_core::Error::NoTokens)?;
    let known = known.min(before.len());
    let stays = session.reaches(known) && !session.policy().plan().learns();
    let known = if stays || known > session.position() { known } else { 0 };
    session.rewind(known)?;
    if known < before.len() {
        session.prefill(pool, &before[known..])?;
    }
    let mut sum = 0.0;
    for next in continuation {
        sum -= nll(session.decode(pool, *token)?, *next);
        if !sum.is_finite() {
            return Err(not_finite(session.position()));
        }
        token = next;
    }
    Ok(sum)
}

/// Log-likelihoods of a question's choices. The tokens that a choice's context shares with the one before are read
/// once, unless the policy learns from them.
///
/// # Errors
/// As [`log_likelihood`].
pub fn score(session: &mut Session, pool: &Pool, question: &Encoded) -> Result<Vec<f64>> {
    let mut read: &[u32] = &[];
    let mut sums = Vec::with_capacity(question.choices.len());
    for choice in &question.choices {
        let context = choice.context_within(session.context());
        let known = read.iter().zip(context).take_while(|(a, b)| a == b).count();
        sums.push(log_likelihood(session, pool, context, &choice.continuation, known)?);
        // The last token was decoded, perhaps with skipping, so it does not count as read.
        read = &context[..context.len().saturating_sub(1)];
    }
    Ok(sums)
}

/// Result on a task.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Accuracy {
    /// The task.
    pub task: Task,
    /// Questions.
    pub questions: usize,
    /// Share of the questions whose likeliest choice is the right one.
    pub accuracy: f64,
    /// The standard error of this mean.
    pub accuracy_stderr: f64,
    /// The same with log-likelihoods divided by the choices' characters. If only contexts differ (WinoGrande), it is
    /// the same number.
    pub normalised_accuracy: f64,
    /// Its standard error.
    pub normalised_accuracy_stderr: f64,
}

/// Accuracy on the questions of a task; `progress` is called after each.
///
/// # Errors
/// [`Error::Usage`] when there are no questions; as [`log_likelihood`].
pub fn accuracy(
    session: &mut Session,
    pool: &Pool,
    task: Task,
    questions: &[Encoded],
    progress: &mut dyn FnMut(),
) -> Result<Accuracy> {
    if questions.is_empty() {
        return Err(Error::Usage(format!("no questions of {} to ask: --limit must be at least 1", task.name())));
    }
    let (mut right, mut normalised) = (0, 0);
    for question in questions {
        let sums = score(session, pool, question)?;
        let per_character = sums.iter().zip(&question.choices).map(|(s, c)| s / c.characters.max(1) as f64);
        normalised += usize::from(best(per_character) == question.gold);
        right += usize::from(best(sums.iter().copied()) == question.gold);
        progress();
    }
    let share = |n: usize| n as f64 / questions.len() as f64;
    let stderr = |p: f64| (p * (1.0 - p) / questions.len().saturating_sub(1).max(1) as f64).sqrt();
    Ok(Accuracy {
        task,
        questions: questions.len(),
        accuracy: share(right),
        accuracy_stderr: stderr(share(right)),
        normalised_accuracy: share(normalised),
        normalised_accuracy_stderr: stderr(share(normalised)),
    })
}

/// Index of the greatest score, the first of equals.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let greater = |a: (usize, f64), b: (usize, f64)| if b.1 > a.1 { b } else { a };
    scores.enumerate().reduce(greater).map_or(0, |b| b.0)
}
