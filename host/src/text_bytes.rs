//! Tokens as bytes, at once: what text is made of, before a later token completes a character.

use std::collections::HashMap;
use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;

/// How a tokenizer writes bytes into its vocabulary, as its decoder says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Writing {
    /// GPT-2's alphabet: every byte is a letter.
    alphabet: bool,
    /// SentencePiece's tokens `<0xNN>` for bytes that have no other.
    fallback: bool,
    /// SentencePiece's `▁` for a space.
    underline: bool,
    /// Whether one space is taken away at the beginning of a text.
    strips: bool,
}

impl Writing {
    fn of(decoder: &DecoderWrapper) -> Writing {
        let mut writing = Writing::default();
        match decoder {
            DecoderWrapper::ByteLevel(_) => writing.alphabet = true,
            DecoderWrapper::ByteFallback(_) => writing.fallback = true,
            DecoderWrapper::Replace(_) => writing.underline = true,
            DecoderWrapper::Metaspace(_) => (writing.underline, writing.strips) = (true, true),
            DecoderWrapper::Strip(strip) => writing.strips = strip.content == ' ' && strip.start > 0,
            DecoderWrapper::Sequence(all) => {
                for part in all.get_decoders().iter().map(Self::of) {
                    writing.alphabet |= part.alphabet;
                    writing.fallback |= part.fallback;
                    writing.underline |= part.underline;
                    writing.strips |= part.strips;
                }
            }
            _ => {}
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

/// What it takes to turn tokens into bytes.
pub struct TokenBytes {
    writing: Writing,
    /// Tokens that are no part of the vocabulary proper, and whether they are special.
    added: HashMap<u32, bool>,
}

impl TokenBytes {
    /// For this tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        TokenBytes {
            writing: tokenizer.get_decoder().map(Writing::of).unwrap_or_default(),
            added: added.into_iter().map(|(id, token)| (id, token.special)).collect(),
        }
    }

    /// Bytes of one token; `first` says that it begins a text.
    pub fn bytes(&self, tokenizer: &Tokenizer, id: u32, first: bool) -> Vec<u8> {
        let Some(token) = tokenizer.id_to_token(id) else { return Vec::new() };
        match self.added.get(&id) {
            Some(true) => return Vec::new(),
            Some(false) => return token.into_bytes(),
            None => {}
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
