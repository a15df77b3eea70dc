//! Passes over a few tokens at once, which verification of guessed tokens and parallel sequences need: the cost of one
//! more token compared with a pass over one token.

use crate::print;
use crate::setup::go_to;
use serde_json::{Value, json};
use shadowllm_core::Session;
use shadowllm_host::pace::median;
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use std::time::Instant;

/// Passes that are timed together, one after the other in the context.
pub const PASSES: usize = 4;

/// The result for a number of tokens.
pub struct Batch {
    pub tokens: usize,
    pub threads: usize,
    /// Seconds of a pass: the median of the repetitions.
    pub seconds: f64,
    /// The same over a single token.
    pub single: f64,
}

impl Batch {
    /// The time of a pass, in passes over a single token.
    fn passes(&self) -> f64 {
        self.seconds / self.single
    }

    /// The cost of one more token, in passes over a single token; `None` for one token.
    fn more(&self) -> Option<f64> {
        (self.tokens > 1).then(|| (self.passes() - 1.0) / (self.tokens - 1) as f64)
    }

    pub fn json(&self) -> Value {
        json!({"tokens": self.tokens, "threads": self.threads, "seconds": self.seconds, "single_passes": self.passes(),
               "one_more_token": self.more()})
    }
}

/// Measures passes over each number of tokens after `depth` positions, alternating with passes over a single token.
pub fn measure(
    session: &mut Session,
    (pool, threads): (&Pool, usize),
    depth: usize,
    ids: &[u32],
    numbers: &[usize],
    repetitions: usize,
) -> Result<Vec<Batch>> {
    let mut run = |tokens: usize| -> Result<f64> {
        go_to(session, pool, &ids[..depth])?;
        let start = Instant::now();
        for pass in ids[depth..].chunks_exact(tokens).take(PASSES) {
            session.prefill(pool, pass)?;
        }
        Ok(start.elapsed().as_secs_f64() / PASSES as f64)
    };
    let mut batches = Vec::new();
    for &tokens in numbers {
        run(tokens)?;
        let (mut several, mut single) = (Vec::new(), Vec::new());
        for _ in 0..repetitions {
            single.push(run(1)?);
            several.push(run(tokens)?);
        }
        batches.push(Batch { tokens, threads, seconds: median(&mut several), single: median(&mut single) });
    }
    Ok(batches)
}

/// Refuses numbers that cannot be measured.
pub fn check(numbers: &[usize], context: usize) -> Result<()> {
    match numbers.iter().find(|n| **n == 0 || n.saturating_mul(PASSES) > context) {
        Some(0) => Err(Error::Usage("--batch: a pass has at least one token".into())),
        Some(n) => Err(Error::Usage(format!(
            "--batch {n}: {PASSES} passes over {n} tokens do not fit into the model's context of {context}"
        ))),
        None => Ok(()),
    }
}

/// The table.
pub fn print(batches: &[Batch]) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    print::line(format_args!(
        "{:<16} {:>7} {:>10} {:>19} {:>23}",
        "tokens at once", "threads", "ms/pass", "passes of one token", "cost of one more token"
    ))?;
    for b in batches {
        let more = b.more().map_or(String::new(), |more| format!("{more:.3}"));
        let (ms, passes) = (1e3 * b.seconds, b.passes());
        print::line(format_args!("{:<16} {:>7} {ms:>10.2} {passes:>19.2} {more:>23}", b.tokens, b.threads))?;
    }
    Ok(())
}
