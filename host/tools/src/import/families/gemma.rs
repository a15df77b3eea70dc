//! Gemma 1, 2 and 3: scaled embeddings, norms whose weights are stored less 1, and from Gemma 2 on norms before and
//! after each block.

use super::describe::attention;
use super::{Family, HALVES, LESS_ONE, Norms, Windows};
use crate::import::Spec;
use crate::import::config::Config;
use crate::import::names::whole;
use shadowllm_core::image::Role;
use shadowllm_core::kernels::Activation;

/// Gemma 1.
pub const GEMMA: Family = Family {
    name: "gemma",
    gguf: &["gemma"],
    keys: &[("hidden_act", "hidden_activation")],
    tied: true,
    activation: Activation::GeluTanh,
    windows: Windows::Never,
    hf: LESS_ONE,
    change: gemma,
    ..HALVES
};

/// Gemma 2.
pub const GEMMA2: Family = Family {
    name: "gemma2",
    gguf: &["gemma2"],
    names: &[whole(Role::FfnNorm, "pre_feedforward_layernorm.weight", "")],
    norms: Norms::Both,
    windows: Windows::Except(2),
    ..GEMMA
};

/// Gemma 3.
pub const GEMMA3: Family = Family {
    name: "gemma3_text",
    also: &["gemma3"],
    gguf: &["gemma3"],
    // The configurations of the first models name only what differs from these.
    defaults: &[
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("vocab_size", 262_208),
        ("max_position_embeddings", 131_072),
        ("query_pre_attn_scalar", 256),
        ("sliding_window", 4096),
        ("bos_token_id", 2),
        ("eos_token_id", 1),
    ],
    theta: 1_000_000.0,
    local: Some(10_000.0),
    windows: Windows::Except(6),
    ..GEMMA2
};

/// The number of layers of those models whose `query_pre_attn_scalar` is not the width of a head. A GGUF file does not
/// have this value; llama.cpp recognises these models by their layers too.
const BY_LAYERS: &[(&str, usize)] = &[("gemma2", 46), ("gemma3_text", 62)];

fn gemma(c: &Config, spec: &mut Spec) -> Result<(), String> {
    spec.globals.embed_scale = (spec.globals.d_model as f32).sqrt();
    let cap = |key: &str| c.number(key, 0.0);
    spec.globals.logit_cap = cap("final_logit_softcapping")? as f32;
    let (score_cap, scalar) = (cap("attn_logit_softcapping")? as f32, c.maybe_number("query_pre_attn_scalar")?);
    let (layers, d_model) = (spec.layers.len(), spec.globals.d_model);
    let large = BY_LAYERS.contains(&(spec.family.as_str(), layers));
    for a in spec.layers.iter_mut().filter_map(attention) {
        a.cap = score_cap;
        let usual = if large { (d_model / a.heads) as f64 } else { a.head_dim as f64 };
        let wanted = scalar.unwrap_or(usual);
        if wanted <= 0.0 {
            return Err(format!("query_pre_attn_scalar {wanted} is not positive"));
        }
        if spec.family != "gemma" {
            a.scale *= ((a.head_dim as f64 / wanted).sqrt()) as f32;
        }
    }
    match c.flag("use_bidirectional_attention", false)? {
        true => Err("use_bidirectional_attention true is not supported".into()),
        false => Ok(()),
    }
}
