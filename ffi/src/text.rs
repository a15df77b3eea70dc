//! Tokenizers.

use crate::hosted::utf8;
use crate::model::{Reference, sllm_model};
use crate::object::{Kind, Tag, Tagged, check};
use crate::status::{Failure, Result, SLLM_STATUS_BUFFER_TOO_SMALL, SLLM_STATUS_UNSUPPORTED, null, status};
use crate::structs::{put, slice, wanted};
use shadowllm_core::image::SectionKind;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::{Chat, Text};
use std::ffi::{CStr, c_char};
use std::sync::Arc;

/// A tokenizer behind its handle.
#[repr(C)]
pub struct sllm_tokenizer {
    tag: Tag,
    /// Shared with the chats that use it.
    pub language: Arc<Language>,
}

/// How a model reads and writes.
pub struct Language {
    pub text: Text,
    pub chat: Chat,
    pub model: Reference,
}

impl Kind for sllm_tokenizer {
    const TAG: u32 = u32::from_le_bytes(*b"tokn");
}

// SAFETY: repr(C), the tag first.
unsafe impl Tagged for sllm_tokenizer {}

impl Language {
    fn of(model: &sllm_model) -> Result<Language> {
        if model.model.image().section(SectionKind::Tokenizer).is_empty() {
            let message = "the image has no tokenizer: pack the model from a source that has one";
            return Err(Failure::Said(SLLM_STATUS_UNSUPPORTED, message));
        }
        let made;
        let loaded = match &model.loaded {
            Some(loaded) => loaded,
            None => {
                made = LoadedModel::from_static("the image in memory", model.model.image().bytes(), None)?;
                &made
            }
        };
        Ok(Language { text: Text::of(loaded)?, chat: loaded.chat()?, model: model.retain() })
    }

    /// The model's beginning token.
    pub fn bos(&self) -> Option<u32> {
        self.model.model().model.config().bos
    }
}

/// A text of a length, or up to its NUL.
///
/// # Safety
/// See the header.
pub unsafe fn given<'a>(text: *const c_char, length: usize) -> Result<&'a str> {
    if text.is_null() {
        return Err(null("the text is NULL"));
    }
    // SAFETY: not NULL, and as long as the caller says.
    let bytes = unsafe {
        if length == usize::MAX { CStr::from_ptr(text).to_bytes() } else { slice(text.cast::<u8>(), length)? }
    };
    utf8(bytes)
}

/// Hands a result out: to room that is large enough, or only its length. `ends` follows it without being counted.
///
/// # Safety
/// `to` is NULL or has room for `capacity` elements; `count` is not NULL.
pub unsafe fn hand_out<T: Copy>(
    from: &[T],
    ends: Option<T>,
    (to, capacity): (*mut T, usize),
    count: *mut usize,
) -> Result<()> {
    let needed = from.len() + usize::from(ends.is_some());
    if to.is_null() && capacity > 0 {
        return Err(null("the room for the result is NULL"));
    }
    if !to.is_null() {
        if capacity < needed {
            let message = format!("the result takes room for {needed}, and there is room for {capacity}");
            return Err(Failure::Text(SLLM_STATUS_BUFFER_TOO_SMALL, message));
        }
        // SAFETY: there is room for `needed`.
        unsafe {
            to.copy_from_nonoverlapping(from.as_ptr(), from.len());
            if let Some(end) = ends {
                to.add(from.len()).write(end);
            }
        }
    }
    // SAFETY: not NULL.
    unsafe { put(count, from.len()) };
    Ok(())
}

/// The model's tokenizer.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_new(model: *mut sllm_model, tokenizer: *mut *mut sllm_tokenizer) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let model = unsafe { check(model) }?;
        wanted(tokenizer)?;
        let language = Arc::new(Language::of(model)?);
        let made = Box::new(sllm_tokenizer { tag: Tag::new::<sllm_tokenizer>(), language });
        // SAFETY: not NULL.
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
    status(|| {
        if tokenizer.is_null() {
            return Err(null("the pointer to the object is NULL"));
        }
        // SAFETY: the caller's variable, and the header's rules for handles; it came from `Box::into_raw`.
        unsafe {
            if !(*tokenizer).is_null() {
                check(*tokenizer)?.tag.kill();
                drop(Box::from_raw(*tokenizer));
                *tokenizer = std::ptr::null_mut();
            }
        }
        Ok(())
    })
}

/// Token ids of a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_tokenizer_tokenize(
    tokenizer: *const sllm_tokenizer,
    text: *const c_char,
    length: usize,
    add_special: i32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and texts.
        let (tokenizer, text) = unsafe { (check(tokenizer)?, given(text, length)?) };
        wanted(count)?;
        let ids = tokenizer.language.text.encode(text, add_special != 0)?;
        // SAFETY: the caller gives the room; not NULL.
        unsafe { hand_out(&ids, None, (tokens, capacity), count) }
    })
}

/// Refuses ids that are none.
fn in_vocabulary(language: &Language, ids: &[u32]) -> Result<()> {
    let vocab = language.model.model().model.config().vocab as u32;
    match ids.iter().find(|id| **id >= vocab) {
        Some(&id) => Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into()),
        None => Ok(()),
    }
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
    status(|| {
        // SAFETY: the header's rules for handles and arrays.
        let (tokenizer, ids) = unsafe { (check(tokenizer)?, slice(tokens, count)?) };
        wanted(length)?;
        in_vocabulary(&tokenizer.language, ids)?;
        let found = tokenizer.language.text.decode(ids)?;
        // SAFETY: the caller gives the room; not NULL.
        unsafe { hand_out(found.as_bytes(), Some(0), (text.cast(), capacity), length) }
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
    status(|| {
        // SAFETY: the header's rules for handles.
        let tokenizer = unsafe { check(tokenizer) }?;
        wanted(length)?;
        in_vocabulary(&tokenizer.language, &[token])?;
        let found = tokenizer.language.text.bytes(token, false);
        // SAFETY: the caller gives the room; not NULL.
        unsafe { hand_out(&found, None, (bytes, capacity), length) }
    })
}
