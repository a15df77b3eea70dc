//! A decoder in f64, slow and clear, straight from the models' definitions and sharing no code with the engine: reads
//! the Hugging Face tensors by name. The fixtures check it against PyTorch; it checks the engine where the fixtures do
//! not reach.

use serde_json::Value;
use std::collections::BTreeMap;

/// Named tensors with their shapes.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A Llama-like model (Llama, Mistral, Qwen2, Qwen3).
pub struct Llama<'a> {
    /// config.json.
    pub config: &'a Value,
    /// The weights.
    pub tensors: &'a Tensors,
}

type Row = Vec<f64>;

impl Llama<'_> {
    fn count(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
    }

    /// `w x + b` by name; the bias only if the model has one.
    fn linear(&self, name: &str, x: &[f64]) -> Row {
        let (shape, w) = &self.tensors[&format!("{name}.weight")];
        let bias = self.tensors.get(&format!("{name}.bias"));
        let dot =
            |r: usize| w[r * shape[1]..(r + 1) * shape[1]].iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        (0..shape[0]).map(|r| dot(r) + bias.map_or(0.0, |b| f64::from(b.1[r]))).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        let eps = self.config["rms_norm_eps"].as_f64().unwrap();
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let weights = &self.tensors[&format!("{name}.weight")].1;
        x.iter().zip(weights).map(|(v, w)| v / (mean + eps).sqrt() * f64::from(*w)).collect()
    }

    fn activation(&self, x: f64) -> f64 {
        match self.config["hidden_act"].as_str().unwrap() {
            "silu" => x / (1.0 + (-x).exp()),
            "relu" => x.max(0.0),
            "relu2" => x.max(0.0).powi(2),
            "gelu" => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            "gelu_new" => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            other => panic!("{other}"),
        }
    }

    /// Rotates pairs (i, i + dim / 2) of a head by position * theta^(-2i/dim), scaled linearly.
    fn rotate(&self, head: &mut [f64], position: usize) {
        let scaling = if self.config["rope_parameters"].is_object() {
            &self.config["rope_parameters"]
        } else {
            &self.config["rope_scaling"]
        };
        let theta = scaling["rope_theta"].as_f64().or(self.config["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let factor = scaling["factor"].as_f64().unwrap_or(1.0);
        let half = head.len() / 2;
        for i in 0..half {
            let angle = position as f64 * theta.powf(-(i as f64) / half as f64) / factor;
            let (a, b) = (head[i], head[i + half]);
            head[i] = a * angle.cos() - b * angle.sin();
            head[i + half] = b * angle.cos() + a * angle.sin();
        }
    }

    /// Logits of every token.
    pub fn logits(&self, ids: &[u32]) -> Vec<Row> {
        let (shape, embed) = &self.tensors["model.embed_tokens.weight"];
        let d = shape[1];
        let mut x: Vec<Row> =
            ids.iter().map(|id| embed[*id as usize * d..][..d].iter().map(|v| f64::from(*v)).collect()).collect();
        for layer in 0..self.count("num_hidden_layers") {
            let p = format!("model.layers.{layer}");
            let attention = self.attention(&p, &x);
            x.iter_mut().zip(attention).for_each(|(x, a)| x.iter_mut().zip(a).for_each(|(x, a)| *x += a));
            for row in &mut x {
                let n = self.norm(&format!("{p}.post_attention_layernorm"), row);
                let (gate, up) =
                    (self.linear(&format!("{p}.mlp.gate_proj"), &n), self.linear(&format!("{p}.mlp.up_proj"), &n));
                let h: Row = gate.iter().zip(up).map(|(g, u)| self.activation(*g) * u).collect();
                let down = self.linear(&format!("{p}.mlp.down_proj"), &h);
                row.iter_mut().zip(down).for_each(|(x, y)| *x += y);
            }
        }
        let head = if self.tensors.contains_key("lm_head.weight") { "lm_head" } else { "model.embed_tokens" };
        x.iter().map(|row| self.linear(head, &self.norm("model.norm", row))).collect()
    }

    fn attention(&self, p: &str, x: &[Row]) -> Vec<Row> {
        let heads = self.count("num_attention_heads");
        let kv_heads = self.count("num_key_value_heads");
        let dim = self.config["head_dim"].as_u64().map_or(self.count("hidden_size") / heads, |n| n as usize);
        let window = self.config["sliding_window"].as_u64().map_or(usize::MAX, |n| n as usize);
        let n: Vec<Row> = x.iter().map(|row| self.norm(&format!("{p}.input_layernorm"), row)).collect();
        let project = |name: &str| -> Vec<Row> {
            n.iter().map(|row| self.linear(&format!("{p}.self_attn.{name}_proj"), row)).collect()
        };
        let (mut q, mut k, v) = (project("q"), project("k"), project("v"));
        for (rows, norm) in [(&mut q, "q_norm"), (&mut k, "k_norm")] {
            let norm = format!("{p}.self_attn.{norm}");
            for (position, row) in rows.iter_mut().enumerate() {
                for head in row.chunks_exact_mut(dim) {
                    if self.tensors.contains_key(&format!("{norm}.weight")) {
                        head.copy_from_slice(&self.norm(&norm, head));
                    }
                    self.rotate(head, position);
                }
            }
        }
        (0..x.len())
            .map(|t| {
                let mut out = vec![0.0; heads * dim];
                for h in 0..heads {
                    let kv = h / (heads / kv_heads) * dim;
                    let from = (t + 1).saturating_sub(window);
                    let dot =
                        |s: usize| q[t][h * dim..][..dim].iter().zip(&k[s][kv..]).map(|(a, b)| a * b).sum::<f64>();
                    let weights: Row = (from..=t).map(|s| (dot(s) / (dim as f64).sqrt()).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for (s, w) in (from..=t).zip(weights) {
                        (0..dim).for_each(|i| out[h * dim + i] += w / sum * v[s][kv + i]);
                    }
                }
                self.linear(&format!("{p}.self_attn.o_proj"), &out)
            })
            .collect()
    }
}

/// Error function by its Taylor series, good to 1e-12 for the small arguments here.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
