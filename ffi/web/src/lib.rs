//! What `shadowllm.js` calls. An instance of the module is one model with one conversation; its memory only grows.
//!
//! Functions return 0 for success, else 1, and then [`message`] is the reason. Numbers that are addresses must come from
//! [`allocate`].
#![no_std]

use core::arch::wasm32;
use core::cell::UnsafeCell;
use core::fmt::{Display, Write};
use core::mem::MaybeUninit;
use heapless::String;
use shadowllm_core::image::SectionKind;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, KvFormat, Model, Serial, Session, SessionOptions};

struct State {
    session: Option<Session<'static, 'static>>,
    sampler: Option<Sampler>,
    message: String<256>,
}

struct Global(UnsafeCell<State>);
// SAFETY: the module has one thread.
unsafe impl Sync for Global {}
static STATE: Global = Global(UnsafeCell::new(State { session: None, sampler: None, message: String::new() }));

/// The reason for a failure of a call before [`open`].
const NOT_OPEN: &str = "no model is open";

/// Calls a function with the state, and stores the reason for a failure there.
fn with<E: Display>(work: impl FnOnce(&mut State) -> Result<(), E>) -> u32 {
    // SAFETY: one thread, and no function of this file calls another that takes the state.
    let state = unsafe { &mut *STATE.0.get() };
    let Err(reason) = work(state) else { return 0 };
    state.message.clear();
    // A message that is too long is cut.
    let _ = write!(state.message, "{reason}");
    1
}

/// [`with`] an open session.
fn with_session(work: impl FnOnce(&mut Session<'static, 'static>) -> Result<(), Error>) -> u32 {
    with(|state| match &mut state.session {
        None => Err(Error::BadOption(NOT_OPEN)),
        Some(session) => work(session),
    })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    wasm32::unreachable()
}

/// Memory of `length` bytes, never given back; 0 when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn allocate(length: usize) -> usize {
    const PAGE: usize = 65536;
    let before = wasm32::memory_grow(0, length.div_ceil(PAGE));
    if before == usize::MAX { 0 } else { before * PAGE }
}

/// Opens an image for conversations of `context` tokens.
///
/// # Safety
/// The image must have been written to memory from [`allocate`], and stays there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(image: *const u8, length: usize, context: usize) -> u32 {
    with(|state| {
        // SAFETY: the caller wrote `length` bytes to memory of `allocate`, which is never freed.
        let model = Model::parse(unsafe { core::slice::from_raw_parts(image, length) })?;
        let most = model.config().max_positions;
        let context = if most == 0 { context } else { context.min(most) };
        let options = SessionOptions { context, batch: 16, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };
        let needed = Session::memory_required(&model, &options)?.size();
        let memory = allocate(needed);
        if memory == 0 {
            return Err(Error::MemoryTooSmall { needed, given: 0 });
        }
        // SAFETY: the memory was just allocated for this use, and is never freed.
        let memory = unsafe { core::slice::from_raw_parts_mut(memory as *mut MaybeUninit<u8>, needed) };
        state.session = Some(Session::new(model, options, memory)?);
        Ok(())
    })
}

/// Sets how tokens are chosen: see `SamplerOptions`.
#[unsafe(no_mangle)]
pub extern "C" fn set_sampler(temperature: f32, top_p: f32, repetition_penalty: f32, seed: u32) -> u32 {
    with(|state| {
        let seed = u64::from(seed);
        let options = SamplerOptions { temperature, top_p, repetition_penalty, seed, ..SamplerOptions::default() };
        Sampler::new(options).map(|sampler| state.sampler = Some(sampler))
    })
}

/// Sets the share of the skippable weights that later tokens read: 1 is all. The policy is the one that the image was
/// calibrated for, or else one that uses statistics of the prompt.
#[unsafe(no_mangle)]
pub extern "C" fn set_density(density: f32) -> u32 {
    with_session(|session| {
        let calibrated = session.model().predictor()?.is_some();
        let policy = match (density == 1.0, calibrated) {
            (true, _) => Policy::Off,
            (false, true) => Policy::Auto,
            (false, false) => Policy::Prompt,
        };
        session.set_dial(&Dial { policy, density, ..Dial::default() })
    })
}

/// Forgets the conversation.
#[unsafe(no_mangle)]
pub extern "C" fn restart() -> u32 {
    with_session(|session| session.rewind(0))
}

/// Reads tokens.
///
/// # Safety
/// There must be this number of tokens in memory from [`allocate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prefill(tokens: *const u32, count: usize) -> u32 {
    with(|state| {
        // SAFETY: the caller wrote `count` tokens to memory of `allocate`, which is never freed and aligned for them.
        let tokens = unsafe { core::slice::from_raw_parts(tokens, count) };
        let session = state.session.as_mut().ok_or(Error::BadOption(NOT_OPEN))?;
        session.prefill(&Serial, tokens)?;
        if let Some(sampler) = &mut state.sampler {
            tokens.iter().for_each(|t| sampler.accept(*t));
        }
        Ok::<_, Error>(())
    })
}

/// Reads one token.
#[unsafe(no_mangle)]
pub extern "C" fn decode(token: u32) -> u32 {
    with_session(|session| session.decode(&Serial, token).map(|_| ()))
}

/// Chooses the next token from the latest logits, and writes it to `token`.
///
/// # Safety
/// There must be room for a token in memory from [`allocate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn choose(token: *mut u32) -> u32 {
    with(|state| {
        let session = state.session.as_mut().ok_or(Error::BadOption(NOT_OPEN))?;
        let sampler = state.sampler.as_mut().ok_or(Error::BadOption("no sampler is set"))?;
        let chosen = session.sample(sampler)?;
        sampler.accept(chosen);
        // SAFETY: `token` points to room for a token in memory of `allocate`, which is aligned for it.
        unsafe { token.write(chosen) };
        Ok::<_, Error>(())
    })
}

/// Whether a token ends a text.
#[unsafe(no_mangle)]
pub extern "C" fn is_end(token: u32) -> bool {
    // SAFETY: one thread; the reference ends here.
    let state = unsafe { &*STATE.0.get() };
    state.session.as_ref().is_some_and(|s| s.model().config().eos().contains(&token))
}

/// Positions that are left.
#[unsafe(no_mangle)]
pub extern "C" fn room() -> usize {
    // SAFETY: one thread; the reference ends here.
    let state = unsafe { &*STATE.0.get() };
    state.session.as_ref().map_or(0, |s| s.context() - s.position())
}

/// Bytes of weights that the last call read.
#[unsafe(no_mangle)]
pub extern "C" fn bytes_read() -> usize {
    // SAFETY: one thread; the reference ends here.
    let state = unsafe { &*STATE.0.get() };
    state.session.as_ref().map_or(0, |s| s.traffic().weights)
}

fn tokenizer() -> &'static [u8] {
    // SAFETY: one thread; the reference ends here, the image's bytes stay.
    let state = unsafe { &*STATE.0.get() };
    state.session.as_ref().map_or(&[], |s| s.model().image().section(SectionKind::Tokenizer))
}

/// The image's `tokenizer.json`.
#[unsafe(no_mangle)]
pub extern "C" fn tokenizer_text() -> *const u8 {
    tokenizer().as_ptr()
}

/// Its length.
#[unsafe(no_mangle)]
pub extern "C" fn tokenizer_length() -> usize {
    tokenizer().len()
}

/// Why the last call that returned 1 did.
#[unsafe(no_mangle)]
pub extern "C" fn message() -> *const u8 {
    // SAFETY: one thread; the reference ends here.
    unsafe { &*STATE.0.get() }.message.as_ptr()
}

/// Its length.
#[unsafe(no_mangle)]
pub extern "C" fn message_length() -> usize {
    // SAFETY: one thread; the reference ends here.
    unsafe { &*STATE.0.get() }.message.len()
}
