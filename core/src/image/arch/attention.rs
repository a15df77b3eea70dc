//! A block of attention.

use super::rules::{first_wrong, magnitude};
use super::{Globals, MAX_HEAD_DIM};
use crate::error::Error;
use crate::image::words::{Codec, coded};

coded! {
    /// RMS norm of queries and keys before their rotation.
    HeadNorm {
        /// None.
        None = 0,
        /// Each head on its own, with one weight vector of `head_dim` for all heads.
        PerHead = 1,
        /// All heads together, with a weight vector of `heads * head_dim`.
        Whole = 2,
    }
}

/// Causal self-attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that a token can attend to, its own included; 0 for all.
    pub window: usize,
    /// Table of rotary frequencies, `None` where heads are not rotated.
    pub rope: Option<usize>,
    /// Norm of queries and keys.
    pub head_norm: HeadNorm,
    /// Its epsilon.
    pub head_norm_eps: f32,
    /// Factor of the scores, commonly 1 / sqrt(head_dim).
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; 0 for none.
    pub cap: f32,
    /// Whether every head has a sink: a learned score that takes part in the soft-max but has no value.
    pub sinks: bool,
    /// Whether Q, K and V have biases, and whether O has one.
    pub biases: [bool; 2],
    /// Whether Q, K, V and O are stored by input, so that single inputs may be skipped.
    pub by_input: bool,
}

impl Attention {
    /// Width of one head in activation buffers: `head_dim` rounded up to 32, so that quantized blocks never straddle
    /// heads.
    pub const fn head_slot(&self) -> usize {
        self.head_dim.next_multiple_of(32)
    }

    /// Width of one head in the KV cache: `head_dim` rounded up to 16.
    pub const fn head_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// All fields zero, as a base for struct updates.
    pub const NONE: Attention = Attention {
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        window: 0,
        rope: None,
        head_norm: HeadNorm::None,
        head_norm_eps: 0.0,
        scale: 0.0,
        cap: 0.0,
        sinks: false,
        biases: [false; 2],
        by_input: false,
    };

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.heads);
        w.count(&mut self.kv_heads);
        w.count(&mut self.head_dim);
        w.count(&mut self.window);
        let mut rope = self.rope.map_or(0, |table| table + 1);
        w.count(&mut rope);
        self.rope = rope.checked_sub(1);
        w.code(&mut self.head_norm);
        w.number(&mut self.head_norm_eps);
        w.number(&mut self.scale);
        w.number(&mut self.cap);
        w.flag(&mut self.sinks);
        self.biases.iter_mut().for_each(|b| w.flag(b));
        w.flag(&mut self.by_input);
    }

    pub(super) fn check(&self, globals: &Globals) -> Result<(), Error> {
        first_wrong(&[
            ((1..=4096).contains(&self.heads), "heads"),
            (self.kv_heads >= 1 && self.kv_heads <= self.heads, "kv_heads"),
            (self.kv_heads >= 1 && self.heads.is_multiple_of(self.kv_heads), "heads / kv_heads"),
            ((1..=MAX_HEAD_DIM).contains(&self.head_dim), "head_dim"),
            (self.rope.is_none() || self.head_dim.is_multiple_of(2), "head_dim (odd under RoPE)"),
            (self.rope.is_none_or(|table| table < globals.ropes), "rope"),
            (self.window <= 1 << 26, "window"),
            (magnitude(self.head_norm_eps), "head_norm_eps"),
            (self.scale.is_finite() && self.scale > 0.0, "attention scale"),
            (magnitude(self.cap), "attention cap"),
        ])
    }
}
