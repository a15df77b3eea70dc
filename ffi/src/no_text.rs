//! In place of `text` and `chat` in a library without the tokenizer: the same functions, all unsupported.

use crate::message::boundary;
use crate::model::sllm_model;
use crate::sampler::sllm_sampler;
use crate::session::sllm_session;
use crate::status::{Failure, SLLM_STATUS_UNSUPPORTED};
use crate::structs::{sllm_generate_options, sllm_generation};
use std::ffi::{c_char, c_void};

macro_rules! unsupported {
    ($($name:ident($($type:ty),*);)*) => {
        $(
            /// Not in this library.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($(_: $type),*) -> i32 {
                boundary(|| Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, "this library was built without the tokenizer")))
            }
        )*
    };
}

type Handle = *mut c_void;
type Const = *const c_void;

unsupported! {
    sllm_tokenizer_new(*mut sllm_model, *mut Handle);
    sllm_tokenizer_free(*mut Handle);
    sllm_tokenizer_tokenize(Const, *const c_char, usize, i32, *mut u32, usize, *mut usize);
    sllm_tokenizer_detokenize(Const, *const u32, usize, *mut c_char, usize, *mut usize);
    sllm_tokenizer_token_text(Const, u32, *mut c_char, usize, *mut usize);
    sllm_tokenizer_token_bytes(Const, u32, *mut u8, usize, *mut usize);
    sllm_generate_options_defaults(*mut sllm_generate_options, u32);
    sllm_generate(
        *mut sllm_session, Const, *mut sllm_sampler, *const c_char, usize, *const sllm_generate_options,
        *mut sllm_generation
    );
    sllm_grammar_new(Const, i32, *const c_char, usize, *mut Handle);
    sllm_grammar_free(*mut Handle);
    sllm_chat_new(Handle, *mut Handle);
    sllm_chat_free(*mut Handle);
    sllm_chat_add(Handle, *const c_char, *const c_char);
    sllm_chat_add_json(Handle, *const c_char);
    sllm_chat_set_variable(Handle, *const c_char, *const c_char);
    sllm_parse_tool_calls(*const c_char, usize, *mut c_char, usize, *mut usize);
    sllm_chat_count(Const, *mut usize);
    sllm_chat_message(Const, usize, *mut *const c_char, *mut usize, *mut *const c_char, *mut usize);
    sllm_chat_message_json(Const, usize, *mut *const c_char, *mut usize);
    sllm_chat_truncate(Handle, usize);
    sllm_chat_clear(Handle);
    sllm_chat_fork(Const, *mut Handle);
    sllm_chat_render(Const, *mut c_char, usize, *mut usize);
    sllm_chat_generate(
        Handle, *mut sllm_session, *mut sllm_sampler, *const sllm_generate_options, *mut sllm_generation
    );
}
