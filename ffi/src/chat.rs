//! Text in, text out: continuing texts, and conversations.

use crate::hosted;
use crate::object::{Kind, Object, boxed, check, free};
use crate::sampler::{greedy, sllm_sampler};
use crate::session::{Running, run, sllm_session};
use crate::state::decode_speed;
use crate::status::{Failure, Result, SLLM_STATUS_INVALID_ARGUMENT, SLLM_STATUS_UNSUPPORTED, status};
use crate::structs::{self, Out, put, sllm_generate_options, sllm_generation, sllm_token, wanted};
use crate::text::{Language, given, hand_out, sllm_tokenizer};
use shadowllm_core::sample::Sampler;
use shadowllm_host::conversation::Conversation;
use shadowllm_host::generate::{Figures, Stop, generate};
use shadowllm_host::text::{Chat, Message, render};
use std::ffi::c_char;
use std::sync::Arc;

/// A conversation behind its handle.
pub type sllm_chat = Object<Talk>;

/// A conversation, and which session has read it.
pub struct Talk {
    language: Arc<Language>,
    conversation: Conversation,
    /// The session's version when it had answered last.
    version: Option<u64>,
}

impl Kind for Talk {
    const TAG: u32 = u32::from_le_bytes(*b"chat");
}

const OPTIONS: sllm_generate_options = sllm_generate_options {
    struct_size: size_of::<sllm_generate_options>() as u32,
    max_tokens: 256,
    on_token: None,
    user: std::ptr::null_mut(),
};

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_generate_options_defaults(options: *mut sllm_generate_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives that many bytes.
    status(|| unsafe { structs::defaults(options, struct_size, OPTIONS) })
}

/// Shows tokens to the caller as they come.
struct Show<'a> {
    language: &'a Language,
    options: sllm_generate_options,
    index: u64,
}

impl Show<'_> {
    /// Returns whether to go on. `text` is what is complete now, `id` the token if there is a new one.
    fn token(&mut self, id: Option<u32>, last: u32, mut text: String, (speed, density): (f64, f64)) -> bool {
        let Some(call) = self.options.on_token else { return true };
        let bytes = id.map(|id| self.language.text.bytes(id, self.index == 0)).unwrap_or_default();
        let text_length = text.len();
        text.push('\0');
        let token = sllm_token {
            struct_size: size_of::<sllm_token>() as u32,
            id: id.unwrap_or(last),
            text: text.as_ptr().cast(),
            text_length,
            bytes: bytes.as_ptr(),
            bytes_length: bytes.len(),
            index: self.index,
            tokens_per_second: speed,
            density,
        };
        self.index += u64::from(id.is_some());
        // SAFETY: the function and its argument are the caller's; what the token points to outlives the call.
        unsafe { call(self.options.user, &token) == 0 }
    }
}

/// Reads the ids and writes on; returns the text, all of it shown.
fn write(
    r: &mut Running,
    sampler: &mut Sampler,
    language: &Language,
    ids: &[u32],
    options: &sllm_generate_options,
) -> Result<(String, Figures, Stop)> {
    let mut show = Show { language, options: *options, index: 0 };
    let (mut stream, mut all, mut last) = (language.text.stream(), String::new(), 0);
    let mut live = (0.0, 1.0);
    // Figures of this answer alone.
    let before = *r.session.totals();
    let (figures, stop) =
        generate(&mut r.session, &r.exec, sampler, ids, options.max_tokens as usize, &mut |id, session| {
            let piece = stream.push(id)?;
            all.push_str(&piece);
            last = id;
            let totals = session.totals().since(&before);
            live = (decode_speed(&totals), totals.density());
            Ok(show.token(Some(id), id, piece, live))
        })?;
    let rest = stream.finish()?;
    all.push_str(&rest);
    if !rest.is_empty() && stop != Stop::Stopped {
        show.token(None, last, rest, live);
    }
    Ok((all, figures, stop))
}

/// Runs `body` with the sampler, or with one that takes the likeliest.
///
/// # Safety
/// The header's rules for handles, NULL allowed.
unsafe fn with_sampler<R>(sampler: *mut sllm_sampler, body: impl FnOnce(&mut Sampler) -> Result<R>) -> Result<R> {
    if sampler.is_null() {
        return body(&mut greedy()?);
    }
    // SAFETY: as promised.
    unsafe { check(sampler) }?.with(|s| body(&mut s.0))
}

/// Options and room for the result, checked before anything is done.
struct Asked {
    options: sllm_generate_options,
    result: Option<Out<sllm_generation>>,
}

impl Asked {
    /// # Safety
    /// The header's rules for structures, NULL allowed.
    unsafe fn new(options: *const sllm_generate_options, result: *mut sllm_generation) -> Result<Self> {
        // SAFETY: as promised.
        let options = unsafe { structs::read(options, OPTIONS) }?;
        // SAFETY: as promised.
        let result = if result.is_null() { None } else { Some(unsafe { Out::new(result) }?) };
        Ok(Asked { options, result })
    }

    fn tell(self, figures: &Figures, stop: Stop) {
        let Some(out) = self.result else { return };
        out.write(sllm_generation {
            struct_size: 0,
            stop: match stop {
                Stop::EndOfText => 1,
                Stop::Length => 2,
                Stop::ContextFull => 3,
                Stop::Stopped => 4,
            },
            prompt_tokens: figures.prompt_tokens as u64,
            generated_tokens: figures.generated_tokens as u64,
            first_token_seconds: figures.seconds_to_first_token,
            prefill_tokens_per_second: figures.prompt_tokens_per_second,
            decode_tokens_per_second: figures.tokens_per_second,
        });
    }
}

/// Refuses a session of another model: its ids would mean other texts.
fn same_model(r: &Running, language: &Language) -> Result<()> {
    if std::ptr::eq(r.model.model(), language.model.model()) {
        return Ok(());
    }
    let message = "the session and the tokenizer are of different models";
    Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, message))
}

/// Continues a text.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_generate(
    session: *mut sllm_session,
    tokenizer: *const sllm_tokenizer,
    sampler: *mut sllm_sampler,
    prompt: *const c_char,
    length: usize,
    options: *const sllm_generate_options,
    result: *mut sllm_generation,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles, texts and structures.
        let (session, tokenizer, prompt, asked) =
            unsafe { (check(session)?, check(tokenizer)?, given(prompt, length)?, Asked::new(options, result)?) };
        // A share of its own: the callback may free the tokenizer.
        let language = &*Arc::clone(&tokenizer.language);
        let mut told = None;
        run(session, |r| {
            same_model(r, language)?;
            let ids = continuation(r, language, prompt)?;
            // SAFETY: the header's rules for handles.
            let (_, figures, stop) =
                unsafe { with_sampler(sampler, |s| write(r.touch(), s, language, &ids, &asked.options)) }?;
            told = Some((figures, stop));
            Ok(())
        })?;
        if let Some((figures, stop)) = told {
            asked.tell(&figures, stop);
        }
        Ok(())
    })
}

/// Ids of a plain text, behind what the session has read.
fn continuation(r: &Running, language: &Language, prompt: &str) -> Result<Vec<u32>> {
    if r.session.position() == 0 {
        let message = Message { role: String::new(), content: prompt.to_owned() };
        return Ok(language.text.prompt(&Chat::default(), &[message], true, language.bos())?);
    }
    let ids = language.text.encode(prompt, false)?;
    if ids.is_empty() {
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the prompt is empty: give some text"));
    }
    Ok(ids)
}

/// A conversation.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_new(tokenizer: *mut sllm_tokenizer, chat: *mut *mut sllm_chat) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let tokenizer = unsafe { check(tokenizer.cast_const()) }?;
        wanted(chat)?;
        let language = Arc::clone(&tokenizer.language);
        if language.chat.template.is_empty() {
            let message = "the model has no chat template: continue plain texts with sllm_generate";
            return Err(Failure::Said(SLLM_STATUS_UNSUPPORTED, message));
        }
        let talk = Talk { language, conversation: Conversation::default(), version: None };
        // SAFETY: not NULL.
        unsafe { put(chat, boxed(talk)?) };
        Ok(())
    })
}

/// Ends a conversation.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_free(chat: *mut *mut sllm_chat) -> i32 {
    // SAFETY: the header's rules for handles.
    status(|| unsafe { free(chat) })
}

/// Adds a message.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_add(chat: *mut sllm_chat, role: *const c_char, content: *const c_char) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and texts.
        let (chat, role, content) = unsafe { (check(chat)?, hosted::text(role)?, hosted::text(content)?) };
        if role.is_empty() {
            return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the role is empty: give user, for one"));
        }
        chat.with(|c| {
            c.conversation.add(role, content);
            Ok(())
        })
    })
}

/// Forgets all messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_clear(chat: *mut sllm_chat) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        unsafe { check(chat) }?.with(|c| {
            c.conversation.clear();
            Ok(())
        })
    })
}

/// Refuses a conversation without messages.
fn some_messages(c: &Talk) -> Result<()> {
    if c.conversation.messages.is_empty() {
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the chat has no messages: add one first"));
    }
    Ok(())
}

/// The prompt that the messages make.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_render(
    chat: *const sllm_chat,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles.
        let chat = unsafe { check(chat) }?;
        wanted(length)?;
        let prompt = chat.with(|c| {
            some_messages(c)?;
            Ok(render(&c.language.chat, &c.conversation.messages)?)
        })?;
        // SAFETY: the caller gives the room; not NULL.
        unsafe { hand_out(prompt.as_bytes(), Some(0), (text.cast(), capacity), length) }
    })
}

/// Answers the messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_generate(
    chat: *mut sllm_chat,
    session: *mut sllm_session,
    sampler: *mut sllm_sampler,
    options: *const sllm_generate_options,
    result: *mut sllm_generation,
) -> i32 {
    status(|| {
        // SAFETY: the header's rules for handles and structures.
        let (chat, session, asked) = unsafe { (check(chat)?, check(session)?, Asked::new(options, result)?) };
        let mut told = None;
        chat.with(|c| {
            some_messages(c)?;
            run(session, |r| {
                same_model(r, &c.language)?;
                // SAFETY: the header's rules for handles.
                told = Some(unsafe { with_sampler(sampler, |s| answer(c, r, s, &asked.options)) }?);
                Ok(())
            })
        })?;
        if let Some((figures, stop)) = told {
            asked.tell(&figures, stop);
        }
        Ok(())
    })
}

/// Answers, and takes note of it.
fn answer(
    c: &mut Talk,
    r: &mut Running,
    sampler: &mut Sampler,
    options: &sllm_generate_options,
) -> Result<(Figures, Stop)> {
    let left_so = c.version.take() == Some(r.version);
    if !left_so {
        c.conversation.forget_read();
    }
    let (ids, same) = c.conversation.prompt(&c.language.text, &c.language.chat, c.language.bos())?;
    let r = r.touch();
    r.session.rewind(same.min(r.session.position()))?;
    let start = r.session.position();
    let (text, figures, stop) = write(r, sampler, &c.language, &ids[start..], options)?;
    c.conversation.has_read(ids);
    c.conversation.add("assistant", &text);
    c.version = Some(r.version);
    Ok((figures, stop))
}
