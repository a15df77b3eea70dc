//! Families of models against the logits of Hugging Face's transformers, on every instruction set of this machine, with
//! one and two threads, as one prefill and token by token.
//!
//! `vectors/families` has small random models in bf16 with windows of 16 in 48 tokens, so that windows, tables of
//! frequencies, caps, multipliers and routers all show in the logits.

#[path = "families/twins.rs"]
mod twins;

use shadowllm_core::{Executor, Format, KvFormat, Serial};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::{Reading, logits, loss, max_deviation, max_difference, on_every_isa, same_bits, tensor, vectors};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::{Path, PathBuf};

/// Families that cannot be read or run, with the error message. A family leaves the list when it runs.
const REFUSED: &[(&str, &str)] = &[
    ("lfm2", "model_type lfm2 is not supported: it needs short convolutions (supported are llama, "),
    ("qwen3_5", "model_type qwen3_5_text is not supported: it needs gated DeltaNet layers (supported are llama, "),
];

const F32: Formats = Formats::all(Format::F32);

/// The folders of all families.
fn folders() -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(vectors("families")).unwrap();
    let mut all: Vec<_> =
        entries.map(|e| e.unwrap()).map(|e| (e.file_name().into_string().unwrap(), e.path())).collect();
    all.sort();
    assert!(all.len() >= 33, "folders of families are missing");
    all
}

/// Packs to `image` and opens it; the error is the message that users see.
fn packed(folder: &Path, image: &Path) -> Result<(), String> {
    let source = import::open(folder).map_err(|e| e.to_string())?;
    pack(&*source, F32, Arrangement::DENSE, image, &mut |_, _| {}).map_err(|e| e.to_string())?;
    LoadedModel::open(image, None).map(drop).map_err(|e| e.to_string())
}

/// The largest difference of a logit from transformers', in standard deviations of the logits. Rounding makes differences from
/// 1.1e-6 (gpt2) to 1.0e-5 (mixtures of experts: mixtral, qwen2_moe-dense, smallthinker).
const LOGITS: f32 = 1.5e-5;
/// The largest difference of the loss, which is recorded in single precision; the largest is 1.2e-6 (gemma2).
const LOSS: f64 = 2e-6;

/// What transformers computed: token ids, logits, loss.
fn recorded(folder: &Path) -> (Vec<u32>, Vec<f32>, f64) {
    let of = |name| tensor(&folder.join("expected.safetensors"), name).data;
    (of("input_ids").iter().map(|x| *x as u32).collect(), of("logits"), f64::from(of("loss")[0]))
}

/// Logits as transformers computes them, and the same bits however they are computed.
fn agrees(name: &str, folder: &Path, image: &Path, pools: &[Pool]) {
    let (ids, wanted, wanted_loss) = recorded(folder);
    let mut first: Option<Vec<f32>> = None;
    for (isa, model) in on_every_isa(image) {
        let mut execs: Vec<(&str, &dyn Executor)> = vec![("serial", &Serial)];
        execs.extend(["1", "2"].into_iter().zip(pools.iter().map(|p| p as &dyn Executor)));
        for (threads, exec) in execs {
            for reading in [Reading::Prefill(ids.len()), Reading::Decode] {
                let got = logits(&model, exec, &ids, KvFormat::F32, reading);
                let case = format!("{name}, {isa:?}, {threads} threads, {reading:?}");
                let difference = max_deviation(&got, &wanted);
                let loss_difference = (loss(&got, &ids) - wanted_loss).abs();
                assert!(difference < LOGITS, "{case}: {difference}");
                assert!(loss_difference < LOSS, "{case}: the loss differs by {loss_difference}");
                let first = first.get_or_insert_with(|| got.clone());
                assert!(same_bits(&got, first), "{case}: other bits than the first run");
            }
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let temp = tempfile::tempdir().unwrap();
    let pools = [Pool::new(1).unwrap(), Pool::new(2).unwrap()];
    let mut wrong = Vec::new();
    for (name, folder) in folders() {
        let image = temp.path().join("model.sllm");
        let refused = REFUSED.iter().find(|r| r.0 == name);
        match (packed(&folder, &image), refused) {
            (Ok(()), None) => {
                let run = std::panic::AssertUnwindSafe(|| agrees(&name, &folder, &image, &pools));
                if std::panic::catch_unwind(run).is_err() {
                    wrong.push(format!("{name}: other logits"));
                }
            }
            (Ok(()), Some(_)) => wrong.push(format!("{name} runs: take it from the list of those that are refused")),
            (Err(error), None) => wrong.push(format!("{name} is refused: {error}")),
            (Err(error), Some((_, why))) if !error.contains(why) => {
                wrong.push(format!("{name} is refused otherwise: {error}"));
            }
            (Err(_), Some(_)) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A GGUF file of the same model, written as llama.cpp's converter does, gives the same logits, or is refused as the
/// folder is.
#[test]
fn gguf_twins_are_the_same_models() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("twin.gguf"), temp.path().join("model.sllm"));
    let mut wrong = Vec::new();
    for (name, arch) in twins::TWINS {
        let folder = vectors("families").join(name);
        if UNSAID.iter().any(|u| u.0 == *name) {
            continue;
        }
        std::fs::write(&file, twins::twin(&folder, arch)).unwrap();
        let refused = REFUSED.iter().find(|r| r.0 == *name);
        match (packed(&file, &image), refused) {
            (Ok(()), None) => {
                let run = std::panic::AssertUnwindSafe(|| agrees(name, &folder, &image, &[]));
                if std::panic::catch_unwind(run).is_err() {
                    wrong.push(format!("{name}: other logits"));
                }
            }
            (Ok(()), Some(_)) => wrong.push(format!("{name} runs, and its folder does not")),
            (Err(error), None) => wrong.push(format!("{name} is refused: {error}")),
            (Err(error), Some((_, why))) => {
                if !error.contains(why) && !error.contains("not supported") {
                    wrong.push(format!("{name} is refused otherwise: {error}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The limit is below what another activation or another epsilon changes.
#[test]
fn a_wrong_activation_or_epsilon_is_beyond_the_limit() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, image) = (temp.path().join("model"), temp.path().join("model.sllm"));
    for (name, key, value) in [
        ("gpt2", "activation_function", "\"gelu\""),
        ("gpt2", "layer_norm_epsilon", "1e-4"),
        ("phi", "hidden_act", "\"gelu\""),
        ("starcoder2", "hidden_act", "\"gelu\""),
        ("gpt_neox", "hidden_act", "\"gelu_new\""),
        ("gemma", "hidden_activation", "\"gelu\""),
        ("gemma2", "hidden_activation", "\"gelu\""),
        ("gemma3", "hidden_activation", "\"gelu\""),
        ("gemma3", "rms_norm_eps", "1e-4"),
        ("olmo2", "rms_norm_eps", "1e-4"),
        ("granite", "rms_norm_eps", "1e-4"),
        ("mixtral", "rms_norm_eps", "1e-4"),
    ] {
        changed(name, key, value, &folder);
        packed(&folder, &image).unwrap();
        let (ids, right, _) = recorded(&vectors("families").join(name));
        let model = LoadedModel::open(&image, None).unwrap();
        let got = logits(&model, &Serial, &ids, KvFormat::F32, Reading::Decode);
        let difference = max_deviation(&got, &right);
        assert!(difference > 4.0 * LOGITS, "{name} with {key} {value}: {difference}");
    }
}

/// Values that folders have and GGUF does not, because llama.cpp knows them from the architecture.
const UNSAID: &[(&str, &str, &str)] = &[
    ("gemma2", "query_pre_attn_scalar", "32"),
    ("gemma3", "query_pre_attn_scalar", "32"),
    ("smollm3", "no_rope_layers", "[1, 1, 1]"),
];

/// A copy of a family's folder with another value in its configuration.
fn changed(name: &str, key: &str, value: &str, folder: &Path) {
    let original = vectors("families").join(name);
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(original.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(original.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config[key] = serde_json::from_str(value).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn gguf_twins_have_the_tensors_of_their_architecture() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, file) = (temp.path().join("model"), temp.path().join("twin.gguf"));
    let ids: Vec<u32> = (3..51).collect();
    let of = |source: &Path| {
        let image = temp.path().join("model.sllm");
        packed(source, &image).unwrap();
        logits(&LoadedModel::open(&image, None).unwrap(), &Serial, &ids, KvFormat::F32, Reading::Decode)
    };
    for (name, key, value) in UNSAID {
        changed(name, key, value, &folder);
        let arch = twins::TWINS.iter().find(|t| t.0 == *name).unwrap().1;
        std::fs::write(&file, twins::twin(&folder, arch)).unwrap();
        // The scales are computed from other numbers, so bits may differ.
        assert!(max_difference(&of(&folder), &of(&file)) < 1e-5, "{name}");
    }
    // The metadata says five layers; the tensors of the last two are missing, which does not matter here.
    let five = twins::changed_twin(&folder, "smollm3", |entries| {
        let key = "smollm3.block_count";
        entries.retain(|e| !e.windows(key.len()).any(|w| w == key.as_bytes()));
        entries.push(shadowllm_tests::gguf_bytes::number(key, 5));
    });
    std::fs::write(&file, five).unwrap();
    let source = import::open(&file).unwrap();
    let rotates: Vec<bool> = source.spec().layers.iter().map(|l| l.attention().unwrap().rope.is_some()).collect();
    assert_eq!(rotates, [true, true, true, false, true]);
}
