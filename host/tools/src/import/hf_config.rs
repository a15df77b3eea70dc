//! `config.json` of Hugging Face models, in both styles: `rope_theta` + `rope_scaling` + `torch_dtype`, and
//! the newer `rope_parameters` + `dtype`.

use super::{Spec, check, rope};
use serde_json::{Map, Value};
use shadowllm_core::image::{Config, MAX_EOS, Norm, Positions};
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

fn eos(r: &Reader) -> ([u32; MAX_EOS], usize) {
    let ids = r.ids("eos_token_id");
    let len = ids.len().min(MAX_EOS);
    let mut eos = [0; MAX_EOS];
    eos[..len].copy_from_slice(&ids[..len]);
    (eos, len)
}

fn opt(r: &Reader) -> Result<Spec, String> {
    let (d_model, heads) = (r.count("hidden_size")?, r.count("num_attention_heads")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(format!("hidden_size {d_model} is not a multiple of num_attention_heads {heads}"));
    }
    let pre_norm = r.flag("do_layer_norm_before", true)?;
    if pre_norm && r.flag("_remove_final_layer_norm", false)? {
        return Err("_remove_final_layer_norm together with do_layer_norm_before is not supported".into());
    }
    let (eos, eos_len) = eos(r);
    let config = Config {
        d_model,
        d_embed: r.count_or_none("word_embed_proj_dim")?.unwrap_or(d_model),
        layers: r.count("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim: d_model / heads,
        ffn: r.count("ffn_dim")?,
        vocab: r.count("vocab_size")?,
        max_positions: r.count("max_position_embeddings")?,
        window: 0,
        window_from: 0,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        pre_norm,
        gated: false,
        activation: activation(r, "activation_function")?,
        positions: Positions::Learned,
        neuron_group: 32,
        attention_by_input: false,
        ffn_by_input: false,
        bos: r.ids("bos_token_id").first().copied(),
        eos,
        eos_len,
    };
    check(&config)?;
    Ok(Spec { family: "opt".into(), config, rope: Vec::new() })
}

fn llama_like(r: &Reader, family: &str) -> Result<Spec, String> {
    let (d_model, heads) = (r.count("hidden_size")?, r.count("num_attention_heads")?);
    let head_dim = match r.count_or_none("head_dim")? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(format!("hidden_size {d_model} is not a multiple of num_attention_heads {heads}")),
    };
    let layers = r.count("num_hidden_layers")?;
    let (window, window_from) = window(r, family, layers)?;
    let (eos, eos_len) = eos(r);
    let config = Config {
        d_model,
        d_embed: d_model,
        layers,
        heads,
        kv_heads: r.count_or_none("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: r.count("intermediate_size")?,
        vocab: r.count("vocab_size")?,
        max_positions: r.count("max_position_embeddings")?,
        window,
        window_from,
        norm: Norm::Rms,
        norm_eps: r.number("rms_norm_eps", 1e-6)? as f32,
        pre_norm: true,
        gated: true,
        activation: activation(r, "hidden_act")?,
        positions: Positions::Rope,
        neuron_group: 32,
        attention_by_input: false,
        ffn_by_input: false,
        bos: r.ids("bos_token_id").first().copied(),
        eos,
        eos_len,
    };
    // Before anything of such a size is made.
    check(&config)?;
    Ok(Spec { family: family.into(), config, rope: rope_of(r, head_dim)? })
}

/// The sliding window and the first layer that has it.
fn window(r: &Reader, family: &str, layers: usize) -> Result<(usize, usize), String> {
    let size = r.count_or_none("sliding_window")?.unwrap_or(0);
    let used = r.flag("use_sliding_window", family == "mistral")? && size > 0;
    let mut from = if family == "mistral" { 0 } else { r.count_or_none("max_window_layers")?.unwrap_or(0) };
    if let Some(types) = r.value("layer_types").and_then(Value::as_array) {
        let sliding: Vec<bool> = types.iter().map(|t| t.as_str() == Some("sliding_attention")).collect();
        from = sliding.iter().position(|s| *s).unwrap_or(layers);
        if sliding[from.min(sliding.len())..].iter().any(|s| !s) {
            return Err("layer_types mixes full attention behind sliding attention, which is not supported".into());
        }
    }
    Ok(if used && from < layers { (size, from) } else { (0, 0) })
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
