//! Mixtures of experts.

use super::describe::{attention, mlp};
use super::others::{OLMO2, granite};
use super::{Choice, Family, HALVES, LLAMA, Norms, Windows};
use crate::import::Spec;
use crate::import::config::Config;
use crate::import::names::{Part, part, whole};
use serde_json::Value;
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{HeadNorm, Scoring};
use shadowllm_core::kernels::Activation;

/// Soft-max over all experts; the shares of the chosen ones are scaled to a sum of 1.
pub const RENORMALISED: Choice = Choice { scoring: Scoring::Softmax, renormalise: true, shared_gate: false };
/// Soft-max over all experts; the shares of the chosen ones are not scaled.
const AS_THEY_ARE: Choice = Choice { renormalise: false, ..RENORMALISED };
/// Soft-max over the chosen experts.
const OF_CHOSEN: Choice = Choice { scoring: Scoring::SoftmaxOfChosen, ..AS_THEY_ARE };

/// Mixtral.
pub const MIXTRAL: Family = Family {
    name: "mixtral",
    gguf: &[],
    names: &[
        whole(Role::Router, "block_sparse_moe.gate.weight", ""),
        whole(Role::Gate, "block_sparse_moe.experts.{}.w1.weight", ""),
        whole(Role::Up, "block_sparse_moe.experts.{}.w3.weight", ""),
        whole(Role::Down, "block_sparse_moe.experts.{}.w2.weight", ""),
    ],
    experts: Some(RENORMALISED),
    eps: ("rms_norm_eps", 1e-5),
    theta: 1_000_000.0,
    windows: Windows::Always,
    ..LLAMA
};

/// Qwen 1.5 and 2 with experts, and one that all tokens use.
pub const QWEN2_MOE: Family = Family {
    name: "qwen2_moe",
    gguf: &["qwen2moe"],
    experts: Some(Choice { shared_gate: true, ..AS_THEY_ARE }),
    ..HALVES
};

/// Qwen 3 with experts.
pub const QWEN3_MOE: Family = Family { name: "qwen3_moe", gguf: &["qwen3moe"], experts: Some(RENORMALISED), ..HALVES };

/// OLMoE: norms of all queries and of all keys together.
pub const OLMOE: Family = Family {
    name: "olmoe",
    gguf: &["olmoe"],
    norms: Norms::Input,
    experts: Some(AS_THEY_ARE),
    local: None,
    windows: Windows::Never,
    change: olmoe,
    ..OLMO2
};

fn olmoe(c: &Config, spec: &mut Spec) -> Result<(), String> {
    if c.maybe_number("clip_qkv")?.is_some() {
        return Err(format!("{} is not supported", c.name("clip_qkv")));
    }
    spec.layers.iter_mut().filter_map(attention).for_each(|a| a.head_norm = HeadNorm::Whole);
    Ok(())
}

/// Granite with experts.
pub const GRANITE_MOE: Family = Family {
    name: "granitemoe",
    also: &["granitemoeshared"],
    gguf: &["granitemoe"],
    names: &[
        whole(Role::Router, "block_sparse_moe.router.layer.weight", ""),
        part(Role::SharedGate, Part::Half(0), "shared_mlp.input_linear.weight", ""),
        part(Role::SharedUp, Part::Half(1), "shared_mlp.input_linear.weight", ""),
        whole(Role::SharedDown, "shared_mlp.output_linear.weight", ""),
        part(Role::Gate, Part::Half(0), "block_sparse_moe.input_linear.weight", ""),
        part(Role::Up, Part::Half(1), "block_sparse_moe.input_linear.weight", ""),
        whole(Role::Down, "block_sparse_moe.output_linear.weight", ""),
    ],
    experts: Some(OF_CHOSEN),
    windows: Windows::Never,
    change: granite,
    ..LLAMA
};

/// gpt-oss: a router and experts with biases, sinks, clamped gates.
pub const GPT_OSS: Family = Family {
    name: "gpt_oss",
    gguf: &["gpt-oss"],
    names: &[
        whole(Role::FfnNorm, "post_attention_layernorm.weight", "post_attention_norm.weight"),
        whole(Role::Router, "mlp.router.weight", ""),
        part(Role::Gate, Part::Alternate(0), "mlp.experts.gate_up_proj_blocks", ""),
        part(Role::Up, Part::Alternate(1), "mlp.experts.gate_up_proj_blocks", ""),
        whole(Role::Down, "mlp.experts.down_proj_blocks", ""),
        part(Role::Gate, Part::TurnedAlternate(0), "mlp.experts.gate_up_proj", ""),
        part(Role::Up, Part::TurnedAlternate(1), "mlp.experts.gate_up_proj", ""),
        part(Role::GateBias, Part::Alternate(0), "mlp.experts.gate_up_proj_bias", ""),
        part(Role::UpBias, Part::Alternate(1), "mlp.experts.gate_up_proj_bias", ""),
        part(Role::Down, Part::Turned, "mlp.experts.down_proj", ""),
        whole(Role::DownBias, "mlp.experts.down_proj_bias", ""),
    ],
    experts: Some(OF_CHOSEN),
    eps: ("rms_norm_eps", 1e-5),
    theta: 150_000.0,
    windows: Windows::Except(2),
    change: gpt_oss,
    ..HALVES
};

fn gpt_oss(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let (slope, bound) = (c.number("swiglu_alpha", 1.702)?, c.number("swiglu_limit", 7.0)?);
    for layer in &mut spec.layers {
        if let Some(m) = mlp(layer) {
            (m.activation, m.parameter, m.clamp) = (Activation::ClampedSwiglu, slope as f32, bound as f32);
        }
        if let Some(a) = attention(layer) {
            a.sinks = true;
        }
    }
    Ok(())
}

/// SmallThinker: ReLU experts; the router reads the layer's input, so that experts can be fetched during attention.
pub const SMALLTHINKER: Family = Family {
    name: "smallthinker",
    gguf: &["smallthinker"],
    keys: &[
        ("num_experts", "moe_num_primary_experts"),
        ("num_experts_per_tok", "moe_num_active_primary_experts"),
        ("moe_intermediate_size", "moe_ffn_hidden_size"),
    ],
    names: &[
        whole(Role::Router, "block_sparse_moe.primary_router.weight", ""),
        whole(Role::Gate, "block_sparse_moe.experts.{}.gate.weight", ""),
        whole(Role::Up, "block_sparse_moe.experts.{}.up.weight", ""),
        whole(Role::Down, "block_sparse_moe.experts.{}.down.weight", ""),
    ],
    experts: Some(Choice { scoring: Scoring::Sigmoid, ..RENORMALISED }),
    tied: true,
    activation: Activation::Relu,
    theta: 1_000_000.0,
    windows: Windows::Never,
    change: smallthinker,
    ..HALVES
};

fn smallthinker(c: &Config, spec: &mut Spec) -> Result<(), String> {
    for (key, supported) in
        [("moe_enable_early_router", true), ("moe_enable_secondary_experts", false), ("use_qk_norm", false)]
    {
        if c.flag(key, supported)? != supported {
            return Err(format!("{key} {} is not supported", !supported));
        }
    }
    let softmax = c.flag("moe_primary_router_apply_softmax", c.maybe_count("expert_gating_func")? == Some(1))?;
    let layers = spec.layers.len();
    let (rotates, slides) = (c.list("rope_layout", layers)?, c.list("sliding_window_layout", layers)?);
    // GGUF has no lists of layers: if the model has windows, every fourth layer from the first on has neither a window
    // nor rotation.
    let window = c.maybe_count("sliding_window")?.unwrap_or(0);
    let size = c.maybe_count("sliding_window_size")?.unwrap_or(window);
    let said =
        |list: Option<&[Value]>, number: usize, other: bool| list.map_or(other, |l| l[number].as_u64() == Some(1));
    for (number, layer) in spec.layers.iter_mut().enumerate() {
        let local = window > 0 && !number.is_multiple_of(4);
        if let Some(a) = attention(layer) {
            a.window = if said(slides, number, local) { size } else { 0 };
            a.rope = a.rope.filter(|_| said(rotates, number, window == 0 || local));
        }
        if let Some(router) = mlp(layer).and_then(|m| m.router.as_mut()) {
            router.early = true;
            router.scoring = if softmax { Scoring::SoftmaxOfChosen } else { Scoring::Sigmoid };
        }
    }
    Ok(())
}
