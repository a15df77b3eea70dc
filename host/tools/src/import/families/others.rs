//! Families that differ from Llama by a few values.

use super::describe::attention;
use super::gpt::no_head_norms;
use super::{Family, HALVES, INTERLEAVED, LAYER_NORM, LESS_ONE, LLAMA, Norms, Windows};
use crate::import::Spec;
use crate::import::config::Config;
use crate::import::names::{Part, part, whole};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{HeadNorm, Norming};
use shadowllm_core::kernels::Activation;

/// Phi-3, 3.5, 4 and 4-mini: queries, keys and values in one matrix, gate and up in another.
pub const PHI3: Family = Family {
    name: "phi3",
    gguf: &["phi3"],
    names: &[
        part(Role::Gate, Part::Half(0), "mlp.gate_up_proj.weight", "ffn_up.weight"),
        part(Role::Up, Part::Half(1), "mlp.gate_up_proj.weight", "ffn_up.weight"),
    ],
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Always,
    ..HALVES
};

/// Granite 3 and 4 without state-space layers.
pub const GRANITE: Family =
    Family { name: "granite", gguf: &["granite"], windows: Windows::Never, change: granite, ..LLAMA };

/// Granite's multipliers.
pub fn granite(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let residual = c.number("residual_multiplier", 1.0)?;
    multiply(spec, c.number("embedding_multiplier", 1.0)?, residual, 1.0 / c.number("logits_scaling", 1.0)?)?;
    if let Some(scale) = c.maybe_number("attention_multiplier")? {
        spec.layers.iter_mut().filter_map(attention).for_each(|a| a.scale = scale as f32);
    }
    Ok(())
}

/// MiniCPM 1, 2 and 4; in GGUF its factors are computed.
pub const MINICPM: Family = Family { name: "minicpm", gguf: &["minicpm"], tied: true, change: minicpm, ..GRANITE };

fn minicpm(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let d_model = spec.globals.d_model as f64;
    let embed = c.number("embedding_multiplier", c.number("scale_emb", 1.0)?)?;
    let depth = c.number("scale_depth", 1.0)? / (spec.layers.len() as f64).sqrt();
    let residual = c.number("residual_multiplier", if c.value("scale_depth").is_some() { depth } else { 1.0 })?;
    let base = c.number("dim_model_base", d_model)?;
    multiply(spec, embed, residual, 1.0 / c.number("logits_scaling", d_model / base)?)
}

/// Multiplies the embeddings, the outputs of blocks, and the logits.
///
/// The stream is kept divided by the blocks' factor `r`, so that no weight changes: embeddings are multiplied by
/// `embed / r`, and a norm of x / r is the norm of x with an epsilon of eps / r^2.
fn multiply(spec: &mut Spec, embed: f64, r: f64, logits: f64) -> Result<(), String> {
    if [embed, r, logits].iter().any(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(format!("the multipliers {embed}, {r} and {logits} are not all positive"));
    }
    spec.globals.embed_scale = (embed / r) as f32;
    spec.globals.logit_scale = logits as f32;
    let norms = spec.layers.iter_mut().flat_map(|layer| layer.blocks.iter_mut()).flatten();
    let norms = norms.flat_map(|block| [&mut block.norms.input, &mut block.norms.output]);
    for norm in norms.chain([&mut spec.globals.final_norm]).flatten() {
        norm.eps = (f64::from(norm.eps) / (r * r)) as f32;
    }
    Ok(())
}

/// EXAONE 3 and 3.5.
pub const EXAONE: Family = Family {
    name: "exaone",
    gguf: &["exaone"],
    keys: &[
        ("num_hidden_layers", "num_layers"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation_function"),
    ],
    names: &[
        whole(Role::Embed, "wte.weight", ""),
        whole(Role::FinalNorm, "ln_f.weight", ""),
        whole(Role::AttnNorm, "ln_1.weight", ""),
        whole(Role::Q, "attn.attention.q_proj.weight", ""),
        whole(Role::K, "attn.attention.k_proj.weight", ""),
        whole(Role::V, "attn.attention.v_proj.weight", ""),
        whole(Role::O, "attn.attention.out_proj.weight", ""),
        whole(Role::FfnNorm, "ln_2.weight", ""),
        whole(Role::Gate, "mlp.c_fc_0.weight", ""),
        whole(Role::Up, "mlp.c_fc_1.weight", ""),
        whole(Role::Down, "mlp.c_proj.weight", ""),
    ],
    layers: "h",
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Never,
    ..HALVES
};

/// EXAONE 4: norms after the blocks; if some layers have a window, the others have no positions.
pub const EXAONE4: Family = Family {
    name: "exaone4",
    gguf: &["exaone4"],
    eps: ("rms_norm_eps", 1e-5),
    norms: Norms::Output,
    windows: Windows::Except(4),
    change: only_windows_rotate,
    ..HALVES
};

/// Command R7B: parallel blocks with one layer norm without a bias; layers without a window have no positions.
pub const COHERE2: Family = Family {
    name: "cohere2",
    gguf: &["cohere2"],
    names: &[whole(Role::FfnNorm, "input_layernorm.weight", "attn_norm.weight")],
    tied: true,
    norm: Norming::Layer,
    eps: LAYER_NORM,
    norm_bias: false,
    parallel: true,
    windows: Windows::Except(4),
    hf: INTERLEAVED,
    change: cohere2,
    ..LLAMA
};

fn cohere2(c: &Config, spec: &mut Spec) -> Result<(), String> {
    spec.globals.logit_scale = c.number("logit_scale", 0.0625)? as f32;
    only_windows_rotate(c, spec)
}

/// If some layers have a window, the others do not rotate.
fn only_windows_rotate(_: &Config, spec: &mut Spec) -> Result<(), String> {
    if spec.layers.iter_mut().filter_map(attention).any(|a| a.window > 0) {
        let full = spec.layers.iter_mut().filter_map(attention).filter(|a| a.window == 0);
        full.for_each(|a| a.rope = None);
    }
    Ok(())
}

/// SmolLM 3: some layers do not rotate, namely every fourth if the file does not say.
pub const SMOLLM3: Family =
    Family { name: "smollm3", gguf: &["smollm3"], tied: true, theta: 2_000_000.0, change: smollm3, ..LLAMA };

fn smollm3(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let every = c.maybe_count("no_rope_layer_interval")?.unwrap_or(4);
    let rotates = c.list("no_rope_layers", spec.layers.len())?;
    for (number, a) in spec.layers.iter_mut().filter_map(attention).enumerate() {
        let rotated = match rotates {
            Some(list) => list[number].as_u64() != Some(0) && list[number].as_bool() != Some(false),
            None => every == 0 || !(number + 1).is_multiple_of(every),
        };
        a.rope = a.rope.filter(|_| rotated);
    }
    Ok(())
}

/// StableLM 2.
pub const STABLELM: Family = Family {
    name: "stablelm",
    gguf: &["stablelm"],
    keys: &[("partial_rotary_factor", "rope_pct")],
    norm: Norming::Layer,
    eps: LAYER_NORM,
    rotated: 0.25,
    windows: Windows::Never,
    change: stablelm,
    ..HALVES
};

fn stablelm(c: &Config, spec: &mut Spec) -> Result<(), String> {
    no_head_norms(c)?;
    let parallel = c.flag("use_parallel_residual", false)?;
    spec.layers.iter_mut().for_each(|layer| layer.parallel = parallel);
    Ok(())
}

/// Nemotron and Minitron: squared ReLU without a gate, layer norms whose weights are stored less 1.
pub const NEMOTRON: Family = Family {
    name: "nemotron",
    gguf: &["nemotron"],
    keys: &[("layer_norm_eps", "norm_eps")],
    norm: Norming::Layer,
    eps: LAYER_NORM,
    gated: false,
    activation: Activation::Relu2,
    rotated: 0.5,
    windows: Windows::Never,
    hf: LESS_ONE,
    ..HALVES
};

/// Ministral 3. Beyond the trained context queries are scaled by their position; the image ends before that.
pub const MINISTRAL3: Family = Family {
    name: "ministral3",
    gguf: &["mistral3"],
    eps: ("rms_norm_eps", 1e-5),
    windows: Windows::Always,
    change: ministral3,
    ..LLAMA
};

fn ministral3(c: &Config, spec: &mut Spec) -> Result<(), String> {
    let parameters = c.object("rope_parameters")?.map(|p| c.inner(p));
    let Some(p) = parameters else { return Ok(()) };
    if p.number("llama_4_scaling_beta", 0.0)? != 0.0 {
        let trained = p.count("original_max_position_embeddings")?;
        spec.globals.max_positions = spec.globals.max_positions.min(trained);
        spec.globals.bounded = true;
    }
    Ok(())
}

/// OLMo 2: norms after the blocks, norms of all queries and of all keys together.
pub const OLMO2: Family = Family {
    name: "olmo2",
    gguf: &["olmo2"],
    eps: ("rms_norm_eps", 1e-5),
    norms: Norms::Output,
    local: Some(0.0),
    windows: Windows::Except(4),
    change: whole_head_norms,
    ..HALVES
};

/// OLMo 3: with windows.
pub const OLMO3: Family = Family { name: "olmo3", gguf: &[], theta: 500_000.0, ..OLMO2 };

pub fn whole_head_norms(_: &Config, spec: &mut Spec) -> Result<(), String> {
    spec.layers.iter_mut().filter_map(attention).for_each(|a| a.head_norm = HeadNorm::Whole);
    Ok(())
}

/// The text part of Qwen3-VL: for text, its rotation by time, height and width is the plain one.
pub fn qwen3_vl(_: &Config, spec: &mut Spec) -> Result<(), String> {
    spec.family = "qwen3".into();
    Ok(())
}
