//! WebAssembly's 128-bit lanes. A register of codes holds four inputs of four outputs; widened to 16 bits, two of them
//! are multiplied and added in pairs by one instruction.

use super::matmul::TileDot;
use crate::format::{Arithmetic, Format};
use crate::simd::simd128::Simd128Lanes;
use core::arch::wasm32::*;

/// How a tile stores its codes.
///
/// # Safety
/// `quads` reads nothing outside a tile of `FORMAT`.
pub(super) unsafe trait Stored {
    /// A format stored this way.
    const FORMAT: Format;

    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4.
    ///
    /// # Safety
    /// `tile` must point to a whole tile; `quad` and `j` must be below 4.
    unsafe fn quads(tile: *const u8, table: v128, quad: usize, j: usize) -> [v128; 2];
}

/// The low and the high nibbles of 16 bytes.
///
/// # Safety
/// `packed` must point to 16 bytes.
#[inline(always)]
unsafe fn nibbles(packed: *const u8) -> [v128; 2] {
    // SAFETY: by the contract.
    let v = unsafe { v128_load(packed.cast()) };
    [v128_and(v, u8x16_splat(15)), u8x16_shr(v, 4)]
}

/// Signed bytes behind 16 scales.
pub(super) struct Int8;

// SAFETY: 32 bytes of scales and 512 of codes.
unsafe impl Stored for Int8 {
    const FORMAT: Format = Format::Q8_0;

    #[inline(always)]
    unsafe fn quads(tile: *const u8, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        // SAFETY: inside the tile by contract.
        unsafe {
            let p = tile.add(32 + 64 * quad + 16 * j);
            [v128_load(p.cast()), v128_load(p.add(256).cast())]
        }
    }
}

/// Nibbles behind 16 scales, to be looked up in the table.
pub(super) struct Table4;

// SAFETY: 32 bytes of scales and 256 of codes.
unsafe impl Stored for Table4 {
    const FORMAT: Format = Format::Q4_0;

    #[inline(always)]
    unsafe fn quads(tile: *const u8, table: v128, quad: usize, j: usize) -> [v128; 2] {
        // SAFETY: inside the tile by contract.
        unsafe { nibbles(tile.add(32 + 64 * quad + 16 * j)) }.map(|codes| i8x16_swizzle(table, codes))
    }
}

/// Unsigned nibbles behind 16 scales and 16 minima.
pub(super) struct Affine4;

// SAFETY: 64 bytes of scales and minima and 256 of codes.
unsafe impl Stored for Affine4 {
    const FORMAT: Format = Format::Q4_1;

    #[inline(always)]
    unsafe fn quads(tile: *const u8, _table: v128, quad: usize, j: usize) -> [v128; 2] {
        // SAFETY: inside the tile by contract.
        unsafe { nibbles(tile.add(64 + 64 * quad + 16 * j)) }
    }
}

// SAFETY: needs simd128, without which this is not compiled.
unsafe impl<S: Stored> TileDot for S {
    type L = Simd128Lanes;
    /// A tile still packed: its sums take the registers.
    type Codes = (*const u8, v128);
    const TOKENS: usize = 1;
    const TILE: usize = S::FORMAT.tile_bytes();
    const AFFINE: bool = matches!(S::FORMAT.arithmetic(), Arithmetic::Affine4);

    #[inline(always)]
    unsafe fn decode(tile: *const u8, table: &[i8; 16]) -> Self::Codes {
        // SAFETY: the table has 16 bytes.
        (tile, unsafe { v128_load(table.as_ptr().cast()) })
    }

    #[inline(always)]
    unsafe fn dot((tile, table): &Self::Codes, x: *const i8, _offset: i32) -> Simd128Lanes {
        // Two lanes for each output.
        let mut sums = [[i32x4_splat(0); 2]; 4];
        for quad in 0..4 {
            // SAFETY: 32 quants by contract.
            let x = [quad, quad + 4].map(|q| unsafe { v128_load32_splat(x.cast::<u32>().add(q)) });
            let x = x.map(|x| i16x8_extend_low_i8x16(x));
            for (j, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a whole tile by contract.
                let codes = unsafe { S::quads(*tile, *table, quad, j) };
                for (w, x) in codes.into_iter().zip(x) {
                    sums[0] = i32x4_add(sums[0], i32x4_dot_i16x8(i16x8_extend_low_i8x16(w), x));
                    sums[1] = i32x4_add(sums[1], i32x4_dot_i16x8(i16x8_extend_high_i8x16(w), x));
                }
            }
        }
        Simd128Lanes::from(sums.map(|[a, b]| {
            f32x4_convert_i32x4(i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b)))
        }))
    }
}
