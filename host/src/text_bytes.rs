//! Tokens as bytes, which may end inside a character until a later token completes it.

use crate::text_watch::Tokenizer;
use serde_json::Value;
use std::collections::HashMap;

/// How a tokenizer's vocabulary represents bytes, according to its decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Writing {
    /// In GPT-2's alphabet, in which every byte is a letter.
    alphabet: bool,
    /// With SentencePiece's tokens `<0xNN>` for bytes without another token.
    fallback: bool,
    /// With SentencePiece's `▁` for a space.
    underline: bool,
    /// Whether one space is removed at the beginning of a text.
    strips: bool,
    /// Whether the decoder does something else, so that text is not just the tokens' bytes.
    more: bool,
}

impl Writing {
    fn of(decoder: &Value) -> Writing {
        let is = |name: &str, value: &str| decoder[name].as_str() == Some(value);
        let mut writing = Writing::default();
        match decoder["type"].as_str().unwrap_or_default() {
            "ByteLevel" => writing.alphabet = true,
            "ByteFallback" => writing.fallback = true,
            "Fuse" => {}
            "Replace" => {
                writing.underline = true;
                writing.more = decoder["pattern"]["String"].as_str() != Some("▁") || !is("content", " ");
            }
            "Metaspace" => {
                writing.underline = true;
                writing.strips = !is("prepend_scheme", "never");
                writing.more = !is("replacement", "▁");
            }
            "Strip" => {
                writing.strips = is("content", " ") && decoder["start"].as_u64().is_some_and(|n| n > 0);
                writing.more = decoder["start"] != 1 || decoder["stop"] != 0 || !is("content", " ");
            }
            "Sequence" => {
                let parts: Vec<Writing> = decoder["decoders"].as_array().into_iter().flatten().map(Self::of).collect();
                let any = |of: fn(&Writing) -> bool| parts.iter().any(of);
                writing = Writing {
                    alphabet: any(|p| p.alphabet),
                    fallback: any(|p| p.fallback),
                    underline: any(|p| p.underline),
                    strips: any(|p| p.strips),
                    more: any(|p| p.more) || (any(|p| p.alphabet) && parts.len() > 1),
                };
            }
            _ => writing.more = true,
        }
        writing
    }
}

/// The byte that a letter of GPT-2's alphabet stands for: printable ones stand for themselves, the 68 others are
/// counted from U+0100 on.
fn byte_of(letter: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => Some(byte).filter(|b| printable(*b)),
        Err(_) => (0..=255).filter(|b| !printable(*b)).nth(code.checked_sub(0x100)? as usize),
    }
}

/// Converts tokens to bytes.
pub struct TokenBytes {
    writing: Writing,
    /// Tokens that were added to the vocabulary, and whether they are special.
    added: HashMap<u32, bool>,
}

impl TokenBytes {
    /// For a tokenizer with this decoder.
    pub fn of(tokenizer: &Tokenizer, decoder: &Value) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        TokenBytes {
            writing: Writing::of(decoder),
            added: added.into_iter().map(|(id, token)| (id, token.special)).collect(),
        }
    }

    /// Whether text is just the tokens' bytes.
    pub fn are_text(&self) -> bool {
        !self.writing.more
    }

    /// Whether a token is left out of texts.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).copied().unwrap_or(false)
    }

    /// Bytes of one token; `first` says that it begins a text.
    pub fn bytes(&self, tokenizer: &Tokenizer, id: u32, first: bool) -> Vec<u8> {
        let Some(token) = tokenizer.id_to_token(id) else { return Vec::new() };
        match self.added.get(&id) {
            Some(true) => return Vec::new(),
            // Written as they are, while other tokens are written in the alphabet. Decoders with `▁` read them like other
            // tokens.
            Some(false) if self.writing.alphabet => return token.into_bytes(),
            _ => {}
        }
        if self.writing.alphabet {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return bytes.unwrap_or_else(|| token.into_bytes());
        }
        let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|t| t.len() == 2);
        if let Some(byte) = hex.filter(|_| self.writing.fallback).and_then(|t| u8::from_str_radix(t, 16).ok()) {
            return vec![byte];
        }
        let text = if self.writing.underline { token.replace('▁', " ") } else { token };
        let text = if self.writing.strips && first { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
        text.as_bytes().to_vec()
    }
}

/// Removes complete UTF-8 from `bytes` and returns it, with U+FFFD for bytes that can never be completed. At the `end`,
/// nothing is left in `bytes`.
pub fn complete(bytes: &mut Vec<u8>, end: bool) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let bad = chunk.invalid();
        // The last bytes may be the beginning of a character.
        let begun = done + bad.len() == bytes.len() && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if bad.is_empty() || (begun && !end) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += bad.len();
    }
    bytes.drain(..done);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_text_as_soon_as_they_are_complete() {
        let mut bytes = b"a\xf0\x9f".to_vec();
        assert_eq!((complete(&mut bytes, false).as_str(), bytes.as_slice()), ("a", &b"\xf0\x9f"[..]));
        bytes.extend(b" b\xc3");
        assert_eq!((complete(&mut bytes, false).as_str(), bytes.as_slice()), ("\u{fffd} b", &b"\xc3"[..]));
        bytes.push(0xa9);
        assert_eq!(complete(&mut bytes, false), "é");
        bytes.extend(b"\xff\xe2\x82");
        assert_eq!((complete(&mut bytes, true).as_str(), bytes.len()), ("\u{fffd}\u{fffd}", 0));
    }
}
