//! What `shadowllm.js` calls: the engine with its tokenizers, chat templates and grammars, as WebAssembly. An instance of the
//! module is one model.
//!
//! An answer comes token by token ([`next`]), so that between two of them the caller can look whether it is still wanted: a
//! thread of a page gets no messages while it computes. Texts are UTF-8 in memory from [`allocate`]. Functions return 0 for
//! success and then [`result`] is JSON, else 1 and then it is the reason. After a trap it is the reason too, and the instance is
//! lost.

mod ask;

use ask::{Ask, Prompt};
use serde::Serialize;
use serde_json::{Value, json};
use shadowllm_host::conversation::Answering;
use shadowllm_host::engine::{Serial, Session};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Model, Options, Policy, Result};
use std::alloc::Layout;
use std::cell::RefCell;

/// Where images must begin, and whatever else is written to memory.
const ALIGN: usize = 4096;

/// An open model. What is borrowed lives as long as the instance.
struct Open {
    model: &'static Model,
    session: Session<'static, 'static>,
    answer: Option<Answer>,
}

/// An answer that is being written.
struct Answer {
    answering: Answering<'static>,
    sampler: shadowllm_host::engine::sample::Sampler,
}

thread_local! {
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
    static RESULT: RefCell<String> = const { RefCell::new(String::new()) };
}

fn say(text: String) {
    RESULT.with_borrow_mut(|result| *result = text);
}

/// Stores the result of a call, or the reason why there is none.
fn done<T: Serialize>(result: Result<T>) -> u32 {
    let told = result.and_then(|value| serde_json::to_string(&value).map_err(|e| Error::Other(e.to_string())));
    let failed = told.is_err();
    say(told.unwrap_or_else(|reason| reason.to_string()));
    u32::from(failed)
}

/// Calls a function with the open model, and stores its result.
fn with<T: Serialize>(work: impl FnOnce(&mut Open) -> Result<T>) -> u32 {
    done(OPEN.with_borrow_mut(|open| match open {
        Some(open) => work(open),
        None => Err(Error::Usage("no model is open".into())),
    }))
}

/// A text that the caller has written.
///
/// # Safety
/// There are `length` bytes at `text` that stay as they are while the reference lives.
unsafe fn text<'a>(text: *const u8, length: usize) -> Result<&'a str> {
    // SAFETY: the caller's word.
    let bytes = unsafe { std::slice::from_raw_parts(text, length) };
    std::str::from_utf8(bytes).map_err(|_| Error::Usage("the text is not UTF-8".into()))
}

fn layout(length: usize) -> Option<Layout> {
    Layout::from_size_align(length.max(1), ALIGN).ok()
}

/// Memory of `length` bytes; 0 when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn allocate(length: usize) -> *mut u8 {
    // SAFETY: no layout here has a size of 0.
    layout(length).map_or(std::ptr::null_mut(), |layout| unsafe { std::alloc::alloc(layout) })
}

/// Gives memory back.
///
/// # Safety
/// It came from [`allocate`] with this length, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn release(memory: *mut u8, length: usize) {
    if let Some(layout) = layout(length).filter(|_| !memory.is_null()) {
        // SAFETY: the caller's word.
        unsafe { std::alloc::dealloc(memory, layout) };
    }
}

/// Opens an image for answers of at most `context` tokens with their prompts; 0 is what the model was trained for, within limits.
/// Results in what there is to say of the model.
///
/// # Safety
/// The image was written to memory from [`allocate`], and stays there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(image: *const u8, length: usize, context: usize) -> u32 {
    // A trap says why it came.
    std::panic::set_hook(Box::new(|panic| {
        let damaged =
            "the tokenizer or chat template in this file is damaged: pack the model from a whole source".to_owned();
        say(if shadowllm_host::text_guard::is_guarded() {
            damaged
        } else {
            format!("an error of the program: {panic}")
        });
    }));
    // SAFETY: the caller's word.
    let image = unsafe { std::slice::from_raw_parts(image, length) };
    done(opened(image, context).map(|open| {
        let told = told(&open);
        OPEN.set(Some(open));
        told
    }))
}

fn opened(image: &'static [u8], context: usize) -> Result<Open> {
    let model: Model = LoadedModel::from_static("the file", image, None)?.into();
    let model: &'static Model = Box::leak(Box::new(model));
    model.language()?;
    let file = model.file();
    let most = file.model().config().max_positions;
    let within = (context > 0).then(|| if most == 0 { context } else { context.min(most) });
    let options = Options { context: within, ..Options::default() }.engine(file.model());
    let memory = Box::leak(Box::new(file.memory(&options)?));
    Ok(Open { model, session: file.session(options, memory)?, answer: None })
}

fn told(open: &Open) -> Value {
    let config = open.session.model().config();
    json!({
        "bytes": open.model.file().file_bytes(),
        "context": open.session.context(),
        "layers": config.layers,
        "vocabulary": config.vocab,
        "chat": open.model.language().is_ok_and(|language| !language.template.is_empty()),
        "calibrated": open.session.model().predictor().is_ok_and(|predictor| predictor.is_some()),
    })
}

/// Results in the ids of a prompt ([`Prompt`], as JSON).
///
/// # Safety
/// There are `length` bytes at `prompt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn encode(prompt: *const u8, length: usize) -> u32 {
    // SAFETY: the caller's word.
    let prompt = unsafe { text(prompt, length) };
    with(|open| ask::read::<Prompt>(prompt?)?.ids(open.model.language()?))
}

/// Results in the text of ids (a list, as JSON), without control tokens.
///
/// # Safety
/// There are `length` bytes at `ids`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn decode(ids: *const u8, length: usize) -> u32 {
    // SAFETY: the caller's word.
    let ids = unsafe { text(ids, length) };
    with(|open| open.model.language()?.text.decode(&ask::read::<Vec<u32>>(ids?)?))
}

/// Begins to answer ([`Ask`], as JSON): reads the prompt, and results in the number of its tokens. The answer before it is
/// forgotten.
///
/// # Safety
/// There are `length` bytes at `asked`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn begin(asked: *const u8, length: usize) -> u32 {
    // SAFETY: the caller's word.
    let asked = unsafe { text(asked, length) };
    with(|open| {
        open.answer = None;
        let asked: Ask = ask::read(asked?)?;
        let language = open.model.language()?;
        let (controls, mut sampler) = (asked.controls(open.model)?, asked.sampler()?);
        let ids = asked.prompt.ids(language)?;
        let calibrated = open.session.model().predictor()?.is_some();
        open.session.rewind(0)?;
        open.session.set_dial(&asked.dial(if calibrated { Policy::Auto } else { Policy::Prompt }))?;
        let held = (asked.max_tokens, &controls);
        let mut answering = Answering::begin(&language.text, &mut open.session, &Serial, &mut sampler, &ids, held)?;
        if let Some(last) = ids.last().filter(|_| asked.prompt.continues()) {
            answering = answering.continuing(*last);
        }
        open.answer = Some(Answer { answering, sampler });
        Ok(ids.len())
    })
}

/// The next piece of the answer; `null` after the last one.
#[unsafe(no_mangle)]
pub extern "C" fn next() -> u32 {
    with(|open| {
        let Some(answer) = &mut open.answer else { return Err(Error::Usage("nothing was asked".into())) };
        let piece = answer.answering.next(&mut open.session, &Serial, &mut answer.sampler)?;
        Ok(piece.map(|piece| {
            json!({
                "id": piece.id,
                "text": piece.text,
                "thought": piece.thought,
                "bytes": open.session.traffic().weights,
                "logprob": piece.likely.as_ref().map(|likely| likely.logprob),
                "top": piece.likely.map(|likely| likely.top),
            })
        }))
    })
}

/// Ends the answer, early or not, and results in its text, its figures and why it ended.
#[unsafe(no_mangle)]
pub extern "C" fn end() -> u32 {
    with(|open| {
        let Some(answer) = open.answer.take() else { return Err(Error::Usage("nothing was asked".into())) };
        let reply = answer.answering.finish()?;
        Ok(json!({
            "text": reply.text,
            "thoughts": reply.thoughts,
            "answer": reply.answer,
            "stop": reply.stop,
            "stopString": reply.stop_string,
            "figures": reply.figures,
        }))
    })
}

/// The result of the last call, or the reason for its failure.
#[unsafe(no_mangle)]
pub extern "C" fn result() -> *const u8 {
    RESULT.with_borrow(|result| result.as_ptr())
}

/// Its length in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn result_length() -> usize {
    RESULT.with_borrow(String::len)
}
