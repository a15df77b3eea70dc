//! Masked runs against dense runs of the same model in which the masked weights are zero.

use super::GIVEN;
use shadowllm_core::format::{Geometry, Order};
use shadowllm_core::image::{Config, Entry, Role, SectionKind, Storage};
use shadowllm_core::{Format, Image, KvFormat, Serial, Session};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::folder::Random;
use shadowllm_tests::sparse::with_session;
use shadowllm_tests::{
    FAMILIES, Reading, arrangements, fixture_ids, logits, logits_with, on_every_isa, pack_as, same_bits, vectors,
};
use shadowllm_tools::pack::Arrangement;
use std::ops::Range;

/// The active heads and neurons of each layer.
struct Mask {
    heads: Vec<Vec<bool>>,
    neurons: Vec<Vec<bool>>,
}

impl Mask {
    /// Some heads and neurons of every layer, but no heads of layer 1 and no neurons of layer 2.
    fn random(c: &Config, random: &mut Random) -> Mask {
        let mut some = |layer: usize, without: usize, n: usize| -> Vec<bool> {
            (0..n).map(|_| random.draw() > 0.1 && layer != without).collect()
        };
        let heads = (0..c.layers).map(|l| some(l, 1, c.heads)).collect();
        Mask { heads, neurons: (0..c.layers).map(|l| some(l, 2, c.neuron_groups())).collect() }
    }

    fn apply(&self, session: &mut Session) {
        session.set_dial(&GIVEN).unwrap();
        let active = session.units().unwrap();
        for (layer, (heads, neurons)) in self.heads.iter().zip(&self.neurons).enumerate() {
            active.choose_heads(layer, |h| heads[h]);
            active.choose_neurons(layer, |g| neurons[g]);
        }
    }

    /// Units of a tensor that only masked heads or neurons use.
    fn masked_units(&self, e: &Entry, g: &Geometry, c: &Config) -> Vec<Range<usize>> {
        let (active, width) = match e.role {
            Role::O => (&self.heads, c.head_slot()),
            Role::Down => (&self.neurons, c.neuron_group),
            // If units are inputs, those of Q, gate and up belong to all heads and neurons.
            Role::Gate | Role::Up if !c.ffn_by_input => (&self.neurons, c.neuron_group),
            _ => return Vec::new(),
        };
        let per_unit = match g.order {
            Order::Rows => 16,
            Order::Columns => 32,
            Order::RowLines | Order::ColumnLines | Order::Inputs => 1,
        };
        let masked = active[e.layer as usize].iter().enumerate().filter(|(_, active)| !**active);
        masked.map(|(i, _)| i * width / per_unit..(i + 1) * width / per_unit).collect()
    }

    /// A copy of an image in which those units are zero.
    fn zeroed(&self, bytes: &[u8]) -> Vec<u8> {
        let image = Image::parse(bytes).unwrap();
        let start = image.section_info(SectionKind::Weights).offset;
        let mut out = bytes.to_vec();
        for e in image.entries() {
            let Storage::Tiles(g) = e.storage else { continue };
            for unit in self.masked_units(&e, &g, image.config()).into_iter().flatten() {
                let at = start + e.offset + unit / g.units_per_group * g.group_stride;
                let at = at + g.shared_bytes() + unit % g.units_per_group * g.unit_bytes();
                out[at..at + g.unit_bytes()].fill(0);
            }
        }
        assert!(out != bytes, "nothing is masked");
        out
    }
}

#[test]
fn masked_units_count_as_zero() {
    let temp = tempfile::tempdir().unwrap();
    let (image, zeroed) = (temp.path().join("model.sllm"), temp.path().join("zeroed.sllm"));
    let (pool, mut random) = (Pool::new(2).unwrap(), Random(3));
    for family in FAMILIES {
        let ids = &fixture_ids(family)[..10];
        for (format, arrangement) in [Format::F32, Format::Q8_0, Format::Q4_0, Format::Q4_1]
            .into_iter()
            .flat_map(|f| arrangements().into_iter().map(move |a| (f, a)))
        {
            // Integers stored by input share scales with others, and may have no code for zero.
            if format != Format::F32 && (arrangement.attention_by_input || arrangement.ffn_by_input) {
                continue;
            }
            pack_as(&vectors("models").join(family), format, arrangement, &image);
            let bytes = std::fs::read(&image).unwrap();
            let mask = Mask::random(Image::parse(&bytes).unwrap().config(), &mut random);
            std::fs::write(&zeroed, mask.zeroed(&bytes)).unwrap();
            for ((isa, model), (_, dense)) in on_every_isa(&image).into_iter().zip(on_every_isa(&zeroed)) {
                let (kv, prepare) = (KvFormat::F32, |session: &mut Session| mask.apply(session));
                let masked = logits_with(&model, &pool, ids, kv, Reading::Decode, Some(&prepare));
                for reading in [Reading::Decode, Reading::Prefill(10)] {
                    let dense = logits(&dense, &pool, ids, kv, reading);
                    assert!(same_bits(&masked, &dense), "{family} {format:?} {arrangement:?} {isa:?} {reading:?}");
                }
            }
        }
    }
}

/// For integers stored by input, masks of heads and of blocks of neurons give the same results as for tiles.
#[test]
fn masks_by_input_and_by_tile_agree() {
    let temp = tempfile::tempdir().unwrap();
    let [tiles, inputs] = ["tiles.sllm", "inputs.sllm"].map(|name| temp.path().join(name));
    let pool = Pool::new(2).unwrap();
    let mask = |session: &mut Session| {
        session.set_dial(&GIVEN).unwrap();
        let c = *session.model().config();
        let active = session.units().unwrap();
        for layer in 0..c.layers {
            active.choose_heads(layer, |h| h % 3 != layer % 2);
            active.choose_neurons(layer, |g| g * c.neuron_group / 32 % 2 == layer % 2);
        }
    };
    for family in FAMILIES {
        let ids = &fixture_ids(family)[..10];
        for format in Format::ALL.into_iter().filter(|f| f.has_encoder()) {
            pack_as(&vectors("models").join(family), format, Arrangement::DENSE, &tiles);
            pack_as(&vectors("models").join(family), format, Arrangement::INPUT, &inputs);
            let [a, b] = [&tiles, &inputs].map(|image| {
                let model = LoadedModel::open(image, None).unwrap();
                logits_with(&model, &pool, ids, KvFormat::F32, Reading::Decode, Some(&mask))
            });
            assert!(same_bits(&a, &b), "{family} {}", format.name());
        }
    }
}

/// Logits and bytes read of a token at position 5, with one head or neuron of the last layer masked.
fn without(session: &mut Session, ids: &[u32], head: Option<usize>, neuron: Option<usize>) -> (Vec<f32>, usize) {
    let last = session.model().config().layers - 1;
    session.rewind(5).unwrap();
    let active = session.units().unwrap();
    active.choose_heads(last, |h| Some(h) != head);
    active.choose_neurons(last, |n| Some(n) != neuron);
    let logits = session.decode(&Serial, ids[5]).unwrap().to_vec();
    (logits, session.traffic().weights)
}

#[test]
fn one_head_matters_and_so_does_one_active_neuron() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    for family in ["qwen3", "opt", "llama-relu"] {
        pack_as(&vectors("models").join(family), Format::F32, Arrangement::NEURON, &image);
        let model = LoadedModel::open(&image, None).unwrap();
        let (c, ids) = (*model.model().config(), fixture_ids(family));
        with_session(&model, |session| {
            session.set_dial(&GIVEN).unwrap();
            session.prefill(&Serial, &ids[..5]).unwrap();
            let (dense, all) = without(session, &ids, None, None);
            for head in 0..c.heads {
                let (masked, bytes) = without(session, &ids, Some(head), None);
                assert!(!same_bits(&masked, &dense) && bytes < all, "{family}: head {head}");
            }
            // Gate and up have f32 rows, and down an f32 column, which is not read for a neuron that is zero.
            let (column, rows) = (4 * c.d_model, 4 * c.d_model * (1 + usize::from(c.gated)));
            let mut active = 0;
            for neuron in 0..c.ffn {
                let (masked, bytes) = without(session, &ids, None, Some(neuron));
                let read = all - bytes;
                assert!(read == rows || read == rows + column, "{family}: neuron {neuron} is worth {read} bytes");
                assert_eq!(read == rows, same_bits(&masked, &dense), "{family}: neuron {neuron}");
                active += usize::from(read > rows);
            }
            let zeros = family != "qwen3";
            assert!(active > c.ffn / 8 && (active < c.ffn) == zeros, "{family}: {active} active neurons");
        });
    }
}
