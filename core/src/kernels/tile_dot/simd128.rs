//! WebAssembly's 128-bit lanes. A register of codes holds four inputs of four outputs; widened to 16 bits, two of them
//! are multiplied and added in pairs by one instruction.

use super::{AffineTile, ByteTile, NibbleTile, Tile, TileDot};
use crate::simd::Proof;
use crate::simd::simd128::Simd128Lanes;
use core::arch::wasm32::*;

/// Signed bytes.
pub(in crate::kernels) type Int8 = Packed<ByteTile>;
/// Nibbles through a table.
pub(in crate::kernels) type Table4 = Packed<NibbleTile>;
/// Unsigned nibbles with a minimum.
pub(in crate::kernels) type Affine4 = Packed<AffineTile>;

/// How a tile stores its codes.
pub(in crate::kernels) trait Stored: Tile + 'static {
    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4; both numbers are below 4.
    fn quads(&self, table: v128, quad: usize, j: usize) -> [v128; 2];
}

/// Sixteen bytes.
#[inline(always)]
fn load(bytes: &[u8; 16]) -> v128 {
    // SAFETY: 16 bytes, read at any alignment.
    unsafe { v128_load(bytes.as_ptr().cast()) }
}

/// The low and the high nibbles of 16 bytes.
#[inline(always)]
fn nibbles(packed: &[u8; 16]) -> [v128; 2] {
    let v = load(packed);
    [v128_and(v, u8x16_splat(15)), u8x16_shr(v, 4)]
}

/// Signed bytes.
impl Stored for ByteTile {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        [load(&self.codes[quad][j]), load(&self.codes[quad + 4][j])]
    }
}

/// Nibbles to be looked up in the table.
impl Stored for NibbleTile {
    #[inline(always)]
    fn quads(&self, table: v128, quad: usize, j: usize) -> [v128; 2] {
        nibbles(&self.codes[quad][j]).map(|codes| i8x16_swizzle(table, codes))
    }
}

/// Nibbles that stand for themselves.
impl Stored for AffineTile {
    #[inline(always)]
    fn quads(&self, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        nibbles(&self.codes[quad][j])
    }
}

/// Tiles that are unpacked for every token.
pub(in crate::kernels) struct Packed<S>(core::marker::PhantomData<S>);

impl<S: Stored> TileDot for Packed<S> {
    type L = Simd128Lanes;
    type Tile = S;
    /// A tile still packed: its sums take the registers.
    type Codes<'a> = (&'a S, v128);
    const TOKENS: usize = 1;

    #[inline(always)]
    fn decode<'a>(_: Proof<Simd128Lanes>, tile: &'a S, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes.
        (tile, unsafe { v128_load(table.as_ptr().cast()) })
    }

    #[inline(always)]
    fn dot(isa: Proof<Simd128Lanes>, (tile, table): &Self::Codes<'_>, x: &[i8; 32], _offset: i32) -> Simd128Lanes {
        // Two lanes for each output.
        let mut sums = [[i32x4_splat(0); 2]; 4];
        for quad in 0..4 {
            // SAFETY: `q` is below 8, and there are 32 quants.
            let x = [quad, quad + 4].map(|q| unsafe { v128_load32_splat(x.as_ptr().cast::<u32>().add(q)) });
            let x = x.map(|x| i16x8_extend_low_i8x16(x));
            for (j, sums) in sums.iter_mut().enumerate() {
                for (w, x) in tile.quads(*table, quad, j).into_iter().zip(x) {
                    sums[0] = i32x4_add(sums[0], i32x4_dot_i16x8(i16x8_extend_low_i8x16(w), x));
                    sums[1] = i32x4_add(sums[1], i32x4_dot_i16x8(i16x8_extend_high_i8x16(w), x));
                }
            }
        }
        let sums = sums.map(|[a, b]| {
            f32x4_convert_i32x4(i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b)))
        });
        Simd128Lanes::new(isa, sums)
    }
}
