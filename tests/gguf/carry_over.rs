//! GGUF blocks are copied bit by bit, Llama's interleaved heads are reordered, and the model computes the same as from
//! a Hugging Face folder.

use safetensors::Dtype;
use serde_json::json;
use shadowllm_core::image::{Image, Role};
use shadowllm_core::{Format, KvFormat, Serial, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::gguf_file::{GgufFile, GgufTensor};
use shadowllm_tests::{Reading, logits, on_every_isa, pack_to, same_bits};
use shadowllm_tools::import;
use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::pack::{Arrangement, Formats, Kept, Packed, pack};
use std::path::Path;

const SHAPES: [Shape; 2] = [
    Shape { d: 64, ffn: 96, heads: [4, 2, 32], vocab: 96, layers: 2 },
    Shape { d: 96, ffn: 160, heads: [2, 2, 64], vocab: 80, layers: 1 },
];
/// A model whose rows are whole super-blocks.
const WIDE: Shape = Shape { d: 256, ffn: 512, heads: [4, 2, 64], vocab: 96, layers: 2 };

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

/// The tensor's rows in Hugging Face's order. llama.cpp's converter reorders the rows (head, s, j) of Q and K to (head,
/// j, s), where s is one of the two halves that are rotated with each other.
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

/// Shapes, types of embedding and output, types of the layers' matrices: each type alone, and mixed as in llama.cpp's
/// quantised files.
fn cases() -> Vec<(Shape, Vec<GgmlType>, Vec<GgmlType>)> {
    let whole = |kind: &GgmlType| kind.format().is_some();
    let mut cases: Vec<_> = GgmlType::all().filter(whole).map(|kind| (WIDE, vec![kind], vec![kind])).collect();
    for shape in SHAPES {
        let narrow = GgmlType::all().filter(|kind| whole(kind) && kind.block_len() <= 32);
        cases.extend(narrow.map(|kind| (shape, vec![GgmlType::Q8_0], vec![kind])));
    }
    use GgmlType::{BF16, F16, IQ4NL, IQ4XS, MXFP4, Q3K, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    // Lists of five and of seven types, used in turn, reach all seven matrices of two layers.
    cases.push((WIDE, vec![Q6K, Q8_0], vec![Q4K, Q6K, Q5_0, Q8_0, Q4K]));
    cases.push((WIDE, vec![Q5_0, Q4K], vec![IQ4XS, Q5K, MXFP4, IQ4NL, Q3K, BF16, F16, Q6K]));
    cases
}

#[test]
fn blocks_are_kept_bit_by_bit() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    for (shape, outer, layers) in cases() {
        let gguf = GgufFile::llama_of(shape, &outer, &layers);
        std::fs::write(&file, gguf.bytes()).unwrap();
        let source = import::open(&file).unwrap();
        for arrangement in [Arrangement::DENSE, Arrangement::INPUT] {
            let packed = pack(&*source, Formats::OWN, arrangement, &image, &mut |_, _| {}).unwrap();
            let model = LoadedModel::open(&image, None).unwrap();
            let case = format!("{outer:?} {layers:?} {arrangement:?}");
            assert_eq!(packed.carried_over, check_blocks(&gguf, model.model().image()), "{case}");
            assert!(
                packed.became.iter().all(|b| b.kept == Kept::All && !b.rounded_again),
                "{case}: {:?}",
                packed.became
            );
            check_bytes(&gguf, &model, &packed, &case);
        }
    }
}

/// Bytes per token compared with the file: the same, except for Q3_K, which takes six and a half bits, and for outputs
/// that are padded to 16 or 32.
fn check_bytes(gguf: &GgufFile, model: &LoadedModel, packed: &Packed, case: &str) {
    let is_read = |t: &&GgufTensor| t.rows > 1 && t.name != "token_embd.weight";
    let own: usize = gguf.tensors.iter().filter(is_read).map(|t| t.bytes.len()).sum();
    let ours: usize =
        model.model().image().entries().filter(|e| e.role != Role::Embed && e.cols > 1).map(|e| e.bytes()).sum();
    assert_eq!(packed.per_token, [ours as u64, own as u64], "{case}");
    let options = SessionOptions { context: 2, batch: 1, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: false };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    session.decode(&Serial, 1).unwrap();
    let said = session.traffic().weights;
    println!("{case}: {said} bytes of {ours}");
    assert!(said <= ours, "{case}: a token is said to read {said} bytes of {ours}");
    let wider =
        gguf.tensors.iter().filter(|t| t.kind == GgmlType::Q3K).map(|t| t.bytes.len() / 110 * 100).sum::<usize>();
    assert!(ours <= (own + wider) * 102 / 100, "{case}: {ours} bytes for {own}");
}

#[test]
fn a_gguf_file_and_a_folder_of_the_same_weights_are_the_same_model() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    std::fs::create_dir(path("folder")).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 29 % 80).collect();
    for (shape, outer, layers) in cases() {
        let gguf = GgufFile::llama_of(shape, &outer, &layers);
        std::fs::write(path("model.gguf"), gguf.bytes()).unwrap();
        folder(&gguf, shape).write(&path("folder"), Dtype::F32, 1);
        pack_to(&path("model.gguf"), Format::F32, &path("gguf.sllm"));
        pack_to(&path("folder"), Format::F32, &path("folder.sllm"));
        let expected = read(&path("folder.sllm"), &ids);
        let case = format!("{outer:?} {layers:?}");
        assert!(same_bits(&read(&path("gguf.sllm"), &ids), &expected), "{case}: other bits");
        let source = import::open(&path("model.gguf")).unwrap();
        let mut first: Option<Vec<f32>> = None;
        for arrangement in [Arrangement::DENSE, Arrangement::INPUT] {
            pack(&*source, Formats::OWN, arrangement, &path("own.sllm"), &mut |_, _| {}).unwrap();
            for (isa, model) in on_every_isa(&path("own.sllm")) {
                for reading in [Reading::Prefill(40), Reading::Prefill(9), Reading::Decode] {
                    let got = logits(&model, &Pool::new(2).unwrap(), &ids, KvFormat::F32, reading);
                    let case = format!("{case} {arrangement:?} {isa:?} {reading:?}");
                    let error: f64 = got.iter().zip(&expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                    let power: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
                    // The weights are the same. Inputs are rounded to 8 bits by block, by half a percent each, a dozen
                    // times in sequence; errors are larger in the wide models, whose random weights amplify large
                    // numbers.
                    let quantized = layers.iter().chain(&outer).any(|kind| kind.is_quantized());
                    let error = (error / power).sqrt();
                    assert!(error < if quantized { 0.05 } else { 1e-5 }, "{case}: relative error {error}");
                    assert!(power > 0.0 && got.iter().all(|x| x.is_finite()), "{case}");
                    assert!(same_bits(&got, first.get_or_insert_with(|| got.clone())), "{case}: other bits");
                }
            }
        }
    }
}

/// Blocks that no format of a layout can hold are rounded, and the output says so.
#[test]
fn blocks_that_must_be_rounded_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    let write = |layers: &[GgmlType]| {
        std::fs::write(&file, GgufFile::llama_of(WIDE, &[GgmlType::Q6K], layers).bytes()).unwrap();
        import::open(&file).unwrap()
    };
    let became = |source: &dyn import::Source, formats, arrangement| {
        let packed = pack(source, formats, arrangement, &image, &mut |_, _| {})?;
        LoadedModel::open(&image, None).unwrap();
        Ok::<_, shadowllm_host::Error>(
            packed.became.into_iter().map(|b| (b.from, b.to, b.kept == Kept::All)).collect::<Vec<_>>(),
        )
    };
    let source = write(&[GgmlType::Q2K]);
    let rounded = became(&*source, Formats::OWN, Arrangement::DENSE).unwrap();
    assert_eq!(rounded, [("Q6_K", Format::Q6K, true), ("Q2_K", Format::Q8_0, false)]);
    // Lines of outputs and inputs cannot hold super-blocks.
    let source = write(&[GgmlType::Q4K]);
    let rounded = became(&*source, Formats::OWN, Arrangement::NEURON).unwrap();
    assert!(rounded.contains(&("Q4_K", Format::Q4K, true)) && rounded.contains(&("Q4_K", Format::Q8_0, false)));
    let asked = Formats { weights: Some(Format::Q5_0), output: None, ..Formats::OWN };
    let rounded = became(&*source, asked, Arrangement::DENSE).unwrap();
    assert_eq!(rounded, [("Q6_K", Format::Q6K, true), ("Q4_K", Format::Q5_0, false)]);
    let error = became(&*source, Formats::all(Format::Q4K), Arrangement::DENSE).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight cannot be rounded to q4_k"), "{error}");
    let error = became(&*source, Formats::all(Format::Mxfp4), Arrangement::NEURON).unwrap_err().to_string();
    assert!(error.contains("cannot be stored as mxfp4 in this layout (its blocks lie in row-lines)"), "{error}");
}
