//! A block of a feed-forward network, or of a mixture of them.

use super::rules::{first_wrong, magnitude, small};
use crate::error::Error;
use crate::format::BLOCK;
use crate::image::words::{Codec, coded};
use crate::kernels::{Activate, Activation};

coded! {
    /// How a router's outputs become the shares of the experts.
    Scoring {
        /// Soft-max over all experts, then the largest are chosen.
        Softmax = 0,
        /// A sigmoid of each expert's output.
        Sigmoid = 1,
        /// The largest are chosen, then soft-max over the chosen ones.
        SoftmaxOfChosen = 2,
    }
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Experts.
    pub experts: usize,
    /// Experts that a token uses.
    pub used: usize,
    /// How outputs become shares.
    pub scoring: Scoring,
    /// Whether the shares of the chosen experts are scaled to a sum of 1.
    pub renormalise: bool,
    /// Factor of the shares.
    pub scale: f32,
    /// Whether the outputs have a bias that affects only which experts are chosen, not their shares.
    pub bias: bool,
    /// Neurons of the expert that every token uses; 0 for none.
    pub shared: usize,
    /// Whether the shared expert's output has a sigmoid gate of its own.
    pub shared_gate: bool,
    /// Whether the router reads the layer's input in place of the block's.
    pub early: bool,
}

/// A feed-forward network, or a mixture of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mlp {
    /// Neurons (of one expert, where there are experts).
    pub neurons: usize,
    /// Whether a gate multiplies the neurons.
    pub gated: bool,
    /// Activation of the gate, or of the neurons where there is none.
    pub activation: Activation,
    /// Its parameter (a threshold, a slope); 0 where it has none.
    pub parameter: f32,
    /// Its bound ([`Activation::ClampedSwiglu`]); 0 for none.
    pub clamp: f32,
    /// Whether gate and up have biases, and whether down has one.
    pub biases: [bool; 2],
    /// Neurons per group; only whole groups are skipped: 1, 4, 8, 16 or 32.
    pub group: usize,
    /// Whether gate, up and down are stored by input.
    pub by_input: bool,
    /// The router, where the block is a mixture of experts.
    pub router: Option<Router>,
}

impl Mlp {
    /// Neurons in activation buffers: rounded up to 32.
    pub const fn width(&self) -> usize {
        self.neurons.next_multiple_of(32)
    }

    /// The activation with its parameter and its bound.
    pub const fn activate(&self) -> Activate {
        Activate { kind: self.activation, parameter: self.parameter, clamp: self.clamp }
    }

    /// All fields zero, as a base for struct updates.
    pub const NONE: Mlp = Mlp {
        neurons: 0,
        gated: false,
        activation: Activation::Silu,
        parameter: 0.0,
        clamp: 0.0,
        biases: [false; 2],
        group: 0,
        by_input: false,
        router: None,
    };

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.neurons);
        w.flag(&mut self.gated);
        w.code(&mut self.activation);
        w.number(&mut self.parameter);
        w.number(&mut self.clamp);
        self.biases.iter_mut().for_each(|b| w.flag(b));
        w.count(&mut self.group);
        w.flag(&mut self.by_input);
        let mut router = self.router.unwrap_or(Router::NONE);
        router.words(w);
        self.router = (router.experts > 0).then_some(router);
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        first_wrong(&[
            (small(self.neurons), "neurons"),
            (self.parameter.is_finite(), "activation's parameter"),
            (magnitude(self.clamp), "clamp"),
            (matches!(self.group, 1 | 4 | 8 | 16 | 32), "neuron_group (1, 4, 8, 16 or 32)"),
            (self.gated || self.activation != Activation::ClampedSwiglu, "activation (without a gate)"),
            ((self.clamp > 0.0) == (self.activation == Activation::ClampedSwiglu), "clamp (of another activation)"),
            (self.router.is_none() || self.group == BLOCK && !self.by_input, "experts by input, or in groups below 32"),
        ])?;
        let Some(r) = &self.router else { return Ok(()) };
        first_wrong(&[
            ((1..=4096).contains(&r.experts), "experts"),
            (r.used >= 1 && r.used <= r.experts, "experts used"),
            (r.scale.is_finite() && r.scale != 0.0, "router scale"),
            (r.shared == 0 || small(r.shared), "shared expert"),
        ])
    }
}

impl Router {
    const NONE: Router = Router {
        experts: 0,
        used: 0,
        scoring: Scoring::Softmax,
        renormalise: false,
        scale: 0.0,
        bias: false,
        shared: 0,
        shared_gate: false,
        early: false,
    };

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.experts);
        w.count(&mut self.used);
        w.code(&mut self.scoring);
        w.flag(&mut self.renormalise);
        w.number(&mut self.scale);
        w.flag(&mut self.bias);
        w.count(&mut self.shared);
        w.flag(&mut self.shared_gate);
        w.flag(&mut self.early);
    }
}
