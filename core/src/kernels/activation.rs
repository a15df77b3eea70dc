//! Activation functions of the feed-forward part.

use crate::simd::{LANES, Lanes};

/// What stands between the two matrices of an FFN.
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

    /// # Safety
    /// `L`'s features must be there.
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, x: L) -> L {
        // SAFETY: features by the caller.
        unsafe {
            let (zero, one) = (L::splat(0.0), L::splat(1.0));
            match self {
                Activation::Silu => x.div(one.add(zero.sub(x).exp())),
                Activation::Relu => x.max(zero),
                Activation::Relu2 => x.max(zero).mul(x.max(zero)),
                Activation::GeluTanh => {
                    // x/2 (1 + tanh u) = x / (1 + e^-2u)
                    let cube = x.mul(x).mul(x).mul(L::splat(0.044_715));
                    let u2 = x.add(cube).mul(L::splat(2.0 * 0.797_884_6));
                    x.div(one.add(zero.sub(u2).exp()))
                }
                Activation::Gelu => {
                    let erf = x.mul(L::splat(core::f32::consts::FRAC_1_SQRT_2)).to_array().map(libm::erff);
                    x.mul(L::splat(0.5)).mul(one.add(L::load(erf.as_ptr())))
                }
            }
        }
    }
}

/// See [`super::Kernels::activate`].
///
/// # Safety
/// Lengths as there; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn activate<L: Lanes>(kind: Activation, gate: Option<&[f32]>, h: &mut [f32]) {
    let mut gates = gate.unwrap_or_default().chunks(LANES);
    for h in h.chunks_mut(LANES) {
        let mut buffer = [[0.0; LANES]; 2];
        buffer[0].iter_mut().zip(&*h).for_each(|(to, x)| *to = *x);
        let gate = gates.next();
        buffer[1].iter_mut().zip(gate.unwrap_or_default()).for_each(|(to, x)| *to = *x);
        // SAFETY: both buffers hold 16 floats; features by the caller.
        let y = unsafe {
            let v = L::load(buffer[0].as_ptr());
            match gate {
                Some(_) => kind.apply(L::load(buffer[1].as_ptr())).mul(v),
                None => kind.apply(v),
            }
            .to_array()
        };
        h.iter_mut().zip(y).for_each(|(to, y)| *to = y);
    }
}
