//! `tokenizer.model`, the file of SentencePiece, translated to GGUF metadata, from which the tokenizer is built.
//!
//! The file is a message of Protocol Buffers (`sentencepiece_model.proto`), of which a few fields are read.

use super::gguf::{Array, Gguf, Value};
use std::collections::BTreeMap;

/// A field's value: a number, or bytes (a message, a string, a float).
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Field<'_>)>, String> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let key = number(&mut rest)?;
        let len = match key & 7 {
            0 => {
                all.push((key >> 3, Field::Number(number(&mut rest)?)));
                continue;
            }
            1 => 8,
            2 => number(&mut rest)? as usize,
            5 => 4,
            kind => return Err(format!("a field of the kind {kind}")),
        };
        let (bytes, after) = rest.split_at_checked(len).ok_or("a field that is longer than the file")?;
        all.push((key >> 3, Field::Bytes(bytes)));
        rest = after;
    }
    Ok(all)
}

/// A varint: seven bits in each byte, the lowest first.
fn number(rest: &mut &[u8]) -> Result<u64, String> {
    let mut n = 0;
    for (i, byte) in rest.iter().enumerate().take(10) {
        n |= u64::from(byte & 127).checked_shl(7 * i as u32).unwrap_or(0);
        if byte & 128 == 0 {
            *rest = &rest[i + 1..];
            return Ok(n);
        }
    }
    Err("a number that does not end".into())
}

/// The fields that are read from a file.
struct Model {
    texts: Vec<String>,
    scores: Vec<f64>,
    kinds: Vec<i64>,
    /// Its kind, under GGUF's name.
    kind: &'static str,
    prefix: bool,
    removes: bool,
    /// Its table for the replacement of characters.
    table: Vec<u8>,
    special: [(&'static str, u64); 3],
}

impl Model {
    /// Reads a token: its text, its score and its type, which has the same numbers as in GGUF.
    fn piece(&mut self, parts: Vec<(u64, Field)>) {
        let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
        for part in parts {
            match part {
                (1, Field::Bytes(b)) => text = String::from_utf8_lossy(b).into_owned(),
                (2, Field::Bytes(b)) => score = b.try_into().map_or(0.0, f32::from_le_bytes),
                (3, Field::Number(n)) => kind = n as i64,
                _ => {}
            }
        }
        self.texts.push(text);
        self.scores.push(f64::from(score));
        self.kinds.push(kind);
    }

    /// Reads the kind of model and its special tokens.
    fn trainer(&mut self, parts: Vec<(u64, Field)>) -> Result<(), String> {
        for part in parts {
            match part {
                (3, Field::Number(1)) => self.kind = "t5",
                (3, Field::Number(2)) => self.kind = "llama",
                (3, Field::Number(n)) => {
                    return Err(format!("is of the kind {n}: unigram (1) and BPE (2) are supported"));
                }
                // A negative number means that there is no such token.
                (n @ 40..=42, Field::Number(id)) => self.special[n as usize - 40].1 = id,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads how a text is normalized.
    fn normalizer(&mut self, parts: Vec<(u64, Field)>) {
        for part in parts {
            match part {
                (2, Field::Bytes(table)) => self.table = table.to_vec(),
                (3, Field::Number(n)) => self.prefix = n != 0,
                (4, Field::Number(n)) => self.removes = n != 0,
                _ => {}
            }
        }
    }
}

/// The metadata of a file.
///
/// # Errors
/// Says what is wrong with the file, or not supported.
pub fn metadata(file: &[u8]) -> Result<Gguf, String> {
    let damaged = |e: String| format!("is not a SentencePiece file: it has {e}; download it again");
    let (texts, scores, kinds, special) = (vec![], vec![], vec![], [("unknown", 0), ("bos", 1), ("eos", 2)]);
    let mut m = Model { texts, scores, kinds, kind: "t5", prefix: true, removes: true, table: vec![], special };
    for field in fields(file).map_err(damaged)? {
        match field {
            (1, Field::Bytes(message)) => m.piece(fields(message).map_err(damaged)?),
            (2, Field::Bytes(message)) => m.trainer(fields(message).map_err(damaged)?)?,
            (3, Field::Bytes(message)) => m.normalizer(fields(message).map_err(damaged)?),
            _ => {}
        }
    }
    if m.texts.is_empty() {
        return Err(damaged("no tokens".into()));
    }
    let mut all = BTreeMap::new();
    let mut set = |key: &str, value| drop(all.insert(format!("tokenizer.ggml.{key}"), value));
    set("model", Value::String(m.kind.into()));
    set("tokens", Value::Array(Array::Strings(m.texts)));
    set("scores", Value::Array(Array::Float(m.scores)));
    set("token_type", Value::Array(Array::Signed(m.kinds)));
    set("add_space_prefix", Value::Bool(m.prefix));
    set("remove_extra_whitespaces", Value::Bool(m.removes));
    set("precompiled_charsmap", Value::Array(Array::Bytes(m.table, false)));
    for (name, id) in m.special {
        set(&format!("{name}_token_id"), Value::Unsigned(id));
    }
    Ok(Gguf::of(all))
}
