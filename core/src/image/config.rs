//! The sizes of a model: those that it has once, and the largest of any layer. Layers may differ in heads, neurons and
//! blocks; a layer's own numbers are in its blocks.

use super::arch::{Architecture, Attention, Layer, MAX_EOS, Mlp, Positions};
use crate::error::Error;
use crate::kernels::Activate;

/// The sizes that a model has once, and the largest of any layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the token embeddings (differs from `d_model` where they are projected).
    pub d_embed: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads of a layer, at most.
    pub heads: usize,
    /// Key and value heads of a layer, at most.
    pub kv_heads: usize,
    /// Width of a head, at most.
    pub head_dim: usize,
    /// Neurons of a layer's network, at most; of an expert where all layers have experts.
    pub ffn: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub max_positions: usize,
    /// The most positions that a session can have, whatever it was trained for; `usize::MAX` for no bound.
    pub most_positions: usize,
    /// Whether a layer's network is gated.
    pub gated: bool,
    /// Activation of the first network.
    pub activation: Activate,
    /// How the model is given positions.
    pub positions: Positions,
    /// The smallest group of neurons of any layer: 1, 4, 8, 16 or 32. Only whole groups are skipped.
    pub neuron_group: usize,
    /// Whether the maps of attention (Q, K, V, O) are stored by input, so that single inputs may be skipped.
    pub attention_by_input: bool,
    /// Whether the maps of the feed-forward network (gate, up, down) are stored by input.
    pub ffn_by_input: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the first `eos_len` of them filled.
    pub eos: [u32; MAX_EOS],
    /// Number of filled entries of `eos`.
    pub eos_len: usize,
}

impl Config {
    /// Width of one head in activation buffers: `head_dim` rounded up to 32, so that quantized blocks never
    /// straddle heads.
    pub const fn head_slot(&self) -> usize {
        self.head_dim.next_multiple_of(32)
    }

    /// Neurons in activation buffers: `ffn` rounded up to 32.
    pub const fn neuron_width(&self) -> usize {
        self.ffn.next_multiple_of(32)
    }

    /// The most groups of neurons in a layer, those of the padding included.
    pub const fn neuron_groups(&self) -> usize {
        self.neuron_width() / self.neuron_group
    }

    /// End-of-sequence tokens.
    pub fn eos(&self) -> &[u32] {
        self.eos.get(..self.eos_len).unwrap_or(&self.eos)
    }

    /// The sizes of a description.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where no layer has attention, or none a feed-forward network.
    pub fn of(arch: &Architecture) -> Result<Config, Error> {
        let g = arch.globals();
        let none = Error::Unsupported("no attention or no neurons in any layer");
        let mixed = arch.kinds().filter_map(network).all(|m| m.router.is_some());
        let attention = arch.kinds().filter_map(|layer| layer.attention().copied());
        let attention = attention.reduce(largest_attention).ok_or(none)?;
        let networks = arch.kinds().filter_map(network).filter(|m| mixed || m.router.is_none());
        let mlp = networks.reduce(largest_network).ok_or(none)?;
        Ok(Config {
            d_model: g.d_model,
            d_embed: g.d_embed,
            layers: g.layers,
            heads: attention.heads,
            kv_heads: attention.kv_heads,
            head_dim: attention.head_dim,
            ffn: mlp.neurons,
            vocab: g.vocab,
            max_positions: g.max_positions,
            most_positions: if g.bounded || g.positions == Positions::Learned { g.max_positions } else { usize::MAX },
            gated: mlp.gated,
            activation: mlp.activate(),
            positions: g.positions,
            neuron_group: mlp.group,
            attention_by_input: attention.by_input,
            ffn_by_input: mlp.by_input,
            bos: g.bos,
            eos: g.eos,
            eos_len: g.eos_len,
        })
    }
}

fn network(layer: Layer) -> Option<Mlp> {
    layer.mlp().copied()
}

fn largest_attention(a: Attention, b: Attention) -> Attention {
    Attention {
        heads: a.heads.max(b.heads),
        kv_heads: a.kv_heads.max(b.kv_heads),
        head_dim: a.head_dim.max(b.head_dim),
        by_input: a.by_input || b.by_input,
        ..a
    }
}

fn largest_network(a: Mlp, b: Mlp) -> Mlp {
    Mlp {
        neurons: a.neurons.max(b.neurons),
        group: a.group.min(b.group),
        gated: a.gated || b.gated,
        by_input: a.by_input || b.by_input,
        ..a
    }
}

/// The numbers of a layer that choosing its heads and neurons needs; zeros where the layer has no such block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerShape {
    /// Query heads.
    pub heads: usize,
    /// Width of a head in activation buffers.
    pub head_slot: usize,
    /// Neurons that can be chosen; 0 where the layer has experts.
    pub neurons: usize,
    /// Neurons per group.
    pub group: usize,
    /// Whether a gate multiplies the neurons.
    pub gated: bool,
    /// The activation.
    pub activation: Activate,
}

impl LayerShape {
    /// The shape of a layer.
    pub fn of(layer: &Layer) -> Self {
        let (a, m) = (layer.attention().unwrap_or(&Attention::NONE), layer.mlp().unwrap_or(&Mlp::NONE));
        LayerShape {
            heads: a.heads,
            head_slot: a.head_slot(),
            neurons: if m.router.is_none() { m.neurons } else { 0 },
            group: m.group.max(1),
            gated: m.gated,
            activation: m.activate(),
        }
    }

    /// Groups of neurons, those of the padding included.
    pub const fn groups(&self) -> usize {
        self.neurons.next_multiple_of(32) / self.group
    }
}
