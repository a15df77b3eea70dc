//! The families of models that can be read. Each is a row, which says how it differs from Llama.
//!
//! Differences that a row cannot express are a function, which changes the description that the row gave.

mod describe;
mod gemma;
mod gpt;
mod mixtures;
mod others;

pub use describe::{PLAIN, describe, scale};

use super::Spec;
use super::config::{Config, Names};
use super::names::{Kind, Named};
use shadowllm_core::image::Positions;
use shadowllm_core::image::arch::{Norming, Scoring};
use shadowllm_core::kernels::Activation;

/// The places of a block's norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// A norm of the block's input.
    Input,
    /// A norm of the block's output.
    Output,
    /// Norms of both.
    Both,
}

/// Which layers have a window of `sliding_window` positions, if `layer_types` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// No layer, whatever the configuration says.
    Never,
    /// All layers.
    Always,
    /// Layers from `max_window_layers` on, if `use_sliding_window` is set.
    Flagged,
    /// All layers except every `n`th.
    Except(usize),
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// How the router's outputs become shares.
    pub scoring: Scoring,
    /// Whether the shares of the chosen experts are scaled to a sum of 1, if the configuration does not say.
    pub renormalise: bool,
    /// Whether the expert that all tokens use, if any, has a sigmoid gate.
    pub shared_gate: bool,
}

/// How a kind of file stores the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whether rotated pairs are next to each other, and not half a head apart.
    pub interleaved: bool,
    /// Whether weights of norms are stored less 1.
    pub norms_less_one: bool,
    /// Whether the matrices of layers have their inputs as rows.
    pub transposed: bool,
}

/// Stored as in the engine.
const ALIKE: Stored = Stored { interleaved: false, norms_less_one: false, transposed: false };
const INTERLEAVED: Stored = Stored { interleaved: true, ..ALIKE };
const LESS_ONE: Stored = Stored { norms_less_one: true, ..ALIKE };

/// A family of models.
pub struct Family {
    /// `model_type` in `config.json`, and its name here.
    pub name: &'static str,
    /// Other values of `model_type` for the same family.
    pub also: &'static [&'static str],
    /// Values of `general.architecture` in GGUF.
    pub gguf: &'static [&'static str],
    /// Values that `config.json` has under other names.
    pub keys: &'static Names,
    /// Values that a `config.json` may leave out, because transformers has these for them.
    pub defaults: &'static [(&'static str, u64)],
    /// Tensors with other names.
    pub names: &'static [Named],
    /// How experts are chosen, if models of the family can have some.
    pub experts: Option<Choice>,
    /// The part of Hugging Face's tensor names that stands before a layer's number.
    pub layers: &'static str,
    /// Whether the output matrix is the embedding, if the configuration does not say.
    pub tied: bool,
    /// Kind of its norms.
    pub norm: Norming,
    /// The key of their epsilon, and its value if the key is missing.
    pub eps: (&'static str, f64),
    /// Whether layer norms have a bias.
    pub norm_bias: bool,
    /// The places of its norms.
    pub norms: Norms,
    /// Whether attention and the feed-forward network read the same input.
    pub parallel: bool,
    /// Whether the feed-forward network has a gate.
    pub gated: bool,
    /// Its activation, if the configuration does not say.
    pub activation: Activation,
    /// Neurons as a multiple of the stream's width, if the configuration does not say; 0 if it must.
    pub neurons: usize,
    /// How the model is given positions.
    pub positions: Positions,
    /// Rotated part of each head, if the configuration does not say.
    pub rotated: f64,
    /// Base of the rotary frequencies, if the configuration does not say.
    pub theta: f64,
    /// The base for layers with a window, whose frequencies are then not scaled; 0 for the base of the other layers.
    pub local: Option<f64>,
    /// Which layers have a window.
    pub windows: Windows,
    /// How a Hugging Face folder stores the tensors.
    pub hf: Stored,
    /// How a GGUF file stores the tensors.
    pub in_gguf: Stored,
    /// Changes the description that the row gives.
    pub change: fn(&Config, &mut Spec) -> Result<(), String>,
}

fn as_it_is(_: &Config, _: &mut Spec) -> Result<(), String> {
    Ok(())
}

/// Llama, from which the others differ.
const LLAMA: Family = Family {
    name: "llama",
    also: &[],
    gguf: &["llama"],
    keys: &[],
    defaults: &[],
    names: &[],
    experts: None,
    layers: "layers",
    tied: false,
    norm: Norming::Rms,
    eps: ("rms_norm_eps", 1e-6),
    norm_bias: true,
    norms: Norms::Input,
    parallel: false,
    gated: true,
    activation: Activation::Silu,
    neurons: 0,
    positions: Positions::Rope,
    rotated: 1.0,
    theta: 10_000.0,
    local: None,
    windows: Windows::Flagged,
    hf: ALIKE,
    in_gguf: INTERLEAVED,
    change: as_it_is,
};

/// A family whose GGUF files have rotated pairs half a head apart.
const HALVES: Family = Family { in_gguf: ALIKE, ..LLAMA };
/// The keys of layer norms.
const LAYER_NORM: (&str, f64) = ("layer_norm_eps", 1e-5);

/// All families.
pub static FAMILIES: &[Family] = &[
    // GGUF files of Mixtral have Llama's architecture name.
    Family { experts: Some(mixtures::RENORMALISED), ..LLAMA },
    Family { name: "mistral", gguf: &[], windows: Windows::Always, ..LLAMA },
    Family { name: "qwen2", gguf: &["qwen2"], ..HALVES },
    Family { name: "qwen3", gguf: &["qwen3"], ..HALVES },
    Family { name: "qwen3_vl_text", also: &["qwen3_vl"], gguf: &["qwen3vl"], change: others::qwen3_vl, ..HALVES },
    gpt::OPT,
    gpt::GPT2,
    gpt::GPT_NEOX,
    gpt::STARCODER2,
    gpt::PHI,
    others::PHI3,
    others::GRANITE,
    others::MINICPM,
    others::EXAONE,
    others::EXAONE4,
    others::COHERE2,
    others::STABLELM,
    others::NEMOTRON,
    others::MINISTRAL3,
    others::SMOLLM3,
    Family { name: "arcee", gguf: &["arcee"], gated: false, activation: Activation::Relu2, ..LLAMA },
    Family { name: "seed_oss", gguf: &["seed_oss"], ..HALVES },
    Family { name: "ernie4_5", gguf: &["ernie4_5"], tied: true, theta: 500_000.0, hf: INTERLEAVED, ..LLAMA },
    Family { name: "ministral", gguf: &[], windows: Windows::Always, ..LLAMA },
    mixtures::MIXTRAL,
    mixtures::QWEN2_MOE,
    mixtures::QWEN3_MOE,
    mixtures::OLMOE,
    mixtures::GRANITE_MOE,
    mixtures::GPT_OSS,
    mixtures::SMALLTHINKER,
    others::OLMO2,
    others::OLMO3,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
];

/// Known families that cannot be run, and what is missing for them.
const REFUSED: &[(&str, &str)] = &[
    ("lfm2", "short convolutions"),
    ("lfm2_moe", "short convolutions"),
    ("qwen3_5", "gated DeltaNet layers"),
    ("qwen3_5_text", "gated DeltaNet layers"),
    ("qwen3_5_moe", "gated DeltaNet layers"),
    ("qwen35", "gated DeltaNet layers"),
    ("qwen35moe", "gated DeltaNet layers"),
    ("qwen3_next", "gated DeltaNet layers"),
    ("qwen3next", "gated DeltaNet layers"),
    ("mamba", "state-space layers"),
    ("mamba2", "state-space layers"),
    ("falcon_h1", "state-space layers"),
    ("falcon-h1", "state-space layers"),
    ("granitemoehybrid", "state-space layers"),
    ("granitehybrid", "state-space layers"),
    ("nemotron_h", "state-space layers"),
    ("gemma3n", "per-layer embeddings"),
    ("gemma3n_text", "per-layer embeddings"),
    ("gemma4", "per-layer embeddings"),
    ("gemma4_text", "per-layer embeddings"),
    ("opt", "a Hugging Face folder, because llama.cpp does not write such files"),
    ("bitnet", "ternary weights"),
    ("bert", "attention in both directions"),
    ("nomic-bert", "attention in both directions"),
    ("deepseek_v2", "latent attention"),
    ("deepseek_v3", "latent attention"),
    ("deepseek2", "latent attention"),
    ("minicpm3", "latent attention"),
];

/// The family of a `model_type` (or of a `general.architecture`).
///
/// # Errors
/// A sentence with the name, and the names that are supported.
pub fn by_name(kind: Kind, name: &str) -> Result<&'static Family, String> {
    let named = |f: &&Family| match kind {
        Kind::Hf => f.name == name || f.also.contains(&name),
        Kind::Gguf => f.gguf.contains(&name),
    };
    if let Some(family) = FAMILIES.iter().find(named) {
        return Ok(family);
    }
    let needs = REFUSED.iter().find(|r| r.0 == name).map_or(String::new(), |r| format!(": it needs {}", r.1));
    let key = if kind == Kind::Hf { "model_type" } else { "architecture" };
    Err(format!("{key} {name} is not supported{needs} (supported are {})", names(kind).join(", ")))
}

/// The names of all families in a kind of file.
pub fn names(kind: Kind) -> Vec<&'static str> {
    let names = FAMILIES.iter().flat_map(|f| if kind == Kind::Hf { std::slice::from_ref(&f.name) } else { f.gguf });
    names.copied().collect()
}
