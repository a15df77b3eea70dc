//! Activation functions of the feed-forward part.

use crate::simd::{LANES, Lanes, Proof};

/// The function between the two matrices of an FFN.
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
}

impl Activation {
    /// All, in the order of their codes.
    pub const ALL: [Activation; 5] =
        [Activation::Silu, Activation::Relu, Activation::Relu2, Activation::GeluTanh, Activation::Gelu];

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
        }
    }

    #[inline(always)]
    fn apply<L: Lanes>(self, x: L) -> L {
        let isa = x.isa();
        let (zero, one) = (L::splat(isa, 0.0), L::splat(isa, 1.0));
        match self {
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
        }
    }
}

/// See [`super::Kernels::activate`].
#[inline(always)]
pub(super) fn activate<L: Lanes>(isa: Proof<L>, kind: Activation, gate: Option<&[f32]>, h: &mut [f32]) {
    let mut gates = gate.unwrap_or_default().chunks(LANES);
    for h in h.chunks_mut(LANES) {
        let mut buffer = [[0.0; LANES]; 2];
        buffer[0].iter_mut().zip(&*h).for_each(|(to, x)| *to = *x);
        let gate = gates.next();
        buffer[1].iter_mut().zip(gate.unwrap_or_default()).for_each(|(to, x)| *to = *x);
        let v = L::load(isa, &buffer[0]);
        let y = match gate {
            Some(_) => kind.apply(L::load(isa, &buffer[1])).mul(v),
            None => kind.apply(v),
        };
        h.iter_mut().zip(y.to_array()).for_each(|(to, y)| *to = y);
    }
}
