//! Text in, text out: continuing a plain text, and what a chat's answer shares with it.

use crate::args::{Out, defaults, read, slice, text, text_of_length};
use crate::grammar::sllm_grammar;
use crate::message::boundary;
use crate::object::check;
use crate::pace::paced;
use crate::reserve;
use crate::sampler::{sllm_sampler, with_sampler};
use crate::session::{SessionState, run, sllm_session};
use crate::stats::decode_speed;
use crate::status::{Result, invalid};
use crate::structs::{sllm_generate_options, sllm_generation, sllm_logprob, sllm_token};
use crate::text::{BYTES, Tokenizer, sllm_tokenizer};
use shadowllm_core::sample::Sampler;
use shadowllm_host::conversation::{Answering, Piece, Reply};
use shadowllm_host::generate::Stop;
use shadowllm_host::template::cancelled_by;
use shadowllm_host::text::Language;
use shadowllm_host::{Controls, Dry};
use std::ffi::c_char;
use std::sync::Arc;

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_generate_options_defaults(options: *mut sllm_generate_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives `struct_size` bytes.
    boundary(|| unsafe { defaults(options, struct_size) })
}

/// The options of a generation and the place of its result, checked before anything is done.
pub struct Request {
    pub options: sllm_generate_options,
    pub controls: Controls,
    result: Option<Out<sllm_generation>>,
}

impl Request {
    /// # Safety
    /// The header's rules for structures.
    pub unsafe fn new(options: *const sllm_generate_options, result: *mut sllm_generation) -> Result<Self> {
        // SAFETY: structures are NULL or as large as their struct_size, by the header's rules.
        let options: sllm_generate_options = unsafe { read(options) }?;
        if options.control_tokens > 1 {
            return Err(invalid("control_tokens must be 0 or 1"));
        }
        // SAFETY: the options' arrays and texts are as long as their counts say, by the header's rules.
        let controls = unsafe { controls(&options) }?;
        // SAFETY: `result` is not NULL and as large as its struct_size, by the header's rules.
        let result = if result.is_null() { None } else { Some(unsafe { Out::new(result) }?) };
        Ok(Request { options, controls, result })
    }

    /// The options' grammar, which must be one of the tokenizer's model.
    ///
    /// # Safety
    /// `grammar` of the options is NULL or a live object.
    pub unsafe fn follow(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let grammar = self.options.grammar.cast::<sllm_grammar>();
        if !grammar.is_null() {
            // SAFETY: not NULL, and a live object as the caller promises.
            self.controls.grammar = Some(unsafe { check(grammar) }?.of(tokenizer)?);
        }
        Ok(())
    }

    /// The answer's length, stop strings, biases and grammar.
    pub fn held(&self) -> (usize, &Controls) {
        (self.options.max_tokens as usize, &self.controls)
    }

    /// Writes the result, if the caller passed a place for it.
    pub fn finish(self, reply: Option<Reply>) {
        let (Some(out), Some(Reply { figures, stop, stop_string, .. })) = (self.result, reply) else { return };
        out.write(sllm_generation {
            struct_size: 0,
            stop: match stop {
                Stop::EndOfText => 1,
                Stop::Length => 2,
                Stop::ContextFull => 3,
                Stop::Stopped | Stop::Cancelled => 4,
                Stop::StopString => 5,
            },
            prompt_tokens: figures.prompt_tokens as u64,
            generated_tokens: figures.generated_tokens as u64,
            first_token_seconds: figures.seconds_to_first_token,
            prefill_tokens_per_second: figures.prompt_tokens_per_second,
            decode_tokens_per_second: figures.tokens_per_second,
            stop_string: stop_string.map_or(-1, |i| i as i32),
            reserved: 0,
            forced_tokens: figures.forced_tokens as u64,
        });
    }
}

/// The constraints of an answer.
///
/// # Safety
/// The header's rules for the arrays and texts that the options point to.
unsafe fn controls(o: &sllm_generate_options) -> Result<Controls> {
    let dry = Dry {
        multiplier: o.dry_multiplier,
        base: o.dry_base,
        allowed_length: o.dry_allowed_length as usize,
        last: o.dry_last as usize,
    };
    let logprobs = (o.logprobs > 0).then_some(o.logprobs as usize);
    let mut controls = Controls { logprobs, dry, ..Controls::default() };
    if o.stop_count > 0 {
        // SAFETY: NULL or `stop_count` texts, by the caller's word.
        for stop in unsafe { slice(o.stop, o.stop_count) }? {
            // SAFETY: NULL or NUL-terminated, by the caller's word.
            controls.stop.push(unsafe { text(*stop) }?.to_owned());
        }
    }
    if o.bias_count > 0 {
        // SAFETY: NULL or `bias_count` elements, by the caller's word.
        let biases = unsafe { slice(o.bias, o.bias_count) }?;
        controls.bias.extend(biases.iter().map(|b| (b.token, b.bias)));
    }
    Ok(controls)
}

/// Passes tokens to the caller's callback as they come.
struct Show<'a> {
    language: &'a Language,
    options: &'a sllm_generate_options,
    index: u64,
    last: u32,
    /// Tokens per second and density of this answer so far.
    live: (f64, f64),
}

impl Show<'_> {
    /// Passes a new token, or for `None` the rest of the text; `text` is complete UTF-8. Returns whether to go on.
    fn token(&mut self, Piece { id, mut text, likely, thought }: Piece) -> bool {
        let Some(call) = self.options.on_token else { return true };
        let top: Vec<sllm_logprob> = likely
            .iter()
            .flat_map(|likely| &likely.top)
            .map(|(token, logprob)| sllm_logprob { token: *token, logprob: *logprob })
            .collect();
        let bytes = id.map(|id| self.language.text.bytes(id, self.index == 0)).unwrap_or_default();
        self.last = id.unwrap_or(self.last);
        let text_length = text.len();
        text.push('\0');
        let token = sllm_token {
            struct_size: size_of::<sllm_token>() as u32,
            id: self.last,
            text: text.as_ptr().cast(),
            text_length,
            bytes: bytes.as_ptr(),
            bytes_length: bytes.len(),
            index: self.index,
            tokens_per_second: self.live.0,
            density: self.live.1,
            logprob: likely.map_or(0.0, |likely| f64::from(likely.logprob)),
            top: top.as_ptr(),
            top_count: top.len(),
            thought: u32::from(thought),
            reserved: 0,
        };
        self.index += u64::from(id.is_some());
        // SAFETY: the header asks the caller for a function that may be called with this argument; the token and all it
        // points to live until the call returns.
        unsafe { call(self.options.user, &token) == 0 }
    }
}

/// Passes the pieces of an answer to the caller's callback, until the answer ends or the callback stops it.
pub fn show(
    answering: &mut Answering,
    s: &mut SessionState,
    sampler: &mut Sampler,
    language: &Language,
    options: &sllm_generate_options,
) -> Result<()> {
    let mut show = Show { language, options, index: 0, last: 0, live: (0.0, 1.0) };
    let before = *s.session.totals();
    while let Some(piece) = paced(s, |s| Ok(answering.next(&mut s.session, &s.exec, sampler)?))? {
        let totals = s.session.totals().since(&before);
        show.live = (decode_speed(&totals), totals.density());
        if !show.token(piece) {
            break;
        }
    }
    Ok(())
}

/// Reads the ids, and shows and returns the answer.
fn answer(
    s: &mut SessionState,
    sampler: &mut Sampler,
    language: &Language,
    ids: &[u32],
    request: &Request,
) -> Result<Reply> {
    let held = request.held();
    let mut answering = Answering::begin(&language.text, &mut s.session, &s.exec, sampler, ids, held)?;
    if let Some(last) = ids.last() {
        answering = answering.continuing(*last);
    }
    show(&mut answering, s, sampler, language, &request.options)?;
    Ok(answering.finish()?)
}

/// Refuses a session of another model, in which the ids stand for other texts.
pub fn same_model(s: &SessionState, tokenizer: &Tokenizer) -> Result<()> {
    if std::ptr::eq(s.model.model(), tokenizer.model.model()) {
        return Ok(());
    }
    Err(invalid("the session and the tokenizer are of different models"))
}

/// Ids of a plain text that follows what the session has read.
fn continuation(s: &SessionState, language: &Language, prompt: &str, control: bool) -> Result<Vec<u32>> {
    if s.session.position() == 0 {
        return Ok(language.plain(prompt, control)?);
    }
    match language.continued(prompt, control)? {
        ids if ids.is_empty() => Err(invalid("the prompt is empty: give some text")),
        ids => Ok(ids),
    }
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
    boundary(|| {
        // SAFETY: handles are NULL or live objects, texts as long as `length` says and structures as large as their
        // struct_size, by the header's rules.
        let (session, tokenizer, prompt, mut request) = unsafe {
            (check(session)?, check(tokenizer)?, text_of_length(prompt, length)?, Request::new(options, result)?)
        };
        reserve::wanted(prompt.len(), BYTES)?;
        // A reference of its own, because the callback may free the tokenizer.
        let shared = Arc::clone(&tokenizer.shared);
        let language = &shared.language;
        // SAFETY: handles are NULL or live objects, by the header's rules.
        unsafe { request.follow(&shared) }?;
        let mut reply = None;
        run(session, |s| {
            same_model(s, &shared)?;
            let control = request.options.control_tokens != 0;
            let ids = cancelled_by(s.session.cancel(), || continuation(s, language, prompt, control))?;
            let body = |sampler: &mut Sampler| answer(s, sampler, language, &ids, &request);
            // SAFETY: handles are NULL or live objects, by the header's rules.
            reply = Some(unsafe { with_sampler(sampler, body) }?);
            Ok(())
        })?;
        request.finish(reply);
        Ok(())
    })
}
