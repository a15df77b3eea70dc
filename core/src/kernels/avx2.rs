//! AVX2: `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours in 16 bits, saturating.
//! |w| * (x with w's sign) keeps every pair below 2^15 (128 * 127 * 2 = 32512), so nothing saturates.

use super::matmul::TileDot;
use crate::format::Format;
use crate::simd::avx2::Avx2Lanes;
use core::arch::x86_64::*;

/// `[quad][half]`: outputs 0..8 and 8..16 of four inputs.
type Codes = [[__m256i; 2]; 8];

/// # Safety
/// `x` must point to 32 quants; AVX2 must be there.
#[inline(always)]
unsafe fn dot(codes: &Codes, x: *const i8) -> Avx2Lanes {
    // SAFETY: by the contract.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); 2];
        for (quad, pair) in codes.iter().enumerate() {
            let xs = _mm256_set1_epi32(x.cast::<i32>().add(quad).read_unaligned());
            for (sum, w) in sums.iter_mut().zip(*pair) {
                let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
            }
        }
        Avx2Lanes::from((_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])))
    }
}

/// # Safety
/// `packed` must point to 256 bytes; AVX2 must be there.
#[inline(always)]
unsafe fn nibbles(packed: *const u8) -> Codes {
    // SAFETY: by the contract.
    unsafe {
        let low = _mm256_set1_epi8(15);
        let mut codes = [[low; 2]; 8];
        for quad in 0..4 {
            let p = packed.add(64 * quad).cast::<__m256i>();
            let halves = [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))];
            for (h, v) in halves.into_iter().enumerate() {
                codes[quad][h] = _mm256_and_si256(v, low);
                codes[quad + 4][h] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
            }
        }
        codes
    }
}

macro_rules! avx2_dot {
    ($(#[$doc:meta])* $name:ident, $format:expr, $affine:literal, |$tile:ident, $table:ident| $decode:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        // SAFETY: needs AVX2.
        unsafe impl TileDot for $name {
            type L = Avx2Lanes;
            type Codes = Codes;
            const TOKENS: usize = 4;
            const TILE: usize = $format.tile_bytes();
            const AFFINE: bool = $affine;

            #[inline(always)]
            unsafe fn decode($tile: *const u8, $table: &[i8; 16]) -> Codes {
                // SAFETY: a whole tile by contract.
                unsafe { $decode }
            }

            #[inline(always)]
            unsafe fn dot(codes: &Codes, x: *const i8, _offset: i32) -> Avx2Lanes {
                // SAFETY: by contract.
                unsafe { dot(codes, x) }
            }
        }
    };
}

avx2_dot!(
    /// Signed bytes.
    Int8,
    Format::Q8_0,
    false,
    |tile, _table| tile.add(32).cast::<Codes>().read_unaligned()
);
avx2_dot!(
    /// Nibbles through a table.
    Table4,
    Format::Q4_0,
    false,
    |tile, table| {
        let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let mut codes = nibbles(tile.add(32));
        for c in codes.as_flattened_mut() {
            *c = _mm256_shuffle_epi8(lut, *c);
        }
        codes
    }
);
avx2_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    Format::Q4_1,
    true,
    |tile, _table| nibbles(tile.add(64))
);
