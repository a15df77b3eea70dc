//! Integer dot products of a tile: 16 outputs, each with the same 32 quantized inputs.
//!
//! ```text
//! dot[output] = sum over k in 0..32 of code[output][k] * x[k]        exactly, then as f32
//! ```
//! This is the only part of a matrix kernel that an instruction set writes itself, one file each; `scalar.rs` is the
//! definition the others are held to. Bytes of a tile lie in *quads*: four neighbouring inputs of output 0, of output
//! 1, ..., so that an instruction that multiplies four bytes a lane reads an output a lane.

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

/// A tile as it lies in memory.
///
/// # Safety
/// The type must consist of bytes alone: then any address and any contents will do.
pub(super) unsafe trait Tile {
    /// A scale for every output, f16.
    fn scales(&self) -> &[u8; 32];
    /// A minimum for every output, f16, where the format has them.
    #[inline(always)]
    fn minima(&self) -> Option<&[u8; 32]> {
        None
    }
}

/// A tile of signed bytes.
#[repr(C)]
pub(super) struct ByteTile {
    scales: [u8; 32],
    /// 32 inputs.
    codes: Quads<8>,
}

/// A tile of nibbles.
#[repr(C)]
pub(super) struct NibbleTile {
    scales: [u8; 32],
    /// Inputs 0..16 in the low halves, 16..32 in the high ones.
    codes: Quads<4>,
}

/// A tile of nibbles with minima.
#[repr(C)]
pub(super) struct AffineTile {
    scales: [u8; 32],
    minima: [u8; 32],
    /// As [`NibbleTile`]'s.
    codes: Quads<4>,
}

// SAFETY: bytes alone.
unsafe impl Tile for ByteTile {
    #[inline(always)]
    fn scales(&self) -> &[u8; 32] {
        &self.scales
    }
}

// SAFETY: bytes alone.
unsafe impl Tile for NibbleTile {
    #[inline(always)]
    fn scales(&self) -> &[u8; 32] {
        &self.scales
    }
}

// SAFETY: bytes alone.
unsafe impl Tile for AffineTile {
    #[inline(always)]
    fn scales(&self) -> &[u8; 32] {
        &self.scales
    }

    #[inline(always)]
    fn minima(&self) -> Option<&[u8; 32]> {
        Some(&self.minima)
    }
}

const _: () = {
    use crate::format::Format;
    assert!(size_of::<ByteTile>() == Format::Q8_0.tile_bytes());
    assert!(size_of::<NibbleTile>() == Format::Q4_0.tile_bytes());
    assert!(size_of::<AffineTile>() == Format::Q4_1.tile_bytes());
};

/// The dot products of one kind of tiles on one instruction set.
pub(super) trait TileDot {
    /// The float lanes that go with it; their proof is one of all instructions used here.
    type L: Lanes;
    /// The tile.
    type Tile: Tile;
    /// A tile's codes, decoded once for several tokens.
    type Codes<'a>: Copy;
    /// Tokens worth keeping in registers at once (a power of two up to 16).
    const TOKENS: usize;
    /// Tokens that [`TileDot::dots`] takes at once (1, 2 or 4).
    const AT_ONCE: usize = 1;

    /// Reads the codes of a tile.
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a Self::Tile, table: &[i8; 16]) -> Self::Codes<'a>;

    /// For each of 16 outputs the dot product of its 32 codes with `x`, as (exact) floats; `offset` is
    /// -128 times the sum of `x`, for implementations that shift the weights by 128.
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: i32) -> Self::L;

    /// The same for `N` tokens, [`TileDot::AT_ONCE`] or fewer.
    #[inline(always)]
    fn dots<const N: usize>(
        isa: Proof<Self::L>,
        codes: &Self::Codes<'_>,
        x: &[&[i8; 32]; N],
        offsets: &[i32; N],
    ) -> [Self::L; N] {
        let mut dots = [Self::L::splat(isa, 0.0); N];
        for i in 0..N {
            dots[i] = Self::dot(isa, codes, x[i], offsets[i]);
        }
        dots
    }
}

/// The dot products for one token and for several, where these are not made in the same way.
pub(super) trait Dots {
    /// The lanes of both.
    type L: Lanes;
    /// For one.
    type One: TileDot<L = Self::L>;
    /// For several.
    type Many: TileDot<L = Self::L, Tile = <Self::One as TileDot>::Tile>;
}

impl<D: TileDot> Dots for D {
    type L = D::L;
    type One = D;
    type Many = D;
}
