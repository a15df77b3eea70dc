//! The tokens that a Hugging Face folder adds to its `tokenizer.model`, in files beside it.

use serde_json::{Map, Value, json};

/// Special tokens that `tokenizer_config.json` and `special_tokens_map.json` name.
const NAMED: &[&str] = &["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// The files that say something about added tokens; null for one that is missing.
pub struct Files {
    /// `tokenizer_config.json`.
    pub config: Value,
    /// `added_tokens.json`.
    pub added: Value,
    /// `special_tokens_map.json`.
    pub special: Value,
}

impl Files {
    /// All added tokens as entries of `tokenizer.json`, sorted by number.
    pub fn tokens(&self) -> Vec<Value> {
        let described = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let described = described.into_iter().flatten().filter_map(|(id, token)| {
            let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let content = token.get("content")?.as_str()?;
            Some(entry(
                id.parse().ok()?,
                content,
                [flag("single_word"), flag("lstrip"), flag("rstrip"), flag("special")],
            ))
        });
        let mut all: Vec<Value> = described.collect();
        for (content, id) in self.added.as_object().unwrap_or(&Map::new()) {
            let known = all.iter().any(|token| token["content"] == content.as_str());
            if let (false, Some(id)) = (known, id.as_u64()) {
                all.push(entry(id, content, [false, false, false, self.is_special(content)]));
            }
        }
        all.sort_by_key(|token| token["id"].as_u64());
        all
    }

    /// Whether a token is named as a special one.
    fn is_special(&self, content: &str) -> bool {
        let is = |token: &Value| token.as_str().or_else(|| token.get("content")?.as_str()) == Some(content);
        [&self.config, &self.special].into_iter().any(|file| {
            let more = file.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
            NAMED.iter().filter_map(|name| file.get(name)).chain(more).any(is)
        })
    }
}

/// Such tokens are found in a text as it is, before it is normalized.
fn entry(id: u64, content: &str, [single_word, lstrip, rstrip, special]: [bool; 4]) -> Value {
    json!({"id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
           "normalized": false, "special": special})
}

/// A `tokenizer.json` with these tokens, in place of those with the same text.
///
/// # Errors
/// When the text is not JSON.
pub fn with_tokens(tokenizer: &str, tokens: &[Value]) -> Result<String, String> {
    let mut tokenizer: Value = serde_json::from_str(tokenizer).map_err(|e| e.to_string())?;
    if let Some(list) = tokenizer.get_mut("added_tokens").and_then(Value::as_array_mut) {
        list.retain(|old| tokens.iter().all(|new| new["content"] != old["content"]));
        list.extend(tokens.iter().cloned());
        list.sort_by_key(|token| token["id"].as_u64());
    }
    Ok(tokenizer.to_string())
}
