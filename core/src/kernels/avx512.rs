//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned weights by signed inputs, four a lane, a lane an
//! output. Signed weights are shifted by 128 (the table is, or a bit is flipped) and the sum starts at the
//! input's offset, -128 * sum(x), which takes the shift out again, exactly.

use super::codes::{Affine4Codes, Int8Codes, Table4Codes};
use super::inputs::{Chosen, InputDot};
use super::matmul::TileDot;
use crate::format::{BLOCK, Format};
use crate::simd::LANES;
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

/// Codes of four inputs as they lie in a register of each: a quarter of it is 16 bytes of a line.
trait Zipped {
    /// Blocks of outputs in a register.
    const BLOCKS: usize;
    /// Whether codes are shifted by 128.
    const SHIFTED: bool;

    /// The unsigned codes in a register of zipped bytes: those of low and of high halves, if a byte has two.
    ///
    /// # Safety
    /// AVX-512 F and BW must be there.
    unsafe fn codes(bytes: __m512i, lut: __m512i) -> [__m512i; 2];
}

/// The work of a strip: the lines of `Q` quads of inputs, from their first byte there to their last.
struct Strip {
    lines: *const *const u8,
    later: *const *const u8,
    quants: *const i32,
    skip: usize,
    /// Blocks of outputs.
    n: usize,
    lut: __m512i,
    /// What the first quads' sums begin with; later ones begin with what is in memory.
    start: Option<__m512i>,
    /// Whether these are the last ones: what is left in memory are floats in the order of the outputs.
    last: bool,
}

/// Adds `Q` quads, four inputs at a time: their bytes are zipped.
///
/// # Safety
/// As [`InputDot::dots`], with `4 * Q` lines and `Q` quants.
#[inline(always)]
unsafe fn add_quads<Z: Zipped, const Q: usize>(strip: &Strip, sums: *mut f32) {
    // SAFETY: by the contract: of every line there are as many dwords as the masks say.
    unsafe {
        let mut x = [_mm512_setzero_si512(); Q];
        for (q, x) in x.iter_mut().enumerate() {
            *x = _mm512_set1_epi32(*strip.quants.add(q));
        }
        for first in (0..strip.n).step_by(Z::BLOCKS) {
            let here = Z::BLOCKS.min(strip.n - first);
            let mask = ((1u32 << (here * (16 / Z::BLOCKS))) - 1) as __mmask16;
            let (skip, at) = (strip.skip + 64 / Z::BLOCKS * first, sums.add(first * BLOCK));
            let mut acc = [[_mm512_setzero_si512(); 4]; 2];
            for (half, acc) in acc.iter_mut().enumerate().take(Z::BLOCKS / 2) {
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = match strip.start {
                        Some(start) => start,
                        None => _mm512_loadu_si512(at.add((4 * half + r) * LANES).cast()),
                    };
                }
            }
            for (q, x) in x.iter().enumerate() {
                let mut four = [_mm512_setzero_si512(); 4];
                for (i, v) in four.iter_mut().enumerate() {
                    _mm_prefetch::<_MM_HINT_T0>((*strip.later.add(4 * q + i)).wrapping_add(skip).cast());
                    *v = _mm512_maskz_loadu_epi32(mask, (*strip.lines.add(4 * q + i)).add(skip).cast());
                }
                for (r, quad) in zip(four).into_iter().enumerate() {
                    let [low, high] = Z::codes(quad, strip.lut);
                    acc[0][r] = _mm512_dpbusd_epi32(acc[0][r], low, *x);
                    if Z::BLOCKS == 4 {
                        acc[1][r] = _mm512_dpbusd_epi32(acc[1][r], high, *x);
                    }
                }
            }
            for (half, acc) in acc.iter().enumerate().take(Z::BLOCKS / 2) {
                if strip.last {
                    // Sixteen outputs of low or high halves of four blocks, or both halves of two.
                    let step = if Z::BLOCKS == 4 { BLOCK } else { LANES };
                    for (i, row) in rows(*acc).into_iter().enumerate() {
                        _mm512_storeu_ps(at.add(half * LANES + i * step), row);
                    }
                } else {
                    for (r, acc) in acc.iter().enumerate() {
                        _mm512_storeu_si512(at.add((4 * half + r) * LANES).cast(), *acc);
                    }
                }
            }
        }
    }
}

/// Bytes of four registers, one of each together: register r has the dwords 4r..4r + 4 of every quarter.
///
/// # Safety
/// AVX-512 F and BW must be there.
#[inline(always)]
unsafe fn zip([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: by the contract.
    unsafe {
        let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
        let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
        [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ef, gh),
            _mm512_unpackhi_epi16(ef, gh),
        ]
    }
}

/// Quarter l of sum r has outputs 4r..4r + 4 of the bytes' quarter l: quarters to rows, as floats.
///
/// # Safety
/// AVX-512 F must be there.
#[inline(always)]
unsafe fn rows(sums: [__m512i; 4]) -> [__m512; 4] {
    // SAFETY: by the contract.
    unsafe {
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(sums[0], sums[1]), _mm512_shuffle_i32x4::<0x44>(sums[2], sums[3]));
        let (ef, gh) = (_mm512_shuffle_i32x4::<0xee>(sums[0], sums[1]), _mm512_shuffle_i32x4::<0xee>(sums[2], sums[3]));
        [
            _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<0x88>(ab, cd)),
            _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<0xdd>(ab, cd)),
            _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<0x88>(ef, gh)),
            _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<0xdd>(ef, gh)),
        ]
    }
}

/// The low and the high halves of bytes.
///
/// # Safety
/// AVX-512 F and BW must be there.
#[inline(always)]
unsafe fn halves(bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: by the contract.
    unsafe {
        let low = _mm512_set1_epi8(15);
        [_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low)]
    }
}

/// Quads of inputs whose lines are read side by side.
const SIDE_BY_SIDE: usize = 2;

/// Adds all quads.
///
/// # Safety
/// As [`InputDot::dots`].
#[inline(always)]
unsafe fn strip<Z: Zipped>(chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
    // SAFETY: by the contract.
    unsafe {
        let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
        let offset = _mm512_set1_epi32(if Z::SHIFTED { chosen.offset } else { 0 });
        for first in (0..chosen.quads).step_by(SIDE_BY_SIDE) {
            let strip = Strip {
                lines: chosen.lines.as_ptr().add(4 * first),
                later: chosen.later.as_ptr().add(4 * first),
                quants: chosen.quants.as_ptr().add(first),
                skip,
                n,
                lut: _mm512_broadcast_i32x4(lut),
                start: (first == 0).then_some(offset),
                last: first + SIDE_BY_SIDE >= chosen.quads,
            };
            if first + 1 < chosen.quads {
                add_quads::<Z, SIDE_BY_SIDE>(&strip, sums);
            } else {
                add_quads::<Z, 1>(&strip, sums);
            }
        }
    }
}

macro_rules! vnni_inputs {
    ($(#[$doc:meta])* $name:ident, $codes:ty, $blocks:literal, $shifted:literal, |$bytes:ident, $lut:ident| $decode:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Zipped for $name {
            const BLOCKS: usize = $blocks;
            const SHIFTED: bool = $shifted;

            #[inline(always)]
            unsafe fn codes($bytes: __m512i, $lut: __m512i) -> [__m512i; 2] {
                // SAFETY: by contract.
                unsafe { $decode }
            }
        }

        // SAFETY: needs AVX-512 F, BW, VL, VNNI.
        unsafe impl InputDot for $name {
            type L = Avx512Lanes;
            type C = $codes;

            #[inline(always)]
            unsafe fn dots(chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
                // SAFETY: by contract.
                unsafe { strip::<Self>(chosen, skip, n, table, sums) }
            }
        }
    };
}

vnni_inputs!(
    /// Signed bytes, shifted by flipping the sign bit.
    Int8Inputs,
    Int8Codes,
    2,
    true,
    |bytes, _lut| [_mm512_xor_si512(bytes, _mm512_set1_epi8(-128)), _mm512_setzero_si512()]
);
vnni_inputs!(
    /// Nibbles through a table shifted by 128.
    Table4Inputs,
    Table4Codes,
    4,
    true,
    |bytes, lut| {
        let [low, high] = halves(bytes);
        [_mm512_shuffle_epi8(lut, low), _mm512_shuffle_epi8(lut, high)]
    }
);
vnni_inputs!(
    /// Unsigned nibbles with a minimum.
    Affine4Inputs,
    Affine4Codes,
    4,
    false,
    |bytes, _lut| halves(bytes)
);
