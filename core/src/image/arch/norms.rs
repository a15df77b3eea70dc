//! Norms around a block's operation.

use super::rules::magnitude;
use crate::image::words::{Codec, coded};

coded! {
    /// The kinds of normalisation.
    Norming {
        /// By the root mean square, with a weight.
        Rms = 1,
        /// By mean and variance, with a weight and a bias.
        Layer = 2,
    }
}

/// A normalisation and its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// The kind.
    pub kind: Norming,
    /// A small number that is added to the mean of squares, or to the variance.
    pub eps: f32,
}

/// The norms around a block's operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// The norm of the operation's input.
    pub input: Option<Norm>,
    /// The norm of its output, before this is added to the residual stream.
    pub output: Option<Norm>,
    /// The norm of the residual stream after the addition.
    pub stream: Option<Norm>,
}

impl Norms {
    /// Whether every epsilon is in range.
    pub(super) fn fit(&self) -> bool {
        [&self.input, &self.output, &self.stream].into_iter().all(eps_fits)
    }

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        for norm in [&mut self.input, &mut self.output, &mut self.stream] {
            norm_words(norm, w);
        }
    }
}

pub(super) fn norm_words(norm: &mut Option<Norm>, w: &mut impl Codec) {
    let (mut there, mut value) = (norm.is_some(), norm.unwrap_or(Norm { kind: Norming::Rms, eps: 0.0 }));
    w.optional_code(&mut there, &mut value.kind);
    w.number(&mut value.eps);
    *norm = there.then_some(value);
}

pub(super) fn eps_fits(norm: &Option<Norm>) -> bool {
    norm.is_none_or(|n| magnitude(n.eps))
}
