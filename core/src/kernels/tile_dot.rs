//! Integer dot products of a tile: 16 outputs, each with the same 32 quantized inputs.
//!
//! ```text
//! dot[output] = sum over k in 0..32 of code[output][k] * x[k]        exactly, then as f32
//! ```
//! What codes stand for is an integer of at most 8 bits, of at most 14 where halves of a block have factors. This is the
//! only part of a matrix kernel that an instruction set writes itself, one file each; `scalar.rs` is the definition the
//! others are held to. Bytes of a tile lie in *quads*: four neighbouring inputs of output 0, of output 1, ..., so that an
//! instruction that multiplies four bytes a lane reads an output a lane.

use super::call::Offset;
use super::heads::Heads;
use crate::simd::{Lanes, Proof};

pub(super) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) mod simd128;

/// Bytes of `N` quads: `[quad][output / 4][output % 4 and input]`.
pub(super) type Quads<const N: usize> = [[[u8; 16]; 4]; N];

/// A tile as it lies in memory: heads and codes of 16 outputs.
#[repr(C)]
pub(super) struct Tile<H, S> {
    pub(super) heads: H,
    pub(super) codes: S,
}

/// Codes as a tile stores them. What they stand for is theirs too: a table's entries, themselves, or less a half of the
/// range.
///
/// # Safety
/// The type must consist of bytes alone: then any address and any contents will do.
pub(super) unsafe trait Stored: 'static {}

/// Signed bytes.
#[repr(C)]
pub(super) struct Bytes {
    /// 32 inputs.
    pub(super) quads: Quads<8>,
}

/// Nibbles to be looked up in a table.
#[repr(C)]
pub(super) struct Entries {
    /// Inputs 0..16 in the low halves, 16..32 in the high ones.
    pub(super) quads: Quads<4>,
}

/// Nibbles.
#[repr(C)]
pub(super) struct Nibbles {
    /// As [`Entries`]'.
    pub(super) quads: Quads<4>,
}

/// Nibbles, less 8.
#[repr(C)]
pub(super) struct SignedFours {
    /// As [`Entries`]'.
    pub(super) quads: Quads<4>,
}

/// Five bits, less 16.
#[repr(C)]
pub(super) struct SignedFives {
    pub(super) low: Quads<4>,
    /// The fifth bits: bit q is that of quad q.
    pub(super) upper: Quads<1>,
}

/// Five bits.
#[repr(C)]
pub(super) struct Fives {
    pub(super) low: Quads<4>,
    /// As [`SignedFives`]'.
    pub(super) upper: Quads<1>,
}

/// Six bits, less 32.
#[repr(C)]
pub(super) struct SignedSixes {
    pub(super) low: Quads<4>,
    /// Bits 2q and 2q + 1: the upper two of quad q, then of quad 4 + q.
    pub(super) upper: Quads<2>,
}

// SAFETY: bytes alone.
unsafe impl Stored for Bytes {}
// SAFETY: bytes alone.
unsafe impl Stored for Entries {}
// SAFETY: bytes alone.
unsafe impl Stored for Nibbles {}
// SAFETY: bytes alone.
unsafe impl Stored for SignedFives {}
// SAFETY: bytes alone.
unsafe impl Stored for SignedFours {}
// SAFETY: bytes alone.
unsafe impl Stored for Fives {}
// SAFETY: bytes alone.
unsafe impl Stored for SignedSixes {}

/// The tiles of the integer arithmetics, by their names.
pub(super) mod tiles {
    use super::super::heads::{Halves, Powers, Scales, ScalesAndMinima, SixBitScales, SixBitScalesAndMinima};
    use super::{Bytes, Entries, Fives, Nibbles, SignedFives, SignedFours, SignedSixes, Tile};
    use crate::format::{Arithmetic, Format};

    pub type Int8 = Tile<Scales, Bytes>;
    pub type Table4 = Tile<Scales, Entries>;
    pub type Affine4 = Tile<ScalesAndMinima, Nibbles>;
    pub type Int5 = Tile<Scales, SignedFives>;
    pub type Affine5 = Tile<ScalesAndMinima, Fives>;
    pub type Power4 = Tile<Powers, Entries>;
    pub type SuperAffine4 = Tile<SixBitScalesAndMinima, Nibbles>;
    pub type SuperAffine5 = Tile<SixBitScalesAndMinima, Fives>;
    pub type SuperInt6 = Tile<Halves, SignedSixes>;
    pub type SuperTable4 = Tile<SixBitScales, Entries>;
    pub type Int4 = Tile<Scales, SignedFours>;

    const fn bytes(arithmetic: Arithmetic) -> usize {
        match arithmetic {
            Arithmetic::F32 | Arithmetic::F16 | Arithmetic::Bf16 => 0,
            Arithmetic::Int8 => size_of::<Int8>(),
            Arithmetic::Table4 => size_of::<Table4>(),
            Arithmetic::Affine4 => size_of::<Affine4>(),
            Arithmetic::Int5 => size_of::<Int5>(),
            Arithmetic::Affine5 => size_of::<Affine5>(),
            Arithmetic::Power4 => size_of::<Power4>(),
            Arithmetic::SuperAffine4 => size_of::<SuperAffine4>(),
            Arithmetic::SuperAffine5 => size_of::<SuperAffine5>(),
            Arithmetic::SuperInt6 => size_of::<SuperInt6>(),
            Arithmetic::SuperTable4 => size_of::<SuperTable4>(),
            Arithmetic::Int4 => size_of::<Int4>(),
        }
    }

    const _: () = {
        let mut i = 0;
        while i < Format::ALL.len() {
            let format = Format::ALL[i];
            assert!(!format.takes_int8() || bytes(format.arithmetic()) == format.tile_bytes());
            i += 1;
        }
    };
}

/// The dot products of one kind of tiles on one instruction set.
pub(super) trait TileDot {
    /// The float lanes that go with it; their proof is one of all instructions used here.
    type L: Lanes;
    /// What the tiles begin with.
    type H: Heads;
    /// Their codes.
    type S: Stored;
    /// A tile's codes, decoded once for several tokens.
    type Codes<'a>: Copy;
    /// Tokens worth keeping in registers at once (a power of two up to 16).
    const TOKENS: usize;
    /// Tokens that [`TileDot::dots`] takes at once (1, 2 or 4).
    const AT_ONCE: usize = 1;

    /// Reads the codes of a tile.
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a Tile<Self::H, Self::S>, table: &[i8; 16]) -> Self::Codes<'a>;

    /// For each of 16 outputs the dot product of its 32 codes with `x` (those of a half times the half's integer, where
    /// heads have such), as (exact) floats; `offset` is -128 times the sum of `x` and of its first half, for
    /// implementations that shift the weights.
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: Offset) -> Self::L;

    /// The same for `N` tokens, [`TileDot::AT_ONCE`] or fewer.
    #[inline(always)]
    fn dots<const N: usize>(
        isa: Proof<Self::L>,
        codes: &Self::Codes<'_>,
        x: &[&[i8; 32]; N],
        offsets: &[Offset; N],
    ) -> [Self::L; N] {
        let mut dots = [Self::L::splat(isa, 0.0); N];
        for i in 0..N {
            dots[i] = Self::dot(isa, codes, x[i], offsets[i]);
        }
        dots
    }
}

/// The dot products of both halves, times the halves' integers: exact, and so the same as of integers.
#[inline(always)]
pub(super) fn weigh<L: Lanes>([first, second]: [L; 2], halves: &[L; 2]) -> L {
    first.mul(halves[0]).add(second.mul(halves[1]))
}

/// The dot products for one token and for several, where these are not made in the same way.
pub(super) trait Dots {
    /// The lanes of both.
    type L: Lanes;
    /// For one.
    type One: TileDot<L = Self::L>;
    /// For several.
    type Many: TileDot<L = Self::L, H = <Self::One as TileDot>::H, S = <Self::One as TileDot>::S>;
}

impl<D: TileDot> Dots for D {
    type L = D::L;
    type One = D;
    type Many = D;
}
