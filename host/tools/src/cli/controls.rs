//! Options that constrain answers: stop strings, biases, likelihoods.

use clap::Args;
use serde_json::{Value, json};
use shadowllm_host::conversation::Reply;
use shadowllm_host::text::Text;
use shadowllm_host::{Controls, Likely};

/// Heading of options about answers.
const ANSWER: &str = "Answers";

/// Options that constrain answers.
#[derive(Args)]
pub struct ControlOptions {
    /// End the answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT", alias = "reverse-prompt", allow_hyphen_values = true, help_heading = ANSWER)]
    stop: Vec<String>,
    /// Add to a token's logit, as ID=BIAS or ID=-inf; may be given several times. shadowllm tokenize shows ids.
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, help_heading = ANSWER)]
    logit_bias: Vec<(u32, f32)>,
    /// Write how likely each token was, and the N likeliest beside it.
    #[arg(long, value_name = "N", requires = "json", help_heading = ANSWER)]
    logprobs: Option<usize>,
}

/// Parses ID=BIAS, and ID+BIAS and ID-BIAS as in llama.cpp's programs.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (id, bias) = (&text[..at], &text[at..]);
    let bias = bias.strip_prefix('=').or(bias.strip_prefix('+')).or(bias.starts_with('-').then_some(bias));
    let read = || Some((id.parse().ok()?, bias?.parse().ok()?));
    read().ok_or_else(|| "a token's id and a number, as 42=-1.5 or 42=-inf (shadowllm tokenize shows ids)".into())
}

impl ControlOptions {
    /// The host's controls.
    pub fn controls(&self) -> Controls {
        Controls { stop: self.stop.clone(), bias: self.logit_bias.clone(), logprobs: self.logprobs }
    }
}

/// The likelihoods of an answer's tokens.
pub fn likelihoods(reply: &Reply, text: &Text) -> Vec<Value> {
    let token = |id: u32, logprob: f32| json!({"id": id, "text": text.piece(id), "logprob": logprob});
    let row = |(id, likely): (&u32, &Likely)| {
        let mut row = token(*id, likely.logprob);
        row["top"] = likely.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        row
    };
    reply.ids.iter().zip(&reply.likely).map(row).collect()
}
