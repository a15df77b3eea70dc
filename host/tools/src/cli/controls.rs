//! Options that constrain an answer: stop strings, biases, a grammar; and log-probabilities.

use crate::print::standard_input;
use clap::Args;
use serde_json::{Value, json};
use shadowllm_host::conversation::Reply;
use shadowllm_host::template::set_variable;
use shadowllm_host::text::{Text, Variables, read};
use shadowllm_host::{Controls, Error, Grammar, Likely, Model, Result, Rules};
use std::path::{Path, PathBuf};

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
    /// Answer in JSON that is valid against a JSON schema: a file, - for standard input, or the schema itself.
    #[arg(long, value_name = "SCHEMA", group = "rules", help_heading = ANSWER)]
    json_schema: Option<String>,
    /// Answer with a text that a regular expression matches whole.
    #[arg(long, value_name = "REGEX", group = "rules", allow_hyphen_values = true, help_heading = ANSWER)]
    regex: Option<String>,
    /// Answer with a text that the rule `start` of a grammar in Lark's notation produces; - is standard input.
    #[arg(long, value_name = "FILE", group = "rules", help_heading = ANSWER)]
    grammar: Option<PathBuf>,
    /// Tools that the model may call: a file with a JSON list of descriptions, as chat programs write them; --json lists calls.
    #[arg(long, value_name = "FILE", conflicts_with = "raw", help_heading = ANSWER)]
    tools: Option<PathBuf>,
    /// Give the chat template a variable, as enable_thinking=false; may be given several times.
    #[arg(long, value_name = "NAME=JSON", conflicts_with = "raw", help_heading = ANSWER)]
    template_var: Vec<String>,
}

/// The form of the answer, read from its file or argument.
pub enum Read {
    Schema(String),
    Regex(String),
    Lark(String),
}

impl Read {
    /// The grammar, and the name of its source for messages.
    pub fn grammar(&self, model: &Model) -> Result<Grammar> {
        model.grammar(match self {
            Read::Schema(text) => Rules::JsonSchema(text),
            Read::Regex(text) => Rules::Regex(text),
            Read::Lark(text) => Rules::Lark(text),
        })
    }
}

/// The text of a file, or of standard input.
fn text_of(path: &Path) -> Result<String> {
    if path == Path::new("-") { standard_input() } else { read(path) }
}

/// ID=BIAS, or ID+BIAS and ID-BIAS as in llama.cpp's programs.
fn bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (id, bias) = (&text[..at], &text[at..]);
    let bias = bias.strip_prefix('=').or(bias.strip_prefix('+')).or(bias.starts_with('-').then_some(bias));
    let read = || Some((id.parse().ok()?, bias?.parse().ok()?));
    read().ok_or_else(|| "a token's id and a number, as 42=-1.5 or 42=-inf (shadowllm tokenize shows ids)".into())
}

impl ControlOptions {
    /// The host's controls, without the grammar, which needs the model.
    pub fn controls(&self) -> Controls {
        Controls {
            stop: self.stop.clone(),
            bias: self.logit_bias.clone(),
            logprobs: self.logprobs,
            ..Controls::default()
        }
    }

    /// Variables of the chat template besides the messages.
    pub fn variables(&self) -> Result<Variables> {
        let mut variables = Variables::new();
        if let Some(file) = &self.tools {
            set_variable(&mut variables, "tools", &read(file)?)
                .map_err(|_| Error::file(file, "is not JSON: give a list of tools"))?;
            if !variables["tools"].is_array() {
                return Err(Error::file(file, "is not a JSON list of tools, such as [{\"type\": \"function\", ...}]"));
            }
        }
        for given in &self.template_var {
            let Some((name, json)) = given.split_once('=') else {
                return Err(Error::Usage(format!(
                    "--template-var {given}: give a name and JSON, as enable_thinking=false"
                )));
            };
            set_variable(&mut variables, name, json)?;
        }
        Ok(variables)
    }

    /// The form of the answer; `prompted` if the prompt does not come from standard input.
    pub fn rules(&self, prompted: bool) -> Result<Option<Read>> {
        let from_input = self.json_schema.as_deref() == Some("-") || self.grammar.as_deref() == Some(Path::new("-"));
        if from_input && !prompted {
            return Err(Error::Usage("standard input holds the grammar, so give the prompt with -p".into()));
        }
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(schema), ..) if schema.trim_start().starts_with('{') => Some(Read::Schema(schema.clone())),
            (Some(file), ..) => Some(Read::Schema(text_of(Path::new(file))?)),
            (_, Some(regex), _) => Some(Read::Regex(regex.clone())),
            (.., Some(file)) => Some(Read::Lark(text_of(file)?)),
            _ => None,
        })
    }
}

/// The likelihoods of an answer's tokens.
pub fn likelihoods(reply: &Reply, text: &Text) -> Vec<Value> {
    let token = |id: u32, logprob: f32| json!({"id": id, "text": text.piece(id), "logprob": logprob});
    let row = |(id, likely): (&u32, &Option<Likely>)| {
        let Some(likely) = likely else {
            return json!({"id": id, "text": text.piece(*id), "logprob": null, "top": []});
        };
        let mut row = token(*id, likely.logprob);
        row["top"] = likely.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        row
    };
    reply.ids.iter().zip(&reply.likely).map(row).collect()
}
