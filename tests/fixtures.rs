//! The eight reference families against PyTorch's logits, on every instruction set of this machine, with
//! one and two threads, as one prefill and token by token.

use shadowllm_core::{Executor, Format, KvFormat, Serial};
use shadowllm_host::pool::Pool;
use shadowllm_tests::reference::Llama;
use shadowllm_tests::{
    FAMILIES, Reading, fixture_ids, logits, loss, max_difference, on_every_isa, pack_to, same_bits, tensor, vectors,
};

#[test]
fn logits_and_loss_are_pytorchs_everywhere() {
    let temp = tempfile::tempdir().unwrap();
    let pools = [Pool::new(1).unwrap(), Pool::new(2).unwrap(), Pool::new(3).unwrap()];
    for family in FAMILIES {
        let folder = vectors("models").join(family);
        let expected = tensor(&folder.join("expected.safetensors"), "logits").data;
        let expected_loss = f64::from(tensor(&folder.join("expected.safetensors"), "loss").data[0]);
        let ids = fixture_ids(family);
        let image = temp.path().join("model.sllm");
        pack_to(&folder, Format::F32, &image);
        let mut first: Option<Vec<f32>> = None;
        for (isa, model) in on_every_isa(&image) {
            let mut execs: Vec<(&str, &dyn Executor)> = vec![("serial", &Serial)];
            execs.extend(["1", "2", "3"].into_iter().zip(pools.iter().map(|p| p as &dyn Executor)));
            for (threads, exec) in execs {
                // 7 is odd and not a power of two; 48 is the whole text.
                for reading in [Reading::Prefill(48), Reading::Prefill(7), Reading::Decode] {
                    let got = logits(&model, exec, &ids, KvFormat::F32, reading);
                    let case = format!("{family}, {isa:?}, {threads} threads, {reading:?}");
                    assert!(max_difference(&got, &expected) < 2e-5, "{case}");
                    assert!((loss(&got, &ids) - expected_loss).abs() < 2e-6, "{case}");
                    let first = first.get_or_insert_with(|| got.clone());
                    assert!(same_bits(&got, first), "{case}: other bits than the first run");
                }
            }
        }
    }
}

#[test]
fn a_half_precision_cache_stays_close() {
    let temp = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let folder = vectors("models").join(family);
        let expected = tensor(&folder.join("expected.safetensors"), "logits").data;
        let image = temp.path().join("model.sllm");
        pack_to(&folder, Format::F32, &image);
        let (_, model) = on_every_isa(&image).pop().unwrap();
        let got = logits(&model, &Serial, &fixture_ids(family), KvFormat::F16, Reading::Decode);
        // Keys and values lose all but 11 bits: 2^-11 of logits up to 10, through three layers.
        assert!(max_difference(&got, &expected) < 0.02, "{family}: {}", max_difference(&got, &expected));
    }
}

/// The reference in f64 is only worth something if PyTorch agrees with it.
#[test]
fn the_slow_reference_agrees_with_pytorch() {
    for family in FAMILIES.into_iter().filter(|f| !f.starts_with("opt") && *f != "llama-gqa-tied-rope3") {
        let folder = vectors("models").join(family);
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let floats = |raw: &[u8]| raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensors = all.iter().map(|(n, v)| (n.to_owned(), (v.shape().to_vec(), floats(v.data())))).collect();
        let config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let ids = fixture_ids(family);
        let got: Vec<f32> =
            Llama { config: &config, tensors: &tensors }.logits(&ids).concat().iter().map(|x| *x as f32).collect();
        let expected = tensor(&folder.join("expected.safetensors"), "logits").data;
        assert!(max_difference(&got, &expected) < 2e-5, "{family}: {}", max_difference(&got, &expected));
    }
}
