//! Integer dot products of a tile in portable code: the definition with which tests compare the others.

use super::{
    Bytes, Entries, Fives, Nibbles, Quads, SignedFives, SignedFours, SignedSixes, Stored, Tile, TileDot, weigh,
};
use crate::format::{BLOCK, TILE_ROWS};
use crate::kernels::call::Offset;
use crate::kernels::heads::Heads;
use crate::simd::scalar::ScalarLanes;
use crate::simd::{Lanes, Proof};
use core::marker::PhantomData;

/// Codes as `[quad][output][4]`, in the order of a tile of bytes.
type Codes = [i8; TILE_ROWS * BLOCK];

/// Codes as the integers that they stand for.
pub(in crate::kernels) trait Unpack: Stored {
    fn unpack(&self, table: &[i8; 16]) -> Codes;
}

/// Splits packed nibbles (low: first 16 inputs, high: last 16) and maps them.
#[inline(always)]
fn nibbles(packed: &Quads<4>, map: impl Fn(u8) -> i8) -> Codes {
    let mut codes = [0i8; TILE_ROWS * BLOCK];
    for (i, byte) in packed.as_flattened().as_flattened().iter().enumerate() {
        codes[i] = map(byte & 15);
        codes[TILE_ROWS * BLOCK / 2 + i] = map(byte >> 4);
    }
    codes
}

/// Nibbles with `BITS` upper bits each, less `less`.
#[inline(always)]
fn with_upper<const BITS: usize, const N: usize>(low: &Quads<4>, upper: &Quads<N>, less: i8) -> Codes {
    let mut codes = nibbles(low, |n| n as i8);
    let upper = upper.as_flattened().as_flattened();
    for (quad, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        // A byte has the upper bits of 8 / BITS quads.
        let (part, shift) = (quad / (8 / BITS), quad % (8 / BITS) * BITS);
        for (i, code) in codes.iter_mut().enumerate() {
            let bits = upper[part * 64 + i] >> shift & ((1 << BITS) - 1);
            *code = (*code | (bits << 4) as i8) - less;
        }
    }
    codes
}

impl Unpack for Bytes {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        // SAFETY: both types are 512 bytes and can be at any address.
        unsafe { *core::ptr::from_ref(&self.quads).cast::<Codes>() }
    }
}

impl Unpack for Entries {
    #[inline(always)]
    fn unpack(&self, table: &[i8; 16]) -> Codes {
        nibbles(&self.quads, |n| table[usize::from(n & 15)])
    }
}

impl Unpack for Nibbles {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        nibbles(&self.quads, |n| n as i8)
    }
}

impl Unpack for SignedFives {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        with_upper::<1, 1>(&self.low, &self.upper, 16)
    }
}

impl Unpack for Fives {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        with_upper::<1, 1>(&self.low, &self.upper, 0)
    }
}

impl Unpack for SignedFours {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        nibbles(&self.quads, |n| n as i8 - 8)
    }
}

impl Unpack for SignedSixes {
    #[inline(always)]
    fn unpack(&self, _table: &[i8; 16]) -> Codes {
        with_upper::<2, 2>(&self.low, &self.upper, 32)
    }
}

/// dot[r] = sum over k of codes[k][r] * x[k], of some quads.
#[inline(always)]
fn dot(isa: Proof<ScalarLanes>, codes: &Codes, x: &[i8; BLOCK], quads: core::ops::Range<usize>) -> ScalarLanes {
    let mut sums = [0i32; TILE_ROWS];
    for quad in quads {
        for (r, sum) in sums.iter_mut().enumerate() {
            for c in 0..4 {
                *sum += i32::from(codes[quad * 64 + r * 4 + c]) * i32::from(x[quad * 4 + c]);
            }
        }
    }
    ScalarLanes::load(isa, &sums.map(|s| s as f32))
}

/// The dot products of a kind of tiles.
pub(in crate::kernels) struct Dot<T>(PhantomData<T>);

impl<H: Heads, S: Unpack> TileDot for Dot<Tile<H, S>> {
    type L = ScalarLanes;
    type H = H;
    type S = S;
    type Codes<'a> = (Codes, [ScalarLanes; 2]);
    const TOKENS: usize = 2;
    /// Decoding takes longer than a product.
    const MANY: usize = 2;
    /// Stacks are small on microcontrollers.
    const RUN: usize = 1;

    #[inline(always)]
    fn decode<'a>(isa: Proof<ScalarLanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        (tile.codes.unpack(table), tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot(isa: Proof<ScalarLanes>, (codes, halves): &Self::Codes<'_>, x: &[i8; BLOCK], _: Offset) -> ScalarLanes {
        if H::HALVED {
            weigh([dot(isa, codes, x, 0..4), dot(isa, codes, x, 4..8)], halves)
        } else {
            dot(isa, codes, x, 0..8)
        }
    }
}
