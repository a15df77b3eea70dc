//! The model's shape, as the image stores it.

use super::head::u32_at;
use crate::error::Error;
use crate::kernels::Activation;

/// End-of-sequence tokens at most.
pub const MAX_EOS: usize = 8;
/// Bytes of the section.
const LEN: usize = 128;

/// Kind of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Norm {
    /// Root mean square, no bias.
    Rms = 0,
    /// Mean and variance, weight and bias.
    Layer = 1,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Positions {
    /// Rotation of query and key halves; the inverse frequencies are a vector in the image, so every
    /// scaling rule is the packer's affair.
    Rope = 0,
    /// Learned embeddings, added to the tokens'.
    Learned = 1,
}

/// The model's shape. All counts are positive and consistent once parsed.
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
    /// Positions a token looks back, itself counted; 0 for all.
    pub window: usize,
    /// First layer with that window.
    pub window_from: usize,
    /// Normalisation.
    pub norm: Norm,
    /// Its epsilon.
    pub norm_eps: f32,
    /// Whether norms stand before (true) or after attention and FFN.
    pub pre_norm: bool,
    /// Whether the FFN is gated.
    pub gated: bool,
    /// Its activation.
    pub activation: Activation,
    /// How positions enter.
    pub positions: Positions,
    /// Neurons per group (what may be skipped as one): 1, 4, 8, 16 or 32.
    pub neuron_group: usize,
    /// Whether the maps of attention (Q, K, V, O) are stored by input, so that single inputs may be skipped.
    pub attention_by_input: bool,
    /// Whether the maps of the FFN (gate, up, down) are.
    pub ffn_by_input: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the first `eos_len` are meant.
    pub eos: [u32; MAX_EOS],
    /// How many.
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
        &self.eos[..self.eos_len]
    }

    /// The window of a layer: how many positions back a token looks, itself counted.
    pub const fn layer_window(&self, layer: usize) -> usize {
        if self.window == 0 || layer < self.window_from { usize::MAX } else { self.window }
    }

    /// Reads the section.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, Error> {
        if raw.len() < LEN {
            return Err(Error::Malformed("the configuration is too short"));
        }
        let at = |i: usize| u32_at(raw, 4 * i) as usize;
        let mut eos = [0; MAX_EOS];
        for (i, e) in eos.iter_mut().enumerate() {
            *e = u32_at(raw, 4 * (21 + i));
        }
        let config = Config {
            d_model: at(0),
            d_embed: at(1),
            layers: at(2),
            heads: at(3),
            kv_heads: at(4),
            head_dim: at(5),
            ffn: at(6),
            vocab: at(7),
            max_positions: at(8),
            window: at(9),
            window_from: at(10),
            norm: if at(11) == 0 { Norm::Rms } else { Norm::Layer },
            norm_eps: f32::from_bits(u32_at(raw, 48)),
            pre_norm: at(13) != 0,
            gated: at(14) != 0,
            activation: Activation::from_code(raw[60]).ok_or(Error::Malformed("unknown activation"))?,
            positions: if at(16) == 0 { Positions::Rope } else { Positions::Learned },
            neuron_group: at(17),
            attention_by_input: at(29) & 1 != 0,
            ffn_by_input: at(29) & 2 != 0,
            bos: (at(18) != 0).then(|| u32_at(raw, 76)),
            eos_len: at(20),
            eos,
        };
        config.check()?;
        Ok(config)
    }

    /// Writes the section, 128 bytes.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut words = [0u32; LEN / 4];
        let counts = [
            self.d_model,
            self.d_embed,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.vocab,
            self.max_positions,
            self.window,
            self.window_from,
        ];
        for (word, count) in words.iter_mut().zip(counts) {
            *word = count as u32;
        }
        words[11] = self.norm as u32;
        words[12] = self.norm_eps.to_bits();
        words[13] = u32::from(self.pre_norm);
        words[14] = u32::from(self.gated);
        words[15] = self.activation as u32;
        words[16] = self.positions as u32;
        words[17] = self.neuron_group as u32;
        words[18] = u32::from(self.bos.is_some());
        words[19] = self.bos.unwrap_or(0);
        words[20] = self.eos_len as u32;
        words[21..21 + MAX_EOS].copy_from_slice(&self.eos);
        words[29] = u32::from(self.attention_by_input) | u32::from(self.ffn_by_input) << 1;
        let mut raw = [0; LEN];
        for (out, word) in raw.chunks_exact_mut(4).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        raw
    }

    /// Whether the numbers can be a model.
    ///
    /// # Errors
    /// [`Error::Malformed`] names the field.
    pub fn check(&self) -> Result<(), Error> {
        // Bounds far above any model keep products of three of them inside 64 bits.
        const MOST: usize = 1 << 20;
        let small = |n: usize| (1..=MOST).contains(&n);
        let fields = [
            (small(self.d_model), "d_model"),
            (small(self.d_embed), "d_embed"),
            ((1..=4096).contains(&self.layers), "layers"),
            ((1..=4096).contains(&self.heads), "heads"),
            (self.kv_heads >= 1 && self.kv_heads <= self.heads, "kv_heads"),
            (self.kv_heads >= 1 && self.heads.is_multiple_of(self.kv_heads), "heads / kv_heads"),
            ((1..=1024).contains(&self.head_dim), "head_dim"),
            (self.positions != Positions::Rope || self.head_dim.is_multiple_of(2), "head_dim (odd under RoPE)"),
            (small(self.ffn), "ffn"),
            ((1..=1 << 24).contains(&self.vocab), "vocab"),
            ((1..=1 << 26).contains(&self.max_positions), "max_positions"),
            (self.window <= 1 << 26, "window"),
            (self.norm_eps.is_finite() && self.norm_eps >= 0.0, "norm_eps"),
            (matches!(self.neuron_group, 1 | 4 | 8 | 16 | 32), "neuron_group (1, 4, 8, 16 or 32)"),
            (self.eos_len <= MAX_EOS, "eos"),
        ];
        match fields.iter().find(|(ok, _)| !ok) {
            Some((_, name)) => Err(Error::Malformed(name)),
            None => Ok(()),
        }
    }
}
