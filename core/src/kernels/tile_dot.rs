//! Integer dot products of a tile: 16 outputs, each with the same 32 quantized inputs.
//!
//! ```text
//! dot[output] = sum over k in 0..32 of code[output][k] * x[k]        exactly, then as f32
//! ```
//! A code stands for an integer of at most 8 bits, or 14 where halves of a block have factors. This is the only part of
//! a matrix kernel that is written for each instruction set, in a file of its own; `scalar.rs` defines the results, and
//! tests compare the others with it. Bytes of a tile are stored in *quads*: four neighbouring inputs of output 0, of
//! output 1, ..., so that an instruction that multiplies four bytes in each lane has an output in each lane.

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

/// A tile in memory: heads and codes of 16 outputs.
#[repr(C)]
pub(super) struct Tile<H, S> {
    pub(super) heads: H,
    pub(super) codes: S,
}

/// Codes as a tile stores them. The type also says which integers they stand for: a table's entries, the codes
/// themselves, or the codes less half of their range.
///
/// # Safety
/// The type must consist of bytes alone: then a reference to it is valid at any address and with any contents.
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
    /// Inputs 0..16 in the low halves, 16..32 in the high ones.
    pub(super) quads: Quads<4>,
}

/// Nibbles, less 8.
#[repr(C)]
pub(super) struct SignedFours {
    /// Inputs 0..16 in the low halves, 16..32 in the high ones.
    pub(super) quads: Quads<4>,
}

/// Five bits, less 16.
#[repr(C)]
pub(super) struct SignedFives {
    pub(super) low: Quads<4>,
    /// The fifth bits: bit q belongs to quad q.
    pub(super) upper: Quads<1>,
}

/// Five bits.
#[repr(C)]
pub(super) struct Fives {
    pub(super) low: Quads<4>,
    /// The fifth bits: bit q belongs to quad q.
    pub(super) upper: Quads<1>,
}

/// Six bits, less 32.
#[repr(C)]
pub(super) struct SignedSixes {
    pub(super) low: Quads<4>,
    /// The upper two bits: bits 2q and 2q + 1 belong to quad q, in the second half to quad 4 + q.
    pub(super) upper: Quads<2>,
}

// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for Bytes {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for Entries {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for Nibbles {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for SignedFives {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for SignedFours {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for Fives {}
// SAFETY: the type consists of arrays of bytes.
unsafe impl Stored for SignedSixes {}

/// The tiles of the integer arithmetics, under the names of these.
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
    /// The float lanes of its instruction set; their proof is also the proof for all instructions used here.
    type L: Lanes;
    /// The heads that tiles begin with.
    type H: Heads;
    /// The codes of tiles.
    type S: Stored;
    /// A tile's codes, decoded once for several tokens.
    type Codes<'a>: Copy;
    /// How many tokens' sums are kept in registers at once (a power of two up to 8).
    const TOKENS: usize;
    /// The number of tokens for which [`TileDot::dots`] is called (1, 2 or 4).
    const AT_ONCE: usize = 1;
    /// The fewest tokens for which tiles are decoded before all of them read the codes, from the stack; fewer decode each tile
    /// anew for every [`TileDot::TOKENS`] of them, whose sums stay in registers.
    const MANY: usize = if Self::TOKENS > 1 { 2 * Self::TOKENS } else { usize::MAX };
    /// The number of tiles that are decoded before many tokens read them (1 or 8).
    const RUN: usize = 8;

    /// Reads the codes of a tile.
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a Tile<Self::H, Self::S>, table: &[i8; 16]) -> Self::Codes<'a>;

    /// For each of 16 outputs the dot product of its 32 codes with `x`, as (exact) floats; where heads have integers of
    /// halves, each half's part times its integer. `offset` is -128 times the sum of `x`, and of its first half, for
    /// implementations that shift the weights.
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: Offset) -> Self::L;

    /// [`TileDot::decode`] and [`TileDot::dot`] in one, for one token.
    #[inline(always)]
    fn dot_once(
        isa: Proof<Self::L>,
        tile: &Tile<Self::H, Self::S>,
        table: &[i8; 16],
        x: &[i8; 32],
        offset: Offset,
    ) -> Self::L {
        Self::dot(isa, &Self::decode(isa, tile, table), x, offset)
    }

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

/// The sum of both halves' dot products times the halves' integers: exact in floats.
#[inline(always)]
pub(super) fn weigh<L: Lanes>([first, second]: [L; 2], halves: &[L; 2]) -> L {
    first.mul(halves[0]).add(second.mul(halves[1]))
}

/// The dot products for one token and for several, which may be computed in different ways.
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
