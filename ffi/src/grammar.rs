//! Grammars that answers follow.

use crate::args::{put, text_of_length, wanted};
use crate::message::boundary;
use crate::object::{Kind, Tag, Tagged, check, unbox};
use crate::reserve;
use crate::status::{Failure, Result, SLLM_STATUS_UNSUPPORTED, invalid};
use crate::text::{Tokenizer, sllm_tokenizer};
use shadowllm_host::grammar::Vocabulary;
use shadowllm_host::{Grammar, Rules};
use std::ffi::c_char;
use std::sync::Arc;

/// The object of a grammar's handles.
#[repr(C)]
pub struct sllm_grammar {
    tag: Tag,
    grammar: Grammar,
    /// The tokenizer of its model, whose tokens it uses.
    tokenizer: Arc<Tokenizer>,
}

impl Kind for sllm_grammar {
    const TAG: u32 = u32::from_le_bytes(*b"gram");
}

// SAFETY: repr(C) with the tag first.
unsafe impl Tagged for sllm_grammar {}

/// Kinds of [`sllm_grammar_new`].
pub const SLLM_GRAMMAR_JSON_SCHEMA: i32 = 1;
/// Kinds of [`sllm_grammar_new`].
pub const SLLM_GRAMMAR_REGEX: i32 = 2;
/// Kinds of [`sllm_grammar_new`].
pub const SLLM_GRAMMAR_LARK: i32 = 3;

/// About the bytes of a token in the tables of a vocabulary.
const TOKEN: usize = 64;

impl sllm_grammar {
    fn new(tokenizer: &Arc<Tokenizer>, rules: Rules) -> Result<Self> {
        if !cfg!(feature = "grammar") {
            let message = "this library was built without grammars: build it with the feature grammar";
            return Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, message));
        }
        let vocabulary = match tokenizer.vocabulary.get() {
            Some(vocabulary) => vocabulary.clone(),
            None => {
                reserve::wanted(tokenizer.language.vocab, TOKEN)?;
                let made = Vocabulary::of(&tokenizer.language)?;
                tokenizer.vocabulary.get_or_init(|| made).clone()
            }
        };
        let grammar = Grammar::new(&vocabulary, rules)?;
        Ok(sllm_grammar { tag: Tag::new::<sllm_grammar>(), grammar, tokenizer: Arc::clone(tokenizer) })
    }

    /// The grammar, for answers in this tokenizer's tokens.
    pub fn of(&self, tokenizer: &Tokenizer) -> Result<Grammar> {
        if !std::ptr::eq(self.tokenizer.model.model(), tokenizer.model.model()) {
            return Err(invalid("the grammar was made for another model"));
        }
        Ok(self.grammar.clone())
    }
}

/// A grammar.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_grammar_new(
    tokenizer: *const sllm_tokenizer,
    kind: i32,
    text: *const c_char,
    length: usize,
    grammar: *mut *mut sllm_grammar,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and texts as long as `length` says, by the header's rules.
        let (tokenizer, text) = unsafe { (&check(tokenizer)?.shared, text_of_length(text, length)?) };
        wanted(grammar)?;
        let rules = match kind {
            SLLM_GRAMMAR_JSON_SCHEMA => Rules::JsonSchema(text),
            SLLM_GRAMMAR_REGEX => Rules::Regex(text),
            SLLM_GRAMMAR_LARK => Rules::Lark(text),
            _ => return Err(invalid("the kind is not one of SLLM_GRAMMAR_...")),
        };
        let made = Box::new(sllm_grammar::new(tokenizer, rules)?);
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(grammar, Box::into_raw(made)) };
        Ok(())
    })
}

/// Frees a grammar.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_grammar_free(grammar: *mut *mut sllm_grammar) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules, and grammars come from `Box::into_raw`.
    boundary(|| unsafe { unbox(grammar) })
}
