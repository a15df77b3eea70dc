//! What can be asked for, as JSON: the names are those of the options of `shadowllm.js`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shadowllm_host::engine::sample::{Sampler, SamplerOptions};
use shadowllm_host::text::{Language, Message, Variables};
use shadowllm_host::{Controls, Dial, Dry, Error, Model, Policy, Result, Rules};

/// Reads JSON.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Usage(format!("this cannot be asked: {e}")))
}

/// A text to continue, or messages to answer.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[derive(Default)]
pub struct Prompt {
    /// A text to continue.
    text: Option<String>,
    /// Messages by the model's chat template, in place of a text.
    messages: Vec<Value>,
    /// What the template is given besides: tools, documents, `enable_thinking`.
    variables: Variables,
    /// Whether the names of control tokens in texts become control tokens.
    control_tokens: bool,
}

impl Prompt {
    /// Whether it is a text to continue.
    pub fn continues(&self) -> bool {
        self.text.is_some()
    }

    /// Its ids.
    pub fn ids(&self, language: &Language) -> Result<Vec<u32>> {
        match (&self.text, self.messages.is_empty()) {
            (Some(text), true) => language.plain(text, self.control_tokens),
            (None, false) => {
                if language.template.is_empty() {
                    let message = "the model has no chat template: give it a text to continue instead";
                    return Err(Error::Usage(message.into()));
                }
                let messages = self.messages.iter().map(|m| Message::from_json(&m.to_string()));
                let messages = messages.collect::<Result<Vec<_>>>()?;
                let given = (messages.as_slice(), &self.variables);
                language.text.prompt(&language.template, given, false, language.bos, self.control_tokens)
            }
            _ => Err(Error::Usage("ask with a text or with messages".into())),
        }
    }
}

/// How an answer is to be.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Ask {
    pub prompt: Prompt,
    pub max_tokens: usize,
    /// Share of what can be skipped that is read; 1 is all.
    density: f32,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    seed: u64,
    dry_multiplier: f32,
    dry_base: f32,
    dry_allowed_length: usize,
    dry_last: usize,
    /// Texts before which the answer ends.
    stop: Vec<String>,
    /// Tokens with what is added to their logits; `null` rules a token out.
    bias: Vec<(u32, Option<f32>)>,
    /// Log-probabilities, with this number of the likeliest tokens.
    logprobs: Option<usize>,
    /// The form of the answer: a JSON schema (an object, or its text), a regular expression, a grammar in Lark's notation.
    json_schema: Option<Value>,
    regex: Option<String>,
    lark: Option<String>,
}

impl Default for Ask {
    fn default() -> Self {
        let (sampling, dry) = (SamplerOptions::default(), Dry::default());
        Ask {
            prompt: Prompt::default(),
            max_tokens: 256,
            density: 1.0,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            dry_multiplier: dry.multiplier,
            dry_base: dry.base,
            dry_allowed_length: dry.allowed_length,
            dry_last: dry.last,
            stop: Vec::new(),
            bias: Vec::new(),
            logprobs: None,
            json_schema: None,
            regex: None,
            lark: None,
        }
    }
}

impl Ask {
    /// What is skipped; `policy` decides it where anything is.
    pub fn dial(&self, policy: Policy) -> Dial {
        let policy = if self.density == 1.0 { Policy::Off } else { policy };
        Dial { policy, density: self.density, ..Dial::default() }
    }

    /// The sampler.
    pub fn sampler(&self) -> Result<Sampler> {
        Ok(Sampler::new(SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
        })?)
    }

    /// The constraints.
    pub fn controls(&self, model: &Model) -> Result<Controls> {
        let schema = self.json_schema.as_ref().map(|schema| match schema {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let rules = [
            schema.as_deref().map(Rules::JsonSchema),
            self.regex.as_deref().map(Rules::Regex),
            self.lark.as_deref().map(Rules::Lark),
        ];
        let mut rules = rules.into_iter().flatten();
        let grammar = rules.next().map(|rules| model.grammar(rules)).transpose()?;
        if rules.next().is_some() {
            return Err(Error::Usage("an answer follows one of jsonSchema, regex and lark".into()));
        }
        Ok(Controls {
            stop: self.stop.clone(),
            bias: self.bias.iter().map(|(id, bias)| (*id, bias.unwrap_or(f32::NEG_INFINITY))).collect(),
            logprobs: self.logprobs,
            dry: Dry {
                multiplier: self.dry_multiplier,
                base: self.dry_base,
                allowed_length: self.dry_allowed_length,
                last: self.dry_last,
            },
            grammar,
        })
    }
}
