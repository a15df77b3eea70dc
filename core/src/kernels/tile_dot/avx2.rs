//! AVX2: `vpmaddubsw` multiplies unsigned by signed bytes and adds neighbours in 16 bits, saturating.
//! |w| * (x with w's sign) keeps every pair below 2^15 (128 * 127 * 2 = 32512), so nothing saturates.

use super::{AffineTile, ByteTile, NibbleTile, Quads, TileDot};
use crate::simd::Proof;
use crate::simd::avx2::Avx2Lanes;
use core::arch::x86_64::*;

/// `[quad][half]`: outputs 0..8 and 8..16 of four inputs.
type Codes = [[__m256i; 2]; 8];

/// ```text
/// for every quad: sums += |codes| * (the quad's four inputs, broadcast, with the signs of the codes)
/// ```
#[inline(always)]
fn dot(isa: Proof<Avx2Lanes>, codes: &Codes, x: &[i8; 32]) -> Avx2Lanes {
    // SAFETY: the proof is one of AVX2; `quad` is below 8, and there are 32 inputs.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); 2];
        for (quad, pair) in codes.iter().enumerate() {
            let xs = _mm256_set1_epi32(x.as_ptr().cast::<i32>().add(quad).read_unaligned());
            for (sum, w) in sums.iter_mut().zip(*pair) {
                let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
            }
        }
        Avx2Lanes::new(isa, _mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1]))
    }
}

#[inline(always)]
fn nibbles(_: Proof<Avx2Lanes>, packed: &Quads<4>) -> Codes {
    // SAFETY: the proof is one of AVX2; `quad` is below 4, and there are four times 64 bytes.
    unsafe {
        let low = _mm256_set1_epi8(15);
        let mut codes = [[low; 2]; 8];
        for quad in 0..4 {
            let p = packed.as_ptr().add(quad).cast::<__m256i>();
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
    ($(#[$doc:meta])* $name:ident, $tile_type:ty, |$isa:ident, $tile:ident, $table:ident| $decode:expr) => {
        $(#[$doc])*
        pub(in crate::kernels) struct $name;

        impl TileDot for $name {
            type L = Avx2Lanes;
            type Tile = $tile_type;
            type Codes<'a> = Codes;
            const TOKENS: usize = 4;

            #[inline(always)]
            fn decode($isa: Proof<Avx2Lanes>, $tile: &$tile_type, $table: &[i8; 16]) -> Codes {
                $decode
            }

            #[inline(always)]
            fn dot(isa: Proof<Avx2Lanes>, codes: &Codes, x: &[i8; 32], _offset: i32) -> Avx2Lanes {
                dot(isa, codes, x)
            }
        }
    };
}

avx2_dot!(
    /// Signed bytes.
    Int8,
    ByteTile,
    // SAFETY: 512 bytes, which are eight quads of two registers.
    |_isa, tile, _table| unsafe { tile.codes.as_ptr().cast::<Codes>().read_unaligned() }
);
avx2_dot!(
    /// Nibbles through a table.
    Table4,
    NibbleTile,
    // SAFETY: the proof is one of AVX2; the table has 16 bytes.
    |isa, tile, table| unsafe {
        let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let mut codes = nibbles(isa, &tile.codes);
        for c in codes.as_flattened_mut() {
            *c = _mm256_shuffle_epi8(lut, *c);
        }
        codes
    }
);
avx2_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    AffineTile,
    |isa, tile, _table| nibbles(isa, &tile.codes)
);
