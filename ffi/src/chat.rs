//! Conversations by the model's chat template.

use crate::args::{array_out, put, text, text_of_length, wanted};
use crate::generate::{Request, same_model, show};
use crate::message::boundary;
use crate::object::{Kind, Object, boxed, check, free};
use crate::reserve::{check_reserve, wanted as wanted_bytes};
use crate::sampler::{sllm_sampler, with_sampler};
use crate::session::{SessionState, run, sllm_session};
use crate::status::{Failure, Result, SLLM_STATUS_UNSUPPORTED, invalid};
use crate::structs::{sllm_generate_options, sllm_generation};
use crate::text::{BYTES, Tokenizer, sllm_tokenizer};
use shadowllm_core::sample::Sampler;
use shadowllm_host::conversation::{Answering, Conversation, Reply};
use shadowllm_host::generate::Stop;
use shadowllm_host::template::{Message, render_with, set_variable};
use shadowllm_host::tool_calls::parse;
use std::ffi::c_char;
use std::sync::Arc;

/// A conversation as handles point to it.
pub type sllm_chat = Object<ChatState>;

/// A conversation.
pub struct ChatState {
    tokenizer: Arc<Tokenizer>,
    conversation: Conversation,
    /// The message that was last given as JSON, and a NUL.
    json: String,
}

impl Kind for ChatState {
    const TAG: u32 = u32::from_le_bytes(*b"chat");
}

impl ChatState {
    fn message(&self, index: usize) -> Result<&Message> {
        let message = self.conversation.messages.get(index);
        message.ok_or(invalid("the chat has no message of this index: see sllm_chat_count"))
    }

    /// Refuses a conversation without messages, and one that there is no memory for.
    fn check_messages(&self) -> Result<()> {
        if self.conversation.messages.is_empty() {
            return Err(invalid("the chat has no messages: add one first"));
        }
        wanted_bytes(self.conversation.messages.iter().map(|m| m.content.len()).sum(), BYTES)
    }

    /// Answers the messages, and adds the answer to them, also when it is cancelled half-way.
    fn answer(&mut self, s: &mut SessionState, sampler: &mut Sampler, request: &Request) -> Result<Reply> {
        self.conversation.control = request.options.control_tokens != 0;
        let language = &self.tokenizer.language;
        let mut answering = self.conversation.begin(language, &mut s.session, &s.exec, sampler, request.held())?;
        let failure = show(&mut answering, s, sampler, language, &request.options).err();
        if !is_kept(&answering)
            && let Some(failure) = failure
        {
            return Err(failure);
        }
        let reply = self.conversation.end(answering)?;
        failure.map_or(Ok(reply), Err)
    }
}

/// Whether an answer ended because it was cancelled, after something was said.
fn is_kept(answering: &Answering) -> bool {
    answering.stopped() == Some(Stop::Cancelled) && !answering.ids().is_empty()
}

/// A conversation.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_new(tokenizer: *mut sllm_tokenizer, chat: *mut *mut sllm_chat) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let tokenizer = unsafe { check(tokenizer.cast_const()) }?;
        wanted(chat)?;
        check_reserve()?;
        let tokenizer = Arc::clone(&tokenizer.shared);
        if tokenizer.language.template.is_empty() {
            let message = "the model has no chat template: continue plain texts with sllm_generate";
            return Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, message));
        }
        let state = ChatState { tokenizer, conversation: Conversation::default(), json: String::new() };
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(chat, boxed(state)?) };
        Ok(())
    })
}

/// Ends a conversation.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_free(chat: *mut *mut sllm_chat) -> i32 {
    // SAFETY: handles are NULL or live objects, by the header's rules.
    boundary(|| unsafe { free(chat) })
}

/// Adds a message.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_add(chat: *mut sllm_chat, role: *const c_char, content: *const c_char) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and texts end with a NUL, by the header's rules.
        let (chat, role, content) = unsafe { (check(chat)?, text(role)?, text(content)?) };
        if role.is_empty() {
            return Err(invalid("the role is empty: give \"user\", for example"));
        }
        wanted_bytes(content.len(), 1)?;
        chat.with(|c| {
            c.conversation.add(role, content);
            Ok(())
        })
    })
}

/// Adds a message with all its fields.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_add_json(chat: *mut sllm_chat, json: *const c_char) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and texts end with a NUL, by the header's rules.
        let (chat, json) = unsafe { (check(chat)?, text(json)?) };
        wanted_bytes(json.len(), BYTES)?;
        let message = Message::from_json(json)?;
        chat.with(|c| {
            c.conversation.messages.push(message);
            Ok(())
        })
    })
}

/// Sets a variable of the template.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_set_variable(chat: *mut sllm_chat, name: *const c_char, json: *const c_char) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and texts end with a NUL, by the header's rules.
        let (chat, name) = unsafe { (check(chat)?, text(name)?) };
        // SAFETY: as above.
        let json = if json.is_null() { None } else { Some(unsafe { text(json) }?) };
        wanted_bytes(json.map_or(0, str::len), BYTES)?;
        chat.with(|c| {
            let variables = &mut c.conversation.variables;
            match json {
                Some(json) => set_variable(variables, name, json)?,
                None => _ = variables.shift_remove(name),
            }
            Ok(())
        })
    })
}

/// The tool calls in an answer.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_parse_tool_calls(
    answer: *const c_char,
    answer_length: usize,
    json: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: texts are as long as their length says, by the header's rules.
        let answer = unsafe { text_of_length(answer, answer_length) }?;
        wanted(length)?;
        wanted_bytes(answer.len(), BYTES)?;
        let parsed = parse(answer).to_json();
        // SAFETY: the buffer has room for `capacity` bytes, by the header's rules; `length` is not NULL, checked by
        // `wanted`.
        unsafe { array_out(parsed.as_bytes(), Some(0), (json.cast(), capacity), length) }
    })
}

/// The number of messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_count(chat: *const sllm_chat, count: *mut usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let chat = unsafe { check(chat) }?;
        wanted(count)?;
        let messages = chat.with(|c| Ok(c.conversation.messages.len()))?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(count, messages) };
        Ok(())
    })
}

/// One message.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_message(
    chat: *const sllm_chat,
    index: usize,
    role: *mut *const c_char,
    role_length: *mut usize,
    content: *mut *const c_char,
    content_length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let chat = unsafe { check(chat) }?;
        wanted(role)?;
        wanted(role_length)?;
        wanted(content)?;
        wanted(content_length)?;
        chat.with(|c| {
            let message = c.message(index)?;
            // SAFETY: not NULL, checked by `wanted`.
            unsafe {
                put(role, message.role.as_ptr().cast());
                put(role_length, message.role.len());
                put(content, message.content.as_ptr().cast());
                put(content_length, message.content.len());
            }
            Ok(())
        })
    })
}

/// One message with all its fields.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_message_json(
    chat: *const sllm_chat,
    index: usize,
    json: *mut *const c_char,
    length: *mut usize,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let chat = unsafe { check(chat) }?;
        wanted(json)?;
        wanted(length)?;
        chat.with(|c| {
            let message = c.message(index)?;
            wanted_bytes(message.role.len() + message.content.len(), BYTES)?;
            c.json = message.to_json().to_string() + "\0";
            // SAFETY: not NULL, checked by `wanted`.
            unsafe {
                put(json, c.json.as_ptr().cast());
                put(length, c.json.len() - 1);
            }
            Ok(())
        })
    })
}

/// Keeps the first messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_truncate(chat: *mut sllm_chat, count: usize) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        unsafe { check(chat) }?.with(|c| {
            if count > c.conversation.messages.len() {
                return Err(invalid("the chat has fewer messages than are to be kept: see sllm_chat_count"));
            }
            c.conversation.messages.truncate(count);
            Ok(())
        })
    })
}

/// A second conversation with the same messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_fork(chat: *const sllm_chat, fork: *mut *mut sllm_chat) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let chat = unsafe { check(chat) }?;
        wanted(fork)?;
        let state = chat.with(|c| {
            wanted_bytes(c.conversation.messages.iter().map(|m| m.role.len() + m.content.len()).sum(), 1)?;
            let tokenizer = Arc::clone(&c.tokenizer);
            Ok(ChatState { tokenizer, conversation: c.conversation.clone(), json: String::new() })
        })?;
        // SAFETY: not NULL, checked by `wanted`.
        unsafe { put(fork, boxed(state)?) };
        Ok(())
    })
}

/// Removes all messages.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_chat_clear(chat: *mut sllm_chat) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        unsafe { check(chat) }?.with(|c| {
            c.conversation.clear();
            Ok(())
        })
    })
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
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let chat = unsafe { check(chat) }?;
        wanted(length)?;
        let prompt = chat.with(|c| {
            c.check_messages()?;
            let conversation = &c.conversation;
            Ok(render_with(&c.tokenizer.language.template, &conversation.messages, &conversation.variables)?)
        })?;
        // SAFETY: the buffer has room for `capacity` bytes, by the header's rules; `length` is not NULL, checked by
        // `wanted`.
        unsafe { array_out(prompt.as_bytes(), Some(0), (text.cast(), capacity), length) }
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
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (chat, session, mut request) = unsafe { (check(chat)?, check(session)?, Request::new(options, result)?) };
        let mut reply = None;
        chat.with(|c| {
            c.check_messages()?;
            // SAFETY: handles are NULL or live objects, by the header's rules.
            unsafe { request.follow(&c.tokenizer) }?;
            run(session, |s| {
                same_model(s, &c.tokenizer)?;
                // SAFETY: handles are NULL or live objects, by the header's rules.
                reply = Some(unsafe { with_sampler(sampler, |it| c.answer(s, it, &request)) }?);
                Ok(())
            })
        })?;
        request.finish(reply);
        Ok(())
    })
}
