//! Regular expressions come with tokenizers, so from anybody, and one that is made for it can take minutes for a prompt. Here
//! they run in place of the tokenizers library's own, match by match: a deadline and the flag that cancels are looked at.

use crate::clock::used;
use crate::template::is_cancelled;
use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{
    Decoder, DecoderWrapper, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, Offsets,
    PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

/// A tokenizer whose regular expressions are watched.
pub type Tokenizer = TokenizerImpl<ModelWrapper, Before, Split, PostProcessorWrapper, After>;

/// What tokenizing a text may take of the processor, besides a second for each megabyte of it: many times what any model needs.
const LONGEST: Duration = Duration::from_millis(1500);
/// Ways that one search may try and give up, each of which may take as long as the text is. A pattern of a model gives up
/// a few at each letter.
const BACKTRACKS: usize = 1000;
/// Bytes of a compiled pattern at most, and of its states when it runs.
const COMPILED: usize = 2 << 20;
const STATES: usize = 1 << 20;
/// The most bytes of a text after normalizing: a constant and a multiple of the text's own.
const NORMALIZED: usize = 256 << 10;
const TIMES: usize = 8;

thread_local! {
    static UNTIL: Cell<Option<Duration>> = const { Cell::new(None) };
    /// Why a normalizer has refused a text: the library goes on without normalizing then.
    static REFUSED: Cell<Option<String>> = const { Cell::new(None) };
    /// Whether the text continues another one.
    static CONTINUES: Cell<bool> = const { Cell::new(false) };
}

/// Calls the tokenizers library on a text that continues another one: what a tokenizer puts before texts is left out at its
/// beginning.
pub fn continuing<T>(call: impl FnOnce() -> T) -> T {
    let before = CONTINUES.replace(true);
    let result = call();
    CONTINUES.set(before);
    result
}

/// Whether this is the beginning of a text that continues another one.
fn continues(piece: &NormalizedString) -> bool {
    CONTINUES.get() && piece.offsets_original().0 == 0
}

/// Calls the tokenizers library, which gives up when it takes longer than any text of `bytes` bytes needs, or when a
/// normalizer refuses the text.
pub fn in_time<T>(bytes: usize, call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let until = used() + LONGEST + Duration::from_micros(bytes as u64);
    let before = (UNTIL.replace(Some(until)), REFUSED.take());
    let result = call();
    UNTIL.set(before.0);
    REFUSED.replace(before.1).map_or(result, Err)
}

/// Refuses to go on when time is up or this thread's work is cancelled.
fn look() -> tokenizers::Result<()> {
    if is_cancelled() {
        return Err("it is cancelled".into());
    }
    if UNTIL.get().is_some_and(|until| used() > until) {
        return Err("it takes longer than any model's tokenizer does".into());
    }
    Ok(())
}

/// A regular expression of a file.
pub struct Watched {
    pattern: String,
    anywhere: Regex,
    /// The same for one place, made for the first long stretch without a match.
    here: OnceLock<Option<Regex>>,
}

impl Watched {
    fn new(pattern: &str) -> Result<Watched, String> {
        let anywhere = Self::compiled(pattern).map_err(|e| format!("its pattern {pattern:?} is none: {e}"))?;
        Ok(Watched { pattern: pattern.to_owned(), anywhere, here: OnceLock::new() })
    }

    fn compiled(pattern: &str) -> fancy_regex::Result<Regex> {
        let mut builder = RegexBuilder::new(pattern);
        builder.backtrack_limit(BACKTRACKS).delegate_size_limit(COMPILED).delegate_dfa_size_limit(STATES);
        builder.build()
    }

    /// The first match from a place on. A search gives up once at each letter without a match, so the places after the
    /// first thousand are tried one by one, between which the time is looked at.
    fn find(&self, inside: &str, from: usize) -> tokenizers::Result<Option<Range<usize>>> {
        look()?;
        if let Ok(found) = self.anywhere.find_from_pos(inside, from) {
            return Ok(found.map(|found| found.range()));
        }
        let long = || tokenizers::Error::from("its pattern takes longer than any model's does");
        let here = self.here.get_or_init(|| Self::compiled(&format!(r"\G(?:{})", self.pattern)).ok());
        let here = here.as_ref().ok_or_else(long)?;
        for place in (from..=inside.len()).filter(|place| inside.is_char_boundary(*place)) {
            look()?;
            if let Some(found) = here.find_from_pos(inside, place).map_err(|_| long())? {
                return Ok(Some(found.range()));
            }
        }
        Ok(None)
    }
}

impl Pattern for &Watched {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut done, mut parts, mut from, mut last) = (0, Vec::new(), 0, None);
        while from <= inside.len() {
            let Some(found) = self.find(inside, from)? else { break };
            let (start, end) = (found.start, found.end);
            from = end;
            if found.is_empty() {
                // The next search begins after the next letter; an empty match at the end of another one is none.
                from += inside[end..].chars().next().map_or(1, char::len_utf8);
                if last == Some(end) {
                    continue;
                }
            }
            last = Some(end);
            if done != start {
                parts.push(((done, start), false));
            }
            parts.push(((start, end), true));
            done = end;
        }
        if done != inside.len() {
            parts.push(((done, inside.len()), false));
        }
        Ok(parts)
    }
}

/// Whether a regular expression stands in a part of a file.
fn has_pattern(part: &Value) -> bool {
    match part {
        Value::Object(map) => map.contains_key("Regex") || map.values().any(has_pattern),
        Value::Array(list) => list.iter().any(has_pattern),
        _ => false,
    }
}

/// The parts of a sequence, and the regular expression of what is none.
fn parts<'v>(part: &'v Value, list: &str) -> (Option<&'v Vec<Value>>, Option<&'v str>) {
    let sequence = part[list].as_array().filter(|_| part["type"] == "Sequence");
    (sequence, part["pattern"]["Regex"].as_str())
}

/// A part that the library reads by itself: it has no regular expression.
fn other<T: de::DeserializeOwned>(part: &Value) -> Result<T, String> {
    if has_pattern(part) {
        return Err(format!("a pattern stands where none is known: {}", part["type"]));
    }
    T::deserialize(part).map_err(|e| e.to_string())
}

macro_rules! from_a_file {
    ($($part:ident)*) => { $(
        impl<'de> Deserialize<'de> for $part {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $part::of(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )* };
}
from_a_file!(Before Split After);

/// Replacing what matches, in a text or in tokens that become text.
pub struct Replace {
    pattern: Box<Watched>,
    content: String,
}

impl Replace {
    fn of(part: &Value, pattern: &str) -> Result<Replace, String> {
        let content = part["content"].as_str().ok_or("a Replace without content")?.to_owned();
        Ok(Replace { pattern: Box::new(Watched::new(pattern)?), content })
    }

    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        // Letters of at most four bytes take the place of one byte at least.
        if self.content.len() > 4 {
            let found = (&*self.pattern).find_matches(text.get())?.iter().filter(|(_, found)| *found).count();
            admit(text, text.get().len().saturating_add(found.saturating_mul(self.content.len())))?;
        }
        text.replace(&*self.pattern, &self.content)
    }
}

/// Refuses to make the text as long as this.
fn admit(text: &NormalizedString, bytes: usize) -> tokenizers::Result<()> {
    match bytes > TIMES.saturating_mul(text.get_original().len()).saturating_add(NORMALIZED) {
        true => Err("it makes texts many times as long, which no model needs".into()),
        false => Ok(()),
    }
}

/// A normalizer.
pub enum Before {
    /// One after the other.
    All(Vec<Before>),
    /// By a regular expression or a text.
    Replace(Replace),
    /// By a text before it.
    Prepend(String),
    /// One of the library's.
    Other(Box<NormalizerWrapper>),
}

impl Before {
    fn of(part: &Value) -> Result<Before, String> {
        Ok(match parts(part, "normalizers") {
            (Some(all), _) => Before::All(all.iter().map(Before::of).collect::<Result<_, _>>()?),
            (None, Some(pattern)) if part["type"] == "Replace" => Before::Replace(Replace::of(part, pattern)?),
            // As the library does it, with a limit of the length.
            (None, None) if part["type"] == "Replace" => {
                let text = part["pattern"]["String"].as_str().ok_or("a Replace without a pattern")?;
                Before::Replace(Replace::of(part, &fancy_regex::escape(text))?)
            }
            _ => match other(part)? {
                NormalizerWrapper::Prepend(part) => Before::Prepend(part.prepend),
                part => Before::Other(Box::new(part)),
            },
        })
    }
}

impl Before {
    fn apply(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        look()?;
        match self {
            Before::All(all) => all.iter().try_for_each(|part| {
                part.apply(text)?;
                admit(text, text.get().len())
            }),
            Before::Replace(replace) => replace.normalize(text),
            Before::Prepend(_) if continues(text) || text.is_empty() => Ok(()),
            Before::Prepend(prefix) => {
                text.prepend(prefix);
                Ok(())
            }
            Before::Other(part) => part.normalize(text),
        }
    }
}

impl Normalizer for Before {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        self.apply(text).inspect_err(|why| REFUSED.set(Some(why.to_string())))
    }
}

/// What cuts a text before it becomes tokens.
pub enum Split {
    /// One after the other.
    All(Vec<Split>),
    /// By a regular expression, or by what lies between its matches.
    Pattern(Box<Watched>, SplitDelimiterBehavior, bool),
    /// One of the library's.
    Other(Box<PreTokenizerWrapper>),
    /// One of the library's, after a space is put before each piece, or before the first one alone.
    Spaced { space: char, first: bool, part: Box<PreTokenizerWrapper> },
}

impl Split {
    fn of(part: &Value) -> Result<Split, String> {
        Ok(match parts(part, "pretokenizers") {
            (Some(all), _) => Split::All(all.iter().map(Split::of).collect::<Result<_, _>>()?),
            (None, Some(pattern)) if part["type"] == "Split" => {
                let behavior = SplitDelimiterBehavior::deserialize(&part["behavior"]).map_err(|e| e.to_string())?;
                let invert = part["invert"].as_bool().ok_or("a Split that does not say whether it is inverted")?;
                Split::Pattern(Box::new(Watched::new(pattern)?), behavior, invert)
            }
            _ => Split::spaced(other(part)?),
        })
    }

    /// A part of the library whose spaces before texts are put there by [`Split::Spaced`].
    fn spaced(mut part: PreTokenizerWrapper) -> Split {
        let (space, first) = match &mut part {
            PreTokenizerWrapper::Metaspace(part) if part.prepend_scheme != PrependScheme::Never => {
                let first = part.prepend_scheme == PrependScheme::First;
                part.set_prepend_scheme(PrependScheme::Never);
                (part.get_replacement(), first)
            }
            PreTokenizerWrapper::ByteLevel(part) if part.add_prefix_space => {
                part.add_prefix_space = false;
                (' ', false)
            }
            _ => return Split::Other(Box::new(part)),
        };
        Split::Spaced { space, first, part: Box::new(part) }
    }
}

/// Puts a space before a piece that has none.
fn put_before(piece: &mut NormalizedString, space: char, first: bool) {
    let elsewhere = first && piece.offsets_original().0 != 0;
    if !elsewhere && !continues(piece) && !piece.get().starts_with([' ', space]) {
        piece.prepend(space.encode_utf8(&mut [0; 4]));
    }
}

impl PreTokenizer for Split {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        look()?;
        match self {
            Split::All(all) => all.iter().try_for_each(|part| part.pre_tokenize(text)),
            Split::Pattern(pattern, behavior, true) => {
                text.split(|_, piece| piece.split(Invert(&**pattern), *behavior))
            }
            Split::Pattern(pattern, behavior, false) => text.split(|_, piece| piece.split(&**pattern, *behavior)),
            Split::Other(part) => part.pre_tokenize(text),
            Split::Spaced { space, first, part } => {
                text.split(|_, mut piece| {
                    put_before(&mut piece, *space, *first);
                    Ok([piece])
                })?;
                part.pre_tokenize(text)
            }
        }
    }
}

/// What makes text of tokens.
pub enum After {
    /// One after the other.
    All(Vec<After>),
    /// By a regular expression.
    Replace(Replace),
    /// One of the library's.
    Other(Box<DecoderWrapper>),
}

impl After {
    fn of(part: &Value) -> Result<After, String> {
        Ok(match parts(part, "decoders") {
            (Some(all), _) => After::All(all.iter().map(After::of).collect::<Result<_, _>>()?),
            (None, Some(pattern)) if part["type"] == "Replace" => After::Replace(Replace::of(part, pattern)?),
            _ => After::Other(Box::new(other(part)?)),
        })
    }
}

impl Decoder for After {
    fn decode_chain(&self, tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        look()?;
        match self {
            After::All(all) => all.iter().try_fold(tokens, |tokens, part| part.decode_chain(tokens)),
            After::Replace(replace) => {
                let replaced = |token: String| {
                    let parts = (&*replace.pattern).find_matches(&token)?.into_iter();
                    let part = |((from, to), found)| if found { replace.content.as_str() } else { &token[from..to] };
                    Ok(parts.map(part).collect())
                };
                tokens.into_iter().map(replaced).collect()
            }
            After::Other(part) => part.decode_chain(tokens),
        }
    }
}
