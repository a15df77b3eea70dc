//! `config.json` of Hugging Face models, in both styles: `rope_theta` + `rope_scaling` + `torch_dtype`, and
//! the newer `rope_parameters` + `dtype`.

use super::{Spec, end_tokens, pre_norm, rope};
use serde_json::{Map, Value};
use shadowllm_core::image::Positions;
use shadowllm_core::image::arch::{Attention, Globals, MAX_LAYERS, Mlp, Norm, Norming, Norms};
use shadowllm_core::kernels::Activation;

/// Families that can be read.
pub const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "opt"];

struct Reader<'a>(&'a Map<String, Value>);

impl Reader<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn count(&self, key: &str) -> Result<usize, String> {
        self.count_or_none(key)?.ok_or_else(|| lacks(key))
    }

    fn count_or_none(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
        n.map(Some).ok_or_else(|| format!("{key} is {value}, not a count"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| format!("{key} is {value}, not true or false"))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| format!("{key} is {value}, not a number"))
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.value(key) {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn lacks(key: &str) -> String {
    format!("lacks {key}; is it the config.json of a whole language model?")
}

/// Reads the configuration.
///
/// # Errors
/// A sentence naming the field.
pub fn parse(json: &str) -> Result<Spec, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("is not JSON: {e}; download it again"))?;
    let r = Reader(value.as_object().ok_or("is not a JSON object")?);
    let family = r.value("model_type").and_then(Value::as_str).ok_or_else(|| lacks("model_type"))?;
    if !FAMILIES.contains(&family) {
        return Err(format!("model_type {family} is not supported (these are: {})", FAMILIES.join(", ")));
    }
    if let Some(how) = r.value("quantization_config") {
        let how = how.get("quant_method").and_then(Value::as_str).unwrap_or("some method");
        return Err(format!("the model is quantized by {how}, which is not supported: take the one it was made from"));
    }
    if family == "opt" { opt(&r) } else { llama_like(&r, family) }
}

fn activation(r: &Reader, key: &str) -> Result<Activation, String> {
    let name = r.value(key).and_then(Value::as_str).ok_or_else(|| lacks(key))?;
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        "relu2" | "relu_squared" => Ok(Activation::Relu2),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(format!("{key} {other} is not supported (silu, relu, relu2, gelu, gelu_new are)")),
    }
}

fn opt(r: &Reader) -> Result<Spec, String> {
    let (d_model, heads) = (r.count("hidden_size")?, r.count("num_attention_heads")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(format!("hidden_size {d_model} is not a multiple of num_attention_heads {heads}"));
    }
    let pre = r.flag("do_layer_norm_before", true)?;
    if pre && r.flag("_remove_final_layer_norm", false)? {
        return Err("_remove_final_layer_norm together with do_layer_norm_before is not supported".into());
    }
    let d_embed = r.count_or_none("word_embed_proj_dim")?.unwrap_or(d_model);
    let norm = Norm { kind: Norming::Layer, eps: 1e-5 };
    let attention = Attention {
        heads,
        kv_heads: heads,
        head_dim: d_model / heads,
        scale: scale(d_model / heads),
        ..Attention::NONE
    };
    let mlp = Mlp { neurons: r.count("ffn_dim")?, activation: activation(r, "activation_function")?, ..PLAIN };
    let mut layer = pre_norm(norm, attention, mlp);
    if !pre {
        for block in layer.blocks.iter_mut().flatten() {
            block.norms = Norms { stream: Some(norm), ..Norms::default() };
        }
    }
    let globals =
        Globals { final_norm: pre.then_some(norm), positions: Positions::Learned, ..globals(r, d_model, d_embed)? };
    Spec { family: "opt".into(), layers: vec![layer; globals.layers.min(MAX_LAYERS)], globals, ropes: Vec::new() }
        .check()
}

/// The factor of attention's scores: 1 / sqrt(head_dim).
pub(super) fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// A feed-forward network whose neurons are skipped in groups of 32.
pub(super) const PLAIN: Mlp = Mlp { group: 32, ..Mlp::NONE };

fn globals(r: &Reader, d_model: usize, d_embed: usize) -> Result<Globals, String> {
    let (eos, eos_len) = end_tokens(&r.ids("eos_token_id"));
    Ok(Globals {
        d_model,
        d_embed,
        layers: r.count("num_hidden_layers")?,
        vocab: r.count("vocab_size")?,
        max_positions: r.count("max_position_embeddings")?,
        bos: r.ids("bos_token_id").first().copied(),
        eos,
        eos_len,
        ..Globals::NONE
    })
}

fn llama_like(r: &Reader, family: &str) -> Result<Spec, String> {
    let (d_model, heads) = (r.count("hidden_size")?, r.count("num_attention_heads")?);
    let head_dim = match r.count_or_none("head_dim")? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(format!("hidden_size {d_model} is not a multiple of num_attention_heads {heads}")),
    };
    let norm = Norm { kind: Norming::Rms, eps: r.number("rms_norm_eps", 1e-6)? as f32 };
    let attention = Attention {
        heads,
        kv_heads: r.count_or_none("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rope: Some(0),
        head_norm_eps: norm.eps,
        scale: scale(head_dim),
        ..Attention::NONE
    };
    let mlp =
        Mlp { neurons: r.count("intermediate_size")?, gated: true, activation: activation(r, "hidden_act")?, ..PLAIN };
    let globals = Globals { ropes: 1, final_norm: Some(norm), ..globals(r, d_model, d_model)? };
    let windows = windows(r, family, globals.layers)?;
    let layer = |layer: usize| pre_norm(norm, Attention { window: windows(layer), ..attention }, mlp);
    let layers = (0..globals.layers.min(MAX_LAYERS)).map(layer).collect();
    // Before anything of such a size is made.
    let spec = Spec { family: family.into(), globals, layers, ropes: Vec::new() }.check()?;
    Ok(Spec { ropes: vec![rope_of(r, head_dim)?], ..spec })
}

/// The sliding window of each layer, 0 for none.
fn windows(r: &Reader, family: &str, layers: usize) -> Result<impl Fn(usize) -> usize, String> {
    let size = r.count_or_none("sliding_window")?.unwrap_or(0);
    let used = r.flag("use_sliding_window", family == "mistral")?;
    let from = if family == "mistral" { 0 } else { r.count_or_none("max_window_layers")?.unwrap_or(0) };
    let types = r.value("layer_types").and_then(Value::as_array);
    let types: Option<Vec<bool>> =
        types.map(|types| types.iter().map(|t| t.as_str() == Some("sliding_attention")).collect());
    if types.as_ref().is_some_and(|t| t.len() < layers) {
        return Err(format!("layer_types has fewer entries than num_hidden_layers ({layers})"));
    }
    Ok(move |layer: usize| {
        let slides = types.as_ref().map_or(layer >= from, |types| types[layer]);
        if used && slides { size } else { 0 }
    })
}

fn rope_of(r: &Reader, head_dim: usize) -> Result<Vec<f32>, String> {
    let parameters = r.value("rope_parameters").or_else(|| r.value("rope_scaling")).unwrap_or(&Value::Null);
    if r.number("partial_rotary_factor", 1.0)? != 1.0 {
        return Err("partial_rotary_factor other than 1 is not supported".into());
    }
    let theta = match parameters.as_object() {
        Some(own) => Reader(own).number("rope_theta", r.number("rope_theta", 10_000.0)?)?,
        None if parameters.is_null() => r.number("rope_theta", 10_000.0)?,
        None => return Err(format!("the RoPE parameters are {parameters}, not an object")),
    };
    if theta <= 0.0 {
        return Err(format!("rope_theta {theta} is not positive"));
    }
    rope::scale(rope::frequencies(theta, head_dim), parameters)
}
