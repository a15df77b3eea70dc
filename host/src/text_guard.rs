//! Tokenizers and chat templates come with models, so they may come from anybody: a tokenizer's file is checked before the
//! tokenizers library gets it, and panics inside the libraries become errors.

use crate::map::stands_for;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most by which normalizing may lengthen a text, as a factor.
const GROWTH: usize = 256;
/// The most bytes or tokens before every text.
const PREFIX: usize = 1024;
/// The most bytes of one text after normalizing.
const LONGEST: usize = 1 << 30;
/// The most by which one replacement of a text by another may lengthen it.
const REPLACED: usize = 16;
/// Letters of a word at most.
const LONGEST_WORD: u64 = 200;
/// The most bytes of a piece of a Unigram model, which looks for pieces at every letter.
const LONGEST_PIECE: usize = 1024;
/// Regular expressions at most: each may take megabytes.
const PATTERNS: usize = 16;
/// Replacements of a text by another at most.
const REPLACEMENTS: usize = 64;

/// The parts of `tokenizer.json` that affect lengths. Reading them parses the whole file, so syntax errors are found
/// here.
#[derive(serde::Deserialize)]
pub struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    /// How tokens become text.
    #[serde(default)]
    pub decoder: Value,
    model: Model,
}

/// What decides about time in a model.
#[derive(serde::Deserialize)]
struct Model {
    /// The longest word that a WordPiece cuts up, which takes the third power of it.
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    vocab: Pieces,
}

/// The longest piece of a list of pieces and their scores, as Unigram models have it; 0 for other vocabularies.
#[derive(Default)]
struct Pieces {
    longest: usize,
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Pieces::default())
    }
}

impl<'de> Visitor<'de> for Pieces {
    type Value = Pieces;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a vocabulary")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Pieces, A::Error> {
        while let Some((piece, _)) = list.next_element::<(Cow<str>, IgnoredAny)>()? {
            self.longest = self.longest.max(piece.len());
        }
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Pieces, E> {
        Ok(self)
    }
}

impl Parts {
    /// Reads and checks the parts, and returns the factor by which a text may be lengthened.
    pub fn of(json: &str) -> Result<(Parts, usize), String> {
        if let Some(what) = stands_for(json.as_bytes()) {
            return Err(format!("it {what}"));
        }
        let parts: Parts = serde_json::from_str(json).map_err(|e| format!("it is damaged: {e}"))?;
        let growth = growth(&parts.normalizer)?;
        if growth > GROWTH || self::growth(&parts.decoder)? > GROWTH {
            return Err(format!("it makes texts more than {GROWTH} times as long, which no model needs"));
        }
        if added(&parts.post_processor) > PREFIX {
            return Err(format!("it puts more than {PREFIX} tokens around a text, which no model needs"));
        }
        if parts.model.max_input_chars_per_word.is_some_and(|letters| letters > LONGEST_WORD) {
            return Err(format!("it cuts up words of more than {LONGEST_WORD} letters, which no model needs"));
        }
        if parts.model.vocab.longest > LONGEST_PIECE {
            return Err(format!("it has pieces of more than {LONGEST_PIECE} bytes, which no model needs"));
        }
        let all = [&parts.normalizer, &parts.pre_tokenizer, &parts.decoder];
        for (key, most, what) in [("Regex", PATTERNS, "regular expressions"), ("pattern", REPLACEMENTS, "replacements")]
        {
            if all.into_iter().map(|part| times(part, key)).sum::<usize>() > most {
                return Err(format!("it has more than {most} {what}, which no model needs"));
            }
        }
        Ok((parts, growth))
    }
}

/// How often a part has a field of this name.
fn times(part: &Value, key: &str) -> usize {
    match part {
        Value::Object(map) => {
            usize::from(map.contains_key(key)) + map.values().map(|part| times(part, key)).sum::<usize>()
        }
        Value::Array(list) => list.iter().map(|part| times(part, key)).sum(),
        _ => 0,
    }
}

/// Refuses a text that would get too long.
pub fn admit(text: &str, growth: usize) -> Result<(), String> {
    if text.len().saturating_mul(growth) > LONGEST {
        return Err(format!("{} bytes are too much for one text", text.len()));
    }
    Ok(())
}

/// The factor by which a part can lengthen a text.
fn growth(part: &Value) -> Result<usize, String> {
    let text = |name: &str| part[name].as_str().unwrap_or_default();
    Ok(match text("type") {
        "Sequence" => {
            let parts = part["normalizers"].as_array().or(part["decoders"].as_array());
            let all = parts.into_iter().flatten().map(growth).collect::<Result<Vec<_>, _>>()?;
            all.into_iter().fold(1, usize::saturating_mul)
        }
        "Replace" => {
            let to = text("content").len();
            match part["pattern"]["String"].as_str() {
                Some("") => return Err("it replaces an empty text by another".into()),
                Some(from) if to > REPLACED * from.len() => {
                    return Err(format!("it replaces a text by one more than {REPLACED} times as long"));
                }
                Some(from) => to.div_ceil(from.len()).max(1),
                // A pattern may match between any two letters.
                None => 1 + to,
            }
        }
        "Prepend" if text("prepend").len() > PREFIX => {
            return Err(format!("it puts more than {PREFIX} bytes before a text, which no model needs"));
        }
        "Precompiled" => longest(text("precompiled_charsmap")).max(1),
        // The longest expansion of one character in Unicode.
        "NFKC" | "NFKD" => 12,
        "NFC" | "NFD" => 4,
        _ => 1,
    })
}

/// The longest text in SentencePiece's table of replacements: base64 of the length of an index, the index, and texts that
/// end with 0.
fn longest(base64: &str) -> usize {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for letter in base64.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        (held, bits) = (held << 6 | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    let index = bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)) as usize;
    let texts = bytes.get(index.saturating_add(4)..).unwrap_or_default();
    texts.split(|b| *b == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// Tokens that a post-processor adds to one text.
fn added(part: &Value) -> usize {
    let items = |name: &str| part[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let of =
        |name: &Value| part["special_tokens"][name.as_str().unwrap_or_default()]["ids"].as_array().map_or(1, Vec::len);
    let own = items("single").iter().map(|piece| of(&piece["SpecialToken"]["id"])).fold(0, usize::saturating_add);
    items("processors").iter().map(added).fold(own, usize::saturating_add)
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread becomes an error here, so that it must not be printed.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Calls a library on what came with a model; nothing if it panics.
pub fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    result.ok()
}

/// Calls the tokenizers library. A panic inside it is reported as a damaged tokenizer.
pub fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let damaged = || Err("the tokenizer in this file is damaged: pack the model from a whole source".into());
    caught(call).unwrap_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn growth_is_that_of_all_parts_together() {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let space = replace(json!({"String": " "}), "\u{2581}");
        assert_eq!(growth(&space), Ok(3));
        assert_eq!(
            growth(&json!({"type": "Sequence", "normalizers": [space.clone(), {"type": "NFKC"}, space]})),
            Ok(108)
        );
        assert_eq!(growth(&replace(json!({"Regex": "(?=a)"}), "aaaa")), Ok(5));
        assert_eq!(growth(&replace(json!({"String": "abc"}), "a")), Ok(1));
        assert!(growth(&replace(json!({"String": ""}), "a")).is_err());
        // A table whose index has four bytes: its texts are "a", "bcd" and "".
        let table = [4, 0, 0, 0, 9, 9, 9, 9, b'a', 0, b'b', b'c', b'd', 0];
        assert_eq!(table.len(), 14);
        assert_eq!(longest("BAAAAAkJCQlhAGJjZAA="), 3);
    }
}
