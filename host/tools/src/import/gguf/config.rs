//! The metadata of a GGUF file, as a configuration with the names of `config.json`.

use super::parts::Parts;
use super::{Array, Gguf, Value as Meta, special_tokens};
use crate::import::config::Config;
use crate::import::families::Family;
use serde_json::{Map, Value, json};
use shadowllm_core::image::arch::MAX_LAYERS;

/// Names in `config.json`, and the keys in GGUF after the architecture's name.
const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("sliding_window", "attention.sliding_window"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("attention_multiplier", "attention.scale"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("use_parallel_residual", "use_parallel_residual"),
    ("clip_qkv", "attention.clamp_kqv"),
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ("norm_topk_prob", "expert_weights_norm"),
    ("routed_scaling_factor", "expert_weights_scale"),
    ("expert_gating_func", "expert_gating_func"),
];

/// Keys that have an entry for each layer in some files; if all entries are equal, they are read as one number.
const MAY_BE_ARRAYS: &[&str] = &["intermediate_size", "num_attention_heads", "num_key_value_heads"];

/// Reads the configuration of a model of this family.
///
/// # Errors
/// A sentence that names the key or the tensor.
pub fn config(parts: &Parts, family: &Family, vocab: usize) -> Result<Config, String> {
    let g = parts.head();
    let arch = g.str("general.architecture").unwrap_or_default();
    let key = |name: &str| format!("{arch}.{name}");
    let eps = if family.norm == shadowllm_core::image::arch::Norming::Rms { "rms_epsilon" } else { "epsilon" };
    let eps = format!("attention.layer_norm_{eps}");
    // llama.cpp divides the logits of Granite and MiniCPM by this value, and multiplies those of other families by it.
    let logits =
        if matches!(family.name, "granite" | "granitemoe" | "minicpm") { "logits_scaling" } else { "logit_scale" };
    let rows = KEYS.iter().copied().chain([(family.eps.0, eps.as_str()), (logits, "logit_scale")]);
    supported(g, arch)?;
    let mut values = Map::new();
    let mut names = Vec::new();
    for (name, theirs) in rows {
        let theirs = key(theirs);
        if let Some(value) = g.value(&theirs) {
            let value =
                if MAY_BE_ARRAYS.contains(&name) { one_of_equal(&theirs, value)? } else { json_of(&theirs, value)? };
            values.insert(name.into(), value);
        }
        names.push((name.to_owned(), theirs));
    }
    if values.contains_key("sliding_window") {
        values.insert("use_sliding_window".into(), true.into());
    }
    let pattern = key("attention.sliding_window_pattern");
    match g.value(&pattern) {
        Some(Meta::Array(Array::Bool(slides))) => {
            let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
            values.insert("layer_types".into(), slides.iter().map(name).collect());
        }
        Some(value) => drop(values.insert("sliding_window_pattern".into(), json_of(&pattern, value)?)),
        None => {}
    }
    values.insert("vocab_size".into(), vocab.into());
    let special = special_tokens(g);
    values.insert("bos_token_id".into(), json!(special.bos));
    values.insert("eos_token_id".into(), json!(special.eos));
    rotation(parts, family, &mut values)?;
    let short = if parts.has("rope_freqs.weight") { "rope_freqs.weight" } else { "rope_factors_short.weight" };
    names.extend(
        [("short_factor", short), ("long_factor", "rope_factors_long.weight")].map(|(a, b)| (a.into(), b.into())),
    );
    Ok(Config::new(values, names, ["the file lacks ", "; is it a whole language model? convert it again"]))
}

/// The value of a key as JSON, which takes many times the memory of a number: of short lists only.
fn json_of(key: &str, value: &Meta) -> Result<Value, String> {
    let long = |len: usize| match len > MAX_LAYERS {
        true => {
            Err(format!("{key} has {len} entries, one for each of at most {MAX_LAYERS} layers; is the file damaged?"))
        }
        false => Ok(()),
    };
    match value {
        Meta::Array(Array::Bytes(list, _)) => long(list.len())?,
        Meta::Array(Array::Unsigned(list)) => long(list.len())?,
        Meta::Array(Array::Signed(list)) => long(list.len())?,
        Meta::Array(Array::Float(list)) => long(list.len())?,
        Meta::Array(Array::Bool(list)) => long(list.len())?,
        _ => {}
    }
    let floats = match value {
        Meta::Float(x) => std::slice::from_ref(x),
        Meta::Array(Array::Float(list)) => list,
        _ => &[],
    };
    finite(key, floats)?;
    Ok(match value {
        Meta::Unsigned(n) => json!(n),
        Meta::Signed(n) => json!(n),
        Meta::Float(x) => json!(x),
        Meta::Bool(b) => json!(b),
        Meta::String(s) => json!(s),
        Meta::Array(Array::Bytes(list, false)) => json!(list),
        Meta::Array(Array::Bytes(list, true)) => list.iter().map(|n| *n as i8).collect(),
        Meta::Array(Array::Unsigned(list)) => json!(list),
        Meta::Array(Array::Signed(list)) => json!(list),
        Meta::Array(Array::Float(list)) => json!(list),
        Meta::Array(Array::Bool(list)) => json!(list),
        Meta::Array(_) => Value::Array(Vec::new()),
    })
}

/// Refuses what is no number, which JSON would take for a missing value.
pub fn finite(key: &str, numbers: &[f64]) -> Result<(), String> {
    match numbers.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(format!("{key} is {x}, which is not a finite number; is the file damaged?")),
        None => Ok(()),
    }
}

/// What the families have no room for, so that the model would be another one in silence.
fn supported(g: &Gguf, arch: &str) -> Result<(), String> {
    let key = |name: &str| format!("{arch}.{name}");
    if g.bool(&key("attention.causal")) == Some(false) {
        let key = key("attention.causal");
        return Err(format!("{key} is false: the model reads whole texts, for embeddings, and does not continue them"));
    }
    let [keys, values] = ["attention.key_length", "attention.value_length"].map(|name| g.f64(&key(name)));
    if let (Some(keys), Some(values)) = (keys, values)
        && keys != values
    {
        return Err(format!("keys of {keys} numbers with values of {values} are not supported"));
    }
    Ok(())
}

/// The number that all entries of an array are equal to.
fn one_of_equal(key: &str, value: &Meta) -> Result<Value, String> {
    let value = json_of(key, value)?;
    let Value::Array(list) = &value else { return Ok(value) };
    match list.first() {
        Some(first) if list.iter().all(|n| n == first) => Ok(first.clone()),
        _ => Err(format!("{key} differs between layers, which is not supported")),
    }
}

/// Scaling and extent of the rotation, from keys and from tensors of divisors.
fn rotation(parts: &Parts, family: &Family, values: &mut Map<String, Value>) -> Result<(), String> {
    let g = parts.head();
    let arch = g.str("general.architecture").unwrap_or_default();
    for key in ["scaling.factor", "scale_linear", "scaling.attn_factor", "scaling.yarn_attn_factor"] {
        let key = format!("{arch}.rope.{key}");
        finite(&key, g.f64(&key).as_slice())?;
    }
    let number = |key: &str| g.f64(&format!("{arch}.rope.{key}"));
    let heads = values.get("num_attention_heads").and_then(Value::as_u64).unwrap_or(0);
    let width = values.get("hidden_size").and_then(Value::as_u64).and_then(|d| d.checked_div(heads));
    let head_dim = values.get("head_dim").and_then(Value::as_u64).or(width).unwrap_or(0);
    if let Some(rotated) = number("dimension_count").filter(|_| head_dim > 0) {
        if rotated > head_dim as f64 {
            return Err(format!("{arch}.rope.dimension_count {rotated} is more than a head has ({head_dim})"));
        }
        values.insert("partial_rotary_factor".into(), json!(rotated / head_dim as f64));
    }
    // Older files have only a factor, for linear scaling.
    let factor = number("scaling.factor").or_else(|| number("scale_linear")).unwrap_or(1.0);
    let said = g.str(&format!("{arch}.rope.scaling.type"));
    let kind = said.unwrap_or(if factor == 1.0 { "none" } else { "linear" });
    let (all, short) = (parts.numbers("rope_freqs.weight")?, parts.numbers("rope_factors_short.weight")?);
    let long = parts.numbers("rope_factors_long.weight")?;
    let trained = number("scaling.original_context_length");
    // llama.cpp's default.
    let or_most = trained.or_else(|| values.get("max_position_embeddings")?.as_f64()).map(|n| n as u64);
    let beta = temperature(g, arch, family)?;
    let mut parameters = match (kind, short, all) {
        ("none" | "longrope", Some(short), _) => json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": number("scaling.attn_factor"),
            "original_max_position_embeddings": trained.map(|n| n as u64),
        }),
        ("none", None, Some(all)) => json!({ "rope_type": "longrope", "short_factor": all, "attention_factor": 1.0 }),
        ("none", None, None) if beta.is_none() => return Ok(()),
        ("none", None, None) => json!({ "rope_type": "default", "original_max_position_embeddings": or_most }),
        ("linear", None, None) => json!({ "rope_type": "linear", "factor": factor }),
        ("yarn", None, None) => json!({
            "rope_type": "yarn", "factor": factor,
            "original_max_position_embeddings": or_most,
            "beta_fast": number("scaling.yarn_beta_fast"), "beta_slow": number("scaling.yarn_beta_slow"),
            "attention_factor": number("scaling.yarn_attn_factor"), "truncate": family.name != "gpt_oss",
            // The two values are equal in files that have the key.
            "mscale": number("scaling.yarn_log_multiplier"),
            "mscale_all_dim": number("scaling.yarn_log_multiplier"),
        }),
        (kind, None, None) => {
            let known = "none, linear, yarn and longrope with its divisors";
            return Err(format!("RoPE scaling of type \"{kind}\" is not supported ({known} are)"));
        }
        (kind, ..) => return Err(format!("RoPE scaling of type {kind} together with divisors is not supported")),
    };
    if let Some(beta) = beta {
        parameters["llama_4_scaling_beta"] = beta.into();
    }
    values.insert("rope_parameters".into(), parameters);
    Ok(())
}

/// The factor by which queries grow beyond the trained context, if they do.
fn temperature(g: &Gguf, arch: &str, family: &Family) -> Result<Option<f64>, String> {
    let key = format!("{arch}.attention.temperature_scale");
    let beta = g.f64(&key).filter(|beta| *beta != 0.0);
    finite(&key, beta.as_slice())?;
    match beta {
        Some(beta) if family.name != "ministral3" => Err(format!("{key} {beta} is not supported")),
        beta => Ok(beta),
    }
}
