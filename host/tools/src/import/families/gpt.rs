//! OPT, GPT-2, GPT-NeoX, Phi-2 and StarCoder2: layer norms, no gate.

use super::{ALIKE, Family, HALVES, LAYER_NORM, Stored, Windows};
use crate::import::Spec;
use crate::import::config::Config;
use crate::import::names::{Part, part, whole};
use shadowllm_core::image::arch::{Norming, Norms};
use shadowllm_core::image::{Positions, Role};
use shadowllm_core::kernels::Activation;

/// OPT: learned positions, with two unused ones before the first; the 350M model has its norms after the blocks.
pub const OPT: Family = Family {
    name: "opt",
    gguf: &[],
    keys: &[("intermediate_size", "ffn_dim"), ("hidden_act", "activation_function")],
    names: &[
        part(Role::EmbedPositions, Part::From(2), "embed_positions.weight", ""),
        whole(Role::ProjectIn, "project_in.weight", ""),
        whole(Role::ProjectOut, "project_out.weight", ""),
        whole(Role::FinalNorm, "final_layer_norm.weight", ""),
        whole(Role::AttnNorm, "self_attn_layer_norm.weight", ""),
        whole(Role::AttnStreamNorm, "self_attn_layer_norm.weight", ""),
        whole(Role::O, "self_attn.out_proj.weight", ""),
        whole(Role::FfnNorm, "final_layer_norm.weight", ""),
        whole(Role::FfnStreamNorm, "final_layer_norm.weight", ""),
        whole(Role::Up, "fc1.weight", ""),
        whole(Role::Down, "fc2.weight", ""),
    ],
    tied: true,
    norm: Norming::Layer,
    eps: LAYER_NORM,
    gated: false,
    activation: Activation::Relu,
    positions: Positions::Learned,
    windows: Windows::Never,
    change: opt,
    ..HALVES
};

fn opt(c: &Config, spec: &mut Spec) -> Result<(), String> {
    spec.globals.d_embed = c.maybe_count("word_embed_proj_dim")?.unwrap_or(spec.globals.d_model);
    if c.flag("do_layer_norm_before", true)? {
        if c.flag("_remove_final_layer_norm", false)? {
            return Err("_remove_final_layer_norm together with do_layer_norm_before is not supported".into());
        }
        return Ok(());
    }
    let norm = spec.globals.final_norm.take();
    for block in spec.layers.iter_mut().flat_map(|layer| layer.blocks.iter_mut()).flatten() {
        block.norms = Norms { stream: norm, ..Norms::default() };
    }
    Ok(())
}

/// GPT-2: learned positions, queries, keys and values in one matrix, matrices with their inputs as rows.
pub const GPT2: Family = Family {
    name: "gpt2",
    gguf: &["gpt2"],
    keys: &[
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("max_position_embeddings", "n_positions"),
        ("intermediate_size", "n_inner"),
        ("hidden_act", "activation_function"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    names: &[
        whole(Role::Embed, "wte.weight", ""),
        whole(Role::EmbedPositions, "wpe.weight", ""),
        whole(Role::FinalNorm, "ln_f.weight", ""),
        whole(Role::AttnNorm, "ln_1.weight", ""),
        part(Role::Q, Part::Qkv(0), "attn.c_attn.weight", ""),
        part(Role::K, Part::Qkv(1), "attn.c_attn.weight", ""),
        part(Role::V, Part::Qkv(2), "attn.c_attn.weight", ""),
        whole(Role::O, "attn.c_proj.weight", ""),
        whole(Role::FfnNorm, "ln_2.weight", ""),
        whole(Role::Up, "mlp.c_fc.weight", ""),
        whole(Role::Down, "mlp.c_proj.weight", ""),
    ],
    layers: "h",
    neurons: 4,
    tied: true,
    activation: Activation::GeluTanh,
    hf: Stored { transposed: true, ..ALIKE },
    change: gpt2,
    ..OPT
};

fn gpt2(c: &Config, _: &mut Spec) -> Result<(), String> {
    for (key, usual) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if c.flag(key, usual)? != usual {
            return Err(format!("{key} {} is not supported", !usual));
        }
    }
    Ok(())
}

/// GPT-NeoX and Pythia: parallel blocks with a norm each, each head's queries, keys and values together.
pub const GPT_NEOX: Family = Family {
    name: "gpt_neox",
    gguf: &["gptneox"],
    keys: &[("partial_rotary_factor", "rotary_pct"), ("rope_theta", "rotary_emb_base")],
    names: &[
        whole(Role::Embed, "embed_in.weight", ""),
        whole(Role::FinalNorm, "final_layer_norm.weight", ""),
        whole(Role::Output, "embed_out.weight", ""),
        part(Role::Q, Part::HeadQkv(0), "attention.query_key_value.weight", ""),
        part(Role::K, Part::HeadQkv(1), "attention.query_key_value.weight", ""),
        part(Role::V, Part::HeadQkv(2), "attention.query_key_value.weight", ""),
        whole(Role::O, "attention.dense.weight", ""),
        whole(Role::Up, "mlp.dense_h_to_4h.weight", ""),
        whole(Role::Down, "mlp.dense_4h_to_h.weight", ""),
    ],
    norm: Norming::Layer,
    eps: LAYER_NORM,
    parallel: true,
    gated: false,
    activation: Activation::Gelu,
    rotated: 0.25,
    windows: Windows::Never,
    change: gpt_neox,
    ..HALVES
};

fn gpt_neox(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let parallel = c.flag("use_parallel_residual", true)?;
    spec.layers.iter_mut().for_each(|layer| layer.parallel = parallel);
    Ok(())
}

/// Phi-1, 1.5 and 2: parallel blocks with one norm.
pub const PHI: Family = Family {
    name: "phi",
    gguf: &["phi2"],
    names: &[
        whole(Role::FinalNorm, "final_layernorm.weight", ""),
        whole(Role::O, "self_attn.dense.weight", ""),
        whole(Role::FfnNorm, "input_layernorm.weight", "attn_norm.weight"),
        whole(Role::Up, "mlp.fc1.weight", ""),
        whole(Role::Down, "mlp.fc2.weight", ""),
    ],
    norm: Norming::Layer,
    eps: LAYER_NORM,
    parallel: true,
    gated: false,
    activation: Activation::GeluTanh,
    rotated: 0.5,
    windows: Windows::Never,
    change: phi,
    ..HALVES
};

fn phi(c: &Config, _: &mut Spec) -> Result<(), String> {
    no_head_norms(c)
}

/// Refuses layer norms of heads, which large StableLM and Phi models have.
pub fn no_head_norms(c: &Config) -> Result<(), String> {
    match c.flag("qk_layernorm", false)? {
        true => Err("qk_layernorm true is not supported".into()),
        false => Ok(()),
    }
}

/// StarCoder2.
pub const STARCODER2: Family = Family {
    name: "starcoder2",
    gguf: &["starcoder2"],
    keys: &[("layer_norm_eps", "norm_epsilon")],
    names: &[whole(Role::Up, "mlp.c_fc.weight", ""), whole(Role::Down, "mlp.c_proj.weight", "")],
    tied: true,
    norm: Norming::Layer,
    eps: LAYER_NORM,
    gated: false,
    activation: Activation::GeluTanh,
    windows: Windows::Always,
    ..HALVES
};
