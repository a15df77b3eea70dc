//! GGUF blocks are taken over bit by bit, Llama's interleaved heads put back in their order, and the model
//! computes what the same model from a Hugging Face folder does.

use safetensors::Dtype;
use serde_json::json;
use shadowllm_core::image::{Image, Role};
use shadowllm_core::{Format, KvFormat};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::gguf_file::{GgufFile, GgufTensor};
use shadowllm_tests::{Reading, logits, pack_to, same_bits};
use shadowllm_tools::import;
use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::Path;

const SHAPES: [Shape; 2] = [
    Shape { d: 64, ffn: 96, heads: [4, 2, 32], vocab: 96, layers: 2 },
    Shape { d: 96, ffn: 160, heads: [2, 2, 64], vocab: 80, layers: 1 },
];
const TYPES: [(GgmlType, Format); 3] =
    [(GgmlType::Q4_0, Format::Q4_0), (GgmlType::Q4_1, Format::Q4_1), (GgmlType::Q8_0, Format::Q8_0)];

/// GGUF's name of a matrix, the engine's and Hugging Face's.
const LAYER: [(&str, Role, &str); 7] = [
    ("attn_q", Role::Q, "self_attn.q_proj"),
    ("attn_k", Role::K, "self_attn.k_proj"),
    ("attn_v", Role::V, "self_attn.v_proj"),
    ("attn_output", Role::O, "self_attn.o_proj"),
    ("ffn_gate", Role::Gate, "mlp.gate_proj"),
    ("ffn_up", Role::Up, "mlp.up_proj"),
    ("ffn_down", Role::Down, "mlp.down_proj"),
];

/// The tensor's rows in Hugging Face's order. llama.cpp's converter turns the rows (head, s, j) of Q and K,
/// s one of the two halves that are rotated with each other, to (head, j, s).
fn rows(t: &GgufTensor, dim: usize) -> Vec<Vec<f32>> {
    if !t.name.contains("attn_q.") && !t.name.contains("attn_k.") {
        return (0..t.rows).map(|r| t.row(r)).collect();
    }
    let mut rows = vec![Vec::new(); t.rows];
    for head in 0..t.rows / dim {
        for j in 0..dim / 2 {
            for s in 0..2 {
                rows[head * dim + s * (dim / 2) + j] = t.row(head * dim + 2 * j + s);
            }
        }
    }
    rows
}

/// Layer and the names of a matrix or vector.
fn place(name: &str) -> (usize, Option<Role>, String) {
    match name {
        "token_embd.weight" => return (0, Some(Role::Embed), "model.embed_tokens.weight".into()),
        "output.weight" => return (0, Some(Role::Output), "lm_head.weight".into()),
        "output_norm.weight" => return (0, None, "model.norm.weight".into()),
        _ => {}
    }
    let parts: Vec<&str> = name.split('.').collect();
    let layer = parts[1].parse().unwrap();
    let (kind, hf) = match parts[2] {
        "attn_norm" => (None, "input_layernorm"),
        "ffn_norm" => (None, "post_attention_layernorm"),
        other => LAYER.iter().find(|l| l.0 == other).map(|l| (Some(l.1), l.2)).unwrap(),
    };
    (layer, kind, format!("model.layers.{layer}.{hf}.weight"))
}

/// The same model with the blocks' values as floats.
fn folder(gguf: &GgufFile, shape: Shape) -> Folder {
    let mut folder = Folder::llama(shape, false, true, &json!({}));
    for t in &gguf.tensors {
        let (shape, numbers) = folder.tensors.get_mut(&place(&t.name).2).unwrap();
        let floats = rows(t, gguf_head(gguf)).concat();
        assert_eq!(shape.iter().product::<usize>(), floats.len(), "{}", t.name);
        *numbers = floats;
    }
    folder
}

fn gguf_head(gguf: &GgufFile) -> usize {
    let raw = &gguf.entries["llama.attention.key_length"];
    u32::from_le_bytes(raw[raw.len() - 4..].try_into().unwrap()) as usize
}

fn check_blocks(gguf: &GgufFile, image: &Image) -> u64 {
    let mut weights = 0;
    for t in &gguf.tensors {
        let (layer, Some(kind), _) = place(&t.name) else { continue };
        let matrix = image.matrix(kind, layer).unwrap();
        for (r, row) in rows(t, gguf_head(gguf)).iter().enumerate() {
            for (kb, expected) in row.chunks_exact(32).enumerate() {
                assert!(same_bits(&matrix.block(r, kb), expected), "{}: row {r}, block {kb}", t.name);
            }
        }
        weights += (t.rows * t.cols) as u64;
    }
    weights
}

fn read(image: &Path, ids: &[u32]) -> Vec<f32> {
    let model = LoadedModel::open(image, None).unwrap();
    logits(&model, &Pool::new(2).unwrap(), ids, KvFormat::F32, Reading::Prefill(ids.len()))
}

#[test]
fn blocks_are_taken_over_bit_by_bit() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    for (shape, (kind, format)) in SHAPES.iter().flat_map(|s| TYPES.map(|t| (*s, t))) {
        let gguf = GgufFile::llama(shape, kind);
        std::fs::write(&file, gguf.bytes()).unwrap();
        let source = import::open(&file).unwrap();
        let formats = Formats::like(&*source).unwrap();
        assert_eq!(formats, Formats { weights: format, output: Format::Q8_0 });
        let packed = pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
        let model = LoadedModel::open(&image, None).unwrap();
        assert_eq!(packed.carried_over, check_blocks(&gguf, model.model().image()), "{kind}");
    }
}

#[test]
fn a_gguf_file_and_a_folder_of_the_same_weights_are_the_same_model() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::create_dir(path("folder")).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 29 % 80).collect();
    for (shape, (kind, _)) in SHAPES.iter().flat_map(|s| TYPES.map(|t| (*s, t))) {
        let gguf = GgufFile::llama(shape, kind);
        std::fs::write(path("model.gguf"), gguf.bytes()).unwrap();
        folder(&gguf, shape).write(&path("folder"), Dtype::F32, 1);
        pack_to(&path("model.gguf"), Format::F32, &path("gguf.sllm"));
        pack_to(&path("folder"), Format::F32, &path("folder.sllm"));
        let expected = read(&path("folder.sllm"), &ids);
        assert!(same_bits(&read(&path("gguf.sllm"), &ids), &expected), "{kind}: other bits");
        let source = import::open(&path("model.gguf")).unwrap();
        pack(&*source, Formats::like(&*source).unwrap(), Arrangement::DENSE, &path("own.sllm"), &mut |_, _| {})
            .unwrap();
        let got = read(&path("own.sllm"), &ids);
        let error: f64 = got.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let power: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
        // The same weights; inputs rounded to 8 bits by block, half a percent each, a dozen times in a row.
        assert!((error / power).sqrt() < 0.03, "{kind}: relative error {}", (error / power).sqrt());
        assert!(power > 0.0 && got.iter().all(|x| x.is_finite()), "{kind}");
    }
}
