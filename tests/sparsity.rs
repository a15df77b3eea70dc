//! Skipping: with the caller's choice of heads and neurons against PyTorch's masked logits and against dense runs
//! with the same weights zeroed; every policy; the bytes that are read; hostile predictors.

#[cfg(feature = "calibrate")]
#[path = "sparsity/hostile.rs"]
mod hostile;
#[path = "sparsity/masks.rs"]
mod masks;
#[cfg(feature = "calibrate")]
#[path = "sparsity/memory.rs"]
mod memory;
#[path = "sparsity/output.rs"]
mod output;
#[cfg(feature = "calibrate")]
#[path = "sparsity/policies.rs"]
mod policies;
#[cfg(all(unix, feature = "calibrate"))]
#[path = "sparsity/traffic.rs"]
mod traffic;
#[path = "sparsity/unlike.rs"]
mod unlike;

use shadowllm_core::sparsity::{Allocation, Dial, Policy};
use shadowllm_core::{Format, KvFormat, Session};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::{
    FAMILIES, Reading, arrangements, fixture_ids, logits, logits_with, max_difference, on_every_isa, pack_as,
    same_bits, tensor, vectors,
};
use shadowllm_tools::pack::Arrangement;

const GIVEN: Dial = Dial {
    policy: Policy::Given,
    density: 1.0,
    refresh: 1,
    allocation: Allocation::Global,
    fixed: [None; 7],
    seed: 0,
    window: Dial::WINDOW,
};

/// The mask of the reference: layers 1 and up prune head 0 and every third neuron. Groups that hold a neuron
/// to keep are kept.
fn reference_mask(session: &mut Session) {
    session.set_dial(&GIVEN).unwrap();
    let layers = session.model().config().layers;
    let active = session.units().unwrap();
    for layer in 1..layers {
        active.choose_heads(layer, |h| h != 0);
        active.choose_neurons(layer, |n| n % 3 != 0);
    }
}

#[test]
fn every_arrangement_is_the_same_model() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let pool = Pool::new(2).unwrap();
    for family in FAMILIES {
        let folder = vectors("models").join(family);
        let ids = fixture_ids(family);
        let mut first: Option<Vec<f32>> = None;
        for arrangement in arrangements() {
            pack_as(&folder, Format::F32, arrangement, &image);
            for (isa, model) in on_every_isa(&image) {
                for reading in [Reading::Prefill(48), Reading::Prefill(7), Reading::Decode] {
                    let got = logits(&model, &pool, &ids, KvFormat::F32, reading);
                    let first = first.get_or_insert_with(|| got.clone());
                    assert!(same_bits(&got, first), "{family} {arrangement:?} {isa:?} {reading:?}");
                }
            }
        }
    }
}

/// Stored by input, blocks still run along the inputs, so in every format the bits are those of tiles.
#[test]
fn by_input_is_the_dense_model_in_every_format() {
    let temp = tempfile::tempdir().unwrap();
    let [tiles, inputs] = ["tiles.sllm", "inputs.sllm"].map(|name| temp.path().join(name));
    let pool = Pool::new(2).unwrap();
    for family in ["qwen3", "opt-postnorm-proj"] {
        let folder = vectors("models").join(family);
        let ids = fixture_ids(family);
        for format in Format::ALL.into_iter().filter(|f| f.has_encoder()) {
            pack_as(&folder, format, Arrangement::DENSE, &tiles);
            pack_as(&folder, format, Arrangement::INPUT, &inputs);
            let reference =
                logits(&LoadedModel::open(&tiles, None).unwrap(), &pool, &ids, KvFormat::F16, Reading::Decode);
            for (isa, model) in on_every_isa(&inputs) {
                for reading in [Reading::Prefill(48), Reading::Prefill(5), Reading::Decode] {
                    let got = logits(&model, &pool, &ids, KvFormat::F16, reading);
                    assert!(same_bits(&got, &reference), "{family} {} {isa:?} {reading:?}", format.name());
                }
            }
        }
    }
}

#[test]
fn masked_logits_are_pytorchs() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let pool = Pool::new(2).unwrap();
    for family in FAMILIES {
        let folder = vectors("models").join(family);
        let expected = tensor(&folder.join("expected.safetensors"), "masked_logits").data;
        let ids = fixture_ids(family);
        for arrangement in arrangements().into_iter().filter(|a| a.neuron_group == 1) {
            pack_as(&folder, Format::F32, arrangement, &image);
            for (isa, model) in on_every_isa(&image) {
                let got = logits_with(&model, &pool, &ids, KvFormat::F32, Reading::Decode, Some(&reference_mask));
                let difference = max_difference(&got, &expected);
                assert!(difference < 2e-5, "{family} {arrangement:?} {isa:?}: {difference}");
            }
        }
    }
}
