//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned weights by signed inputs, four a lane, a lane an
//! output. Signed weights are shifted by 128 (the table is, or a bit is flipped) and the sum starts at the
//! input's offset, -128 * sum(x), which takes the shift out again, exactly.

use super::{AffineTile, ByteTile, NibbleTile, Quads, TileDot};
use crate::simd::Proof;
use crate::simd::avx512::Avx512Lanes;
use core::arch::x86_64::*;

type Codes = [__m512i; 8];

/// Eight quads of inputs, broadcast, against eight registers of weights.
#[inline(always)]
fn dot(isa: Proof<Avx512Lanes>, codes: &Codes, x: &[i8; 32], start: i32) -> Avx512Lanes {
    // SAFETY: the proof is one of AVX-512 F and VNNI; the quads are below 8, and there are 32 inputs.
    unsafe {
        let x = x.as_ptr().cast::<i32>();
        // Two chains, so that the next product does not wait for the last one's four cycles.
        let mut a = _mm512_set1_epi32(start);
        let mut b = _mm512_setzero_si512();
        for i in 0..4 {
            a = _mm512_dpbusd_epi32(a, codes[2 * i], _mm512_set1_epi32(x.add(2 * i).read_unaligned()));
            b = _mm512_dpbusd_epi32(b, codes[2 * i + 1], _mm512_set1_epi32(x.add(2 * i + 1).read_unaligned()));
        }
        Avx512Lanes::new(isa, _mm512_cvtepi32_ps(_mm512_add_epi32(a, b)))
    }
}

/// Four registers of packed nibbles as eight of bytes.
#[inline(always)]
fn nibbles(_: Proof<Avx512Lanes>, packed: &Quads<4>) -> Codes {
    // SAFETY: the proof is one of AVX-512 F; `i` is below 4, and there are four times 64 bytes.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let mut codes = [low; 8];
        for i in 0..4 {
            let v = _mm512_loadu_si512(packed.as_ptr().add(i).cast());
            codes[i] = _mm512_and_si512(v, low);
            codes[i + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), low);
        }
        codes
    }
}

macro_rules! vnni_dot {
    (
        $(#[$doc:meta])* $name:ident, $tile_type:ty, shifted: $shifted:literal,
        |$isa:ident, $tile:ident, $table:ident| $decode:expr
    ) => {
        $(#[$doc])*
        pub(in crate::kernels) struct $name;

        impl TileDot for $name {
            type L = Avx512Lanes;
            type Tile = $tile_type;
            type Codes<'a> = Codes;
            const TOKENS: usize = 16;

            #[inline(always)]
            fn decode($isa: Proof<Avx512Lanes>, $tile: &$tile_type, $table: &[i8; 16]) -> Codes {
                $decode
            }

            #[inline(always)]
            fn dot(isa: Proof<Avx512Lanes>, codes: &Codes, x: &[i8; 32], offset: i32) -> Avx512Lanes {
                // Codes that are not shifted need no offset.
                dot(isa, codes, x, if $shifted { offset } else { 0 })
            }
        }
    };
}

vnni_dot!(
    /// Signed bytes, shifted by flipping the sign bit.
    Int8,
    ByteTile,
    shifted: true,
    // SAFETY: the proof is one of AVX-512 F; `i` is below 8, and there are eight times 64 bytes.
    |_isa, tile, _table| unsafe {
        let flip = _mm512_set1_epi8(-128);
        let mut codes = [flip; 8];
        for (i, c) in codes.iter_mut().enumerate() {
            *c = _mm512_xor_si512(_mm512_loadu_si512(tile.codes.as_ptr().add(i).cast()), flip);
        }
        codes
    }
);
vnni_dot!(
    /// Nibbles through a table shifted by 128.
    Table4,
    NibbleTile,
    shifted: true,
    // SAFETY: the proof is one of AVX-512 F and BW; the table has 16 bytes.
    |isa, tile, table| unsafe {
        let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
        let lut = _mm512_broadcast_i32x4(lut);
        let mut codes = nibbles(isa, &tile.codes);
        for c in &mut codes {
            *c = _mm512_shuffle_epi8(lut, *c);
        }
        codes
    }
);
vnni_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    AffineTile,
    shifted: false,
    |isa, tile, _table| nibbles(isa, &tile.codes)
);
