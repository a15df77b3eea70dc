//! Integer dot products of a tile in portable code: the definition the others are held to.

use super::{AffineTile, ByteTile, NibbleTile, Quads, TileDot};
use crate::format::{BLOCK, TILE_ROWS};
use crate::simd::scalar::ScalarLanes;
use crate::simd::{Lanes, Proof};

/// Codes as `[quad][output][4]`, as they lie in a tile of bytes.
type Codes = [i8; TILE_ROWS * BLOCK];

/// dot[r] = sum over k of codes[k][r] * x[k].
#[inline(always)]
fn dot(codes: &Codes, x: &[i8; BLOCK]) -> [f32; TILE_ROWS] {
    let mut sums = [0i32; TILE_ROWS];
    for quad in 0..BLOCK / 4 {
        for (r, sum) in sums.iter_mut().enumerate() {
            for c in 0..4 {
                *sum += i32::from(codes[quad * 64 + r * 4 + c]) * i32::from(x[quad * 4 + c]);
            }
        }
    }
    sums.map(|s| s as f32)
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

macro_rules! scalar_dot {
    ($(#[$doc:meta])* $name:ident, $tile_type:ty, |$tile:ident, $table:ident| $decode:expr) => {
        $(#[$doc])*
        pub(in crate::kernels) struct $name;

        impl TileDot for $name {
            type L = ScalarLanes;
            type Tile = $tile_type;
            type Codes<'a> = Codes;
            const TOKENS: usize = 4;

            #[inline(always)]
            fn decode(_: Proof<ScalarLanes>, $tile: &$tile_type, $table: &[i8; 16]) -> Codes {
                $decode
            }

            #[inline(always)]
            fn dot(isa: Proof<ScalarLanes>, codes: &Codes, x: &[i8; BLOCK], _offset: i32) -> ScalarLanes {
                ScalarLanes::load(isa, &dot(codes, x))
            }
        }
    };
}

scalar_dot!(
    /// Signed bytes.
    Int8,
    ByteTile,
    // SAFETY: both are 512 bytes, at any address.
    |tile, _table| unsafe { *core::ptr::from_ref(&tile.codes).cast::<Codes>() }
);
scalar_dot!(
    /// Nibbles through a table.
    Table4,
    NibbleTile,
    |tile, table| nibbles(&tile.codes, |n| table[usize::from(n & 15)])
);
scalar_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    AffineTile,
    |tile, _table| nibbles(&tile.codes, |n| n as i8)
);
