//! WebAssembly's 128-bit lanes. A register of codes holds four inputs of four outputs; widened to 16 bits, two of them
//! are multiplied and added in pairs by one instruction.

use super::{Bytes, Entries, Fives, Nibbles, SignedFives, SignedFours, SignedSixes, Stored, Tile, TileDot, weigh};
use crate::kernels::call::Offset;
use crate::kernels::heads::Heads;
use crate::simd::Proof;
use crate::simd::simd128::Simd128Lanes;
use core::arch::wasm32::*;

/// Codes in registers.
pub(in crate::kernels) trait Unpack: Stored {
    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4; both numbers are below 4.
    fn quads(&self, table: v128, quad: usize, j: usize) -> [v128; 2];
}

/// Sixteen bytes.
#[inline(always)]
fn load(bytes: &[u8; 16]) -> v128 {
    // SAFETY: the array has 16 bytes, and the load allows any alignment.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// The low and the high nibbles of 16 bytes.
#[inline(always)]
fn nibbles(packed: &[u8; 16]) -> [v128; 2] {
    let v = load(packed);
    [v128_and(v, u8x16_splat(15)), u8x16_shr(v, 4)]
}

impl Unpack for Bytes {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        [load(&self.quads[quad][j]), load(&self.quads[quad + 4][j])]
    }
}

impl Unpack for Entries {
    #[inline(always)]
    fn quads(&self, table: v128, quad: usize, j: usize) -> [v128; 2] {
        nibbles(&self.quads[quad][j]).map(|codes| i8x16_swizzle(table, codes))
    }
}

impl Unpack for Nibbles {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        nibbles(&self.quads[quad][j])
    }
}

/// Nibbles with a fifth bit.
#[inline(always)]
fn fives(low: &[u8; 16], upper: &[u8; 16], quad: usize) -> [v128; 2] {
    let (low, upper) = (nibbles(low), load(upper));
    let fifth = |quad: usize| i8x16_shl(v128_and(u8x16_shr(upper, quad as u32), u8x16_splat(1)), 4);
    [v128_or(low[0], fifth(quad)), v128_or(low[1], fifth(quad + 4))]
}

impl Unpack for Fives {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        fives(&self.low[quad][j], &self.upper[0][j], quad)
    }
}

impl Unpack for SignedFives {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        fives(&self.low[quad][j], &self.upper[0][j], quad).map(|codes| i8x16_sub(codes, i8x16_splat(16)))
    }
}

impl Unpack for SignedFours {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        nibbles(&self.quads[quad][j]).map(|codes| i8x16_sub(codes, i8x16_splat(8)))
    }
}

impl Unpack for SignedSixes {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        let low = nibbles(&self.low[quad][j]);
        let upper = [load(&self.upper[0][j]), load(&self.upper[1][j])];
        let bits = upper.map(|upper| i8x16_shl(v128_and(u8x16_shr(upper, 2 * quad as u32), u8x16_splat(3)), 4));
        [0, 1].map(|half| i8x16_sub(v128_or(low[half], bits[half]), i8x16_splat(32)))
    }
}

/// The dot products of a kind of tiles; codes are unpacked for every token.
pub(in crate::kernels) struct Dot<T>(core::marker::PhantomData<T>);

/// Two lanes for each output, of each half of the inputs.
type Sums = [[[v128; 2]; 4]; 2];

#[inline(always)]
fn floats(isa: Proof<Simd128Lanes>, sums: [[v128; 2]; 4]) -> Simd128Lanes {
    let sums = sums.map(|[a, b]| {
        f32x4_convert_i32x4(i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b)))
    });
    Simd128Lanes::new(isa, sums)
}

impl<H: Heads, S: Unpack> TileDot for Dot<Tile<H, S>> {
    type L = Simd128Lanes;
    type H = H;
    type S = S;
    /// The tile stays packed, because the sums take the registers.
    type Codes<'a> = (&'a Tile<H, S>, v128);
    const TOKENS: usize = 1;

    #[inline(always)]
    fn decode<'a>(_: Proof<Simd128Lanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes.
        (tile, unsafe { v128_load(table.as_ptr().cast()) })
    }

    #[inline(always)]
    fn dot(isa: Proof<Simd128Lanes>, (tile, table): &Self::Codes<'_>, x: &[i8; 32], _: Offset) -> Simd128Lanes {
        let mut sums: Sums = [[[i32x4_splat(0); 2]; 4]; 2];
        for quad in 0..4 {
            // SAFETY: `q` is below 8, and `x` has 32 quants.
            let x = [quad, quad + 4].map(|q| unsafe { v128_load32_splat(x.as_ptr().cast::<u32>().add(q)) });
            let x = x.map(|x| i16x8_extend_low_i8x16(x));
            for j in 0..4 {
                for (half, w) in tile.codes.quads(*table, quad, j).into_iter().enumerate() {
                    // Both halves share their sums unless each has an integer of its own.
                    let sums = &mut sums[if H::HALVED { half } else { 0 }][j];
                    sums[0] = i32x4_add(sums[0], i32x4_dot_i16x8(i16x8_extend_low_i8x16(w), x[half]));
                    sums[1] = i32x4_add(sums[1], i32x4_dot_i16x8(i16x8_extend_high_i8x16(w), x[half]));
                }
            }
        }
        if H::HALVED {
            return weigh(sums.map(|sums| floats(isa, sums)), &tile.heads.halves(isa));
        }
        floats(isa, sums[0])
    }
}
