//! Sessions: memory of every size, rewinding, cancelling, and errors that change nothing.

use shadowllm_core::sample::{Candidate, Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Format, KvFormat, Serial, Session, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::{fixture_ids, pack_to, same_bits, vectors};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

fn model(family: &str) -> (tempfile::TempDir, LoadedModel) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    pack_to(&vectors("models").join(family), Format::Q8_0, &image);
    let model = LoadedModel::open(&image, None).unwrap();
    (temp, model)
}

const OPTIONS: SessionOptions =
    SessionOptions { context: 48, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: false };

#[test]
fn every_size_of_memory_works_or_is_refused() {
    let (_temp, model) = model("qwen3");
    let needed = Session::memory_required(model.model(), &OPTIONS).unwrap().size();
    let mut memory = vec![MaybeUninit::new(0xaau8); needed + 64];
    let sizes = (0..needed).step_by(997).chain([needed - 1]);
    for size in sizes {
        let refused = Session::new(*model.model(), OPTIONS, &mut memory[..size]).err();
        assert_eq!(refused, Some(Error::MemoryTooSmall { needed, given: size }));
    }
    // Whatever the address.
    for shift in [0, 1, 7, 63] {
        let mut session = Session::new(*model.model(), OPTIONS, &mut memory[shift..shift + needed]).unwrap();
        session.prefill(&Serial, &fixture_ids("qwen3")).unwrap();
    }
}

#[test]
fn refusals_change_nothing() {
    let (_temp, model) = model("opt");
    let mut memory = model.memory(&OPTIONS).unwrap();
    let mut session = model.session(OPTIONS, &mut memory).unwrap();
    let ids = fixture_ids("opt");
    session.prefill(&Serial, &ids[..10]).unwrap();
    let before = session.logits().to_vec();
    let vocab = 320;
    assert_eq!(session.prefill(&Serial, &[]).err(), Some(Error::NoTokens));
    assert_eq!(session.decode(&Serial, vocab).err(), Some(Error::TokenOutOfRange { id: vocab, vocab }));
    assert_eq!(session.prefill(&Serial, &ids[..39]).err(), Some(Error::ContextFull { needed: 49, context: 48 }));
    assert_eq!(session.rewind(11).err(), Some(Error::BadPosition));
    assert!(session.position() == 10 && same_bits(session.logits(), &before));
    session.prefill(&Serial, &ids[10..]).unwrap();
    assert_eq!(session.decode(&Serial, 1).err(), Some(Error::ContextFull { needed: 49, context: 48 }));
}

#[test]
fn options_out_of_range_are_refused() {
    let (_temp, model) = model("opt");
    let bad = [
        SessionOptions { context: 0, ..OPTIONS },
        SessionOptions { context: usize::MAX, ..OPTIONS },
        SessionOptions { context: 257, ..OPTIONS }, // one more than OPT's learned positions
        SessionOptions { batch: 0, ..OPTIONS },
        SessionOptions { batch: usize::MAX, ..OPTIONS },
        SessionOptions { logit_rows: 0, ..OPTIONS },
        SessionOptions { logit_rows: 9, ..OPTIONS },
    ];
    for options in bad {
        assert!(matches!(Session::memory_required(model.model(), &options), Err(Error::BadOption(_))), "{options:?}");
    }
}

#[test]
fn rewinding_forgets() {
    for family in ["opt", "mistral-swa", "qwen3"] {
        let (_temp, model) = model(family);
        let mut memory = model.memory(&OPTIONS).unwrap();
        let mut session = model.session(OPTIONS, &mut memory).unwrap();
        let ids = fixture_ids(family);
        let straight = session.prefill(&Serial, &ids).unwrap().to_vec();
        // Back into the middle of a tile of keys, forward with other tokens, back, forward as before.
        for position in [21, 16, 0] {
            session.rewind(position).unwrap();
            assert!(session.logits().is_empty());
            session.prefill(&Serial, &ids[..20]).unwrap();
            session.rewind(position).unwrap();
            let again = session.prefill(&Serial, &ids[position..]).unwrap();
            assert!(same_bits(again, &straight), "{family} from {position}");
        }
    }
}

#[test]
fn a_raised_flag_cancels_and_the_session_lives() {
    let (_temp, model) = model("llama-mha");
    let ids = fixture_ids("llama-mha");
    let (mut memory, mut other) = (model.memory(&OPTIONS).unwrap(), model.memory(&OPTIONS).unwrap());
    let straight = model.session(OPTIONS, &mut other).unwrap().prefill(&Serial, &ids).unwrap().to_vec();
    let flag = AtomicBool::new(true);
    let mut session = model.session(OPTIONS, &mut memory).unwrap();
    session.set_cancel(Some(&flag));
    assert_eq!(session.prefill(&Serial, &ids).err(), Some(Error::Cancelled));
    assert!(session.position() == 0 && session.logits().is_empty());
    flag.store(false, Ordering::Relaxed);
    assert!(same_bits(session.prefill(&Serial, &ids).unwrap(), &straight));
}

#[test]
fn later_tokens_change_nothing_before_them() {
    let (_temp, model) = model("llama-gqa-tied-rope3");
    let ids = fixture_ids("llama-gqa-tied-rope3");
    let mut other = ids.clone();
    other[30..].iter_mut().for_each(|id| *id = (*id + 17) % 320);
    let read = |ids: &[u32]| {
        shadowllm_tests::logits(&model, &Serial, ids, KvFormat::F16, shadowllm_tests::Reading::Prefill(48))
    };
    assert!(same_bits(&read(&ids)[..30 * 320], &read(&other)[..30 * 320]));
}

#[test]
fn samplers_follow_their_options() {
    let logits = [0.0, 3.0, 2.0, 2.9, -5.0, f32::NAN];
    let mut scratch = [Candidate::default(); 6];
    let mut draw = |options: SamplerOptions, recent: &[u32]| -> Vec<u32> {
        let mut sampler = Sampler::new(options).unwrap();
        recent.iter().for_each(|id| sampler.accept(*id));
        (0..2000).map(|_| sampler.sample(&logits, &mut scratch).unwrap()).collect()
    };
    let free =
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 3, ..SamplerOptions::default() };
    assert!(draw(SamplerOptions { temperature: 0.0, ..free }, &[]).iter().all(|t| *t == 1));
    assert!(
        draw(SamplerOptions { temperature: 0.0, repetition_penalty: 1.2, ..free }, &[1, 1]).iter().all(|t| *t == 3)
    );
    let penalised = |presence_penalty, frequency_penalty, recent: &[u32]| {
        (SamplerOptions { temperature: 0.0, presence_penalty, frequency_penalty, ..free }, recent.to_vec())
    };
    for ((options, recent), token) in [
        (penalised(0.05, 0.0, &[1, 1, 1]), 1),
        (penalised(0.2, 0.0, &[1]), 3),
        (penalised(0.0, 0.06, &[1]), 1),
        (penalised(0.0, 0.06, &[1, 2, 1]), 3),
        (penalised(0.0, -0.06, &[3, 2, 3]), 3),
    ] {
        assert!(draw(options, &recent).iter().all(|t| *t == token), "{options:?} after {recent:?}");
    }
    assert!(draw(SamplerOptions { top_k: 2, ..free }, &[]).iter().all(|t| [1, 3].contains(t)));
    assert!(draw(SamplerOptions { min_p: 0.5, ..free }, &[]).iter().all(|t| [1, 3].contains(t)));
    assert!(draw(SamplerOptions { top_p: 0.5, ..free }, &[]).iter().all(|t| [1, 3].contains(t)));
    assert_eq!(draw(free, &[]), draw(free, &[]));
    assert_ne!(draw(free, &[]), draw(SamplerOptions { seed: 4, ..free }, &[]));
    // Shares of 2000 draws: e^3, e^2.9, e^2, e^0, e^-5 over their sum; three standard deviations.
    let drawn = draw(free, &[]);
    let weights: Vec<f64> = logits[..5].iter().map(|l| f64::from(*l).exp()).collect();
    for (id, w) in weights.iter().enumerate() {
        let p = w / weights.iter().sum::<f64>();
        let share = drawn.iter().filter(|t| **t == id as u32).count() as f64 / 2000.0;
        assert!((share - p).abs() < 3.0 * (p / 2000.0).sqrt() + 1e-3, "token {id}: {share} instead of {p}");
    }
    for bad in [
        SamplerOptions { temperature: -1.0, ..free },
        SamplerOptions { temperature: f32::NAN, ..free },
        SamplerOptions { top_p: 0.0, ..free },
        SamplerOptions { min_p: 1.0, ..free },
        SamplerOptions { repetition_penalty: 0.0, ..free },
        SamplerOptions { presence_penalty: f32::NAN, ..free },
        SamplerOptions { frequency_penalty: f32::INFINITY, ..free },
    ] {
        assert!(matches!(Sampler::new(bad), Err(Error::BadOption(_))), "{bad:?}");
    }
}

#[test]
fn a_saved_session_continues_in_another() {
    for (family, kv) in [("qwen3", KvFormat::F16), ("opt", KvFormat::F32), ("mistral-swa", KvFormat::F16)] {
        let (_temp, model) = model(family);
        let ids = fixture_ids(family);
        // Another context and another batch, so that the same state has other addresses.
        let dial = Dial { policy: Policy::Prompt, density: 0.5, ..Dial::default() };
        let one = SessionOptions { kv, sparsity: true, ..OPTIONS };
        let two = SessionOptions { context: 77, batch: 5, ..one };
        let mut memory = [one, two, two].map(|o| model.memory(&o).unwrap());
        let [first, second, third] = &mut memory;
        let mut first = model.session(one, first).unwrap();
        let mut others = [model.session(two, second).unwrap(), model.session(two, third).unwrap()];
        first.set_dial(&dial).unwrap();
        first.prefill(&Serial, &ids[..19]).unwrap();
        first.decode(&Serial, ids[19]).unwrap();
        let mut state = vec![0; first.state_size()];
        assert_eq!(first.save(&mut state), Ok(state.len()));
        let before = first.logits().to_vec();
        let straight: Vec<Vec<f32>> = ids[20..].iter().map(|id| first.decode(&Serial, *id).unwrap().to_vec()).collect();
        for (i, other) in others.iter_mut().enumerate() {
            other.set_dial(&dial).unwrap();
            other.prefill(&Serial, &ids[..3]).unwrap();
            if i == 0 {
                other.load(&state).unwrap();
            } else {
                let mut memory = model.memory(&one).unwrap();
                let mut source = model.session(one, &mut memory).unwrap();
                source.load(&state).unwrap();
                other.copy(&source).unwrap();
            }
            assert!(other.position() == 20 && same_bits(other.logits(), &before), "{family}");
            for (id, wanted) in ids[20..].iter().zip(&straight) {
                assert!(same_bits(other.decode(&Serial, *id).unwrap(), wanted), "{family}");
            }
        }
    }
}

#[test]
fn states_that_do_not_fit_are_refused_and_change_nothing() {
    let (_temp, model) = model("qwen3");
    let (_other_temp, other) = self::model("qwen2");
    let ids = fixture_ids("qwen3");
    let (mut memory, mut small) = (model.memory(&OPTIONS).unwrap(), model.memory(&OPTIONS).unwrap());
    let mut session = model.session(OPTIONS, &mut memory).unwrap();
    session.prefill(&Serial, &ids[..20]).unwrap();
    let mut state = vec![0; session.state_size()];
    session.save(&mut state).unwrap();
    let (needed, given) = (state.len(), state.len() - 1);
    assert_eq!(session.save(&mut vec![0; given]), Err(Error::MemoryTooSmall { needed, given }));
    let logits = session.logits().to_vec();
    for len in [0, 7, 63, 64, 100, state.len() - 1] {
        assert!(matches!(session.load(&state[..len]), Err(Error::BadState(_))), "{len} bytes");
    }
    for at in 0..64 {
        let mut damaged = state.clone();
        damaged[at] ^= 1;
        assert!(matches!(session.load(&damaged), Err(Error::BadState(_))), "byte {at}");
    }
    assert!(session.position() == 20 && same_bits(session.logits(), &logits));
    let options = SessionOptions { context: 19, ..OPTIONS };
    let mut short = model.session(options, &mut small).unwrap();
    assert_eq!(short.load(&state), Err(Error::ContextFull { needed: 20, context: 19 }));
    let mut memory = other.memory(&OPTIONS).unwrap();
    assert!(matches!(other.session(OPTIONS, &mut memory).unwrap().load(&state), Err(Error::BadState(_))));
    let options = SessionOptions { kv: KvFormat::F32, ..OPTIONS };
    let mut memory = model.memory(&options).unwrap();
    assert!(matches!(model.session(options, &mut memory).unwrap().load(&state), Err(Error::BadState(_))));
}

/// Layers with a window keep a ring of positions: the same bits as with all positions, through saving and going back.
#[test]
fn windows_keep_the_keys_that_a_token_may_see() {
    for family in ["gemma3", "gpt_oss", "ministral"] {
        let temp = tempfile::tempdir().unwrap();
        let image = temp.path().join("model.sllm");
        pack_to(&vectors("families").join(family), Format::F32, &image);
        let model = LoadedModel::open(&image, None).unwrap();
        let ids: Vec<u32> = (0..220u32).map(|i| (i * 37 + i * i / 7) % 288).collect();
        let of = |batch| SessionOptions { context: 256, batch, ..OPTIONS };
        let (whole, ring) = (of(256), of(8));
        // Twice the context needs more memory only for the layers without a window, and for the list of tokens.
        let size = |context| {
            let options = SessionOptions { context, ..ring };
            Session::memory_required(model.model(), &options).unwrap().size()
        };
        let arch = model.model().image().arch();
        let full = (0..arch.globals().layers).filter_map(|layer| arch.layer(layer).attention().copied());
        let full = full.filter(|a| a.window == 0).map(|a| 2 * 2 * 4096 * a.kv_heads * a.head_width()).sum::<usize>();
        assert_eq!(size(8192) - size(4096), full + 4 * 4096, "{family}");
        let (mut a, mut b, mut c) =
            (model.memory(&whole).unwrap(), model.memory(&ring).unwrap(), model.memory(&ring).unwrap());
        let mut whole = model.session(whole, &mut a).unwrap();
        let (mut first, mut second) = (model.session(ring, &mut b).unwrap(), model.session(ring, &mut c).unwrap());
        first.prefill(&Serial, &ids[..150]).unwrap();
        let mut state = vec![0; first.state_size()];
        first.save(&mut state).unwrap();
        second.load(&state).unwrap();
        whole.prefill(&Serial, &ids[..150]).unwrap();
        for id in &ids[150..] {
            let want = whole.decode(&Serial, *id).unwrap();
            assert!(same_bits(first.decode(&Serial, *id).unwrap(), want), "{family}, token by token");
            assert!(same_bits(second.decode(&Serial, *id).unwrap(), want), "{family}, loaded");
        }
        let want = whole.logits().to_vec();
        // A session can go back a few tokens, as far as the ring reaches.
        first.rewind(212).unwrap();
        assert!(same_bits(first.prefill(&Serial, &ids[212..]).unwrap(), &want), "{family}, gone back");
        assert!(!first.reaches(100) && first.rewind(100) == Err(Error::PositionLost), "{family}");
        assert!(!second.reaches(130) && second.reaches(0), "{family}");
        first.copy(&whole).unwrap();
        whole.copy(&second).unwrap();
        assert!(same_bits(whole.decode(&Serial, 5).unwrap(), first.decode(&Serial, 5).unwrap()), "{family}, copied");
        first.rewind(0).unwrap();
        assert!(same_bits(first.prefill(&Serial, &ids).unwrap(), &want), "{family}, from the start");
    }
}
