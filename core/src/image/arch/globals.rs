//! The properties that a model has once, not in each layer.

use super::norms::{Norm, eps_fits, norm_words};
use super::rules::{first_wrong, magnitude, small};
use super::{MAX_EOS, MAX_LAYERS, MAX_ROPES};
use crate::error::Error;
use crate::image::words::{Codec, coded};

coded! {
    /// How the model is given positions.
    Positions {
        /// Rotation of query and key halves, by a table of inverse frequencies per block of attention.
        Rope = 0,
        /// Learned embeddings, added to the tokens'.
        Learned = 1,
    }
}

/// The properties of a model that do not belong to a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Globals {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the token embeddings (differs from `d_model` where they are projected).
    pub d_embed: usize,
    /// Layers.
    pub layers: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub max_positions: usize,
    /// Whether the image describes no position after these: the model computes later ones in another way.
    pub bounded: bool,
    /// How the model is given positions.
    pub positions: Positions,
    /// Tables of rotary frequencies.
    pub ropes: usize,
    /// Factor of the token embeddings.
    pub embed_scale: f32,
    /// Factor of the logits.
    pub logit_scale: f32,
    /// Logits become `cap * tanh(logit / cap)`; 0 for none.
    pub logit_cap: f32,
    /// Norm before the output matrix.
    pub final_norm: Option<Norm>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the first `eos_len` of them filled.
    pub eos: [u32; MAX_EOS],
    /// Number of filled entries of `eos`.
    pub eos_len: usize,
}

impl Globals {
    /// All fields zero, as a base for struct updates.
    pub const NONE: Globals = Globals {
        d_model: 0,
        d_embed: 0,
        layers: 0,
        vocab: 0,
        max_positions: 0,
        bounded: false,
        positions: Positions::Rope,
        ropes: 0,
        embed_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: 0.0,
        final_norm: None,
        bos: None,
        eos: [0; MAX_EOS],
        eos_len: 0,
    };

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.d_model);
        w.count(&mut self.d_embed);
        w.count(&mut self.layers);
        w.count(&mut self.vocab);
        w.count(&mut self.max_positions);
        w.code(&mut self.positions);
        w.count(&mut self.ropes);
        w.number(&mut self.embed_scale);
        w.number(&mut self.logit_scale);
        w.number(&mut self.logit_cap);
        norm_words(&mut self.final_norm, w);
        let mut bos = self.bos.map_or(0, |id| id as usize + 1);
        w.count(&mut bos);
        self.bos = bos.checked_sub(1).map(|id| id as u32);
        w.count(&mut self.eos_len);
        for id in &mut self.eos {
            w.id(id);
        }
    }

    /// Checks that every number is in the range that a model can have.
    ///
    /// # Errors
    /// [`Error::Malformed`] names the first field that is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let factor = |x: f32| x.is_finite() && x != 0.0;
        first_wrong(&[
            (small(self.d_model), "d_model"),
            (small(self.d_embed), "d_embed"),
            ((1..=MAX_LAYERS).contains(&self.layers), "layers"),
            ((1..=1 << 24).contains(&self.vocab), "vocab"),
            ((1..=1 << 26).contains(&self.max_positions), "max_positions"),
            (self.ropes <= MAX_ROPES, "ropes"),
            (factor(self.embed_scale), "embed_scale"),
            (factor(self.logit_scale), "logit_scale"),
            (magnitude(self.logit_cap), "logit_cap"),
            (eps_fits(&self.final_norm), "norm_eps"),
            (self.eos_len <= MAX_EOS, "eos"),
        ])
    }

    /// End-of-sequence tokens.
    pub fn eos(&self) -> &[u32] {
        self.eos.get(..self.eos_len).unwrap_or(&self.eos)
    }
}
