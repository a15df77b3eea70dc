//! Hugging Face folders with random weights, made during a test.

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A model to be written: configuration and named tensors.
pub struct Folder {
    /// config.json.
    pub config: Value,
    /// Shape and numbers by name.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Reproducible numbers, roughly normal.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 1.7
    }
}

/// Counts of a Llama-like or OPT model.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Residual width.
    pub d: usize,
    /// Neurons.
    pub ffn: usize,
    /// Heads, KV heads, head width.
    pub heads: [usize; 3],
    /// Vocabulary.
    pub vocab: usize,
    /// Layers.
    pub layers: usize,
}

impl Folder {
    fn add(&mut self, random: &mut Random, name: String, shape: &[usize], mean: f32) {
        let numbers = (0..shape.iter().product()).map(|_| mean + 0.15 * random.draw()).collect();
        self.tensors.insert(name, (shape.to_vec(), numbers));
    }

    /// A Llama-like model, with biases everywhere when `biases`, its output tied unless `lm_head`.
    pub fn llama(s: Shape, biases: bool, lm_head: bool, more: &Value) -> Folder {
        let [heads, kv, dim] = s.heads;
        let mut config = json!({
            "model_type": "llama", "hidden_size": s.d, "intermediate_size": s.ffn, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": dim, "num_hidden_layers": s.layers, "vocab_size": s.vocab,
            "max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "tie_word_embeddings": !lm_head, "attention_bias": biases, "mlp_bias": biases,
            "bos_token_id": 1, "eos_token_id": [2, 3],
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut f = Folder { config, tensors: BTreeMap::new() };
        let r = &mut Random(7);
        f.add(r, "model.embed_tokens.weight".into(), &[s.vocab, s.d], 0.0);
        f.add(r, "model.norm.weight".into(), &[s.d], 1.0);
        if lm_head {
            f.add(r, "lm_head.weight".into(), &[s.vocab, s.d], 0.0);
        }
        for l in 0..s.layers {
            let p = format!("model.layers.{l}.");
            f.add(r, format!("{p}input_layernorm.weight"), &[s.d], 1.0);
            f.add(r, format!("{p}post_attention_layernorm.weight"), &[s.d], 1.0);
            let maps = [
                ("self_attn.q_proj", heads * dim, s.d),
                ("self_attn.k_proj", kv * dim, s.d),
                ("self_attn.v_proj", kv * dim, s.d),
                ("self_attn.o_proj", s.d, heads * dim),
                ("mlp.gate_proj", s.ffn, s.d),
                ("mlp.up_proj", s.ffn, s.d),
                ("mlp.down_proj", s.d, s.ffn),
            ];
            for (name, rows, cols) in maps {
                f.add(r, format!("{p}{name}.weight"), &[rows, cols], 0.0);
                if biases {
                    f.add(r, format!("{p}{name}.bias"), &[rows], 0.0);
                }
            }
        }
        f
    }

    /// Writes config.json and the tensors in `shards` files, as `dtype` (F32, F16 or BF16).
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path, dtype: Dtype, shards: usize) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let encode = |x: &f32| match dtype {
            Dtype::F16 => half::f16::from_f32(*x).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from_f32(*x).to_le_bytes().to_vec(),
            _ => x.to_le_bytes().to_vec(),
        };
        let names: Vec<&String> = self.tensors.keys().collect();
        let mut map = serde_json::Map::new();
        for (i, part) in names.chunks(names.len().div_ceil(shards)).enumerate() {
            let file = if shards == 1 { "model.safetensors".into() } else { format!("model-{i}.safetensors") };
            let bytes: Vec<Vec<u8>> =
                part.iter().map(|n| self.tensors[*n].1.iter().flat_map(encode).collect()).collect();
            let views = part.iter().zip(&bytes).map(|(name, bytes)| {
                map.insert((*name).clone(), json!(file));
                (*name, TensorView::new(dtype, self.tensors[*name].0.clone(), bytes).unwrap())
            });
            std::fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        }
        if shards > 1 {
            let index = json!({ "weight_map": map }).to_string();
            std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        }
    }
}
