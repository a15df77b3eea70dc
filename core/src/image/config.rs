//! The shape that all layers of a model have: what the engine of today runs, out of the architecture.

use super::arch::{Architecture, Attention, Layer, MAX_EOS, Mlp, Positions};
use crate::error::Error;
use crate::kernels::Activate;

/// Sizes that are the same in all layers, and what the model has once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the token embeddings (differs from `d_model` where they are projected).
    pub d_embed: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Feed-forward neurons per layer.
    pub ffn: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub max_positions: usize,
    /// Whether the FFN is gated.
    pub gated: bool,
    /// Its activation.
    pub activation: Activate,
    /// How positions enter.
    pub positions: Positions,
    /// Neurons per group (the fewest that are skipped together): 1, 4, 8, 16 or 32.
    pub neuron_group: usize,
    /// Whether the maps of attention (Q, K, V, O) are stored by input, so that single inputs may be skipped.
    pub attention_by_input: bool,
    /// Whether the maps of the FFN (gate, up, down) are.
    pub ffn_by_input: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the first `eos_len` of them filled.
    pub eos: [u32; MAX_EOS],
    /// How many are filled.
    pub eos_len: usize,
}

impl Config {
    /// Width of one head in activation buffers: `head_dim` rounded up to 32, so that quantized blocks never
    /// straddle heads.
    pub const fn head_slot(&self) -> usize {
        self.head_dim.next_multiple_of(32)
    }

    /// Width of one head in the KV cache: `head_dim` rounded up to 16.
    pub const fn head_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Neurons in activation buffers: `ffn` rounded up to 32.
    pub const fn neuron_width(&self) -> usize {
        self.ffn.next_multiple_of(32)
    }

    /// Groups of neurons in a layer, those of the padding included.
    pub const fn neuron_groups(&self) -> usize {
        self.neuron_width() / self.neuron_group
    }

    /// End-of-sequence tokens.
    pub fn eos(&self) -> &[u32] {
        self.eos.get(..self.eos_len).unwrap_or(&self.eos)
    }
}

impl Config {
    /// The shape of all layers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where layers differ, or have what this engine cannot run.
    pub fn of(arch: &Architecture) -> Result<Config, Error> {
        let g = arch.globals();
        let first = arch.layer(0);
        let (a, m) = first
            .attention()
            .zip(first.mlp())
            .ok_or(Error::Unsupported("layers without attention or without neurons"))?;
        for layer in arch.kinds() {
            runnable(&layer, a, m)?;
        }
        Ok(Config {
            d_model: g.d_model,
            d_embed: g.d_embed,
            layers: g.layers,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            ffn: m.neurons,
            vocab: g.vocab,
            max_positions: g.max_positions,
            gated: m.gated,
            activation: m.activate(),
            positions: g.positions,
            neuron_group: m.group,
            attention_by_input: a.by_input,
            ffn_by_input: m.by_input,
            bos: g.bos,
            eos: g.eos,
            eos_len: g.eos_len,
        })
    }
}

/// Whether a kind of layer has the shape of the others, and nothing that the engine cannot run.
fn runnable(layer: &Layer, first: &Attention, neurons: &Mlp) -> Result<(), Error> {
    let (Some(a), Some(m)) = (layer.attention(), layer.mlp()) else {
        return Err(Error::Unsupported("layers without attention or without neurons"));
    };
    let shape = |a: &Attention| (a.heads, a.kv_heads, a.head_dim, a.by_input);
    let unsupported = [
        (shape(a) != shape(first), "layers with other heads than the first"),
        (
            (m.neurons, m.gated, m.activate()) != (neurons.neurons, neurons.gated, neurons.activate()),
            "layers with other neurons than the first",
        ),
        ((m.group, m.by_input) != (neurons.group, neurons.by_input), "layers that are stored in different ways"),
    ];
    match unsupported.iter().find(|u| u.0) {
        Some((_, what)) => Err(Error::Unsupported(what)),
        None => Ok(()),
    }
}
