//! Reading ahead: the tokens and logits of a dense decode, bit for bit, whatever is guessed.

use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Format, KvFormat, Serial, Session, SessionOptions, lookup};
use shadowllm_host::generate::{Figures, generate};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::{pack_to, same_bits, vectors};
use std::path::Path;

const AHEAD: SessionOptions =
    SessionOptions { context: 48, batch: 8, logit_rows: 1, ahead: 6, kv: KvFormat::F16, sparsity: true };

fn packed(source: &Path, format: Format) -> (tempfile::TempDir, LoadedModel) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    pack_to(source, format, &image);
    let model = LoadedModel::open(&image, None).unwrap();
    (temp, model)
}

/// Lets a test use a session.
fn with_session<T>(model: &LoadedModel, options: SessionOptions, each: impl FnOnce(&mut Session) -> T) -> T {
    let mut memory = model.memory(&options).unwrap();
    each(&mut model.session(options, &mut memory).unwrap())
}

/// Models whose layers differ: plain, with windows that forget (16 of 48 positions), with experts, with heads that are
/// normed together.
fn models() -> Vec<(&'static str, LoadedModel, tempfile::TempDir)> {
    let all = [("models", "qwen3"), ("models", "mistral-swa"), ("models", "opt"), ("families", "gemma3")];
    let all = all.into_iter().chain([("families", "olmoe"), ("families", "olmo2"), ("families", "gpt_oss")]);
    all.map(|(folder, name)| {
        let (temp, model) = packed(&vectors(folder).join(name), Format::Q8_0);
        (name, model, temp)
    })
    .collect()
}

#[test]
fn logits_are_those_of_a_dense_decode() {
    for (name, model, _temp) in models() {
        let vocab = model.model().config().vocab as u32;
        let ids: Vec<u32> = (0..44).map(|i| i * 7 % 50 + 3).collect();
        let prompt = 5;
        let wanted: Vec<Vec<f32>> = with_session(&model, AHEAD, |session| {
            session.prefill(&Serial, &ids[..prompt]).unwrap();
            ids[prompt..].iter().map(|id| session.decode(&Serial, *id).unwrap().to_vec()).collect()
        });
        // Guesses of all lengths, of which the first `right` are right; the last may be no token at all.
        for right in 0..=7 {
            with_session(&model, AHEAD, |session| {
                session.prefill(&Serial, &ids[..prompt]).unwrap();
                for at in prompt..ids.len() {
                    let mut tokens = ids[at..].to_vec();
                    tokens.truncate(1 + right);
                    tokens.extend([(ids[at] + 1) % vocab, if at % 2 == 0 { vocab } else { 0 }, 1, 2, 3, 4]);
                    let free = session.has_ahead(ids[at]);
                    let got = session.decode_ahead(&Serial, &tokens).unwrap();
                    assert!(same_bits(got, &wanted[at - prompt]), "{name}: {right} right, token {at}");
                    assert_eq!(session.traffic().weights == 0, free, "{name}: a pass that reads nothing, or too much");
                    assert_eq!(session.position(), at + 1);
                    assert_eq!(session.tokens(), &ids[..=at]);
                }
            });
        }
    }
}

/// The padding of rows is quantized with them: whatever a step leaves there would show in the first token of a batch.
#[test]
fn quantized_batches_have_the_bits_of_single_tokens() {
    let folders = ["models", "families"].map(|folder| std::fs::read_dir(vectors(folder)).unwrap());
    // These cannot be run (`tests/families.rs`).
    let refused = |name: &str| ["lfm2", "qwen3_5"].contains(&name);
    let mut families = 0;
    for entry in folders.into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if refused(&name) {
            continue;
        }
        let (_temp, model) = packed(&entry.path(), Format::Q8_0);
        let ids: Vec<u32> = (0..20).map(|i| i * 7 % 50 + 3).collect();
        let read = |together: usize| {
            with_session(&model, AHEAD, |session| {
                ids.chunks(together).for_each(|part| {
                    session.prefill(&Serial, part).unwrap();
                });
                session.logits().to_vec()
            })
        };
        let single = read(1);
        for together in [2, 3, 8] {
            assert!(same_bits(&read(together), &single), "{name}, {together} tokens together");
        }
        families += 1;
    }
    assert!(families >= 39, "only {families} models were read");
}

#[test]
fn a_state_in_the_middle_goes_on_as_the_dense_one() {
    for (name, model, _temp) in models() {
        let ids: Vec<u32> = (0..30).map(|i| i * 11 % 40 + 3).collect();
        let dense = |session: &mut Session| -> Vec<Vec<f32>> {
            ids[10..].iter().map(|id| session.decode(&Serial, *id).unwrap().to_vec()).collect()
        };
        let wanted = with_session(&model, AHEAD, |session| {
            session.prefill(&Serial, &ids[..10]).unwrap();
            dense(session)
        });
        with_session(&model, AHEAD, |session| {
            session.prefill(&Serial, &ids[..8]).unwrap();
            // The first guess is right, the second wrong.
            session.decode_ahead(&Serial, &[ids[8], ids[9], 1, 2]).unwrap();
            session.decode(&Serial, ids[9]).unwrap();
            let logits = session.logits().to_vec();
            let mut state = vec![0; session.state_size()];
            session.save(&mut state).unwrap();
            let check = |other: &mut Session| {
                assert!(same_bits(other.logits(), &logits), "{name}");
                assert!(dense(other).iter().zip(&wanted).all(|(a, b)| same_bits(a, b)), "{name}");
            };
            with_session(&model, AHEAD, |other| {
                other.load(&state).unwrap();
                check(other);
            });
            with_session(&model, AHEAD, |other| {
                other.copy(session).unwrap();
                check(other);
            });
            // Back to a position that was read ahead of, and on from there.
            session.decode_ahead(&Serial, &[ids[10], 5, 6, 7]).unwrap();
            session.rewind(8).unwrap();
            session.prefill(&Serial, &ids[8..10]).unwrap();
            check(session);
        });
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let (_temp, model) = packed(&vectors("models/qwen3"), Format::Q8_0);
    with_session(&model, AHEAD, |session| {
        assert_eq!(session.decode_ahead(&Serial, &[]), Err(Error::NoTokens));
        session.prefill(&Serial, &[1; 40]).unwrap();
        let before = session.logits().to_vec();
        let vocab = model.model().config().vocab as u32;
        assert!(matches!(session.decode_ahead(&Serial, &[vocab, 1]), Err(Error::TokenOutOfRange { .. })));
        assert!(same_bits(session.logits(), &before));
        // Guesses end where the context does.
        session.prefill(&Serial, &[2; 6]).unwrap();
        session.decode_ahead(&Serial, &[3, 4, 5, 6]).unwrap();
        assert!(session.has_ahead(4));
        session.decode(&Serial, 4).unwrap();
        assert!(!session.has_ahead(5));
        assert!(matches!(session.decode_ahead(&Serial, &[5, 6]), Err(Error::ContextFull { .. })));
        assert_eq!(session.draft(&Serial, 5, &mut [0; 4], &mut |_, _| Some(1)), Ok(0));
    });
    let bad = SessionOptions { ahead: 8, ..AHEAD };
    assert!(matches!(Session::memory_required(model.model(), &bad), Err(Error::BadOption(_))));
}

/// Guesses that are dropped leave no trace: what a policy chooses afterwards is as without them.
#[test]
fn policies_learn_nothing_from_guesses() {
    let (_temp, model) = packed(&vectors("models/opt"), Format::Q8_0);
    for policy in [Policy::Prompt, Policy::Random] {
        let run = |guesses: &[u32], drafts: usize| {
            with_session(&model, AHEAD, |session| {
                session.set_dial(&Dial { policy, density: 0.5, seed: 7, ..Dial::default() }).unwrap();
                session.prefill(&Serial, &[5, 9, 31, 4, 8, 17]).unwrap();
                session.draft(&Serial, 11, &mut [0; 4][..drafts], &mut |_, _| Some(40)).unwrap();
                session.decode_ahead(&Serial, &[&[11], guesses].concat()).unwrap();
                [6, 23, 2].map(|id| session.decode(&Serial, id).unwrap().to_vec())
            })
        };
        let wanted = run(&[], 0);
        for (guesses, drafts) in [(&[50, 60, 70][..], 0), (&[], 4), (&[50, 60], 4)] {
            let got = run(guesses, drafts);
            assert!(got.iter().zip(&wanted).all(|(a, b)| same_bits(a, b)), "{policy:?} {guesses:?} {drafts}");
        }
    }
}

/// An answer's tokens, and what it took.
fn answer(session: &mut Session, pool: &Pool, prompt: &[u32], options: SamplerOptions) -> (Vec<u32>, Figures) {
    let (mut sampler, mut ids) = (Sampler::new(options).unwrap(), Vec::new());
    session.rewind(0).unwrap();
    let (figures, _) = generate(session, pool, &mut sampler, prompt, 40, &mut |id, _| {
        ids.push(id);
        Ok(true)
    })
    .unwrap();
    (ids, figures)
}

#[test]
fn answers_are_those_of_the_dense_model() {
    let (_temp, model) = packed(&vectors("brown-opt"), Format::Q4_0);
    let tokenizer = Text::of(&model).unwrap();
    let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
    let ids = tokenizer.encode(&text, false).unwrap();
    let pool = Pool::new(2).unwrap();
    let options = SessionOptions { context: 100, batch: 32, ahead: 15, ..AHEAD };
    let dials = [Dial::default(), Dial { policy: Policy::Prompt, density: 0.7, ..Dial::default() }];
    let (mut guessed, mut all) = ([0; 2], 0);
    with_session(&model, SessionOptions { ahead: 0, ..options }, |dense| {
        with_session(&model, options, |exact| {
            for (i, prompt) in ids.chunks_exact(40).take(200).enumerate() {
                let temperature = if i % 2 == 0 { 0.0 } else { 0.8 };
                // Half of the seeded ones look back, too.
                let repetition_penalty = if i % 4 == 1 { 1.2 } else { 1.0 };
                let sampling =
                    SamplerOptions { temperature, repetition_penalty, seed: i as u64, ..SamplerOptions::default() };
                let (wanted, _) = answer(dense, &pool, prompt, sampling);
                let own = i / 4 % 2;
                exact.set_dial(&dials[own]).unwrap();
                let (got, figures) = answer(exact, &pool, prompt, sampling);
                assert_eq!(got, wanted, "prompt {i}");
                guessed[own] += figures.guessed_tokens;
                all += figures.generated_tokens;
            }
        });
    });
    println!("{guessed:?} of {all} tokens had been guessed");
    assert!(guessed.iter().all(|n| *n > 0), "nothing was ever guessed rightly: {guessed:?}");
}

#[test]
fn guesses_are_copied_from_the_longest_match() {
    let text = [1, 2, 3, 9, 2, 3, 8, 5, 1, 2];
    // After "1 2 3" came 9, after "2 3" last came 8.
    let guess = lookup(&text, 3);
    assert_eq!((guess.tokens.first(), guess.same), (Some(&9), 3));
    // Of two that match alike, the later.
    let guess = lookup(&[4, 6, 4, 7], 4);
    assert_eq!((guess.tokens, guess.same), (&[7][..], 1));
    assert_eq!(lookup(&text, 77).same, 0);
    assert_eq!(lookup(&[], 1).tokens, &[0u32; 0]);
}
