//! The kind of value that each metadata key has: a value of another kind would be taken for a missing one.

use super::reader::{Array, Value};
use std::collections::BTreeMap;

/// What a value can be, whatever its width.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Integer,
    /// An integer or a float.
    Number,
    Truth,
    Texts,
    Numbers,
    Bytes,
}

impl Kind {
    /// With an article, as in a sentence.
    fn name(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Integer => "an integer",
            Kind::Number => "a number",
            Kind::Truth => "true or false",
            Kind::Texts => "an array of texts",
            Kind::Numbers => "an array of numbers",
            Kind::Bytes => "an array of bytes",
        }
    }

    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Kind::Text, Value::String(_))
            | (Kind::Integer | Kind::Number, Value::Unsigned(_) | Value::Signed(_))
            | (Kind::Number, Value::Float(_))
            | (Kind::Truth, Value::Bool(_))
            | (Kind::Texts, Value::Array(Array::Strings(_)))
            | (Kind::Bytes | Kind::Numbers, Value::Array(Array::Bytes(..))) => true,
            (Kind::Numbers, Value::Array(list)) => {
                matches!(list, Array::Unsigned(_) | Array::Signed(_) | Array::Float(_))
            }
            _ => false,
        }
    }
}

/// The keys that are read under their kind; those of [`super::config`] that are not here are checked with the
/// configuration. Keys that begin with a point follow the architecture's name.
const KINDS: &[(&str, Kind)] = &[
    ("general.architecture", Kind::Text),
    ("general.name", Kind::Text),
    ("general.alignment", Kind::Integer),
    ("split.count", Kind::Integer),
    ("split.no", Kind::Integer),
    ("split.tensors.count", Kind::Integer),
    (".attention.causal", Kind::Truth),
    (".attention.value_length", Kind::Number),
    (".rope.dimension_count", Kind::Number),
    (".rope.scale_linear", Kind::Number),
    (".rope.scaling.attn_factor", Kind::Number),
    (".rope.scaling.factor", Kind::Number),
    (".rope.scaling.original_context_length", Kind::Number),
    (".rope.scaling.type", Kind::Text),
    (".rope.scaling.yarn_attn_factor", Kind::Number),
    (".rope.scaling.yarn_beta_fast", Kind::Number),
    (".rope.scaling.yarn_beta_slow", Kind::Number),
    (".rope.scaling.yarn_log_multiplier", Kind::Number),
    ("tokenizer.chat_template", Kind::Text),
    ("tokenizer.chat_template.tool_use", Kind::Text),
    ("tokenizer.ggml.add_bos_token", Kind::Truth),
    ("tokenizer.ggml.add_space_prefix", Kind::Truth),
    ("tokenizer.ggml.bos_token_id", Kind::Integer),
    ("tokenizer.ggml.eom_token_id", Kind::Integer),
    ("tokenizer.ggml.eos_token_id", Kind::Integer),
    ("tokenizer.ggml.eot_token_id", Kind::Integer),
    ("tokenizer.ggml.merges", Kind::Texts),
    ("tokenizer.ggml.model", Kind::Text),
    ("tokenizer.ggml.pre", Kind::Text),
    ("tokenizer.ggml.precompiled_charsmap", Kind::Bytes),
    ("tokenizer.ggml.remove_extra_whitespaces", Kind::Truth),
    ("tokenizer.ggml.scores", Kind::Numbers),
    ("tokenizer.ggml.token_type", Kind::Numbers),
    ("tokenizer.ggml.tokens", Kind::Texts),
    ("tokenizer.ggml.unknown_token_id", Kind::Integer),
];

/// Refuses a value of another kind than its key's.
///
/// # Errors
/// A sentence that names the key and both kinds.
pub fn check(metadata: &BTreeMap<String, Value>) -> Result<(), String> {
    let arch = match metadata.get("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    for (key, kind) in KINDS {
        let key = if key.starts_with('.') { format!("{arch}{key}") } else { (*key).to_owned() };
        match metadata.get(&key) {
            Some(value) if !kind.holds(value) => {
                return Err(format!("{key} is {}, not {}; is the file damaged?", said(value), kind.name()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a value is, with an article.
fn said(value: &Value) -> &'static str {
    let kinds = [Kind::Text, Kind::Integer, Kind::Number, Kind::Truth, Kind::Texts, Kind::Bytes, Kind::Numbers];
    kinds.into_iter().find(|kind| kind.holds(value)).map_or("an array of something else", Kind::name)
}
