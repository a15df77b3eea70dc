//! Properties of every policy: later tokens do not affect earlier ones, density 1 is dense, the bits are the same
//! everywhere, and choices last as long as the dial says.

use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Executor, Hooks, Serial, Session, SessionOptions};
use shadowllm_host::model::{LoadedModel, isas};
use shadowllm_host::pool::Pool;
use shadowllm_tests::same_bits;
use shadowllm_tests::sparse::{Small, dial, made_up_ids, small_models, trail, with_session};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn same(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_bits(a, b))
}

pub fn ids_for(model: &LoadedModel) -> Vec<u32> {
    made_up_ids(24, model.model().config().vocab)
}

/// Every policy that runs on a model, under a dial that `change` sets.
fn dials(model: &LoadedModel, density: f32) -> Vec<Dial> {
    let all = Policy::ALL.into_iter().map(|p| dial(p, density));
    with_session(model, |session| all.filter(|d| session.set_dial(d).is_ok()).collect())
}

/// Chooses some heads and neurons, under the policy that leaves the choice to the caller.
pub fn give(session: &mut Session) {
    if session.policy() == Policy::Given {
        let active = session.units().unwrap();
        active.choose_heads(1, |h| h != 1);
        active.choose_neurons(1, |g| g % 2 == 0);
    }
}

/// Calls `test` for every small model, without and with its predictor, under every policy that it supports.
pub fn each(density: f32, test: &dyn Fn(&str, &LoadedModel, &Dial)) {
    for small in small_models() {
        for calibrated in [false, true] {
            let model = small.open(calibrated, None);
            for dial in dials(&model, density) {
                let predictor = if calibrated { "calibrated" } else { "plain" };
                test(&format!("{} {predictor} {}", small.name, dial.policy.name()), &model, &dial);
            }
        }
    }
}

#[test]
fn every_policy_runs_where_it_can_and_is_refused_elsewhere() {
    for small in small_models() {
        for calibrated in [false, true] {
            let model = small.open(calibrated, None);
            let c = *model.model().config();
            let by_input = c.attention_by_input || c.ffn_by_input;
            for policy in Policy::ALL {
                let refused = with_session(&model, |s| s.set_dial(&dial(policy, 0.5)).err());
                let expected = match policy {
                    Policy::Mixed if !c.attention_by_input => Some(Error::NotByInput),
                    p if p.by_input() && !by_input => Some(Error::NotByInput),
                    p if p.calibrated() && !calibrated => Some(Error::NoPredictor(p.name())),
                    _ => None,
                };
                assert_eq!(refused, expected, "{} {}", small.name, policy.name());
            }
        }
    }
}

#[test]
fn a_refused_dial_leaves_the_last_one() {
    let model = small_models()[0].open(false, None);
    with_session(&model, |session| {
        session.set_dial(&dial(Policy::Random, 0.5)).unwrap();
        for density in [0.0, -1.0, 1.1, f32::NAN, f32::INFINITY] {
            assert_eq!(session.set_dial(&dial(Policy::Oracle, density)), Err(Error::BadDensity), "{density}");
        }
        let part = Dial { fixed: [Some(1.5), None, None, None, None, None, None], ..dial(Policy::Oracle, 0.5) };
        assert_eq!(session.set_dial(&part), Err(Error::BadDensity));
        assert_eq!(session.set_dial(&dial(Policy::Shadow, 0.5)), Err(Error::NoPredictor("shadow")));
        assert_eq!(session.policy(), Policy::Random);
    });
}

#[test]
fn without_sparsity_nothing_can_be_skipped() {
    let model = small_models()[0].open(true, None);
    let options = SessionOptions { context: 8, batch: 4, ..SessionOptions::default() };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    assert_eq!(session.set_dial(&dial(Policy::Random, 0.5)), Err(Error::NoSparsity));
    assert_eq!(session.set_dial(&Dial::default()), Ok(()));
    assert!(session.units().is_none() && session.policy() == Policy::Off);
}

#[test]
fn later_tokens_do_not_count() {
    each(0.5, &|name, model, dial| {
        let ids = ids_for(model);
        let mut others = ids.clone();
        others[14..].iter_mut().for_each(|id| *id = (*id + 1) % model.model().config().vocab as u32);
        let read = |ids: &[u32]| {
            with_session(model, |session| {
                session.set_dial(dial).unwrap();
                give(session);
                trail(session, &Serial, &ids[..8], &ids[8..])
            })
        };
        let (a, b) = (read(&ids), read(&others));
        // The prompt of 8 leaves one row, token 14 is read for row 7.
        assert!(same(&a[..7], &b[..7]), "{name}");
        assert!(!same_bits(&a[7], &b[7]), "{name}: a token without effect");
    });
}

#[test]
fn rewound_tokens_do_not_count() {
    each(0.5, &|name, model, dial| {
        let ids = ids_for(model);
        let others: Vec<u32> = ids.iter().map(|id| (id + 3) % model.model().config().vocab as u32).collect();
        // Back into the prompt, and back into the decoded tokens.
        for (prompt, decoded, back) in [(12, 4, 6), (6, 8, 10)] {
            let end = prompt + decoded;
            let read = |forgotten: &[u32]| {
                with_session(model, |session| {
                    session.set_dial(dial).unwrap();
                    give(session);
                    let first: Vec<u32> = ids[..back].iter().chain(&forgotten[back..end]).copied().collect();
                    trail(session, &Serial, &first[..prompt], &first[prompt..]);
                    session.rewind(back).unwrap();
                    let more: Vec<Vec<f32>> =
                        ids[back..back + 3].iter().map(|id| session.decode(&Serial, *id).unwrap().to_vec()).collect();
                    let rest = trail(session, &Serial, &ids[back + 3..back + 6], &ids[back + 6..back + 10]);
                    [more, rest].concat()
                })
            };
            assert!(same(&read(&ids), &read(&others)), "{name}: {prompt} and {decoded} tokens, back to {back}");
        }
    });
}

static CANCEL: AtomicBool = AtomicBool::new(false);

/// Runs everything on the calling thread, and cancels after a number of steps.
struct Cancelling(AtomicUsize);

impl Hooks for Cancelling {}

// SAFETY: it passes all calls on to `Serial`, and only counts them.
unsafe impl Executor for Cancelling {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        CANCEL.fetch_or(self.0.fetch_sub(1, Ordering::Relaxed) == 0, Ordering::Relaxed);
        Serial.run(tasks, task);
    }
}

/// Whether a token was cancelled in the first or in the last layer, the next choice is the same.
#[test]
fn cancelled_tokens_do_not_count() {
    each(0.5, &|name, model, dial| {
        let ids = ids_for(model);
        let read = |steps: usize, decoding: bool| {
            with_session(model, |session| {
                session.set_dial(&Dial { refresh: 4, ..*dial }).unwrap();
                give(session);
                session.set_cancel(Some(&CANCEL));
                trail(session, &Serial, &ids[..8], &ids[8..10]);
                let exec = Cancelling(AtomicUsize::new(steps));
                CANCEL.store(steps == 0, Ordering::Relaxed);
                let cancelled = match decoding {
                    true => session.decode(&exec, ids[20]).err(),
                    false => session.prefill(&exec, &ids[20..]).err(),
                };
                CANCEL.store(false, Ordering::Relaxed);
                assert_eq!(cancelled, Some(Error::Cancelled), "{name}");
                ids[10..14].iter().map(|id| session.decode(&Serial, *id).unwrap().to_vec()).collect::<Vec<_>>()
            })
        };
        for decoding in [true, false] {
            let at_once = read(0, decoding);
            for steps in [1, 3, 5] {
                assert!(same(&read(steps, decoding), &at_once), "{name}: decoding {decoding}, {steps} steps");
            }
        }
    });
}

#[test]
fn at_density_1_everybody_is_dense() {
    for small in small_models() {
        let ids = made_up_ids(24, small.open(false, None).model().config().vocab);
        let dense = dense_trail(small, &ids);
        for calibrated in [false, true] {
            let model = small.open(calibrated, None);
            for dial in dials(&model, 1.0) {
                let got = with_session(&model, |session| {
                    session.set_dial(&dial).unwrap();
                    trail(session, &Serial, &ids[..8], &ids[8..])
                });
                assert!(same(&got, &dense), "{} {} calibrated {calibrated}", small.name, dial.policy.name());
            }
        }
    }
}

/// Logits without sparsity, from the image that has no predictor.
fn dense_trail(small: &Small, ids: &[u32]) -> Vec<Vec<f32>> {
    let model = small.open(false, None);
    let options =
        SessionOptions { context: 48, batch: 16, kv: shadowllm_core::KvFormat::F32, ..SessionOptions::default() };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    trail(&mut session, &Serial, &ids[..8], &ids[8..])
}

#[test]
fn below_density_1_no_policy_is_dense() {
    each(0.3, &|name, model, dial| {
        // Without a sketch of the output matrix, policy output has nothing to skip.
        if matches!(dial.policy, Policy::Off | Policy::Given | Policy::Output) {
            return;
        }
        let ids = ids_for(model);
        let read = |dial: &Dial| {
            with_session(model, |session| {
                session.set_dial(dial).unwrap();
                trail(session, &Serial, &ids[..8], &ids[8..])
            })
        };
        let (skipping, dense) = (read(dial), read(&Dial::default()));
        // A prefill never skips.
        assert!(same_bits(&skipping[0], &dense[0]), "{name}");
        assert!(!same(&skipping, &dense), "{name}: nothing was skipped");
    });
}

/// Some policies cannot skip enough in some arrangements; the best policy is never one of those.
#[test]
fn the_best_policy_reads_its_density() {
    for small in small_models() {
        let model = small.open(true, None);
        let ids = made_up_ids(32, model.model().config().vocab);
        for density in [0.9, 0.7, 0.5, 0.3] {
            let (read, used) = with_session(&model, |session| {
                session.set_dial(&dial(Policy::Auto, density)).unwrap();
                session.prefill(&Serial, &ids[..8]).unwrap();
                let mut read = 0;
                for id in &ids[8..] {
                    session.decode(&Serial, *id).unwrap();
                    read += session.traffic().skippable;
                }
                (read, session.policy())
            });
            let all = model.model().skippable_bytes(used.by_input()) * (ids.len() - 8);
            let share = read as f32 / all as f32;
            assert!(share < density + 0.12, "{}: {} reads {share} of {density}", small.name, used.name());
        }
    }
}

#[test]
fn the_same_bits_everywhere() {
    let pools: Vec<Pool> = (1..=3).map(|n| Pool::new(n).unwrap()).collect();
    for small in small_models() {
        let model = small.open(true, None);
        let ids = ids_for(&model);
        for dial in dials(&model, 0.4) {
            let mut first: Option<(Vec<Vec<f32>>, _)> = None;
            for isa in isas() {
                let model = small.open(true, Some(isa));
                for (i, pool) in pools.iter().enumerate() {
                    let (rows, traffic) = with_session(&model, |session| {
                        session.set_dial(&dial).unwrap();
                        give(session);
                        let rows = trail(session, pool, &ids[..8], &ids[8..16]);
                        let t = session.traffic();
                        (rows, [t.weights, t.predictor, t.skippable])
                    });
                    let first = first.get_or_insert_with(|| (rows.clone(), traffic));
                    let name = format!("{} {} {isa:?} {} threads", small.name, dial.policy.name(), i + 1);
                    assert!(same(&rows, &first.0), "{name}");
                    assert_eq!(traffic, first.1, "{name}");
                }
            }
        }
    }
}

/// Active heads and groups of neurons of all layers.
fn chosen(session: &mut Session) -> Vec<Option<Vec<u32>>> {
    let layers = session.model().config().layers;
    let active = session.units().unwrap();
    (0..layers).flat_map(|l| [active.heads(l), active.neurons(l)]).map(|list| list.map(<[u32]>::to_vec)).collect()
}

#[test]
fn a_choice_lasts_for_refresh_tokens() {
    // Policies whose choice changed from token to token in some model: with few groups, a predictor may rank them
    // always in the same way.
    let mut changing = Vec::new();
    for small in small_models() {
        let model = small.open(true, None);
        let ids = ids_for(&model);
        for policy in [Policy::Random, Policy::Prompt, Policy::Shadow, Policy::PerLayer] {
            let run = |refresh: usize| -> Vec<_> {
                with_session(&model, |session| {
                    session.set_dial(&Dial { refresh, ..dial(policy, 0.5) }).unwrap();
                    session.prefill(&Serial, &ids[..4]).unwrap();
                    let mut sets = Vec::new();
                    for (i, id) in ids[4..].iter().enumerate() {
                        // A prefill in the middle: a new choice after it.
                        if i == 12 {
                            session.prefill(&Serial, &[*id]).unwrap();
                        } else {
                            session.decode(&Serial, *id).unwrap();
                            sets.push(chosen(session));
                        }
                    }
                    sets
                })
            };
            let name = format!("{} {}", small.name, policy.name());
            for (first, rest) in [run(1).as_slice(), run(4).as_slice(), run(0).as_slice()].map(|s| s.split_at(12)) {
                assert_eq!((first.len(), rest.len()), (12, 7), "{name}");
            }
            let four = run(4);
            let lasting = four[..12].chunks(4).chain(four[12..].chunks(4));
            lasting.for_each(|run| assert!(run.iter().all(|set| *set == run[0]), "{name}: refresh 4"));
            let once = run(0);
            let lasting = [&once[..12], &once[12..]];
            lasting.iter().for_each(|run| assert!(run.iter().all(|set| *set == run[0]), "{name}: refresh 0"));
            if policy != Policy::Prompt {
                let again = run(1);
                if again[..12].iter().any(|set| *set != again[0]) && four[..12].iter().any(|set| *set != four[0]) {
                    changing.push(policy);
                }
            }
            if policy == Policy::Random {
                assert!(once[11] != once[12], "{name}: a prefill does not make it choose again");
            }
        }
    }
    for policy in [Policy::Random, Policy::Shadow, Policy::PerLayer] {
        let models = changing.iter().filter(|p| **p == policy).count();
        assert!(models > small_models().len() / 2, "{}: chooses again in {models} models only", policy.name());
    }
}
