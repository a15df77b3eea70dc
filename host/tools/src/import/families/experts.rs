//! Families with mixtures of experts: a row each, and how its router chooses.

use super::describe::attention;
use super::others::{GRANITE, whole_head_norms};
use super::{Family, HALVES, LLAMA, Windows};
use crate::import::Spec;
use crate::import::config::Config;
use crate::import::names::{Part, part, whole};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{Mlp, Op, Router, Scoring};
use shadowllm_core::kernels::Activation;

/// The shares of the best experts of a soft-max over all, as they are.
const SOFTMAX: Router = Router {
    experts: 0,
    used: 0,
    scoring: Scoring::Softmax,
    renormalise: false,
    scale: 1.0,
    bias: false,
    shared: 0,
    shared_gate: false,
    early: false,
};

/// Makes the feed-forward network of every layer a mixture; `neurons` is what the configuration calls an expert's.
fn mix(c: &Config, spec: &mut Spec, neurons: &str, router: Router) -> Result<(), String> {
    // The newer name and the older one.
    let keys = ["num_local_experts", "num_experts"];
    let experts = keys.into_iter().find(|key| c.value(key).is_some()).unwrap_or(keys[1]);
    let router = Router { experts: c.count(experts)?, used: c.count("num_experts_per_tok")?, ..router };
    let neurons = c.count(neurons)?;
    for mlp in spec.layers.iter_mut().flat_map(|layer| &mut layer.blocks).flatten().filter_map(mlp) {
        (mlp.neurons, mlp.router) = (neurons, Some(router));
    }
    Ok(())
}

fn mlp(block: &mut shadowllm_core::image::arch::Block) -> Option<&mut Mlp> {
    if let Op::Mlp(m) = &mut block.op { Some(m) } else { None }
}

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
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Always,
    change: |c, spec| {
        let router = Router { scoring: Scoring::SoftmaxOfChosen, ..SOFTMAX };
        mix(c, spec, "intermediate_size", router)
    },
    ..LLAMA
};

/// Qwen 1.5 and 2 with experts, one of which every token uses.
pub const QWEN2_MOE: Family = Family {
    name: "qwen2_moe",
    gguf: &["qwen2moe"],
    change: |c, spec| {
        let renormalise = c.flag("norm_topk_prob", false)?;
        let shared = c.count("shared_expert_intermediate_size")?;
        sparse_everywhere(c)?;
        let router = Router { renormalise, shared, shared_gate: shared > 0, ..SOFTMAX };
        mix(c, spec, "moe_intermediate_size", router)
    },
    ..HALVES
};

/// Qwen 3 with experts.
pub const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    gguf: &["qwen3moe"],
    change: |c, spec| {
        sparse_everywhere(c)?;
        let router = Router { renormalise: c.flag("norm_topk_prob", true)?, ..SOFTMAX };
        mix(c, spec, "moe_intermediate_size", router)
    },
    ..HALVES
};

/// Every layer must have experts: the engine runs layers of one shape.
fn sparse_everywhere(c: &Config) -> Result<(), String> {
    let plain = c.value("mlp_only_layers").and_then(|v| v.as_array()).is_some_and(|layers| !layers.is_empty());
    if plain || c.maybe_count("decoder_sparse_step")?.unwrap_or(1) > 1 {
        return Err("a model with experts in some of its layers only is not supported".into());
    }
    Ok(())
}

/// OLMoE: norms of all queries and of all keys together.
pub const OLMOE: Family = Family {
    name: "olmoe",
    gguf: &["olmoe"],
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Never,
    change: |c, spec| {
        whole_head_norms(c, spec)?;
        if c.value("clip_qkv").is_some_and(|v| !v.is_null()) {
            return Err("clip_qkv is not supported".into());
        }
        let router = Router { renormalise: c.flag("norm_topk_prob", false)?, ..SOFTMAX };
        mix(c, spec, "intermediate_size", router)
    },
    ..HALVES
};

/// Granite 3 with experts.
pub const GRANITE_MOE: Family = Family {
    name: "granitemoe",
    gguf: &["granitemoe"],
    names: &[
        whole(Role::Router, "block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight"),
        part(Role::Gate, Part::Half(0), "block_sparse_moe.input_linear.weight", ""),
        part(Role::Up, Part::Half(1), "block_sparse_moe.input_linear.weight", ""),
        whole(Role::Down, "block_sparse_moe.output_linear.weight", "ffn_down_exps.weight"),
    ],
    change: |c, spec| {
        (GRANITE.change)(c, spec)?;
        let router = Router { scoring: Scoring::SoftmaxOfChosen, ..SOFTMAX };
        mix(c, spec, "intermediate_size", router)
    },
    ..GRANITE
};

/// gpt-oss: sinks, windows in every second layer, a bounded gate, biases everywhere; gates and neurons take turns.
pub const GPT_OSS: Family = Family {
    name: "gpt_oss",
    gguf: &["gpt-oss"],
    names: &[
        whole(Role::Router, "mlp.router.weight", "ffn_gate_inp.weight"),
        part(Role::Gate, Part::TurnedAlternate(0), "mlp.experts.gate_up_proj", ""),
        part(Role::Up, Part::TurnedAlternate(1), "mlp.experts.gate_up_proj", ""),
        part(Role::Down, Part::Turned, "mlp.experts.down_proj", ""),
        part(Role::GateBias, Part::Alternate(0), "mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias"),
        part(Role::UpBias, Part::Alternate(1), "mlp.experts.gate_up_proj_bias", "ffn_up_exps.bias"),
        whole(Role::DownBias, "mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ],
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Except(2),
    change: |c, spec| {
        let (slope, clamp) = (c.number("swiglu_alpha", 1.702)? as f32, c.number("swiglu_limit", 7.0)? as f32);
        let router = Router { scoring: Scoring::SoftmaxOfChosen, ..SOFTMAX };
        mix(c, spec, "intermediate_size", router)?;
        for layer in &mut spec.layers {
            if let Some(a) = attention(layer) {
                a.sinks = true;
            }
            for m in layer.blocks.iter_mut().flatten().filter_map(mlp) {
                (m.activation, m.parameter, m.clamp) = (Activation::ClampedSwiglu, slope, clamp);
            }
        }
        Ok(())
    },
    ..HALVES
};
