//! Builds a Hugging Face `tokenizer.json` from a GGUF file's metadata, so that a model needs no
//! other file than its GGUF.
//!
//! Three kinds are known: `gpt2` is byte-level BPE, whose merges the file lists; `llama` is SentencePiece BPE, whose
//! merges follow from the tokens' scores; and `t5` is SentencePiece unigram. An EOS token is never added after a text,
//! whatever `tokenizer.ggml.add_eos_token` says, because the model continues the text.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::normalizers::Precompiled;

use super::Gguf;
use super::config::finite;
use super::pretokenizers::{Pre, by_name};
use crate::import::templates::with_tools;

/// SentencePiece's character for a space.
const SPACE: &str = "\u{2581}";
/// Longer tokens (in bytes) get no merges from their scores: finding these takes time quadratic in the length, and real
/// tokens are much shorter.
const LONGEST_MERGED: usize = 512;
/// Merges for each token at most; vocabularies of models have two.
const MERGES: usize = 16;
/// The texts of control tokens that end a turn, as in llama.cpp.
const TURN_ENDS: [&str; 8] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "<EOT>", "[EOT]", "<end_of_utterance>"];

/// GGUF's number for the type of the token that stands for unknown text.
const UNKNOWN: i64 = 2;
/// GGUF's number for control tokens, such as BOS.
const CONTROL: i64 = 3;
/// GGUF's number for tokens that are matched in a text before everything else.
const USER_DEFINED: i64 = 4;
/// GGUF's number for tokens that stand for a byte, such as `<0x0A>`.
const BYTE: i64 = 6;

/// What a chat needs beside the tokenizer itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Special {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a text, a turn or a message, each once.
    pub eos: Vec<u32>,
    /// The Jinja template that turns messages into a prompt; of two, the second with tools.
    pub chat_template: Option<String>,
}

/// Reads the tokens that begin and end a text, and the chat template.
///
/// If the file does not say which token ends a turn, the control tokens count that llama.cpp recognises by their text,
/// because many files only name the token that ends a document.
pub fn special_tokens(gguf: &Gguf) -> Special {
    let named = ["eos", "eot", "eom"].map(|name| token_id(gguf, name));
    let mut ends: Vec<u32> = named.into_iter().flatten().collect();
    if gguf.value("tokenizer.ggml.eot_token_id").is_none() {
        ends.extend(turn_ends(gguf));
    }
    let mut eos = Vec::new();
    for id in ends {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    let tools = gguf.str("tokenizer.chat_template.tool_use");
    let chat_template = gguf.str("tokenizer.chat_template").or(tools).map(|default| with_tools(default, tools));
    Special { bos: token_id(gguf, "bos"), eos, chat_template }
}

/// Builds the text of a `tokenizer.json` that the `tokenizers` crate loads.
pub fn tokenizer_json(gguf: &Gguf) -> Result<String, String> {
    let kind = gguf.str("tokenizer.ggml.model");
    let kind = kind.ok_or("the file has no tokenizer: tokenizer.ggml.model is missing")?;
    let vocab = Vocab::read(gguf)?;
    let parts = match kind {
        "gpt2" => byte_level(gguf, &vocab)?,
        "llama" => sentencepiece(gguf, &vocab)?,
        "t5" => unigram(gguf, &vocab)?,
        _ => {
            let what = if kind == "bert" { " (WordPiece)" } else { "" };
            return Err(format!(
                "the tokenizer model \"{kind}\"{what} is not supported; supported are \"gpt2\" (byte-level BPE), \"llama\" \
                 (SentencePiece BPE) and \"t5\" (SentencePiece unigram)"
            ));
        }
    };
    let json = Value::from_iter([
        ("version", json!("1.0")),
        ("truncation", Value::Null),
        ("padding", Value::Null),
        ("added_tokens", added_tokens(gguf, &vocab)),
        ("normalizer", parts.normalizer),
        ("pre_tokenizer", parts.pre_tokenizer),
        ("post_processor", post_processor(gguf, &vocab, parts.add_bos)?),
        ("decoder", parts.decoder),
        ("model", parts.model),
    ]);
    Ok(json.to_string())
}

/// The parts of a tokenizer that depend on its kind.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether a text begins with a BOS token, if the file does not say.
    add_bos: bool,
}

/// The tokens' texts and types.
struct Vocab<'g> {
    texts: &'g [String],
    types: Vec<i64>,
    ids: HashMap<&'g str, u32>,
}

impl<'g> Vocab<'g> {
    /// Reads the tokens; no two may have the same text.
    fn read(gguf: &'g Gguf) -> Result<Vocab<'g>, String> {
        let texts = gguf.strings("tokenizer.ggml.tokens");
        let texts = texts.ok_or("the file has no tokens: tokenizer.ggml.tokens is missing")?;
        let types = match gguf.numbers("tokenizer.ggml.token_type") {
            Some(types) => types.into_iter().map(|kind| kind as i64).collect(),
            None => vec![1; texts.len()],
        };
        check_len("tokenizer.ggml.token_type", types.len(), texts.len())?;
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, text) in (0u32..).zip(texts).filter(|(_, text)| !text.is_empty()) {
            if let Some(first) = ids.insert(text.as_str(), id) {
                return Err(format!("tokens {first} and {id} are both \"{}\"", text.escape_debug()));
            }
        }
        Ok(Vocab { texts, types, ids })
    }

    /// All tokens with their ids and types.
    fn tokens(&self) -> impl Iterator<Item = (u32, &'g str, i64)> {
        let texts = (0u32..).zip(self.texts.iter().map(String::as_str));
        texts.zip(&self.types).map(|((id, text), kind)| (id, text, *kind))
    }

    /// The token of this id.
    fn text(&self, id: u32) -> Option<&'g str> {
        self.texts.get(usize::try_from(id).ok()?).map(String::as_str)
    }

    /// The id of the token of this text, if it can take part in a merge.
    fn mergeable(&self, text: &str) -> Option<u32> {
        let id = *self.ids.get(text)?;
        let kind = *self.types.get(usize::try_from(id).ok()?)?;
        (!matches!(kind, UNKNOWN | CONTROL | BYTE)).then_some(id)
    }

    /// Whether there is a token for each byte.
    fn has_bytes(&self) -> bool {
        (0..=255u8).all(|byte| self.ids.contains_key(format!("<0x{byte:02X}>").as_str()))
    }

    /// The vocabulary as a JSON object; empty texts get the names that llama.cpp gives them.
    fn json(&self) -> Value {
        let name = |id: u32, text: &str| match text {
            "" => format!("[EMPTY_{id}]"),
            _ => text.to_string(),
        };
        self.tokens().map(|(id, text, _)| (name(id, text), id)).collect()
    }
}

/// Checks that a list has an entry for every token.
fn check_len(key: &str, len: usize, tokens: usize) -> Result<(), String> {
    if len >= tokens {
        return Ok(());
    }
    Err(format!("{key} has {len} entries for {tokens} tokens"))
}

/// The number that the file gives a token, as `bos`, `eos`, ...; the largest one and negative ones say that there is none.
fn said_id(gguf: &Gguf, name: &str) -> Option<u64> {
    gguf.u64(&format!("tokenizer.ggml.{name}_token_id")).filter(|id| *id != u64::from(u32::MAX))
}

/// The token that the file names as `bos`, `eos`, ..., if it is one of its tokens.
fn token_id(gguf: &Gguf, name: &str) -> Option<u32> {
    let sentencepiece = gguf.str("tokenizer.ggml.model") == Some("llama");
    let default = match name {
        "unknown" if sentencepiece => Some(0),
        "bos" if sentencepiece => Some(1),
        "eos" if sentencepiece => Some(2),
        _ => None,
    };
    let tokens = gguf.strings("tokenizer.ggml.tokens").map_or(0, <[String]>::len);
    u32::try_from(said_id(gguf, name).or(default)?).ok().filter(|id| (*id as usize) < tokens)
}

/// Checks that the tokens are as many as the rows of the embedding, and that the special ones are among them.
///
/// # Errors
/// A sentence that names the key.
pub fn check_tokens(gguf: &Gguf, rows: usize) -> Result<(), String> {
    let Some(tokens) = gguf.strings("tokenizer.ggml.tokens").map(<[String]>::len) else { return Ok(()) };
    if tokens != rows {
        let counts = format!("tokenizer.ggml.tokens has {tokens} tokens, and the embedding has {rows} rows");
        return Err(format!("{counts}; do they belong to one model?"));
    }
    for name in ["bos", "eos", "eot", "eom", "unknown"] {
        if let Some(id) = said_id(gguf, name).filter(|id| *id >= tokens as u64) {
            let key = format!("tokenizer.ggml.{name}_token_id");
            return Err(format!("{key} is {id}, which is none of the file's {tokens} tokens; is the file damaged?"));
        }
    }
    Ok(())
}

/// The control tokens that end a turn by their text.
fn turn_ends(gguf: &Gguf) -> Vec<u32> {
    let Ok(vocab) = Vocab::read(gguf) else {
        return Vec::new();
    };
    // In models with these tokens, <|end|> ends a message, of which a turn has several.
    let goes_on = ["<|return|>", "<|flush|>"].iter().any(|text| vocab.ids.contains_key(text));
    let ends = vocab
        .tokens()
        .filter(|(_, text, kind)| *kind == CONTROL && TURN_ENDS.contains(text) && !(goes_on && *text == "<|end|>"));
    ends.map(|(id, _, _)| id).collect()
}

/// The tokens that are matched in a text before everything else.
fn added_tokens(gguf: &Gguf, vocab: &Vocab<'_>) -> Value {
    let unknown = token_id(gguf, "unknown");
    let strips = strips_right(gguf);
    let added = vocab.tokens().filter(|(id, text, kind)| {
        let wanted = matches!(*kind, CONTROL | USER_DEFINED);
        (wanted || *kind == UNKNOWN && Some(*id) == unknown) && !text.is_empty()
    });
    let added = added.map(|(id, text, kind)| {
        json!({
            "id": id,
            "content": text,
            "single_word": false,
            "lstrip": false,
            "rstrip": strips && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>"),
            "normalized": false,
            "special": kind != USER_DEFINED,
        })
    });
    added.collect()
}

/// Whether added tokens absorb the white space after them. GGUF files do not say; those of Phi-3 do, which, as in
/// llama.cpp, is recognised by the model's name.
fn strips_right(gguf: &Gguf) -> bool {
    let name = gguf.str("general.name").unwrap_or_default().to_lowercase();
    name.contains("phi-3") || name.contains("phi3")
}

/// Puts a BOS token first, if the file says so or, without a word in the file, if `default` is true.
fn post_processor(gguf: &Gguf, vocab: &Vocab<'_>, default: bool) -> Result<Value, String> {
    let said = gguf.bool("tokenizer.ggml.add_bos_token");
    if !said.unwrap_or(default) {
        return Ok(Value::Null);
    }
    let bos = token_id(gguf, "bos");
    match bos.and_then(|id| Some((id, vocab.text(id)?))) {
        Some((id, text)) => Ok(bos_first(id, text)),
        None if said.is_none() => Ok(Value::Null),
        None => Err("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing, or not a token"
            .to_string()),
    }
}

/// The template that puts a BOS token before each text.
fn bos_first(id: u32, text: &str) -> Value {
    let bos = |kind: u32| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [bos(0), sequence("A", 0)],
        "pair": [bos(0), sequence("A", 0), bos(1), sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    })
}

/// A BPE model of these merges, the most important first.
fn bpe(vocab: &Vocab<'_>, merges: Vec<(&str, &str)>, options: [(&str, Value); 4]) -> Value {
    let merges: Value = merges.into_iter().map(|(left, right)| json!([left, right])).collect();
    let fixed = [
        ("type", json!("BPE")),
        ("dropout", Value::Null),
        ("continuing_subword_prefix", Value::Null),
        ("end_of_word_suffix", Value::Null),
        ("vocab", vocab.json()),
        ("merges", merges),
    ];
    fixed.into_iter().chain(options).collect()
}

/// The parts of a byte-level BPE tokenizer.
fn byte_level(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Parts, String> {
    let name = gguf.str("tokenizer.ggml.pre").unwrap_or("default");
    let pre = by_name(name);
    let pre = pre.ok_or_else(|| format!("the pre-tokenizer \"{name}\" (tokenizer.ggml.pre) is not known"))?;
    let options = [
        ("unk_token", Value::Null),
        ("fuse_unk", json!(false)),
        ("byte_fallback", json!(false)),
        ("ignore_merges", json!(pre.ignore_merges)),
    ];
    Ok(Parts {
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: splits(&pre),
        decoder: bytes_of_chars(),
        model: bpe(vocab, listed_merges(gguf, vocab)?, options),
        add_bos: pre.add_bos,
    })
}

/// The step that maps bytes to characters, and the decoder that reverses it.
fn bytes_of_chars() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// The splits of a pre-tokenizer, followed by the step that maps bytes.
fn splits(pre: &Pre) -> Value {
    let split =
        |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let steps: Value = pre.splits.iter().map(split).chain([bytes_of_chars()]).collect();
    Value::from_iter([("type", json!("Sequence")), ("pretokenizers", steps)])
}

/// The merges that the file lists, each checked to make one token of two.
fn listed_merges<'g>(gguf: &'g Gguf, vocab: &Vocab<'_>) -> Result<Vec<(&'g str, &'g str)>, String> {
    let lines = gguf.strings("tokenizer.ggml.merges");
    let lines = lines.ok_or("the tokenizer has no merges: tokenizer.ggml.merges is missing")?;
    check_merges(lines.len(), vocab)?;
    lines.iter().map(|line| listed_merge(line, vocab)).collect()
}

/// Refuses more merges than a vocabulary has: they could take many times the memory of the file.
fn check_merges(count: usize, vocab: &Vocab<'_>) -> Result<(), String> {
    let tokens = vocab.texts.len();
    if count <= MERGES * tokens {
        return Ok(());
    }
    Err(format!(
        "the {tokens} tokens (tokenizer.ggml.tokens) have more than {MERGES} merges each; is the file damaged?"
    ))
}

/// The two sides of a merge, which are separated by a space; the first character is not the separator, but may be a
/// space itself.
fn listed_merge<'g>(line: &'g str, vocab: &Vocab<'_>) -> Result<(&'g str, &'g str), String> {
    let space = line.char_indices().skip(1).find(|(_, c)| *c == ' ');
    let (left, right) = match space {
        Some((at, _)) => line.split_at(at),
        None => (line, ""),
    };
    let right = right.strip_prefix(' ').unwrap_or(right);
    let joined = [left, right].concat();
    if [left, right, &joined].iter().all(|text| vocab.ids.contains_key(text)) {
        return Ok((left, right));
    }
    Err(format!("the merge \"{}\" does not make one token of two", line.escape_debug()))
}

/// The scores of all tokens.
fn scores(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Vec<f64>, String> {
    let key = "tokenizer.ggml.scores";
    let scores = gguf.numbers(key).ok_or("the tokens have no scores: tokenizer.ggml.scores is missing")?;
    check_len(key, scores.len(), vocab.texts.len())?;
    finite(key, &scores)?;
    Ok(scores)
}

/// The parts of a SentencePiece BPE tokenizer, as in `LlamaTokenizerFast`.
fn sentencepiece(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Parts, String> {
    let scores = scores(gguf, vocab)?;
    let prefix = gguf.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let unknown = token_id(gguf, "unknown").and_then(|id| vocab.text(id));
    let options = [
        ("unk_token", json!(unknown)),
        ("fuse_unk", json!(true)),
        ("byte_fallback", json!(vocab.has_bytes())),
        ("ignore_merges", json!(false)),
    ];
    Ok(Parts {
        normalizer: normalizer(gguf, prefix)?,
        pre_tokenizer: Value::Null,
        decoder: signs_to_spaces(prefix),
        model: bpe(vocab, scored_merges(vocab, &scores)?, options),
        add_bos: true,
    })
}

/// The parts of a SentencePiece unigram tokenizer.
fn unigram(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Parts, String> {
    let scores = scores(gguf, vocab)?;
    let prefix = gguf.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    // Control tokens are not pieces of a text, whatever their scores.
    let piece = |((_, text, kind), score): ((u32, &str, i64), &f64)| match kind {
        UNKNOWN | CONTROL | BYTE => json!([text, -1e4]),
        _ => json!([text, score]),
    };
    let pieces: Value = vocab.tokens().zip(&scores).map(piece).collect();
    let model = Value::from_iter([
        ("type", json!("Unigram")),
        ("unk_id", json!(token_id(gguf, "unknown").unwrap_or(0))),
        ("vocab", pieces),
        ("byte_fallback", json!(vocab.has_bytes())),
    ]);
    Ok(Parts {
        normalizer: normalizer(gguf, prefix)?,
        pre_tokenizer: Value::Null,
        decoder: signs_to_spaces(prefix),
        model,
        add_bos: false,
    })
}

/// SentencePiece's normalization of a text: characters are replaced by its table and redundant spaces removed, if the
/// file says so. Then its space character replaces every space, and is put before the text if `prefix` is true.
fn normalizer(gguf: &Gguf, prefix: bool) -> Result<Value, String> {
    let mut steps: Vec<Value> = exchanges(gguf)?.into_iter().collect();
    let replace = |pattern: Value, by: &str| json!({"type": "Replace", "pattern": pattern, "content": by});
    if gguf.bool("tokenizer.ggml.remove_extra_whitespaces") == Some(true) {
        steps.push(replace(json!({"Regex": "^ +| +$"}), ""));
        steps.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    steps.extend(prefix.then(|| json!({"type": "Prepend", "prepend": SPACE})));
    steps.push(replace(json!({"String": " "}), SPACE));
    Ok(json!({"type": "Sequence", "normalizers": steps}))
}

/// The replacement of characters by a table, if the file has one.
fn exchanges(gguf: &Gguf) -> Result<Option<Value>, String> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let Some(table) = gguf.bytes(key).filter(|table| !table.is_empty()) else { return Ok(None) };
    // The library allocates an index of the length that the table gives, so the length is checked first.
    let index = table.first_chunk().map_or(usize::MAX, |b| u32::from_le_bytes(*b) as usize);
    if index > table.len() {
        return Err(format!("{key} has an index of {index} bytes in {}; is the file damaged?", table.len()));
    }
    let damaged = |e: String| format!("{key} is not a table of SentencePiece: {e}; is the file damaged?");
    let table = Precompiled::from(table).map_err(|e| damaged(e.to_string()))?;
    serde_json::to_value(table).map(Some).map_err(|e| damaged(e.to_string()))
}

/// Reverses what [`normalizer`] does to spaces, and joins bytes of characters that have no token.
fn signs_to_spaces(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// A way to merge two tokens into one.
struct Merge<'g> {
    score: f64,
    left: &'g str,
    right: &'g str,
    /// The numbers of characters on either side.
    chars: (usize, usize),
}

impl Merge<'_> {
    /// Higher scores come first; of equal ones, longer left sides, then longer right sides.
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(other.chars.cmp(&self.chars))
    }
}

/// The merges that follow from the tokens' scores, as `transformers` derives them: a token can be made of any two
/// tokens whose texts join to its text, and tokens of higher scores come first.
fn scored_merges<'g>(vocab: &Vocab<'g>, scores: &[f64]) -> Result<Vec<(&'g str, &'g str)>, String> {
    let mut merges = Vec::new();
    for ((_, text, _), score) in vocab.tokens().zip(scores) {
        if text.len() <= LONGEST_MERGED && vocab.mergeable(text).is_some() {
            merges.extend(merges_into(vocab, text, *score));
            check_merges(merges.len(), vocab)?;
        }
    }
    merges.sort_by(Merge::order);
    Ok(merges.into_iter().map(|merge| (merge.left, merge.right)).collect())
}

/// All ways to merge two tokens into this one, by their ids.
fn merges_into<'g>(vocab: &Vocab<'g>, text: &'g str, score: f64) -> Vec<Merge<'g>> {
    let chars = text.chars().count();
    let cuts = text.char_indices().enumerate().skip(1);
    let mut found: Vec<_> = cuts
        .filter_map(|(before, (at, _))| {
            let (left, right) = text.split_at(at);
            let ids = (vocab.mergeable(left)?, vocab.mergeable(right)?);
            Some((ids, Merge { score, left, right, chars: (before, chars - before) }))
        })
        .collect();
    found.sort_by_key(|(ids, _)| *ids);
    found.into_iter().map(|(_, merge)| merge).collect()
}
