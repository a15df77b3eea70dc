//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned weights by signed inputs, four a lane, a lane an
//! output. Signed weights are shifted by 128 (the table is, or a bit is flipped) and the sum starts at the
//! input's offset, -128 * sum(x), which takes the shift out again, exactly.

use super::codes::{Affine4Codes, Int8Codes, Table4Codes};
use super::inputs::{Chosen, InputDot};
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

/// Unsigned codes of 64 outputs.
trait Spread {
    /// # Safety
    /// The codes must be at `p`; AVX-512 F and BW must be there.
    unsafe fn spread(p: *const u8, lut: __m512i) -> __m512i;
}

/// Dot products of 64 outputs with the chosen inputs, four inputs at a time: their codes are zipped to quads.
///
/// # Safety
/// There must be codes at `skip` bytes behind each line's start; AVX-512 F, BW and VNNI must be there.
#[inline(always)]
unsafe fn dot64<S: Spread>(chosen: &Chosen, later: &Chosen, skip: usize, start: i32, lut: __m512i) -> [__m512i; 4] {
    // SAFETY: by the contract.
    unsafe {
        let mut sums = [_mm512_set1_epi32(start); 4];
        for quad in 0..chosen.quads {
            let line = chosen.lines.as_ptr().add(4 * quad);
            for i in 0..4 {
                let soon = *later.lines.as_ptr().add(4 * quad + i);
                _mm_prefetch::<_MM_HINT_T0>(soon.wrapping_add(skip).cast());
            }
            let a = S::spread((*line).add(skip), lut);
            let b = S::spread((*line.add(1)).add(skip), lut);
            let c = S::spread((*line.add(2)).add(skip), lut);
            let d = S::spread((*line.add(3)).add(skip), lut);
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            let x = _mm512_set1_epi32(*chosen.quants.as_ptr().add(quad));
            sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_unpacklo_epi16(ab, cd), x);
            sums[1] = _mm512_dpbusd_epi32(sums[1], _mm512_unpackhi_epi16(ab, cd), x);
            sums[2] = _mm512_dpbusd_epi32(sums[2], _mm512_unpacklo_epi16(ef, gh), x);
            sums[3] = _mm512_dpbusd_epi32(sums[3], _mm512_unpackhi_epi16(ef, gh), x);
        }
        // Quarter l of sum r has outputs 4r..4r + 4 of the codes' quarter l: quarters to rows.
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(sums[0], sums[1]), _mm512_shuffle_i32x4::<0xee>(sums[0], sums[1]));
        let (ef, gh) = (_mm512_shuffle_i32x4::<0x44>(sums[2], sums[3]), _mm512_shuffle_i32x4::<0xee>(sums[2], sums[3]));
        [
            _mm512_shuffle_i32x4::<0x88>(ab, ef),
            _mm512_shuffle_i32x4::<0xdd>(ab, ef),
            _mm512_shuffle_i32x4::<0x88>(cd, gh),
            _mm512_shuffle_i32x4::<0xdd>(cd, gh),
        ]
    }
}

/// 64 nibbles: quarters of low halves of two blocks, then of high halves.
///
/// # Safety
/// 32 bytes at `p`; AVX-512 F must be there.
#[inline(always)]
unsafe fn nibbles64(p: *const u8) -> __m512i {
    // SAFETY: by the contract.
    unsafe {
        let (v, low) = (_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(15));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_and_si256(v, low)), high)
    }
}

macro_rules! vnni_inputs {
    ($(#[$doc:meta])* $name:ident, $codes:ty, $shifted:literal, $order:expr, |$p:ident, $lut:ident| $decode:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Spread for $name {
            #[inline(always)]
            unsafe fn spread($p: *const u8, $lut: __m512i) -> __m512i {
                // SAFETY: by contract.
                unsafe { $decode }
            }
        }

        // SAFETY: needs AVX-512 F, BW, VL, VNNI.
        unsafe impl InputDot for $name {
            type L = Avx512Lanes;
            type C = $codes;

            #[inline(always)]
            unsafe fn dot64(chosen: &Chosen, later: &Chosen, skip: usize, table: &[i8; 16]) -> [Avx512Lanes; 4] {
                // SAFETY: by contract.
                unsafe {
                    let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
                    let start = if $shifted { chosen.offset } else { 0 };
                    let sums = dot64::<Self>(chosen, later, skip, start, _mm512_broadcast_i32x4(lut));
                    const ORDER: [usize; 4] = $order;
                    [
                        Avx512Lanes::from(_mm512_cvtepi32_ps(sums[ORDER[0]])),
                        Avx512Lanes::from(_mm512_cvtepi32_ps(sums[ORDER[1]])),
                        Avx512Lanes::from(_mm512_cvtepi32_ps(sums[ORDER[2]])),
                        Avx512Lanes::from(_mm512_cvtepi32_ps(sums[ORDER[3]])),
                    ]
                }
            }
        }
    };
}

vnni_inputs!(
    /// Signed bytes, shifted by flipping the sign bit.
    Int8Inputs,
    Int8Codes,
    true,
    [0, 1, 2, 3],
    |p, _lut| _mm512_xor_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(-128))
);
vnni_inputs!(
    /// Nibbles through a table shifted by 128.
    Table4Inputs,
    Table4Codes,
    true,
    [0, 2, 1, 3],
    |p, lut| _mm512_shuffle_epi8(lut, nibbles64(p))
);
vnni_inputs!(
    /// Unsigned nibbles with a minimum.
    Affine4Inputs,
    Affine4Codes,
    false,
    [0, 2, 1, 3],
    |p, _lut| nibbles64(p)
);
