//! GGUF files of the same models, with the names, keys and orders of rows of llama.cpp's converter.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use shadowllm_tests::gguf_bytes;
use std::collections::BTreeMap;
use std::path::Path;

/// Folders with the architectures of their GGUF files.
#[allow(dead_code)] // several tests compile this module, and some use it
pub const TWINS: &[(&str, &str)] = &[
    ("arcee", "arcee"),
    ("arcee-yarn", "arcee"),
    ("cohere2", "cohere2"),
    ("ernie4_5", "ernie4_5"),
    ("exaone4", "exaone4"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
    ("gpt2", "gpt2"),
    ("gpt_neox", "gptneox"),
    ("gpt_oss", "gpt-oss"),
    ("granite", "granite"),
    ("granitemoe", "granitemoe"),
    ("mixtral", "llama"),
    ("nemotron", "nemotron"),
    ("olmo2", "olmo2"),
    ("olmo3", "olmo2"),
    ("olmoe", "olmoe"),
    ("phi", "phi2"),
    ("phi3", "phi3"),
    ("phi4-mini", "phi3"),
    ("qwen2_moe", "qwen2moe"),
    ("qwen3_moe", "qwen3moe"),
    ("seed_oss", "seed_oss"),
    ("smallthinker", "smallthinker"),
    ("smollm3", "smollm3"),
    ("stablelm", "stablelm"),
    ("starcoder2", "starcoder2"),
];

/// Names of modules in Hugging Face folders, after the layer's, and in GGUF.
const NAMES: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("wte", "token_embd"),
    ("embed_in", "token_embd"),
    ("wpe", "position_embd"),
    ("norm", "output_norm"),
    ("ln_f", "output_norm"),
    ("final_layernorm", "output_norm"),
    ("final_layer_norm", "output_norm"),
    ("lm_head", "output"),
    ("embed_out", "output"),
    ("input_layernorm", "attn_norm"),
    ("ln_1", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("attn.c_attn", "attn_qkv"),
    ("attention.query_key_value", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("attn.c_proj", "attn_output"),
    ("attention.dense", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("post_attention_layernorm", "ffn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("ln_2", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("block_sparse_moe.experts.w1", "ffn_gate_exps"),
    ("block_sparse_moe.experts.w3", "ffn_up_exps"),
    ("block_sparse_moe.experts.w2", "ffn_down_exps"),
    ("block_sparse_moe.output_linear", "ffn_down_exps"),
    ("block_sparse_moe.primary_router", "ffn_gate_inp"),
    ("block_sparse_moe.experts.gate", "ffn_gate_exps"),
    ("block_sparse_moe.experts.up", "ffn_up_exps"),
    ("block_sparse_moe.experts.down", "ffn_down_exps"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];

/// Architectures whose queries and keys the converter permutes.
const PERMUTED: [&str; 5] = ["arcee", "granite", "granitemoe", "llama", "smollm3"];

#[derive(Clone)]
struct Tensor {
    /// Row-major: the last dimension is the length of a row.
    shape: Vec<usize>,
    numbers: Vec<f32>,
}

impl Tensor {
    /// Rows of all leading dimensions.
    fn rows(&self) -> usize {
        self.numbers.len() / self.width()
    }

    fn width(&self) -> usize {
        if self.shape.len() == 1 { 1 } else { self.shape[self.shape.len() - 1] }
    }

    /// These rows of a matrix, or these numbers of a vector.
    fn select(&self, rows: impl Iterator<Item = usize>) -> Tensor {
        let width = self.width();
        let numbers: Vec<f32> = rows.flat_map(|r| self.numbers[r * width..(r + 1) * width].to_vec()).collect();
        let mut shape = self.shape.clone();
        shape[0] = numbers.len() / width;
        Tensor { shape, numbers }
    }

    /// The last two dimensions exchanged.
    fn transposed(&self) -> Tensor {
        let (n, cols) = (self.shape.len(), self.width());
        let rows = self.shape[n - 2];
        let mut numbers = Vec::new();
        for matrix in self.numbers.chunks_exact(rows * cols) {
            (0..cols).for_each(|c| numbers.extend((0..rows).map(|r| matrix[r * cols + c])));
        }
        let mut shape = self.shape.clone();
        shape.swap(n - 2, n - 1);
        Tensor { shape, numbers }
    }

    /// Half-split heads to neighbouring pairs, as the converter's `permute` does.
    fn permuted(&self, heads: usize) -> Tensor {
        let dim = self.rows() / heads;
        self.select((0..self.rows()).map(|row| row / dim * dim + row % dim / 2 + row % 2 * (dim / 2)))
    }
}

fn read(folder: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView)| {
        assert_eq!(view.dtype(), Dtype::BF16);
        let numbers = view.data().as_chunks::<2>().0.iter();
        let numbers = numbers.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect();
        (name.to_owned(), Tensor { shape: view.shape().to_vec(), numbers })
    };
    all.iter().map(tensor).collect()
}

/// The parts of a tensor's name: a prefix for its layer, as in GGUF; its module, without numbers; `.weight`, `.bias` or
/// nothing.
fn split(name: &str) -> (String, String, String) {
    let parts: Vec<&str> = name.split('.').filter(|p| !["model", "transformer", "gpt_neox"].contains(p)).collect();
    let (prefix, parts) = match parts[..] {
        ["layers" | "h", layer, ..] => (format!("blk.{layer}."), &parts[2..]),
        _ => (String::new(), &parts[..]),
    };
    let module: Vec<&str> = parts.iter().copied().filter(|part| part.parse::<usize>().is_err()).collect();
    match module[..] {
        [.., last @ ("weight" | "bias")] => (prefix, module[..module.len() - 1].join("."), format!(".{last}")),
        _ => (prefix, module.join("."), String::new()),
    }
}

/// The tensors under their names in GGUF.
fn tensors(folder: &Path, arch: &str, c: &Value) -> BTreeMap<String, Tensor> {
    let n = |key: &str| c[key].as_u64().map(|n| n as usize);
    let heads = n("num_attention_heads").or(n("n_head")).unwrap();
    let kv_heads = n("num_key_value_heads").unwrap_or(heads);
    let mut out: BTreeMap<String, Tensor> = BTreeMap::new();
    let source = read(folder);
    // Experts in numerical order, because names sort 10 before 2.
    let mut names: Vec<&String> = source.keys().collect();
    let expert = |name: &str| name.split('.').filter_map(|part| part.parse::<usize>().ok()).nth(1).unwrap_or(0);
    names.sort_by_key(|name| expert(name));
    for name in names {
        let (prefix, module, suffix) = split(name);
        let mut t = source[name].clone();
        if arch == "gpt-oss" && module.starts_with("mlp.experts.") {
            gpt_oss_experts(&mut out, &prefix, &module, &t);
            continue;
        }
        if module == "block_sparse_moe.input_linear" {
            granite_experts(&mut out, &prefix, &t);
            continue;
        }
        let gguf = NAMES.iter().find(|row| row.0 == module).unwrap_or_else(|| panic!("{name}")).1;
        let after = ["gemma2", "gemma3", "olmo2", "exaone4", "gpt-oss"].contains(&arch);
        let gguf = if module == "post_attention_layernorm" && after { "post_attention_norm" } else { gguf };
        // Norms stored less 1 get 1 added, fused matrices of GPT-2 are transposed, those of GPT-NeoX sorted.
        if ["gemma", "gemma2", "gemma3", "nemotron"].contains(&arch) && name.ends_with("norm.weight") {
            t.numbers.iter_mut().for_each(|x| *x += 1.0);
        }
        if arch == "gpt2" && module.contains("c_") && suffix == ".weight" {
            t = t.transposed();
        }
        if module == "attention.query_key_value" {
            let (rows, dim) = (t.rows(), t.rows() / heads / 3);
            t = t.select((0..rows).map(|r| r % (rows / 3) / dim * 3 * dim + r / (rows / 3) * dim + r % dim));
        }
        t = match gguf {
            "attn_q" if PERMUTED.contains(&arch) => t.permuted(heads),
            "attn_k" if PERMUTED.contains(&arch) => t.permuted(kv_heads),
            _ => t,
        };
        let full = format!("{prefix}{gguf}{suffix}");
        match out.get_mut(&full).filter(|_| gguf.ends_with("_exps")) {
            Some(stack) => {
                stack.shape[0] += 1;
                stack.numbers.extend(t.numbers);
            }
            None if gguf.ends_with("_exps") && t.shape.len() == 2 => {
                t.shape.insert(0, 1);
                out.insert(full, t);
            }
            None => drop(out.insert(full, t)),
        }
    }
    out
}

/// Granite has the gates of an expert before its ups in one matrix.
fn granite_experts(out: &mut BTreeMap<String, Tensor>, prefix: &str, t: &Tensor) {
    let (experts, both, width) = (t.shape[0], t.shape[1], t.shape[2]);
    let flat = Tensor { shape: vec![experts * both, width], numbers: t.numbers.clone() };
    for (name, from) in [("ffn_gate_exps", 0), ("ffn_up_exps", both / 2)] {
        let rows = (0..experts * both / 2).map(|r| r / (both / 2) * both + from + r % (both / 2));
        let half = Tensor { shape: vec![experts, both / 2, width], ..flat.select(rows) };
        out.insert(format!("{prefix}{name}.weight"), half);
    }
}

/// gpt-oss has one matrix for all experts with inputs as rows, and gates and ups alternating.
fn gpt_oss_experts(out: &mut BTreeMap<String, Tensor>, prefix: &str, module: &str, t: &Tensor) {
    let (name, bias) = match module.strip_suffix("_bias") {
        Some(name) => (name, true),
        None => (module, false),
    };
    let suffix = if bias { "bias" } else { "weight" };
    let t = if bias { t.clone() } else { t.transposed() };
    if name == "mlp.experts.down_proj" {
        out.insert(format!("{prefix}ffn_down_exps.{suffix}"), t);
        return;
    }
    let (experts, both) = (t.shape[0], t.shape[1]);
    let width = if bias { 1 } else { t.shape[2] };
    let flat = Tensor { shape: vec![experts * both, width], numbers: t.numbers };
    for (name, odd) in [("ffn_gate_exps", 0), ("ffn_up_exps", 1)] {
        let half = flat.select((0..experts * both / 2).map(|row| 2 * row + odd));
        let shape = if bias { vec![experts, both / 2] } else { vec![experts, both / 2, width] };
        out.insert(format!("{prefix}{name}.{suffix}"), Tensor { shape, ..half });
    }
}

/// The metadata, and tensors that hold some of it.
fn metadata(arch: &str, c: &Value, out: &mut BTreeMap<String, Tensor>) -> Vec<Vec<u8>> {
    let mut entries = vec![gguf_bytes::string("general.architecture", arch)];
    let number = |keys: &[&str]| keys.iter().find_map(|key| c[*key].as_u64());
    let float = |keys: &[&str]| keys.iter().find_map(|key| c[*key].as_f64());
    let key = |key: &str| format!("{arch}.{key}");
    let counts = [
        ("block_count", number(&["num_hidden_layers", "n_layer"])),
        ("context_length", number(&["max_position_embeddings", "n_positions"])),
        ("embedding_length", number(&["hidden_size", "n_embd"])),
        ("feed_forward_length", number(&["intermediate_size"]).or(number(&["n_embd"]).map(|n| 4 * n))),
        ("attention.head_count", number(&["num_attention_heads", "n_head"])),
        ("attention.head_count_kv", number(&["num_key_value_heads"])),
        ("attention.key_length", number(&["head_dim"]).filter(|_| arch != "granite")),
        ("attention.sliding_window", number(&["sliding_window", "sliding_window_size"]).filter(|n| *n > 0)),
        ("expert_count", number(&["num_experts", "num_local_experts", "moe_num_primary_experts"])),
        ("expert_used_count", number(&["num_experts_per_tok", "moe_num_active_primary_experts"])),
        ("expert_feed_forward_length", number(&["moe_intermediate_size", "moe_ffn_hidden_size"])),
        ("expert_shared_feed_forward_length", number(&["shared_expert_intermediate_size"])),
    ];
    if arch == "smallthinker" {
        // The scores are sigmoids.
        entries.push(gguf_bytes::number(&key("expert_gating_func"), 2));
    }
    for (name, count) in counts {
        entries.extend(count.map(|n| gguf_bytes::number(&key(name), n as u32)));
    }
    let logits = if arch.starts_with("granite") { "logits_scaling" } else { "logit_scale" };
    let layer_eps = ["layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon"];
    let is_layer = ["cohere2", "gpt2", "gptneox", "nemotron", "phi2", "stablelm", "starcoder2"].contains(&arch);
    let floats = [
        ("attention.layer_norm_epsilon", float(&layer_eps).filter(|_| is_layer)),
        ("attention.layer_norm_rms_epsilon", float(&["rms_norm_eps"]).filter(|_| !is_layer)),
        ("attention.scale", float(&["attention_multiplier"])),
        ("embedding_scale", float(&["embedding_multiplier"])),
        ("residual_scale", float(&["residual_multiplier"])),
        ("logit_scale", float(&[logits])),
        ("attn_logit_softcapping", float(&["attn_logit_softcapping"])),
        ("final_logit_softcapping", float(&["final_logit_softcapping"])),
    ];
    let f32_entry = |name: &str, x: f64| gguf_bytes::entry(&key(name), 6, &(x as f32).to_le_bytes());
    for (name, x) in floats {
        entries.extend(x.map(|x| f32_entry(name, x)));
    }
    if arch == "gptneox" {
        entries.push(gguf_bytes::truth(&key("use_parallel_residual"), true));
    }
    if let (Some(types), true) = (c["layer_types"].as_array(), c["sliding_window"].as_u64().is_some_and(|n| n > 0)) {
        let slides: Vec<u8> = types.iter().map(|t| u8::from(t == "sliding_attention")).collect();
        let pattern = key("attention.sliding_window_pattern");
        entries.push(gguf_bytes::array(&pattern, 7, slides.len() as u64, &slides));
    }
    entries.extend(rotation(arch, c, out));
    entries
}

/// Keys of the rotation, and tensors of its divisors.
fn rotation(arch: &str, c: &Value, out: &mut BTreeMap<String, Tensor>) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let number = |keys: &[&str]| keys.iter().find_map(|key| c[*key].as_u64());
    let key = |key: &str| format!("{arch}.{key}");
    let f32_entry = |name: &str, x: f64| gguf_bytes::entry(&key(name), 6, &(x as f32).to_le_bytes());
    let all = &c["rope_parameters"];
    let rope = all.get("full_attention").unwrap_or(all);
    entries.extend(rope["rope_theta"].as_f64().or(c["rope_theta"].as_f64()).map(|x| f32_entry("rope.freq_base", x)));
    let heads = number(&["num_attention_heads", "n_head"]).unwrap();
    let dim = number(&["head_dim"]).unwrap_or(number(&["hidden_size", "n_embd"]).unwrap() / heads);
    let part = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    if arch != "gpt2" && arch != "gpt-oss" {
        entries.push(gguf_bytes::number(&key("rope.dimension_count"), (part * dim as f64) as u32));
    }
    let trained = rope["original_max_position_embeddings"].as_u64();
    match rope["rope_type"].as_str() {
        Some("yarn") => {
            entries.push(gguf_bytes::string(&key("rope.scaling.type"), "yarn"));
            entries.push(f32_entry("rope.scaling.factor", rope["factor"].as_f64().unwrap()));
            entries.push(f32_entry("rope.scaling.yarn_beta_fast", rope["beta_fast"].as_f64().unwrap()));
            entries.push(f32_entry("rope.scaling.yarn_beta_slow", rope["beta_slow"].as_f64().unwrap()));
        }
        Some("longrope") => {
            let (most, trained) = (c["max_position_embeddings"].as_f64().unwrap(), trained.unwrap() as f64);
            let factor = (1.0 + (most / trained).ln() / trained.ln()).sqrt();
            entries.push(gguf_bytes::string(&key("rope.scaling.type"), "longrope"));
            entries.push(f32_entry("rope.scaling.attn_factor", factor));
            for (name, list) in [("rope_factors_short", "short_factor"), ("rope_factors_long", "long_factor")] {
                let numbers: Vec<f32> =
                    rope[list].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
                out.insert(format!("{name}.weight"), Tensor { shape: vec![numbers.len()], numbers });
            }
        }
        _ => {}
    }
    entries.extend(trained.map(|n| gguf_bytes::number(&key("rope.scaling.original_context_length"), n as u32)));
    entries
}

/// The GGUF file of a folder.
#[allow(dead_code)] // as above
pub fn twin(folder: &Path, arch: &str) -> Vec<u8> {
    changed_twin(folder, arch, |_| {})
}

/// One of two parts of the GGUF file of a folder: all metadata and the tensors of all layers but the last, or the others.
#[allow(dead_code)] // as above
pub fn part(folder: &Path, arch: &str, entries: Vec<Vec<u8>>, second: bool) -> Vec<u8> {
    let change = |all: &mut Vec<Vec<u8>>| {
        if second {
            all.clear();
        }
        all.extend(entries);
    };
    file(folder, arch, change, &|name| name.starts_with("blk.2.") == second)
}

/// The GGUF file of a folder, its metadata changed.
pub fn changed_twin(folder: &Path, arch: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    file(folder, arch, change, &|_| true)
}

fn file(folder: &Path, arch: &str, change: impl FnOnce(&mut Vec<Vec<u8>>), wanted: &dyn Fn(&str) -> bool) -> Vec<u8> {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let mut tensors = tensors(folder, arch, &config);
    let mut entries = metadata(arch, &config, &mut tensors);
    change(&mut entries);
    let (mut descriptions, mut data) = (Vec::new(), Vec::new());
    for (name, t) in tensors.iter().filter(|(name, _)| wanted(name)) {
        let dims: Vec<u64> = t.shape.iter().rev().map(|n| *n as u64).collect();
        descriptions.push(gguf_bytes::tensor(name, &dims, 0, data.len() as u64));
        t.numbers.iter().for_each(|x| data.extend(x.to_le_bytes()));
        data.resize(usize::next_multiple_of(data.len(), 32), 0);
    }
    let mut file = gguf_bytes::file(&entries, &descriptions, 0);
    file.extend(data);
    file
}
