//! The bytes that a session reports are the bytes that it read. This is found out by changing every piece of a small
//! model while a session uses it: logits change if and only if the piece is read.
//!
//! The image is a mapped file, in which changes are visible at once.

use super::{GIVEN, reference_mask};
use shadowllm_core::format::Order;
use shadowllm_core::image::{Entry, Role, SectionKind, Storage};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Format, Image, Serial, Session};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::folder::Random;
use shadowllm_tests::sparse::{Small, dial, made_up_ids, small_models, with_session};
use shadowllm_tests::{fixture_ids, pack_as, same_bits, vectors};
use shadowllm_tools::pack::Arrangement;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The pieces that a token's products can read or leave out: units, or their blocks if units are inputs of several
/// heads or run along the outputs.
fn pieces(image: &Image) -> Vec<(Entry, Range<usize>)> {
    let start = image.section_info(SectionKind::Weights).offset;
    let tied = image.matrix(Role::Output, 0).is_none();
    let mut all = Vec::new();
    // Of an embedding that is not also the output matrix, only one row is looked up.
    for e in image.entries().filter(|e| e.role != Role::Embed || tied) {
        let Storage::Tiles(g) = e.storage else { continue };
        let piece = match g.order {
            Order::ColumnLines => g.format.block_bytes(),
            Order::Inputs => g.format.code_bytes(),
            _ => g.unit_bytes(),
        };
        for unit in 0..g.units() {
            let at = start + e.offset + unit / g.units_per_group * g.group_stride;
            // The scales of 32 outputs, which the inputs of a k-block share, are also a piece.
            if unit % g.units_per_group == 0 {
                let scales = g.format.header_bytes() * 32;
                all.extend((at..at + g.shared_bytes()).step_by(scales.max(1)).map(|at| (e, at..at + scales)));
            }
            let at = at + g.shared_bytes() + unit % g.units_per_group * g.unit_bytes();
            all.extend((at..at + g.unit_bytes()).step_by(piece).map(|at| (e, at..at + piece)));
        }
    }
    all
}

/// Replacements of a piece of f32 weights: NaN, and, since some activations remove NaN, large numbers of both signs.
fn poisons(len: usize) -> [Vec<u8>; 3] {
    let large = |sign: f32| {
        let mut random = Random(9);
        (0..len / 4).flat_map(|_| (sign * 1e3 * random.draw()).to_le_bytes()).collect()
    };
    [vec![0xff; len], large(1.0), large(-1.0)]
}

/// A session that decodes the same token again and again, after the same prompt.
struct Again<'s, 'a, 'm> {
    session: &'s mut Session<'a, 'm>,
    prepare: &'s dyn Fn(&mut Session),
    ids: &'s [u32],
}

/// Tokens of the prompt.
const PROMPT: usize = 6;

impl Again<'_, '_, '_> {
    /// Logits of the token.
    fn decode(&mut self) -> Vec<f32> {
        self.session.rewind(PROMPT).unwrap();
        (self.prepare)(self.session);
        self.session.decode(&Serial, self.ids[PROMPT]).unwrap().to_vec()
    }

    /// Dense logits of the next token: these show keys and values that no head of the first token has looked up.
    fn next(&mut self) -> Vec<f32> {
        self.session.set_dial(&Dial::default()).unwrap();
        self.session.decode(&Serial, self.ids[PROMPT + 1]).unwrap().to_vec()
    }
}

/// Decodes a token after a prompt, whole and with every piece poisoned, and compares the bytes that matter with the bytes
/// that the session reports.
fn check(name: &str, image: &Path, ids: &[u32], prepare: &dyn Fn(&mut Session)) {
    let file = File::options().write(true).open(image).unwrap();
    let clean = std::fs::read(image).unwrap();
    let model = LoadedModel::open(image, None).unwrap();
    let c = *model.model().config();
    with_session(&model, |session| {
        prepare(session);
        session.prefill(&Serial, &ids[..PROMPT]).unwrap();
        let mut again = Again { session, prepare, ids };
        let logits = again.decode();
        let (said, by_input) = (again.session.traffic(), again.session.policy().by_input());
        let next = again.next();
        let mut was_read = |role: Role, at: &Range<usize>| {
            poisons(at.len()).iter().any(|poison| {
                file.write_all_at(poison, at.start as u64).unwrap();
                let changed = !same_bits(&again.decode(), &logits);
                file.write_all_at(&clean[at.clone()], at.start as u64).unwrap();
                changed || matches!(role, Role::K | Role::V) && !same_bits(&again.next(), &next)
            })
        };
        // Stored by input, gate and up are read for all neurons, but changes that affect only inactive neurons do not
        // show.
        let whole = |role: Role| !by_input && c.ffn_by_input && matches!(role, Role::Gate | Role::Up);
        let (mut read, mut skippable, mut all) = (0, 0, 0);
        for (e, at) in pieces(&Image::parse(&clean).unwrap()) {
            all += at.len();
            if whole(e.role) || was_read(e.role, &at) {
                read += at.len();
                let counts = e.role.in_layers() && e.layer > 0 && (by_input || !matches!(e.role, Role::K | Role::V));
                skippable += if counts { at.len() } else { 0 };
            }
        }
        assert_eq!(said.weights - said.predictor, read, "{name}: of {all} bytes");
        assert_eq!(said.skippable, skippable, "{name}: of {all} bytes");
        assert!(read < all || name.ends_with("whole"), "{name}: nothing was skipped");
    });
}

const ARRANGEMENTS: [(&str, Arrangement); 5] = [
    ("dense", Arrangement::DENSE),
    ("neuron", Arrangement::NEURON),
    ("groups of 8", Arrangement { neuron_group: 8, ..Arrangement::DENSE }),
    ("mixed", Arrangement { attention_by_input: true, ..Arrangement::NEURON }),
    ("input", Arrangement::INPUT),
];

/// The reference's mask if single neurons can be chosen, else some groups; no head in the last layer.
fn mask(session: &mut Session) {
    reference_mask(session);
    let c = *session.model().config();
    let active = session.units().unwrap();
    active.choose_heads(c.layers - 1, |_| false);
    if c.neuron_group > 1 {
        (0..c.layers).for_each(|layer| active.choose_neurons(layer, |g| g % 3 == layer % 2));
    }
}

#[test]
fn reported_bytes_are_read_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    for family in ["qwen3", "llama-relu", "opt", "opt-postnorm-proj"] {
        let ids = fixture_ids(family);
        for (name, arrangement) in ARRANGEMENTS {
            pack_as(&vectors("models").join(family), Format::F32, arrangement, &image);
            let check = |how: &str, prepare: &dyn Fn(&mut Session)| {
                check(&format!("{family} {name} {how}"), &image, &ids, prepare);
            };
            check("whole", &|_| {});
            check("masked", &mask);
            check("at random", &|s| s.set_dial(&dial(Policy::Random, 0.4)).unwrap());
            if arrangement.ffn_by_input {
                check("by largest inputs", &|s| s.set_dial(&dial(Policy::InputTop, 0.5)).unwrap());
            }
        }
    }
}

/// Scales that inputs share are read with the first of these inputs.
#[test]
fn scales_are_counted_with_their_inputs() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    // Not families with ReLU, which hides changes of inactive neurons.
    for family in ["qwen3", "llama-mha"] {
        pack_as(&vectors("models").join(family), Format::Q8_0, Arrangement::INPUT, &image);
        // The second share is so small for Q, K and V that whole k-blocks are left out. (Of heads and neurons, some of
        // every 32 must be read by the next matrix, or changes would not show.)
        for few in [0.5, 0.02] {
            let fixed = [few, few, few, 0.5, 0.5, 0.5, 0.5].map(Some);
            let few_dial = Dial { fixed, ..dial(Policy::InputTop, 0.5) };
            check(&format!("{family} {few}"), &image, &fixture_ids(family), &|s| s.set_dial(&few_dial).unwrap());
        }
    }
}

#[test]
fn reported_bytes_are_read_bytes_for_calibrated_policies() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let groups = Arrangement { neuron_group: 8, attention_by_input: true, ffn_by_input: false };
    let models = [
        ("llama-mha", Arrangement::NEURON),
        ("llama-relu", groups),
        ("qwen3", Arrangement::INPUT),
        ("opt", Arrangement::NEURON),
        ("opt-postnorm-proj", Arrangement::DENSE),
    ];
    for (family, arrangement) in models {
        let small = Small::family(family, Format::F32, arrangement);
        let model = small.open(true, None);
        for policy in Policy::ALL.into_iter().filter(|p| p.calibrated() && *p != Policy::Auto) {
            let dial = dial(policy, 0.5);
            if with_session(&model, |s| s.set_dial(&dial)).is_ok() {
                std::fs::write(&image, small.calibrated).unwrap();
                let set = |s: &mut Session| s.set_dial(&dial).unwrap();
                check(&format!("{} {}", small.name, policy.name()), &image, &fixture_ids(family), &set);
            }
        }
    }
}

/// The sums of an evaluation must not exceed those of a dense run, under any policy.
#[test]
fn no_policy_reads_more_than_everything() {
    for small in small_models() {
        let model = small.open(true, None);
        let ids = made_up_ids(12, model.model().config().vocab);
        let read = |dial: &Dial| {
            with_session(&model, |session| {
                session.set_dial(dial).ok()?;
                session.prefill(&Serial, &ids[..4]).unwrap();
                let mut most = (0, 0);
                for id in &ids[4..] {
                    session.decode(&Serial, *id).unwrap();
                    let t = session.traffic();
                    most = (most.0.max(t.weights - t.predictor), most.1.max(t.skippable));
                }
                Some((most, session.policy().by_input()))
            })
        };
        let ((dense, _), _) = read(&Dial::default()).unwrap();
        for policy in Policy::ALL {
            for density in [1.0, 0.5, 0.1, 0.01] {
                let Some(((weights, skippable), by_input)) = read(&dial(policy, density)) else { continue };
                let name = format!("{} {} {density}", small.name, policy.name());
                assert!(weights <= dense, "{name}: {weights} of {dense}");
                assert!(skippable <= model.model().skippable_bytes(by_input), "{name}: {skippable}");
            }
        }
        assert!(read(&GIVEN).is_some());
    }
}
