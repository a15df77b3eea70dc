//! Integer dot products of a tile in portable code: the definition the others are held to.

use super::matmul::TileDot;
use crate::format::{Arithmetic, BLOCK, Format, TILE_ROWS};
use crate::simd::Lanes;
use crate::simd::scalar::ScalarLanes;

/// Codes as `[quad][output][4]`, as they lie in an i8 tile.
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
fn nibbles(packed: &[u8; 256], map: impl Fn(u8) -> i8) -> Codes {
    let mut codes = [0i8; TILE_ROWS * BLOCK];
    for (i, byte) in packed.iter().enumerate() {
        codes[i] = map(byte & 15);
        codes[256 + i] = map(byte >> 4);
    }
    codes
}

macro_rules! scalar_dot {
    ($(#[$doc:meta])* $name:ident, $format:expr, |$tile:ident, $table:ident| $decode:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        // SAFETY: needs no target feature.
        unsafe impl TileDot for $name {
            type L = ScalarLanes;
            type Codes = Codes;
            const TOKENS: usize = 4;
            const TILE: usize = $format.tile_bytes();
            const AFFINE: bool = matches!($format.arithmetic(), Arithmetic::Affine4);

            #[inline(always)]
            unsafe fn decode($tile: *const u8, $table: &[i8; 16]) -> Codes {
                $decode
            }

            #[inline(always)]
            unsafe fn dot(codes: &Codes, x: *const i8, _offset: i32) -> ScalarLanes {
                // SAFETY: 32 quants by contract; the array holds 16 floats.
                unsafe { ScalarLanes::load(dot(codes, &x.cast::<[i8; BLOCK]>().read()).as_ptr()) }
            }
        }
    };
}

scalar_dot!(
    /// Signed bytes.
    Int8,
    Format::Q8_0,
    // SAFETY: a whole tile by contract: 16 scales, then 512 codes.
    |tile, _table| unsafe { tile.add(32).cast::<Codes>().read() }
);
scalar_dot!(
    /// Nibbles through a table.
    Table4,
    Format::Q4_0,
    // SAFETY: a whole tile by contract: 16 scales, then 256 bytes.
    |tile, table| nibbles(unsafe { &*tile.add(32).cast::<[u8; 256]>() }, |n| table[usize::from(n)])
);
scalar_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    Format::Q4_1,
    // SAFETY: a whole tile by contract: 16 scales, 16 minima, then 256 bytes.
    |tile, _table| nibbles(unsafe { &*tile.add(64).cast::<[u8; 256]>() }, |n| n as i8)
);
