//! A GGUF file as a model to pack: the architectures llama (Llama and Mistral), qwen2 and qwen3.

use super::dequant::dequantize;
use super::{Gguf, special_tokens, tokenizer_json};
use crate::import::hf_config::{PLAIN, scale};
use crate::import::{Data, Source, SourceTensor, Spec, end_tokens, pre_norm, rope};
use memmap2::Mmap;
use serde_json::json;
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{Attention, Globals, Layer, MAX_LAYERS, Mlp, Norm, Norming};
use shadowllm_core::kernels::Activation;
use shadowllm_host::map::map;
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// A GGUF file.
pub struct GgufSource {
    path: PathBuf,
    bytes: Mmap,
    gguf: Gguf,
    spec: Spec,
}

impl GgufSource {
    /// Opens a file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = map(path)?;
        let gguf = Gguf::parse(&bytes).map_err(|e| Error::file(path, e))?;
        let spec = spec(&gguf, &bytes).map_err(|e| Error::file(path, e))?;
        Ok(GgufSource { path: path.to_owned(), bytes, gguf, spec })
    }

    /// Width of the heads.
    fn head_dim(&self) -> usize {
        self.spec.layers.first().and_then(Layer::attention).map_or(0, |a| a.head_dim)
    }

    /// The parsed header.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }
}

fn lacks(key: &str) -> String {
    format!("the file lacks {key}; is it a whole language model? convert it anew")
}

fn spec(g: &Gguf, bytes: &[u8]) -> std::result::Result<Spec, String> {
    let family = g.str("general.architecture").ok_or_else(|| lacks("general.architecture"))?;
    if !["llama", "qwen2", "qwen3"].contains(&family) {
        return Err(format!("architecture {family} is not supported (llama, qwen2 and qwen3 are)"));
    }
    if g.u64(&format!("{family}.expert_count")).unwrap_or(0) > 0 {
        return Err("mixture-of-experts models are not supported".into());
    }
    let maybe = |key: &str| g.u64(&format!("{family}.{key}")).and_then(|n| usize::try_from(n).ok());
    let count = |key: &str| maybe(key).ok_or_else(|| lacks(&format!("{family}.{key}")));
    let number = |key: &str| g.f64(&format!("{family}.{key}"));
    let (d_model, heads) = (count("embedding_length")?, count("attention.head_count")?);
    let head_dim = maybe("attention.key_length").unwrap_or(d_model.checked_div(heads).unwrap_or(0));
    let vocab = g.tensor("token_embd.weight").map_err(|e| format!("the token embedding: {e}"))?.rows();
    let special = special_tokens(g);
    let (eos, eos_len) = end_tokens(&special.eos);
    let eps = number("attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32;
    let norm = Norm { kind: Norming::Rms, eps };
    let attention = Attention {
        heads,
        kv_heads: maybe("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        window: maybe("attention.sliding_window").unwrap_or(0),
        rope: Some(0),
        head_norm_eps: eps,
        scale: scale(head_dim),
        ..Attention::NONE
    };
    let mlp = Mlp { neurons: count("feed_forward_length")?, gated: true, activation: Activation::Silu, ..PLAIN };
    let globals = Globals {
        d_model,
        d_embed: d_model,
        layers: count("block_count")?,
        vocab,
        max_positions: count("context_length")?,
        ropes: 1,
        final_norm: Some(norm),
        bos: special.bos,
        eos,
        eos_len,
        ..Globals::NONE
    };
    let layers = vec![pre_norm(norm, attention, mlp); globals.layers.min(MAX_LAYERS)];
    let spec = Spec { family: family.into(), globals, layers, ropes: Vec::new() }.check()?;
    let ropes = vec![frequencies(g, bytes, head_dim, &number)?];
    Ok(Spec { ropes, ..spec }.with_tensors(&|role, layer| name(role, layer).is_some_and(|n| g.has_tensor(&n))))
}

/// Inverse frequencies: linear scaling is in the metadata, Llama 3's in a tensor of divisors.
fn frequencies(
    g: &Gguf,
    bytes: &[u8],
    head_dim: usize,
    number: &dyn Fn(&str) -> Option<f64>,
) -> std::result::Result<Vec<f32>, String> {
    let family = g.str("general.architecture").unwrap_or_default();
    if number("rope.dimension_count").is_some_and(|n| n != head_dim as f64) {
        return Err("partial rotation (rope.dimension_count other than the head's) is not supported".into());
    }
    let kind = g.str(&format!("{family}.rope.scaling.type")).unwrap_or("none");
    let factor = number("rope.scaling.factor").unwrap_or(1.0);
    let parameters = match kind {
        "none" => json!({}),
        "linear" => json!({ "rope_type": "linear", "factor": factor }),
        other => return Err(format!("RoPE scaling of type {other} is not supported (none and linear are)")),
    };
    let base = rope::frequencies(number("rope.freq_base").unwrap_or(10_000.0), head_dim);
    let mut all = rope::scale(base, &parameters)?;
    if g.has_tensor("rope_freqs.weight") {
        let t = g.tensor("rope_freqs.weight")?;
        if t.columns() != all.len() {
            return Err(format!("tensor rope_freqs.weight has {} entries, {} are needed", t.columns(), all.len()));
        }
        let mut divisors = vec![1.0; all.len()];
        dequantize(t.kind, &bytes[t.range], &mut divisors)?;
        all.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d);
    }
    Ok(all)
}

/// Name of a tensor in GGUF.
fn name(role: Role, layer: usize) -> Option<String> {
    let name = match role {
        Role::Embed => "token_embd.weight",
        Role::FinalNorm => "output_norm.weight",
        Role::Output => "output.weight",
        Role::AttnNorm => "attn_norm.weight",
        Role::Q => "attn_q.weight",
        Role::QBias => "attn_q.bias",
        Role::K => "attn_k.weight",
        Role::KBias => "attn_k.bias",
        Role::V => "attn_v.weight",
        Role::VBias => "attn_v.bias",
        Role::O => "attn_output.weight",
        Role::OBias => "attn_output.bias",
        Role::QNorm => "attn_q_norm.weight",
        Role::KNorm => "attn_k_norm.weight",
        Role::FfnNorm => "ffn_norm.weight",
        Role::Gate => "ffn_gate.weight",
        Role::GateBias => "ffn_gate.bias",
        Role::Up => "ffn_up.weight",
        Role::UpBias => "ffn_up.bias",
        Role::Down => "ffn_down.weight",
        Role::DownBias => "ffn_down.bias",
        _ => return None,
    };
    Some(if role.in_layers() { format!("blk.{layer}.{name}") } else { name.to_owned() })
}

impl Source for GgufSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        let Some(name) = name(role, layer).filter(|n| self.gguf.has_tensor(n)) else { return Ok(None) };
        let t = self.gguf.tensor(&name).map_err(|e| Error::file(&self.path, e))?;
        let (rows, cols) = (t.rows(), t.columns());
        // llama.cpp stores Llama's rotated heads with their halves interleaved.
        let rotated = matches!(role, Role::Q | Role::K | Role::QBias | Role::KBias);
        let interleaved = (rotated && self.spec.family == "llama").then(|| self.head_dim());
        let data = Data::Bytes { kind: t.kind, bytes: &self.bytes[t.range] };
        Ok(Some(SourceTensor { name, rows, cols, data, interleaved }))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        if self.gguf.str("tokenizer.ggml.model").is_none_or(|m| m == "no_vocab" || m == "none") {
            return Ok(None);
        }
        tokenizer_json(&self.gguf).map(Some).map_err(|e| Error::file(&self.path, e))
    }

    fn chat(&self) -> Result<Template> {
        let special = special_tokens(&self.gguf);
        let token = |id: Option<u32>| {
            let tokens = self.gguf.strings("tokenizer.ggml.tokens").unwrap_or_default();
            id.and_then(|id| tokens.get(id as usize)).cloned().unwrap_or_default()
        };
        Ok(Template {
            source: special.chat_template.unwrap_or_default(),
            bos_token: token(special.bos),
            eos_token: token(special.eos.first().copied()),
        })
    }

    fn origin(&self) -> String {
        let file = self.path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
        format!("GGUF file {file} ({})", self.gguf.str("general.name").unwrap_or("unnamed"))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
