//! Tasks with long exact answers, made up by the program: copying a list of words, and counting in steps. Answers to questions
//! are short, and hide what many skipped tokens in a row lose: here each wrong token makes the rest wrong.

use crate::decimal;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::Dial;
use shadowllm_core::{Session, random};
use shadowllm_host::generate::generate;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_host::{Error, Result};

/// Exercises that show what is asked, before each one that is asked.
const SHOWN: usize = 4;
/// Words of a list to be copied.
const WORDS: usize = 8;
/// Numbers to be counted.
const NUMBERS: usize = 8;
/// The words of lists.
const LIST: [&str; 48] = [
    "river", "stone", "lamp", "cloud", "horse", "bread", "window", "garden", "paper", "silver", "bridge", "winter",
    "apple", "table", "ocean", "forest", "candle", "mirror", "button", "pepper", "engine", "letter", "market",
    "basket", "hammer", "island", "jacket", "kettle", "ladder", "needle", "orange", "pencil", "rabbit", "saddle",
    "tunnel", "valley", "wagon", "yellow", "anchor", "butter", "castle", "dragon", "feather", "goose", "honey", "iron",
    "jungle", "kitchen",
];

/// A kind of exercise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Words are copied.
    Copies,
    /// Each number is the one before plus the same step.
    Counts,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 2] = [Kind::Copies, Kind::Counts];

    /// A question and its answer.
    fn pair(self, state: &mut u64) -> [String; 2] {
        let mut below = |n: usize| random::next(state) as usize % n;
        match self {
            Kind::Copies => {
                let words: Vec<&str> = (0..WORDS).map(|_| LIST[below(LIST.len())]).collect();
                [format!("Words: {}\nCopy:", words.join(" ")), format!(" {}", words.join(" "))]
            }
            Kind::Counts => {
                let (first, step) = (1 + below(30), 2 + below(5));
                let numbers: String = (0..NUMBERS).map(|i| format!(" {}", first + step * i)).collect();
                [format!("From {first} in steps of {step}:"), numbers]
            }
        }
    }

    /// Exercise `number`, always the same one: what the model reads, and the answer up to the end of its line.
    pub fn exercise(self, number: usize) -> [String; 2] {
        let mut state = 1 + number as u64;
        let shown: String = (0..SHOWN).map(|_| self.pair(&mut state).concat() + "\n\n").collect();
        let [question, answer] = self.pair(&mut state);
        [shown + &question, answer]
    }
}

/// The result of a dial.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Written {
    /// The policy that was set.
    pub policy: &'static str,
    /// The density that was set.
    #[serde(serialize_with = "decimal::serialize")]
    pub density: f32,
    /// Exercises of each kind.
    pub exercises: usize,
    /// Share of the lists copied without any error.
    pub copies: f64,
    /// Share of the countings without any error.
    pub counts: f64,
    /// The standard error of the mean of both shares.
    pub stderr: f64,
    /// Bytes of weights read per decoded token.
    pub bytes_per_token: f64,
}

/// Lets a model do `count` exercises of each kind under each dial, greedily.
///
/// # Errors
/// When an exercise does not fit in the session's context; errors of the session.
pub fn write(
    session: &mut Session,
    pool: &Pool,
    text: &Text,
    count: usize,
    dials: &[Dial],
    progress: &mut dyn FnMut(),
) -> Result<Vec<Written>> {
    if count == 0 {
        return Err(Error::Usage("at least 1 exercise of each kind must be asked".into()));
    }
    let mut rows = Vec::new();
    for dial in dials {
        session.set_dial(dial)?;
        let (mut right, mut bytes, mut tokens) = ([0usize; 2], 0usize, 0usize);
        for number in 0..count {
            for (kind, right) in Kind::ALL.into_iter().zip(&mut right) {
                let [prompt, answer] = kind.exercise(number);
                let before = *session.totals();
                *right += usize::from(begins(session, pool, text, &prompt, &answer)?);
                let totals = session.totals().since(&before);
                (bytes, tokens) = (bytes + totals.weights as usize, tokens + totals.decoded_tokens as usize);
                progress();
            }
        }
        let share = |n: usize| n as f64 / count as f64;
        let variance = |p: f64| p * (1.0 - p) / count.saturating_sub(1).max(1) as f64;
        rows.push(Written {
            policy: dial.policy.name(),
            density: dial.density,
            exercises: count,
            copies: share(right[0]),
            counts: share(right[1]),
            stderr: (variance(share(right[0])) + variance(share(right[1]))).sqrt() / 2.0,
            bytes_per_token: bytes as f64 / tokens.max(1) as f64,
        });
    }
    Ok(rows)
}

/// Whether the model's greedy continuation of a prompt is this line.
fn begins(session: &mut Session, pool: &Pool, text: &Text, prompt: &str, answer: &str) -> Result<bool> {
    let ids = text.encode(prompt, true)?;
    // As many tokens as the answer has, one for the end of the line, and a few in case the model cuts words otherwise.
    let most = text.encode(answer, false)?.len() + 4;
    let line = |ids: &[u32]| Ok::<_, Error>(text.decode(ids)?.split('\n').next().unwrap_or_default().trim().to_owned());
    let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
    let mut written = Vec::new();
    session.rewind(0)?;
    generate(session, pool, &mut sampler, &ids, most, &mut |id, _| {
        written.push(id);
        Ok(!text.decode(&written)?.contains('\n'))
    })?;
    Ok(line(&written)? == answer.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exercises_are_the_same_every_time_and_their_answers_right() {
        for number in [0, 1, 199] {
            let [prompt, answer] = Kind::Counts.exercise(number);
            assert_eq!([prompt.clone(), answer.clone()], Kind::Counts.exercise(number));
            let numbers =
                |text: &str| text.split([' ', ':']).filter_map(|w| w.parse::<usize>().ok()).collect::<Vec<_>>();
            let (asked, counted) = (numbers(prompt.lines().last().unwrap()), numbers(&answer));
            assert!(counted.len() == NUMBERS && counted[0] == asked[0]);
            assert!(counted.windows(2).all(|pair| pair[1] == pair[0] + asked[1]));
            let [prompt, answer] = Kind::Copies.exercise(number);
            assert!(prompt.matches("Copy:").count() == SHOWN + 1 && prompt.contains(&format!("Words:{answer}\nCopy:")));
        }
        assert_ne!(Kind::Copies.exercise(0), Kind::Copies.exercise(1));
    }
}
