//! The memory of choosers: after saving, loading, copying or rewinding, a session continues as it would have, under
//! every policy.

use crate::policies::{each, give, ids_for};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{KvFormat, Serial, Session, SessionOptions, Traffic};
use shadowllm_tests::same_bits;
use shadowllm_tests::sparse::with_session;

/// Logits and traffic of each decoded token.
fn decoded(session: &mut Session, ids: &[u32]) -> Vec<(Vec<f32>, Traffic)> {
    ids.iter().map(|id| (session.decode(&Serial, *id).unwrap().to_vec(), session.traffic())).collect()
}

/// Number of the first token whose logits or traffic differ.
fn first_difference(a: &[(Vec<f32>, Traffic)], b: &[(Vec<f32>, Traffic)]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).position(|((x, s), (y, t))| !same_bits(x, y) || s != t)
}

/// Calls `check` with each small model, and with each policy at refresh 1, 0 and 4.
fn each_refresh(check: impl Fn(&str, &shadowllm_host::model::LoadedModel, &Dial)) {
    each(0.5, &|name, model, dial| {
        for refresh in [1, 0, 4] {
            check(&format!("{name}, refresh {refresh}"), model, &Dial { refresh, ..*dial });
        }
    });
}

#[test]
fn saved_and_copied_sessions_continue_like_the_first() {
    each_refresh(|name, model, dial| {
        let ids = ids_for(model);
        // Six decoded tokens: in the middle of a choice that lasts for four.
        let (prompt, before, after) = (&ids[..8], &ids[8..14], &ids[14..]);
        let (state, straight) = with_session(model, |session| {
            session.set_dial(dial).unwrap();
            give(session);
            session.prefill(&Serial, prompt).unwrap();
            decoded(session, before);
            let mut state = vec![0; session.state_size()];
            session.save(&mut state).unwrap();
            (state, decoded(session, after))
        });
        // Another context and another batch, and some tokens that are then forgotten.
        let other =
            SessionOptions { context: 77, batch: 5, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: true };
        let [mut one, mut two] = [model.memory(&other).unwrap(), model.memory(&other).unwrap()];
        let (mut loaded, mut copied) =
            (model.session(other, &mut one).unwrap(), model.session(other, &mut two).unwrap());
        for session in [&mut loaded, &mut copied] {
            session.set_dial(dial).unwrap();
            session.prefill(&Serial, &ids[3..9]).unwrap();
            decoded(session, &ids[..3]);
        }
        loaded.load(&state).unwrap();
        copied.copy(&loaded).unwrap();
        for (how, session) in [("loaded", &mut loaded), ("copied", &mut copied)] {
            assert_eq!(first_difference(&decoded(session, after), &straight), None, "{name}: {how}");
        }
    });
}

/// A state can be loaded under another dial: a new choice is then made from the same statistics.
#[test]
fn a_state_of_another_dial_chooses_again() {
    each_refresh(|name, model, dial| {
        let ids = ids_for(model);
        let state = with_session(model, |session| {
            session.set_dial(&Dial { policy: Policy::Random, density: 0.3, ..Dial::default() }).unwrap();
            session.prefill(&Serial, &ids[..8]).unwrap();
            decoded(session, &ids[8..10]);
            let mut state = vec![0; session.state_size()];
            session.save(&mut state).unwrap();
            state
        });
        let read = |seen: &[u32]| {
            with_session(model, |session| {
                session.set_dial(dial).unwrap();
                give(session);
                session.prefill(&Serial, seen).unwrap();
                decoded(session, &ids[20..21]);
                session.load(&state).unwrap();
                decoded(session, &ids[10..16])
            })
        };
        assert_eq!(first_difference(&read(&ids[..4]), &read(&ids[6..16])), None, "{name}");
    });
}

/// Policies that learn from the tokens they read forget them at a rewind; under the others, a session continues as if
/// the forgotten tokens had never been read.
#[test]
fn a_rewound_session_is_as_a_fresh_one() {
    each_refresh(|name, model, dial| {
        let ids = ids_for(model);
        let learns = dial.policy.plan().learns();
        for back in if learns { vec![0] } else { vec![0, 5] } {
            let read = |rewinds: bool| {
                with_session(model, |session| {
                    session.set_dial(dial).unwrap();
                    give(session);
                    if rewinds {
                        session.prefill(&Serial, &ids[..8]).unwrap();
                        decoded(session, &ids[8..14]);
                        session.rewind(back).unwrap();
                    } else if back > 0 {
                        session.prefill(&Serial, &ids[..back]).unwrap();
                    }
                    let mut all = decoded(session, &ids[back..10]);
                    session.prefill(&Serial, &ids[10..14]).unwrap();
                    all.extend(decoded(session, &ids[14..]));
                    all
                })
            };
            assert_eq!(first_difference(&read(true), &read(false)), None, "{name}: back to {back}");
        }
    });
}

/// It makes no difference in how many parts a prompt is read, in calls or in batches: policies learn the same from it.
#[test]
fn a_prompt_may_be_read_in_parts() {
    each(0.5, &|name, model, dial| {
        let ids = ids_for(model);
        let (prompt, after) = ids.split_at(11);
        let read = |batch: usize, parts: &[usize]| {
            let options =
                SessionOptions { context: 48, batch, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: true };
            let mut memory = model.memory(&options).unwrap();
            let mut session = model.session(options, &mut memory).unwrap();
            session.set_dial(dial).unwrap();
            give(&mut session);
            let mut rest = prompt;
            for part in parts {
                let (now, later) = rest.split_at(*part);
                session.prefill(&Serial, now).unwrap();
                rest = later;
            }
            assert!(rest.is_empty());
            decoded(&mut session, after)
        };
        let whole = read(16, &[11]);
        for (batch, parts) in [(16, &[10, 1][..]), (16, &[2, 3, 6]), (16, &[1; 11]), (3, &[11])] {
            assert_eq!(first_difference(&read(batch, parts), &whole), None, "{name}: {parts:?}, batches of {batch}");
        }
    });
}
