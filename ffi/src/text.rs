//! Tokenizers.

use crate::args::{array_out, put, slice, text_of_length, wanted};
use crate::message::boundary;
use crate::model::{Reference, sllm_model};
use crate::object::{Kind, Tag, Tagged, check, unbox};
use crate::reserve;
use crate::status::{Failure, Result, SLLM_STATUS_UNSUPPORTED, invalid};
use shadowllm_core::image::SectionKind;
use shadowllm_host::grammar::Vocabulary;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::Language;
use std::ffi::c_char;
use std::sync::{Arc, OnceLock};

/// A tokenizer as handles point to it.
#[repr(C)]
pub struct sllm_tokenizer {
    tag: Tag,
    /// Shared with the chats that use it.
    pub shared: Arc<Tokenizer>,
}

/// A model's tokenizer and chat template, and the model.
pub struct Tokenizer {
    pub language: Language,
    pub model: Reference,
    /// Built with the first grammar.
    pub vocabulary: OnceLock<Vocabulary>,
}

impl Kind for sllm_tokenizer {
    const TAG: u32 = u32::from_le_bytes(*b"tokn");
}

// SAFETY: repr(C) with the tag first.
unsafe impl Tagged for sllm_tokenizer {}

impl Tokenizer {
    fn of(model: &sllm_model) -> Result<Tokenizer> {
        if model.model.image().section(SectionKind::Tokenizer).is_empty() {
            let message = "the image has no tokenizer: pack the model from a source that has one";
            return Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, message));
        }
        // About what the vocabulary takes in memory.
        reserve::wanted(model.model.image().section(SectionKind::Tokenizer).len(), 16)?;
        let made;
        let loaded = match &model.loaded {
            Some(loaded) => loaded,
            None => {
                made = LoadedModel::from_static("the image in memory", model.model.image().bytes(), None)?;
                &made
            }
        };
        Ok(Tokenizer { language: Language::of(loaded)?, model: model.retain(), vocabulary: OnceLock::new() })
    }

    /// Refuses ids outside of the vocabulary.
    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.model.model().model.config().vocab as u32;
        match ids.iter().find(|id| **id >= vocab) {
            Some(&id) => Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into()),
            None => Ok(()),
        }
    }
}

/// The model's tokenizer.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_new(model: *mut sllm_model, tokenizer: *mut *mut sllm_tokenizer) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let model = unsafe { check(model) }?;
        wanted(tokenizer)?;
        let shared = Arc::new(Tokenizer::of(model)?);
        let made = Box::new(sllm_tokenizer { tag: Tag::new::<sllm_tokenizer>(), shared });
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(tokenizer, Box::into_raw(made)) };
        Ok(())
    })
}

/// Ends a tokenizer.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_free(tokenizer: *mut *mut sllm_tokenizer) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules, and tokenizers come from `Box::into_raw`.
    boundary(|| unsafe { unbox(tokenizer) })
}

/// About what tokenizing takes for each byte of a text.
pub const BYTES: usize = 64;

/// `flags` of [`sllm_tokenizer_tokenize`].
pub const SLLM_TOKENIZE_ADD_SPECIAL: i32 = 1;
/// `flags` of [`sllm_tokenizer_tokenize`].
pub const SLLM_TOKENIZE_CONTROL: i32 = 2;

/// Token ids of a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_tokenize(
    tokenizer: *const sllm_tokenizer,
    text: *const c_char,
    length: usize,
    flags: i32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and texts as long as `length` says, by the header's rules.
        let (tokenizer, text) = unsafe { (&check(tokenizer)?.shared, text_of_length(text, length)?) };
        wanted(count)?;
        if flags & !(SLLM_TOKENIZE_ADD_SPECIAL | SLLM_TOKENIZE_CONTROL) != 0 {
            return Err(invalid("the flags have a bit that is none of SLLM_TOKENIZE_..."));
        }
        reserve::wanted(text.len(), BYTES)?;
        let (special, control) = (flags & SLLM_TOKENIZE_ADD_SPECIAL != 0, flags & SLLM_TOKENIZE_CONTROL != 0);
        let text_of = &tokenizer.language.text;
        let ids = if control { text_of.encode(text, special)? } else { text_of.encode_plain(text, special)? };
        // SAFETY: the buffer has room for `capacity` elements, by the header's rules; the count's place is not NULL,
        // checked by `wanted`.
        unsafe { array_out(&ids, None, (tokens, capacity), count) }
    })
}

/// Text of token ids.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_detokenize(
    tokenizer: *const sllm_tokenizer,
    tokens: *const u32,
    count: usize,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and `tokens` has `count` elements, by the header's rules.
        let (tokenizer, ids) = unsafe { (&check(tokenizer)?.shared, slice(tokens, count)?) };
        wanted(length)?;
        tokenizer.check_ids(ids)?;
        reserve::wanted(ids.len(), BYTES)?;
        let found = tokenizer.language.text.decode(ids)?;
        // SAFETY: the buffer has room for `capacity` elements, by the header's rules; the count's place is not NULL,
        // checked by `wanted`.
        unsafe { array_out(found.as_bytes(), Some(0), (text.cast(), capacity), length) }
    })
}

/// Text of one token for people.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_token_text(
    tokenizer: *const sllm_tokenizer,
    token: u32,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let tokenizer = &unsafe { check(tokenizer) }?.shared;
        wanted(length)?;
        tokenizer.check_ids(&[token])?;
        let found = tokenizer.language.text.piece(token);
        // SAFETY: the buffer has room for `capacity` elements, by the header's rules; the count's place is not NULL,
        // checked by `wanted`.
        unsafe { array_out(found.as_bytes(), Some(0), (text.cast(), capacity), length) }
    })
}

/// Bytes of one token.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_token_bytes(
    tokenizer: *const sllm_tokenizer,
    token: u32,
    bytes: *mut u8,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let tokenizer = &unsafe { check(tokenizer) }?.shared;
        wanted(length)?;
        tokenizer.check_ids(&[token])?;
        let found = tokenizer.language.text.bytes(token, false);
        // SAFETY: the buffer has room for `capacity` elements, by the header's rules; the count's place is not NULL,
        // checked by `wanted`.
        unsafe { array_out(&found, None, (bytes, capacity), length) }
    })
}
