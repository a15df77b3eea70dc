//! Cases that the reference families do not cover, against the reference in f64: activations, RoPE scaling, biases, odd
//! sizes, number types and shards of the source, both styles of configuration.

use safetensors::Dtype;
use serde_json::{Value, json};
use shadowllm_core::image::arch::MAX_HEAD_DIM;
use shadowllm_core::{Format, KvFormat, Serial};
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::reference::Llama;
use shadowllm_tests::{Reading, logits, max_difference, on_every_isa, pack_to, same_bits};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};

const SHAPE: Shape = Shape { d: 64, ffn: 96, heads: [4, 2, 16], vocab: 50, layers: 2 };

fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + 3 * i + 1) % vocab) as u32).collect()
}

/// Packs the folder as f32 and compares all instruction sets with the reference.
fn check(name: &str, folder: &Folder, dtype: Dtype, shards: usize) {
    let temp = tempfile::tempdir().unwrap();
    folder.write(temp.path(), dtype, shards);
    let image = temp.path().join("model.sllm");
    pack_to(temp.path(), Format::F32, &image);
    let vocab = folder.config["vocab_size"].as_u64().unwrap() as usize;
    let ids = ids(70, vocab);
    // The reference gets the weights as they are after rounding to the file's type.
    let round = |x: &f32| match dtype {
        Dtype::F16 => half::f16::from_f32(*x).to_f32(),
        Dtype::BF16 => half::bf16::from_f32(*x).to_f32(),
        _ => *x,
    };
    let tensors =
        folder.tensors.iter().map(|(n, (s, x))| (n.clone(), (s.clone(), x.iter().map(round).collect()))).collect();
    let expected = Llama { config: &folder.config, tensors: &tensors }.logits(&ids).concat();
    let expected: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
    let mut first: Option<Vec<f32>> = None;
    for (isa, model) in on_every_isa(&image) {
        for reading in [Reading::Prefill(70), Reading::Decode] {
            let got = logits(&model, &Serial, &ids, KvFormat::F32, reading);
            let difference = max_difference(&got, &expected);
            assert!(difference < 2e-5, "{name}, {isa:?}, {reading:?}: {difference}");
            assert!(same_bits(&got, first.get_or_insert_with(|| got.clone())), "{name}, {isa:?}, {reading:?}");
        }
    }
}

fn llama(shape: Shape, biases: bool, lm_head: bool, more: &Value) -> Folder {
    Folder::llama(shape, biases, lm_head, more)
}

#[test]
fn every_activation() {
    for act in ["silu", "relu", "relu2", "gelu", "gelu_new"] {
        check(act, &llama(SHAPE, false, true, &json!({"hidden_act": act})), Dtype::F32, 1);
    }
}

#[test]
fn biases_on_attention_and_mlp() {
    check("biases", &llama(SHAPE, true, false, &json!({})), Dtype::F32, 1);
}

#[test]
fn linear_rope_in_both_styles() {
    let old =
        json!({"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 4.0}, "torch_dtype": "float32"});
    let new =
        json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}, "dtype": "float32"});
    check("old style", &llama(SHAPE, false, true, &old), Dtype::F32, 1);
    check("new style", &llama(SHAPE, false, true, &new), Dtype::F32, 1);
}

#[test]
fn sizes_that_are_no_multiples_of_anything() {
    // d_model and ffn are not multiples of 32, head_dim and vocabulary not of 16; one KV head.
    for (d, ffn, heads, vocab) in [(48, 40, [3, 1, 20], 33), (72, 100, [2, 2, 6], 17), (33, 31, [1, 1, 34], 5)] {
        let shape = Shape { d, ffn, heads, vocab, layers: 2 };
        check(&format!("{d} {ffn} {heads:?}"), &llama(shape, true, true, &json!({})), Dtype::F32, 1);
    }
}

#[test]
fn half_types_and_shards() {
    check("f16", &llama(SHAPE, false, true, &json!({})), Dtype::F16, 1);
    check("bf16 in three shards", &llama(SHAPE, false, false, &json!({})), Dtype::BF16, 3);
}

#[test]
fn sliding_windows() {
    for window in [1, 15, 16, 17, 64] {
        let more = json!({"model_type": "mistral", "sliding_window": window});
        check(&format!("window {window}"), &llama(SHAPE, false, true, &more), Dtype::F32, 1);
    }
}

/// A model with norms on queries and keys, which attention copies to a buffer of [`MAX_HEAD_DIM`] floats.
fn with_head_norms(dim: usize) -> Folder {
    let shape = Shape { heads: [2, 1, dim], layers: 1, ..SHAPE };
    let mut folder = llama(shape, false, true, &json!({"model_type": "qwen3"}));
    for name in ["q_norm", "k_norm"] {
        let weights = (0..dim).map(|i| 0.5 + (i % 7) as f32 / 8.0).collect();
        folder.tensors.insert(format!("model.layers.0.self_attn.{name}.weight"), (vec![dim], weights));
    }
    folder
}

#[test]
fn the_widest_head_runs_and_a_wider_one_is_refused() {
    check("widest head", &with_head_norms(MAX_HEAD_DIM), Dtype::F32, 1);
    let temp = tempfile::tempdir().unwrap();
    with_head_norms(MAX_HEAD_DIM + 2).write(temp.path(), Dtype::F32, 1);
    let image = temp.path().join("model.sllm");
    let packed = import::open(temp.path())
        .and_then(|source| pack(&*source, Formats::all(Format::F32), Arrangement::DENSE, &image, &mut |_, _| {}));
    let message = packed.expect_err("a head wider than the limit was packed").to_string();
    assert!(message.contains("head_dim"), "{message}");
}
