//! Activation functions of feed-forward networks.

use crate::simd::{LANES, Lanes, Proof};

/// The function between the matrices of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activation {
    /// x / (1 + e^-x), also called swish.
    Silu = 0,
    /// max(x, 0).
    Relu = 1,
    /// max(x, 0)^2.
    Relu2 = 2,
    /// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
    GeluTanh = 3,
    /// x / 2 * (1 + erf(x / sqrt(2))).
    Gelu = 4,
    /// `g / (1 + e^(-parameter * g)) * (h + 1)` with the gate `g` clamped to at most `clamp` and the neuron `h` to
    /// `-clamp..=clamp` (gpt-oss): only in gated networks.
    ClampedSwiglu = 5,
    /// x where it is larger than the parameter, else 0 (FATReLU, ProSparse, arXiv 2402.13516).
    FatRelu = 6,
}

impl Activation {
    /// All, in the order of their codes.
    pub const ALL: [Activation; 7] = [
        Activation::Silu,
        Activation::Relu,
        Activation::Relu2,
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::ClampedSwiglu,
        Activation::FatRelu,
    ];

    /// The activation with this code in an image.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Relu => "relu",
            Activation::Relu2 => "relu2",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Gelu => "gelu",
            Activation::ClampedSwiglu => "clamped_swiglu",
            Activation::FatRelu => "fatrelu",
        }
    }

    /// Whether most neurons are exactly zero after it.
    pub const fn is_sparse(self) -> bool {
        matches!(self, Activation::Relu | Activation::Relu2 | Activation::FatRelu)
    }
}

/// An activation with its parameter and its bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activate {
    /// The function.
    pub kind: Activation,
    /// Its parameter: a threshold, a slope; 0 where it has none.
    pub parameter: f32,
    /// The bound of [`Activation::ClampedSwiglu`].
    pub clamp: f32,
}

impl From<Activation> for Activate {
    fn from(kind: Activation) -> Self {
        Activate { kind, parameter: 0.0, clamp: 0.0 }
    }
}

impl Activate {
    /// The activated neurons of gates and neurons.
    #[inline(always)]
    fn gated<L: Lanes>(&self, gate: L, h: L) -> L {
        if self.kind != Activation::ClampedSwiglu {
            return self.apply(gate).mul(h);
        }
        let isa = h.isa();
        let (zero, one, bound) = (L::splat(isa, 0.0), L::splat(isa, 1.0), L::splat(isa, self.clamp));
        let (gate, h) = (gate.min(bound), h.min(bound).max(zero.sub(bound)));
        let slope = one.add(zero.sub(gate.mul(L::splat(isa, self.parameter))).exp());
        gate.div(slope).mul(h.add(one))
    }

    #[inline(always)]
    fn apply<L: Lanes>(&self, x: L) -> L {
        let isa = x.isa();
        let (zero, one) = (L::splat(isa, 0.0), L::splat(isa, 1.0));
        match self.kind {
            Activation::Silu => x.div(one.add(zero.sub(x).exp())),
            Activation::Relu => x.max(zero),
            Activation::Relu2 => x.max(zero).mul(x.max(zero)),
            Activation::GeluTanh => {
                // x/2 (1 + tanh u) = x / (1 + e^-2u)
                let cube = x.mul(x).mul(x).mul(L::splat(isa, 0.044_715));
                let u2 = x.add(cube).mul(L::splat(isa, 2.0 * 0.797_884_6));
                x.div(one.add(zero.sub(u2).exp()))
            }
            Activation::Gelu => {
                let erf = x.mul(L::splat(isa, core::f32::consts::FRAC_1_SQRT_2)).to_array().map(libm::erff);
                x.mul(L::splat(isa, 0.5)).mul(one.add(L::load(isa, &erf)))
            }
            Activation::FatRelu => {
                let least = self.parameter;
                L::load(isa, &x.to_array().map(|x| if x > least { x } else { 0.0 }))
            }
            // This function needs a gate: the architecture refuses it without one.
            Activation::ClampedSwiglu => x,
        }
    }
}

/// See [`super::Kernels::activate`].
#[inline(always)]
pub(super) fn activate<L: Lanes>(isa: Proof<L>, activate: &Activate, gate: Option<&[f32]>, h: &mut [f32]) {
    let mut gates = gate.unwrap_or_default().chunks(LANES);
    for h in h.chunks_mut(LANES) {
        let mut buffer = [[0.0; LANES]; 2];
        buffer[0].iter_mut().zip(&*h).for_each(|(to, x)| *to = *x);
        let gate = gates.next();
        buffer[1].iter_mut().zip(gate.unwrap_or_default()).for_each(|(to, x)| *to = *x);
        let v = L::load(isa, &buffer[0]);
        let y = match gate {
            Some(_) => activate.gated(L::load(isa, &buffer[1]), v),
            None => activate.apply(v),
        };
        h.iter_mut().zip(y.to_array()).for_each(|(to, y)| *to = y);
    }
}

/// See [`super::Kernels::scale_and_cap`].
#[inline(always)]
pub(super) fn scale_and_cap<L: Lanes>(isa: Proof<L>, scale: f32, cap: f32, x: &mut [f32]) {
    for x in x.chunks_mut(LANES) {
        let mut buffer = [0.0; LANES];
        buffer.iter_mut().zip(&*x).for_each(|(to, x)| *to = *x);
        let y = L::load(isa, &buffer).mul(L::splat(isa, scale));
        let y = if cap == 0.0 { y } else { capped(y, cap) };
        x.iter_mut().zip(y.to_array()).for_each(|(to, y)| *to = y);
    }
}

/// `cap * tanh(x / cap)`, with tanh(u) = 1 - 2 / (1 + e^2u).
#[inline(always)]
pub(super) fn capped<L: Lanes>(x: L, cap: f32) -> L {
    let isa = x.isa();
    let (one, two, cap) = (L::splat(isa, 1.0), L::splat(isa, 2.0), L::splat(isa, cap));
    let tanh = one.sub(two.div(one.add(x.div(cap).mul(two).exp())));
    cap.mul(tanh)
}
