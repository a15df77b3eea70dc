//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned weights by signed inputs, four a lane, a lane an
//! output. Signed weights are shifted by 128 (the table is, or a bit is flipped) and the sum starts at the
//! input's offset, -128 * sum(x), which takes the shift out again, exactly.

use super::matmul::TileDot;
use crate::format::Format;
use crate::simd::avx512::Avx512Lanes;
use core::arch::x86_64::*;

type Codes = [__m512i; 8];

/// Eight quads of inputs, broadcast, against eight registers of weights.
///
/// # Safety
/// `x` must point to 32 quants; AVX-512 F and VNNI must be there.
#[inline(always)]
unsafe fn dot(codes: &Codes, x: *const i8, start: i32) -> Avx512Lanes {
    // SAFETY: by the contract.
    unsafe {
        let x = x.cast::<i32>();
        // Two chains, so that the next product does not wait for the last one's four cycles.
        let mut a = _mm512_set1_epi32(start);
        let mut b = _mm512_setzero_si512();
        for i in 0..4 {
            a = _mm512_dpbusd_epi32(a, codes[2 * i], _mm512_set1_epi32(x.add(2 * i).read_unaligned()));
            b = _mm512_dpbusd_epi32(b, codes[2 * i + 1], _mm512_set1_epi32(x.add(2 * i + 1).read_unaligned()));
        }
        Avx512Lanes::from(_mm512_cvtepi32_ps(_mm512_add_epi32(a, b)))
    }
}

/// Four registers of packed nibbles as eight of bytes.
///
/// # Safety
/// `packed` must point to 256 bytes; AVX-512 F must be there.
#[inline(always)]
unsafe fn nibbles(packed: *const u8) -> Codes {
    // SAFETY: by the contract.
    unsafe {
        let low = _mm512_set1_epi8(15);
        let mut codes = [low; 8];
        for i in 0..4 {
            let v = _mm512_loadu_si512(packed.add(64 * i).cast());
            codes[i] = _mm512_and_si512(v, low);
            codes[i + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(v), low);
        }
        codes
    }
}

macro_rules! vnni_dot {
    ($(#[$doc:meta])* $name:ident, $format:expr, $affine:literal, |$tile:ident, $table:ident| $decode:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        // SAFETY: needs AVX-512 F, BW, VL, VNNI.
        unsafe impl TileDot for $name {
            type L = Avx512Lanes;
            type Codes = Codes;
            const TOKENS: usize = 16;
            const TILE: usize = $format.tile_bytes();
            const AFFINE: bool = $affine;

            #[inline(always)]
            unsafe fn decode($tile: *const u8, $table: &[i8; 16]) -> Codes {
                // SAFETY: a whole tile by contract.
                unsafe { $decode }
            }

            #[inline(always)]
            unsafe fn dot(codes: &Codes, x: *const i8, offset: i32) -> Avx512Lanes {
                // SAFETY: by contract. Unshifted codes need no offset.
                unsafe { dot(codes, x, if $affine { 0 } else { offset }) }
            }
        }
    };
}

vnni_dot!(
    /// Signed bytes, shifted by flipping the sign bit.
    Int8,
    Format::Q8_0,
    false,
    |tile, _table| {
        let flip = _mm512_set1_epi8(-128);
        let mut codes = [flip; 8];
        for (i, c) in codes.iter_mut().enumerate() {
            *c = _mm512_xor_si512(_mm512_loadu_si512(tile.add(32 + 64 * i).cast()), flip);
        }
        codes
    }
);
vnni_dot!(
    /// Nibbles through a table shifted by 128.
    Table4,
    Format::Q4_0,
    false,
    |tile, table| {
        let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
        let lut = _mm512_broadcast_i32x4(lut);
        let mut codes = nibbles(tile.add(32));
        for c in &mut codes {
            *c = _mm512_shuffle_epi8(lut, *c);
        }
        codes
    }
);
vnni_dot!(
    /// Unsigned nibbles with a minimum.
    Affine4,
    Format::Q4_1,
    true,
    |tile, _table| nibbles(tile.add(64))
);
