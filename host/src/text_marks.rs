//! Marks in texts that people write: a text is cut at them before it becomes tokens, so that nothing in it becomes a control
//! token.

use crate::text_watch::{Before, Tokenizer, in_time};
use tokenizers::{NormalizedString, Normalizer};

/// The most bytes of an added token: each is looked for at every letter of a text.
const LONGEST: usize = 1024;

/// What becomes a control token.
pub struct Marks {
    /// Texts of control tokens.
    tokens: Beginnings,
    /// What is looked for in a text after normalizing.
    normalized: Beginnings,
}

impl Marks {
    /// Of a tokenizer.
    ///
    /// # Errors
    /// When it has a token that is too long, or takes too long.
    pub fn of(tokenizer: &Tokenizer) -> Result<Marks, String> {
        let added = tokenizer.get_added_tokens_decoder();
        if added.values().any(|token| token.content.len() > LONGEST) {
            return Err(format!("it has an added token of more than {LONGEST} bytes, which no model needs"));
        }
        let special = || added.values().filter(|token| token.special);
        let texts = special().map(|token| token.content.to_ascii_lowercase()).collect();
        let mut normalized = Vec::new();
        if let Some(normalizer) = tokenizer.get_normalizer() {
            for token in special().filter(|token| token.normalized) {
                normalized.push(normal(normalizer, &token.content)?);
            }
        }
        Ok(Marks { tokens: Beginnings::of(texts), normalized: Beginnings::of(normalized) })
    }

    /// The text with a mark after the first letter of everything that would become a control token.
    pub fn set(&self, tokenizer: &Tokenizer, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len());
        // Some normalizers convert letters to lower case.
        let lower = text.to_ascii_lowercase();
        for (at, letter) in text.char_indices() {
            marked.push(letter);
            if self.tokens.begin(&lower[at..]) {
                marked.push(mark);
            }
        }
        if self.normalized.0.is_empty() {
            return marked;
        }
        // Normalizing can make a control token of other letters, of wide ones for example.
        let hidden = tokenizer.get_normalizer().map(|normalizer| {
            let normal = in_time(text.len(), || normal(normalizer, &marked))?;
            Ok::<_, String>(normal.char_indices().any(|(at, _)| self.normalized.begin(&normal[at..])))
        });
        match hidden {
            Some(Ok(true)) => text.chars().flat_map(|letter| [letter, mark]).collect(),
            // What cannot be normalized is refused when it becomes tokens.
            _ => marked,
        }
    }
}

/// A text after normalizing, in lower case.
fn normal(normalizer: &Before, text: &str) -> Result<String, String> {
    let mut text = NormalizedString::from(text);
    crate::text_guard::guarded(|| normalizer.normalize(&mut text).map_err(|e| e.to_string()))?;
    Ok(text.get().to_ascii_lowercase())
}

/// Texts in order, of which none begins with another.
struct Beginnings(Vec<String>);

impl Beginnings {
    /// Without texts of one letter, which cannot be cut.
    fn of(mut texts: Vec<String>) -> Beginnings {
        texts.retain(|text| text.chars().nth(1).is_some());
        texts.sort_unstable();
        texts.dedup_by(|text, before| text.starts_with(before.as_str()));
        Beginnings(texts)
    }

    /// Whether a text begins with one of them: with the last one that is not after it, since between the two in order would
    /// only be texts that begin with that one.
    fn begin(&self, text: &str) -> bool {
        let before = self.0.partition_point(|beginning| beginning.as_str() <= text);
        before.checked_sub(1).is_some_and(|i| text.starts_with(&self.0[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_begins_with_any_of_them() {
        let all = ["<a", "<ab>", "b", "c>", "<|x|>", "<|y|>", "<a"].map(String::from);
        let found = Beginnings::of(all.to_vec());
        assert_eq!(found.0, ["<a", "<|x|>", "<|y|>", "c>"]);
        for text in ["<a", "<ab>", "<azzz", "<|x|>", "<|x|>z", "<|y|>\u{10ffff}", "c>"] {
            assert!(found.begin(text), "{text}");
        }
        for text in ["", "<", "<b", "<|", "<|x", "<|z|>", "b", "c", "d", " <a"] {
            assert!(!found.begin(text), "{text}");
        }
    }
}
