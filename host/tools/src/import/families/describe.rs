//! From a configuration to the description of a model: the part that most families share.

use super::{Family, Norms, Windows};
use crate::import::config::Config;
use crate::import::rope::{self, Table};
use crate::import::{Spec, end_tokens};
use serde_json::{Map, Value};
use shadowllm_core::image::Positions;
use shadowllm_core::image::arch::{self, Attention, Block, Globals, Layer, MAX_LAYERS, Mlp, Norm, Op, Router, Scoring};
use shadowllm_core::kernels::Activation;

/// The description of a model of this family with this configuration.
///
/// # Errors
/// A sentence that names the value that is missing, impossible or not supported.
pub fn describe(family: &Family, c: &Config) -> Result<Spec, String> {
    let (d_model, heads) = (c.count("hidden_size")?, c.count("num_attention_heads")?);
    let head_dim = match c.maybe_count("head_dim")? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let names = [c.name("hidden_size"), c.name("num_attention_heads")];
            return Err(format!("{} {d_model} is not a multiple of {} {heads}", names[0], names[1]));
        }
    };
    let norm = Norm { kind: family.norm, eps: c.number(family.eps.0, family.eps.1)? as f32 };
    let attention = Attention {
        heads,
        kv_heads: c.maybe_count("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        head_norm_eps: norm.eps,
        scale: scale(head_dim),
        ..Attention::NONE
    };
    let (activation, parameter) = activation(c, family.activation)?;
    let neurons = match c.maybe_count("intermediate_size")?.or(c.maybe_count("moe_intermediate_size")?) {
        None if family.neurons > 0 => family.neurons.saturating_mul(d_model),
        neurons => neurons.ok_or_else(|| c.lacks("intermediate_size"))?,
    };
    let mlp = Mlp { neurons, gated: family.gated, activation, parameter, ..PLAIN };
    let norms = match family.norms {
        Norms::Input => arch::Norms { input: Some(norm), ..arch::Norms::default() },
        Norms::Output => arch::Norms { output: Some(norm), ..arch::Norms::default() },
        Norms::Both => arch::Norms { input: Some(norm), output: Some(norm), stream: None },
    };
    let layer = Layer {
        parallel: family.parallel,
        ..Layer::of(&[Block { norms, op: Op::Attention(attention) }, Block { norms, op: Op::Mlp(mlp) }])
    };
    let globals = globals(c, d_model, norm, family.positions)?;
    let layers = vec![layer; globals.layers.min(MAX_LAYERS)];
    let mut spec = Spec { family: family.name.into(), globals, layers, ..Spec::default() };
    // Checked before anything of these sizes is allocated.
    spec.check()?;
    windows(family, c, &mut spec)?;
    experts(family, c, &mut spec)?;
    if family.positions == Positions::Rope {
        rotate(family, c, &mut spec, head_dim)?;
    }
    (family.change)(c, &mut spec)?;
    if let Some(context) = c.context() {
        let most = spec.globals.max_positions;
        if context == 0 || context > most {
            return Err(format!("a context of {context} tokens was chosen; the model takes 1 to {most}"));
        }
        spec.globals.max_positions = context;
    }
    spec.drop_unused_tables();
    spec.check()?;
    Ok(spec)
}

/// The factor of attention's scores: 1 / sqrt(head_dim).
pub fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// A feed-forward network whose neurons are skipped in groups of 32.
pub const PLAIN: Mlp = Mlp { group: 32, ..Mlp::NONE };

fn globals(c: &Config, d_model: usize, norm: Norm, positions: Positions) -> Result<Globals, String> {
    let (eos, eos_len) = end_tokens(&c.ids("eos_token_id"));
    Ok(Globals {
        d_model,
        d_embed: d_model,
        layers: c.count("num_hidden_layers")?,
        vocab: c.count("vocab_size")?,
        max_positions: c.count("max_position_embeddings")?,
        positions,
        final_norm: Some(norm),
        bos: c.ids("bos_token_id").first().copied(),
        eos,
        eos_len,
        ..Globals::NONE
    })
}

/// The activation, with its parameter.
fn activation(c: &Config, default: Activation) -> Result<(Activation, f32), String> {
    let Some(value) = c.value("hidden_act") else { return Ok((default, 0.0)) };
    let name = value.as_str().unwrap_or_default();
    let kind = match name {
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        "fatrelu" => {
            let key = ["hidden_act_param", "hidden_act_threshold"].into_iter().find(|k| c.value(k).is_some());
            let threshold = c.number(key.unwrap_or("hidden_act_param"), 0.0)?;
            if threshold.is_nan() || threshold < 0.0 {
                return Err(format!("a threshold of {threshold} is not supported (0 or more is)"));
            }
            return Ok((Activation::FatRelu, threshold as f32));
        }
        "relu2" | "relu_squared" => Activation::Relu2,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        _ => {
            let (key, names) = (c.name("hidden_act"), "silu, relu, relu2, fatrelu, gelu, gelu_new");
            return Err(format!("{key} {} is not supported ({names} are)", value.to_string().trim_matches('"')));
        }
    };
    Ok((kind, 0.0))
}

/// Whether each layer has a window.
fn windows(family: &Family, c: &Config, spec: &mut Spec) -> Result<(), String> {
    let size = c.maybe_count("sliding_window")?.unwrap_or(0);
    let (layers, flag) = (spec.layers.len(), c.flag("use_sliding_window", family.windows != Windows::Flagged)?);
    let types = c.list("layer_types", layers)?;
    let from = c.maybe_count("max_window_layers")?.unwrap_or(0);
    let every = match c.value("sliding_window_pattern").or_else(|| c.value("_sliding_window_pattern")) {
        Some(Value::String(pattern)) => pattern.len(),
        Some(Value::Number(n)) => n.as_u64().unwrap_or(0) as usize,
        _ => 0,
    };
    for (number, layer) in spec.layers.iter_mut().enumerate() {
        let slides = match (types, family.windows) {
            (_, Windows::Never) => false,
            (Some(types), _) => match types[number].as_str() {
                Some("sliding_attention") => true,
                Some("full_attention") => false,
                _ => {
                    return Err(format!(
                        "layer_types has {}, which is not supported (full_attention and sliding_attention are)",
                        types[number]
                    ));
                }
            },
            (None, Windows::Always) => true,
            (None, Windows::Flagged) => number >= from,
            (None, Windows::Except(n)) => !(number + 1).is_multiple_of(if every > 0 { every } else { n }),
        };
        if let (true, Some(a)) = (flag && slides, attention(layer)) {
            a.window = size;
        }
    }
    Ok(())
}

/// The attention of a layer, to be changed.
pub fn attention(layer: &mut Layer) -> Option<&mut Attention> {
    layer.blocks.iter_mut().flatten().find_map(|b| if let Op::Attention(a) = &mut b.op { Some(a) } else { None })
}

/// The feed-forward network of a layer, to be changed.
pub fn mlp(layer: &mut Layer) -> Option<&mut Mlp> {
    layer.blocks.iter_mut().flatten().find_map(|b| if let Op::Mlp(m) = &mut b.op { Some(m) } else { None })
}

/// The experts of the layers that have some.
fn experts(family: &Family, c: &Config, spec: &mut Spec) -> Result<(), String> {
    let key = ["num_experts", "num_local_experts"].into_iter().find(|key| c.value(key).is_some());
    let Some(key) = key else { return Ok(()) };
    let count = c.count(key)?;
    if count == 0 {
        return Ok(());
    }
    let Some(choice) = family.experts else {
        return Err(format!(
            "{} {count}: experts in a model of the family {} are not supported",
            c.name(key),
            family.name
        ));
    };
    // The numbers are GGUF's. If shares are scaled to a sum of 1, a soft-max over all experts and one over the chosen
    // give the same.
    let known = match choice.scoring {
        Scoring::Softmax => [1, 1],
        Scoring::SoftmaxOfChosen => [1, 3],
        Scoring::Sigmoid => [1, 2],
    };
    if c.maybe_count("expert_gating_func")?.is_some_and(|f| !known.contains(&f)) {
        let (name, known) = (c.name("expert_gating_func"), known.map(|n| n.to_string()).join(" or "));
        return Err(format!("{name} {} is not supported ({known} is)", c.count("expert_gating_func")?));
    }
    let shared =
        ["shared_expert_intermediate_size", "shared_intermediate_size"].into_iter().find(|k| c.value(k).is_some());
    let shared = shared.map_or(Ok(0), |key| c.count(key))?;
    let router = Router {
        experts: count,
        used: c.count("num_experts_per_tok")?,
        scoring: choice.scoring,
        renormalise: c.flag("norm_topk_prob", choice.renormalise)?,
        scale: c.number("routed_scaling_factor", 1.0)? as f32,
        bias: false,
        shared,
        shared_gate: shared > 0 && choice.shared_gate,
        early: false,
    };
    let neurons = c.maybe_count("moe_intermediate_size")?;
    let step = c.maybe_count("decoder_sparse_step")?.unwrap_or(1).max(1);
    let dense: Vec<usize> = c.ids("mlp_only_layers").into_iter().map(|n| n as usize).collect();
    for (number, layer) in spec.layers.iter_mut().enumerate() {
        if let (false, true, Some(m)) = (dense.contains(&number), (number + 1).is_multiple_of(step), mlp(layer)) {
            m.router = Some(router);
            m.neurons = neurons.unwrap_or(m.neurons);
        }
    }
    Ok(())
}

/// The parameters of the rotation. Where `rope_scaling`, the older style, is beside `rope_parameters`, transformers takes
/// it alone: what only the other says would be lost, so that is refused.
fn rope_parameters(family: &Family, c: &Config) -> Result<Map<String, Value>, String> {
    let object = |key: &str| match c.object(key) {
        Ok(object) => Ok(object.cloned().unwrap_or_default()),
        Err(_) => Err(format!("the RoPE parameters are {}, not an object", c.value(key).unwrap_or(&Value::Null))),
    };
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    if scaling.is_empty() {
        return Ok(parameters);
    }
    let default = |key: &str| match key {
        "rope_theta" => Some(family.theta),
        "partial_rotary_factor" => Some(family.rotated),
        _ => None,
    };
    let lost = |(key, value): &(&String, &Value)| {
        // The kind has two names.
        let other = if key.as_str() == "type" { "rope_type" } else { "type" };
        let kind = scaling.get(other).filter(|_| matches!(key.as_str(), "type" | "rope_type"));
        let taken = scaling.get(*key).or(kind).or_else(|| c.value(key));
        let same = match (value.as_f64(), taken.map_or(default(key), Value::as_f64)) {
            (Some(own), Some(taken)) => own == taken,
            _ => taken == Some(value),
        };
        !same && !value.is_null() && value.as_str() != Some("default")
    };
    match parameters.iter().find(lost) {
        Some((key, value)) => Err(format!(
            "rope_parameters has {key} {value}, and rope_scaling beside it has not: put all that counts into the former"
        )),
        None => Ok(scaling),
    }
}

/// The tables of rotary frequencies: one, or one for layers with a window and one for the others.
fn rotate(family: &Family, c: &Config, spec: &mut Spec, head_dim: usize) -> Result<(), String> {
    let all = rope_parameters(family, c)?;
    let of = |key: &str| all.get(key).and_then(Value::as_object).unwrap_or(&all).clone();
    let local = c.maybe_number("rope_local_base_freq")?.or(family.local);
    let mut tables: Vec<Table> = Vec::new();
    let mut rotated = None;
    for (kind, own_theta) in [("full_attention", None), ("sliding_attention", local)] {
        let mut parameters = of(kind);
        // In the older style the table of layers with a window is not scaled.
        if own_theta.is_some() && !all.contains_key(kind) {
            parameters.clear();
        }
        let p = c.inner(&parameters);
        let part = p.number("partial_rotary_factor", c.number("partial_rotary_factor", family.rotated)?)?;
        let dim = (head_dim as f64 * part) as usize;
        if !(0.0..=1.0).contains(&part) || !dim.is_multiple_of(2) || rotated.is_some_and(|r| r != dim) {
            return Err(format!("a rotation of {part} of heads of {head_dim} is not supported"));
        }
        rotated = Some(dim);
        let theta = own_theta.filter(|t| *t != 0.0).unwrap_or(c.number("rope_theta", family.theta)?);
        tables.push(rope::table(c, &p, p.number("rope_theta", theta)?, dim)?);
    }
    let rotated = rotated.unwrap_or(head_dim);
    if let Some(most) = tables.iter().filter_map(|t| t.positions).min() {
        spec.globals.max_positions = spec.globals.max_positions.min(most);
        spec.globals.bounded = true;
    }
    let same = tables[0] == tables[1];
    let partly = rotated < head_dim;
    if partly && tables[0].factor != tables[1].factor {
        return Err("two factors of rotated queries together with a partial rotation are not supported".into());
    }
    for layer in &mut spec.layers {
        let Some(a) = attention(layer) else { continue };
        let table = usize::from(!same && a.window > 0);
        a.rope = Some(table);
        // The factor applies to queries and keys. If some of their numbers are not rotated, it is folded into the
        // weights of the others.
        if !partly {
            a.scale = (f64::from(a.scale) * tables[table].factor.powi(2)) as f32;
        }
    }
    spec.rotated = rotated;
    spec.rotated_factor = if partly { tables[0].factor.powi(2) as f32 } else { 1.0 };
    // Numbers that are not rotated have the frequency 0.
    let padded = |t: &Table| {
        let mut all: Vec<f32> = t.frequencies.iter().map(|f| *f as f32).collect();
        all.resize(head_dim / 2, 0.0);
        all
    };
    spec.ropes = tables.iter().map(padded).collect();
    spec.globals.ropes = spec.ropes.len();
    Ok(())
}
