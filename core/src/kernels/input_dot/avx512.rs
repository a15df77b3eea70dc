//! AVX-512 with VNNI for integer matrices stored by input: the bytes of four inputs' lines are zipped to quads, so that
//! `vpdpbusd` takes four inputs in each lane, and each lane is an output. Signed codes are shifted by 128, as in
//! `tile_dot/avx512.rs`.
//!
//! ```text
//! for two quads of inputs at a time (sums are kept in memory for the next two):
//!     for every register's width of outputs:
//!         sums = offset, or those in memory
//!         for each quad: zip its four lines, split nibbles, sums += codes * inputs
//!         store the sums; after the last quad as floats, in the order of the outputs
//! ```

use super::avx2::{Inputs, Line, codes64, store64};
use super::{Chosen, InputDot};
use crate::format::BLOCK;
use crate::kernels::codes::{Affine4Codes, Codes as _, Int8Codes, Table4Codes};
use crate::kernels::tile_dot::avx2::start;
use crate::simd::avx2::Avx2Lanes;
use crate::simd::avx512::Avx512Lanes;
use crate::simd::{LANES, Proof};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Codes of four inputs, with a register for each input: a quarter of a register is 16 bytes of a line.
trait Zipped {
    /// Blocks of outputs in a register.
    const BLOCKS: usize;
    /// Whether codes are shifted by 128.
    const SHIFTED: bool;

    /// The unsigned codes in a register of zipped bytes: those in the low and in the high halves, where a byte has two
    /// codes.
    fn codes(isa: Proof<Avx512Lanes>, bytes: __m512i, lut: __m512i) -> [__m512i; 2];
}

/// The work of a strip: the lines of `Q` quads of inputs, from the strip's first byte to its last.
struct Strip {
    lines: *const *const u8,
    prefetch: *const *const u8,
    quants: *const i32,
    skip: usize,
    /// Blocks of outputs.
    n: usize,
    lut: __m512i,
    /// The value at which the first quads' sums begin; later quads add to the sums in memory.
    start: Option<__m512i>,
    /// Whether these are the last quads, whose sums are stored as floats in the order of the outputs.
    last: bool,
}

/// Adds `Q` quads: the bytes of the four inputs of each are zipped.
///
/// # Safety
/// As [`InputDot::dots`], with `4 * Q` lines and `Q` quants.
#[inline(always)]
unsafe fn add_quads<Z: Zipped, const Q: usize>(isa: Proof<Avx512Lanes>, strip: &Strip, sums: *mut f32) {
    // SAFETY: `Proof` shows that the processor has AVX-512 F, BW and VNNI. `mask` has a bit only for dwords of blocks
    // that every line has, as the caller promises, and `sums` is writable for the strip.
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
                    _mm_prefetch::<_MM_HINT_T1>((*strip.prefetch.add(4 * q + i)).wrapping_add(skip).cast());
                    *v = _mm512_maskz_loadu_epi32(mask, (*strip.lines.add(4 * q + i)).add(skip).cast());
                }
                for (r, quad) in zip(isa, four).into_iter().enumerate() {
                    let [low, high] = Z::codes(isa, quad, strip.lut);
                    acc[0][r] = _mm512_dpbusd_epi32(acc[0][r], low, *x);
                    if Z::BLOCKS == 4 {
                        acc[1][r] = _mm512_dpbusd_epi32(acc[1][r], high, *x);
                    }
                }
            }
            for (half, acc) in acc.iter().enumerate().take(Z::BLOCKS / 2) {
                if strip.last {
                    // Sixteen outputs of the low or the high halves of four blocks, or of both halves of two blocks.
                    let step = if Z::BLOCKS == 4 { BLOCK } else { LANES };
                    for (i, row) in rows(isa, *acc).into_iter().enumerate() {
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

/// Interleaves the bytes of four registers: register r of the result has dwords 4r..4r + 4 of every quarter.
#[inline(always)]
fn zip(_: Proof<Avx512Lanes>, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and BW.
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

/// Transposes quarters to rows, as floats: quarter l of sum r has outputs 4r..4r + 4 of quarter l of the bytes.
#[inline(always)]
fn rows(_: Proof<Avx512Lanes>, sums: [__m512i; 4]) -> [__m512; 4] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F.
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
#[inline(always)]
fn halves(_: Proof<Avx512Lanes>, bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F and BW.
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
unsafe fn strip<Z: Zipped>(
    isa: Proof<Avx512Lanes>,
    chosen: &Chosen,
    skip: usize,
    n: usize,
    table: &[i8; 16],
    sums: *mut f32,
) {
    // SAFETY: `Proof` shows that the processor has AVX-512 F; `first` is below `chosen.quads`, and so is the quad after
    // it if two are added; the caller's lines and sums are those of [`InputDot::dots`].
    unsafe {
        let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
        let offset = _mm512_set1_epi32(if Z::SHIFTED { chosen.offset } else { 0 });
        for first in (0..chosen.quads).step_by(SIDE_BY_SIDE) {
            let strip = Strip {
                lines: chosen.lines.as_ptr().add(4 * first),
                prefetch: chosen.prefetch.as_ptr().add(4 * first),
                quants: chosen.quants.as_ptr().add(first),
                skip,
                n,
                lut: _mm512_broadcast_i32x4(lut),
                start: (first == 0).then_some(offset),
                last: first + SIDE_BY_SIDE >= chosen.quads,
            };
            if first + 1 < chosen.quads {
                add_quads::<Z, SIDE_BY_SIDE>(isa, &strip, sums);
            } else {
                add_quads::<Z, 1>(isa, &strip, sums);
            }
        }
    }
}

macro_rules! vnni_inputs {
    ($(#[$doc:meta])* $name:ident, $codes:ty, $blocks:literal, $shifted:literal, |$isa:ident, $bytes:ident, $lut:ident| $decode:expr) => {
        $(#[$doc])*
        pub(in crate::kernels) struct $name;

        impl Zipped for $name {
            const BLOCKS: usize = $blocks;
            const SHIFTED: bool = $shifted;

            #[inline(always)]
            fn codes($isa: Proof<Avx512Lanes>, $bytes: __m512i, $lut: __m512i) -> [__m512i; 2] {
                $decode
            }
        }

        impl InputDot for $name {
            type L = Avx512Lanes;
            type C = $codes;
            const SIDE_BY_SIDE: usize = 4 * SIDE_BY_SIDE;

            #[inline(always)]
            unsafe fn dots(
                isa: Proof<Avx512Lanes>,
                chosen: &Chosen,
                skip: usize,
                n: usize,
                table: &[i8; 16],
                sums: *mut f32,
            ) {
                // SAFETY: the caller meets the requirements of `dots`, which are those of `strip` too.
                unsafe { strip::<Self>(isa, chosen, skip, n, table, sums) }
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
    // SAFETY: `Proof` shows that the processor has AVX-512 F.
    |_isa, bytes, _lut| unsafe { [_mm512_xor_si512(bytes, _mm512_set1_epi8(-128)), _mm512_setzero_si512()] }
);
vnni_inputs!(
    /// Nibbles through a table shifted by 128.
    Table4Inputs,
    Table4Codes,
    4,
    true,
    |isa, bytes, lut| {
        let [low, high] = halves(isa, bytes);
        // SAFETY: `Proof` shows that the processor has AVX-512 F and BW.
        unsafe { [_mm512_shuffle_epi8(lut, low), _mm512_shuffle_epi8(lut, high)] }
    }
);
vnni_inputs!(
    /// Unsigned nibbles with a minimum.
    Affine4Inputs,
    Affine4Codes,
    4,
    false,
    |isa, bytes, _lut| halves(isa, bytes)
);

/// Nibbles with upper bits: codes of 64 outputs, put together as by AVX2, whose products VNNI adds up.
pub(in crate::kernels) struct UpperInputs<S>(PhantomData<S>);

impl<S: Line> InputDot for UpperInputs<S> {
    type L = Avx512Lanes;
    type C = S::C;

    #[inline(always)]
    unsafe fn dots(_: Proof<Avx512Lanes>, chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
        // SAFETY: processors whose AVX-512 is used have AVX2; the caller meets the requirements of `dots` for `n` blocks, of
        // which each pair is two.
        unsafe {
            let isa = Proof::assume();
            for b in (0..n & !1).step_by(2) {
                add64::<S>(isa, chosen, skip + b * Self::C::BYTES, sums.add(b * BLOCK));
            }
            if n % 2 == 1 {
                let at = n - 1;
                Inputs::<S>::dots(isa, chosen, skip + at * Self::C::BYTES, 1, table, sums.add(at * BLOCK));
            }
        }
    }
}

/// Writes the dot products of 64 outputs.
///
/// # Safety
/// As [`InputDot::dots`] for two blocks, on a processor with AVX-512 VL and VNNI.
#[inline(always)]
unsafe fn add64<S: Line>(isa: Proof<Avx2Lanes>, chosen: &Chosen, skip: usize, out: *mut f32) {
    // SAFETY: the caller's processor has the instructions; it gives at most 8 quads, whose lines have two blocks at `skip`,
    // and room for 64 floats.
    unsafe {
        let (none, start) = (_mm256_setzero_si256(), _mm256_set1_epi32(start::<S>(chosen.offset)));
        let (mut sums, quads) = ([start; 8], chosen.quads.min(chosen.quants.len()));
        for quad in 0..quads {
            let x = _mm256_set1_epi32(*chosen.quants.get_unchecked(quad));
            for (sum, codes) in sums.iter_mut().zip(codes64::<S>(isa, chosen, quad, skip, none)) {
                *sum = _mm256_dpbusd_epi32(*sum, codes, x);
            }
        }
        store64(isa, sums, out);
    }
}
