//! Images: changed before they are parsed, and after; predictors; saved sessions.

use crate::panics_are_findings;
use crate::script::{Script, bases, patch, place, resign, session};
use shadowllm_core::image::{SectionKind, crc32};
use shadowllm_core::{Image, KvFormat, Model, Serial, Session, SessionOptions};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// An image changed anywhere, its head's checksum right, and a short session with what parses.
pub fn image(data: &[u8]) {
    panics_are_findings();
    let mut script = Script(data);
    let mut bytes = script.one_of(&bases(false).iter().collect::<Vec<_>>()).clone();
    let kernels = script.kernels();
    patch(&mut bytes, &mut script, false);
    resign(&mut bytes);
    if let Ok(image) = Image::parse(&bytes) {
        session(Model::new(image, kernels), &mut script, &mut || {});
    }
}

/// A predictor section changed anywhere, and a short session with what parses.
pub fn predictor(data: &[u8]) {
    panics_are_findings();
    let mut script = Script(data);
    let mut bytes = script.one_of(&bases(true).iter().collect::<Vec<_>>()).clone();
    let kernels = script.kernels();
    patch(&mut bytes, &mut script, true);
    let model = Model::new(Image::parse(&bytes).expect("its head is as it was"), kernels);
    if model.predictor().is_ok() {
        session(model, &mut script, &mut || {});
    }
}

/// An image whose bytes change while a session reads them, as a mapped file's may: what was checked is not what is read.
pub fn live(data: &[u8]) {
    static ONCE: OnceLock<()> = OnceLock::new();
    // A panic is a refusal here: what is looked for is a read or write outside.
    ONCE.get_or_init(|| std::panic::set_hook(Box::new(|_| {})));
    let mut script = Script(data);
    let base = script.one_of(&bases(false).iter().collect::<Vec<_>>());
    let kernels = script.kernels();
    let (when, predictor) = (script.byte() % 8, script.byte() & 1 == 1);
    let (mut bytes, mut changed) = (base.clone(), base.clone());
    let has_predictor = place(base, SectionKind::Predictor).1 > 0;
    patch(&mut changed, &mut script, predictor && has_predictor);
    let (at, len) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: `at` points to the `len` bytes of `bytes`, which outlives the session. The write below stands for another
    // process that changes a mapped file: `black_box` hides from the compiler that both pointers are the same.
    let shared: &'static [u8] = unsafe { std::slice::from_raw_parts(std::hint::black_box(at), len) };
    let Ok(image) = Image::parse(shared) else { return };
    let mut calls = 0;
    let mut between = || {
        calls += 1;
        if calls == when + 1 {
            // SAFETY: both are `len` bytes long.
            unsafe { std::ptr::copy(changed.as_ptr(), std::hint::black_box(at), len) };
        }
    };
    let run = || session(Model::new(image, kernels), &mut script, &mut between);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    std::hint::black_box(&bytes);
}

const STATES: SessionOptions =
    SessionOptions { context: 24, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };

/// Memory for a session of these options.
fn memory(model: &Model, options: &SessionOptions) -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); Session::memory_required(model, options).unwrap().size()]
}

/// States of every image, saved at several positions.
fn states() -> &'static [(Model<'static>, Vec<Vec<u8>>)] {
    static ALL: OnceLock<Vec<(Model<'static>, Vec<Vec<u8>>)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let model_and_states = |bytes: &'static Vec<u8>| {
            let model = Model::parse(bytes).unwrap();
            let saved = [(5, true), (17, true), (3, false)].map(|(tokens, sparsity)| {
                let options = SessionOptions { sparsity, ..STATES };
                let mut memory = memory(&model, &options);
                let mut session = Session::new(model, options, &mut memory).unwrap();
                let ids: Vec<u32> = (0..tokens).map(|i| i * 7 % model.config().vocab as u32).collect();
                session.prefill(&Serial, &ids).unwrap();
                let mut state = vec![0; session.state_size()];
                session.save(&mut state).unwrap();
                state
            });
            (model, saved.to_vec())
        };
        bases(false).iter().map(model_and_states).collect()
    })
}

/// A saved session changed anywhere, cut or longer, its checksum mostly right; it is loaded and gone on from.
pub fn state(data: &[u8]) {
    panics_are_findings();
    let all = states();
    let mut script = Script(data);
    let (model, own) = &all[script.below(all.len())];
    let saved = if script.byte() % 8 == 0 { &all[script.below(all.len())].1 } else { own };
    let mut state = saved[script.below(3)].clone();
    for _ in 0..1 + script.below(5) {
        let at = match script.byte() % 4 {
            0 | 1 => 4 * script.below(16),
            2 => script.word() as usize % state.len(),
            _ => state.len().saturating_sub(script.below(256)),
        };
        let edges = [0, 1, 15, 16, 17, 23, 24, 25, 1 << 31, u64::from(u32::MAX), u64::MAX, 1 << 62];
        let value = if script.byte() % 2 == 0 { script.word().into() } else { script.one_of(&edges) };
        let width = script.one_of(&[4, 8]);
        if let Some(to) = state.get_mut(at..at + width) {
            to.copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
    match script.byte() % 4 {
        0 => state.truncate(state.len().saturating_sub(script.below(4096))),
        1 => state.resize(state.len() + script.below(4096), 7),
        _ => {}
    }
    if state.len() >= 64 && script.byte() % 8 != 0 {
        let sum = crc32(&state[..60], 0);
        state[60..64].copy_from_slice(&sum.to_le_bytes());
    }
    // At an odd address, too.
    let shift = script.below(4);
    let shifted = [vec![0; shift], state].concat();
    let context = script.one_of(&[24, 16, 3, 1]);
    let options = SessionOptions { context, sparsity: script.byte() % 2 == 0, ..STATES.within(context) };
    let mut memory = memory(model, &options);
    let mut session = Session::new(*model, options, &mut memory).unwrap();
    if session.load(&shifted[shift..]).is_ok() {
        // Refused where the context is full.
        let _ = session.decode(&Serial, 3);
        let _ = session.rewind(session.position() / 2);
        let _ = session.decode(&Serial, 9);
        let mut again = vec![0; session.state_size()];
        session.save(&mut again).unwrap();
        std::hint::black_box(again.iter().fold(0, |a, b| a ^ b));
    }
}
