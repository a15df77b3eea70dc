//! Answers that follow a grammar: a JSON schema, a regular expression, or a grammar in Lark's notation, by `llguidance`.

use crate::error::{Error, Result};
use crate::text::{Language, Text};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The most bytes of a grammar's text.
const LONGEST: usize = 1 << 20;
/// The deepest nesting of brackets: parsers of grammars recurse.
const DEEPEST: usize = 100;
/// The most bytes of a token that a grammar can use.
const WORD: usize = 1024;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules<'a> {
    /// JSON that is valid against a JSON schema.
    JsonSchema(&'a str),
    /// A text that a regular expression matches whole.
    Regex(&'a str),
    /// A text that the rule `start` of a grammar in Lark's notation produces.
    Lark(&'a str),
}

impl<'a> Rules<'a> {
    fn text(self) -> &'a str {
        match self {
            Rules::JsonSchema(text) | Rules::Regex(text) | Rules::Lark(text) => text,
        }
    }

    /// The name of the kind of rules in messages.
    fn name(self) -> &'static str {
        match self {
            Rules::JsonSchema(_) => "JSON schema",
            Rules::Regex(_) => "regular expression",
            Rules::Lark(_) => "grammar",
        }
    }

    /// In the form that the library takes.
    fn read(self) -> std::result::Result<TopLevelGrammar, String> {
        let text = self.text();
        if text.trim().is_empty() {
            return Err("it is empty".into());
        }
        if text.len() > LONGEST {
            return Err(format!("it has {} bytes, but at most {LONGEST} are accepted", text.len()));
        }
        if deepest(text) > DEEPEST {
            return Err(format!("it has more than {DEEPEST} brackets inside one another"));
        }
        match self {
            Rules::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Rules::Lark(text) => Ok(TopLevelGrammar::from_lark(text.to_owned())),
            Rules::JsonSchema(text) => {
                let mut schema: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
                if schema == true {
                    schema = json!({});
                }
                let Some(fields) = schema.as_object_mut() else {
                    return Err("a schema is a JSON object".into());
                };
                // The spaces of most programs and models. If any spaces were allowed, an answer could consist of them
                // without end.
                let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
                fields.entry("x-guidance").or_insert(spaces);
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
        }
    }
}

/// The depth of nested brackets of any kind.
fn deepest(text: &str) -> usize {
    let (mut depth, mut most) = (0usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'\n' => quoted = false,
            b'(' | b'[' | b'{' if !quoted => depth += 1,
            b')' | b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// A model's tokens in the form that grammars use. Building one takes tens of milliseconds; clones share it.
#[derive(Clone)]
pub struct Vocabulary(Arc<ParserFactory>);

/// The bytes of each token, and the tokenizer for forced texts.
struct Tokens {
    trie: TokTrie,
    text: Text,
    canonical: bool,
}

impl Tokens {
    /// Ids of a text inside an answer, if their bytes together are the text.
    fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = self.text.encode_after(text).ok()?;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.trie.token(*id)).copied().collect();
        (bytes == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Tokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| self.encode(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()));
        self.trie.tokenize_with_greedy_fallback(bytes, encode)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

impl Vocabulary {
    /// The vocabulary of a model's tokenizer.
    ///
    /// # Errors
    /// When the model has no end token, or its tokenizer is damaged.
    pub fn of(language: &Language) -> Result<Self> {
        let ends: Vec<u32> = language.ends.iter().copied().filter(|id| (*id as usize) < language.vocab).collect();
        let Some(end) = ends.first() else {
            return Err(Error::Usage("the model has no end token, so no answer could end where a grammar does".into()));
        };
        let made = crate::text_guard::guarded(|| {
            let text = language.text.clone();
            let words: Vec<Vec<u8>> = (0..language.vocab as u32).map(|id| word(&text, id)).collect();
            let trie = TokTrie::from(&TokRxInfo::new(language.vocab as u32, *end), &words).with_eos_tokens(&ends);
            let mut tokens = Tokens { trie, text, canonical: false };
            tokens.canonical = tokens.encode("{\"a\": [1, true]}").is_some();
            // Where tokens are other texts than they are made of, every token is chosen by the model.
            let able = InferenceCapabilities { ff_tokens: tokens.canonical, ..InferenceCapabilities::default() };
            let tokens: TokEnv = Arc::new(tokens);
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            let mut factory = ParserFactory::new(&tokens, able, &slices).map_err(|e| e.to_string())?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(factory)
        });
        Ok(Vocabulary(Arc::new(made.map_err(Error::Other)?)))
    }
}

/// Bytes of a token; control tokens get a mark, so that no text matches them.
fn word(text: &Text, id: u32) -> Vec<u8> {
    let mut word = text.bytes(id, false);
    if word.is_empty() {
        word = text.piece(id).into_bytes();
        if !word.is_empty() {
            word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
    }
    if word.len() > WORD { Vec::new() } else { word }
}

/// Limits of time and memory for a grammar: the library's own, or tighter ones where one answer needs no more.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// A compiled grammar for any number of answers. Clones share it.
#[derive(Clone)]
pub struct Grammar(Arc<Mutex<Matcher>>);

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// The grammar of these rules.
    ///
    /// # Errors
    /// If the rules are not valid (not JSON, an undefined rule), or exceed the limits of a grammar.
    pub fn new(vocabulary: &Vocabulary, rules: Rules) -> Result<Self> {
        let bad = |e: String| Error::Usage(format!("the {} cannot be followed: {e}", rules.name()));
        let grammar = rules.read().map_err(bad)?;
        let parser = vocabulary.0.create_parser(grammar);
        let mut matcher = Matcher::new(parser);
        if let Some(e) = matcher.get_error() {
            return Err(bad(first_line(&e)));
        }
        // A grammar that no text can follow is an error here already.
        matcher.compute_mask_or_eos().map_err(|e| bad(first_line(&e.to_string())))?;
        Ok(Grammar(Arc::new(Mutex::new(matcher))))
    }

    /// Begins an answer.
    pub fn follow(&self) -> Following {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        let mut following = Following { matcher, mask: None, forced: VecDeque::new() };
        following.force();
        following
    }
}

/// The library's errors continue with their causes in further lines.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

/// The state of an answer within its grammar.
pub struct Following {
    matcher: Matcher,
    mask: Option<SimpleVob>,
    forced: VecDeque<u32>,
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Following({} forced)", self.forced.len())
    }
}

impl Following {
    /// Whether no token can follow.
    pub fn is_over(&self) -> bool {
        self.forced.is_empty() && self.matcher.is_stopped()
    }

    /// The next token, if the grammar allows only one.
    pub fn forced(&mut self) -> Option<u32> {
        self.forced.pop_front()
    }

    /// Computes the tokens that may follow.
    ///
    /// # Errors
    /// If that exceeds the limits of a grammar.
    pub fn look(&mut self) -> Result<()> {
        self.mask = Some(self.matcher.compute_mask_or_eos().map_err(stopped)?);
        Ok(())
    }

    /// Whether a token may follow, after [`Following::look`].
    pub fn allows(&self, id: u32) -> bool {
        self.mask.as_ref().is_some_and(|mask| (id as usize) < mask.len() && mask.is_allowed(id))
    }

    /// Continues after a token.
    ///
    /// # Errors
    /// When the grammar does not allow it.
    pub fn accept(&mut self, id: u32) -> Result<()> {
        self.matcher.consume_token(id).map_err(stopped)?;
        self.force();
        Ok(())
    }

    fn force(&mut self) {
        if !self.matcher.is_stopped() {
            self.forced.extend(self.matcher.consume_ff_tokens());
        }
    }
}

/// The error of an answer that cannot continue.
fn stopped(e: impl fmt::Display) -> Error {
    Error::Other(format!("the grammar cannot be followed further: {}", first_line(&e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted_outside_of_texts() {
        assert_eq!(deepest("a(b[c]{d})"), 2);
        assert_eq!(deepest("start: \"(\" \"(\" \"(\" x"), 0);
        assert_eq!(deepest(&"(".repeat(500)), 500);
        assert_eq!(deepest(r#""\"(" ("#), 1);
    }

    #[test]
    fn grammars_are_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<Grammar>();
        shared::<Vocabulary>();
        sent::<Following>();
    }
}
