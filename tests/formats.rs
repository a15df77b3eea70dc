//! Every number format end to end: the packed weights, read back slowly, run in the f64 reference, must
//! give what the kernels give, up to the 8-bit rounding of their inputs.

use shadowllm_core::image::Role;
use shadowllm_core::{Format, KvFormat};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::reference::{Llama, Tensors};
use shadowllm_tests::{Reading, logits, on_every_isa, pack_to, same_bits};

const SHAPE: Shape = Shape { d: 64, ffn: 96, heads: [4, 2, 32], vocab: 96, layers: 2 };

/// The folder's tensors, with every matrix replaced by the weights in the image.
fn read_back(folder: &Folder, model: &LoadedModel) -> Tensors {
    let mut tensors = folder.tensors.clone();
    let names = [
        (Role::Q, "self_attn.q_proj"),
        (Role::K, "self_attn.k_proj"),
        (Role::V, "self_attn.v_proj"),
        (Role::O, "self_attn.o_proj"),
        (Role::Gate, "mlp.gate_proj"),
        (Role::Up, "mlp.up_proj"),
        (Role::Down, "mlp.down_proj"),
    ];
    let mut replace = |role: Role, layer: usize, name: String| {
        let m = model.model().image().matrix(role, layer).unwrap();
        let (shape, x) = tensors.get_mut(&name).unwrap();
        for (i, x) in x.iter_mut().enumerate() {
            let (row, col) = (i / shape[1], i % shape[1]);
            *x = m.block(row, col / 32)[col % 32];
        }
    };
    for layer in 0..SHAPE.layers {
        for (kind, name) in names {
            replace(kind, layer, format!("model.layers.{layer}.{name}.weight"));
        }
    }
    replace(Role::Embed, 0, "model.embed_tokens.weight".into());
    replace(Role::Output, 0, "lm_head.weight".into());
    tensors
}

#[test]
fn the_kernels_compute_with_the_packed_weights() {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::llama(SHAPE, true, true, &serde_json::json!({}));
    folder.write(temp.path(), safetensors::Dtype::F32, 1);
    let ids: Vec<u32> = (0..40).map(|i| i * 29 % 96).collect();
    let pool = Pool::new(2).unwrap();
    // Formats without an encoder are tested with GGUF files (gguf/carry_over.rs).
    for format in Format::ALL.into_iter().filter(|f| f.has_encoder()) {
        let image = temp.path().join(format!("{}.sllm", format.name()));
        pack_to(temp.path(), format, &image);
        let mut first: Option<Vec<f32>> = None;
        for (isa, model) in on_every_isa(&image) {
            let expected = Llama { config: &folder.config, tensors: &read_back(&folder, &model) }.logits(&ids).concat();
            for reading in [Reading::Prefill(40), Reading::Prefill(9), Reading::Decode] {
                let got = logits(&model, &pool, &ids, KvFormat::F32, reading);
                let case = format!("{}, {isa:?}, {reading:?}", format.name());
                let error: f64 = got.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
                let power: f64 = expected.iter().map(|x| x * x).sum();
                // Inputs are rounded to 8 bits by block, by about 1/250 each, independently, a dozen times in sequence.
                let limit = if format.takes_int8() { 0.03 } else { 1e-5 };
                assert!((error / power).sqrt() < limit, "{case}: relative error {}", (error / power).sqrt());
                assert!(same_bits(&got, first.get_or_insert_with(|| got.clone())), "{case}: other bits");
            }
        }
    }
}
