//! AVX-512 with VNNI for integer matrices stored by input: the bytes of four inputs' lines are zipped to quads, so that
//! `vpdpbusd` takes four inputs in each lane, and each lane is an output. Signed codes are shifted to unsigned ones, as in
//! `tile_dot/avx512.rs`.
//!
//! ```text
//! for every register's width of outputs:
//!     sums = offset
//!     for each quad: zip its four lines, split nibbles, sums += codes * inputs
//!     store the sums as floats, in the order of the outputs
//! ```

use super::avx2::{Line, codes64, store64};
use super::{Chosen, InputDot};
use crate::format::BLOCK;
use crate::kernels::codes::{Affine4Codes, Codes as _, Int8Codes, Table4Codes};
use crate::kernels::tile_dot::avx2;
use crate::kernels::tile_dot::avx512::{fifth_bits, start};
use crate::simd::avx2::Avx2Lanes;
use crate::simd::avx512::Avx512Lanes;
use crate::simd::{LANES, Proof};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Codes of four inputs, with a register for each input: a quarter of a register is 16 bytes of a line.
trait Zipped {
    /// Blocks of outputs in a register.
    const BLOCKS: usize;
    /// The difference between codes in registers and the integers that they stand for.
    const SHIFT: i32;
    /// Whether the second codes are whole bytes, 16 times the high half and the low one: the products of the low half are
    /// subtracted from theirs at the end, which saves two instructions for each register.
    const WHOLE: bool = false;

    /// The unsigned codes in a register of zipped bytes: those in the low and in the high halves, where a byte has two
    /// codes.
    fn codes(isa: Proof<Avx512Lanes>, bytes: __m512i, lut: __m512i) -> [__m512i; 2];
}

/// Writes the dot products of the blocks of outputs in a register's width, `here` of them, whose codes begin at `skip`.
///
/// # Safety
/// As [`InputDot::dots`], for `here` blocks, which are at most [`Zipped::BLOCKS`].
#[inline(always)]
unsafe fn dot<Z: Zipped>(
    isa: Proof<Avx512Lanes>,
    [chosen, next]: [&Chosen; 2],
    (skip, here): (usize, usize),
    lut: __m512i,
    sums: *mut f32,
) {
    let mask = ((1u32 << (here * (16 / Z::BLOCKS))) - 1) as __mmask16;
    // SAFETY: `Proof` shows that the processor has AVX-512 F, BW and VNNI. `mask` has a bit only for dwords of blocks that
    // every line has, as the caller promises; a quad is below 8; `sums` is writable for a multiple of four blocks.
    unsafe {
        let first = start(Z::SHIFT, chosen.offset);
        let mut acc =
            [[_mm512_set1_epi32(first); 4], [_mm512_set1_epi32(if Z::WHOLE { 17 * first } else { first }); 4]];
        for quad in 0..chosen.quads.min(BLOCK / 4) {
            let x = _mm512_set1_epi32(*chosen.quants.get_unchecked(quad));
            let mut four = [_mm512_setzero_si512(); 4];
            for (i, v) in four.iter_mut().enumerate() {
                let at = 4 * quad + i;
                _mm_prefetch::<_MM_HINT_T1>(next.lines.get_unchecked(at).wrapping_add(skip).cast());
                *v = _mm512_maskz_loadu_epi32(mask, chosen.lines.get_unchecked(at).add(skip).cast());
            }
            for (r, quad) in zip(isa, four).into_iter().enumerate() {
                let [low, high] = Z::codes(isa, quad, lut);
                acc[0][r] = _mm512_dpbusd_epi32(acc[0][r], low, x);
                if Z::BLOCKS == 4 {
                    acc[1][r] = _mm512_dpbusd_epi32(acc[1][r], high, x);
                }
            }
        }
        if Z::WHOLE {
            let [low, whole] = &mut acc;
            for (whole, low) in whole.iter_mut().zip(low) {
                *whole = _mm512_srai_epi32::<4>(_mm512_sub_epi32(*whole, *low));
            }
        }
        // Sixteen outputs of the low or the high halves of four blocks, or of both halves of two blocks.
        store(isa, &acc[..Z::BLOCKS / 2], if Z::BLOCKS == 4 { BLOCK } else { LANES }, sums);
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

/// Stores sums as floats, sixteen at a time: those of each half after each other, `step` apart.
///
/// # Safety
/// `out` must be writable for the last of them.
#[inline(always)]
unsafe fn store(isa: Proof<Avx512Lanes>, sums: &[[__m512i; 4]], step: usize, out: *mut f32) {
    for (half, sums) in sums.iter().enumerate() {
        for (i, row) in rows(isa, *sums).into_iter().enumerate() {
            // SAFETY: `Proof` shows that the processor has AVX-512 F; the caller gives room.
            unsafe { _mm512_storeu_ps(out.add(half * LANES + i * step), row) };
        }
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

/// The low halves of bytes, and whole bytes.
#[inline(always)]
fn whole(_: Proof<Avx512Lanes>, bytes: __m512i) -> [__m512i; 2] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F.
    [unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }, bytes]
}

macro_rules! vnni_inputs {
    ($(#[$doc:meta])* $name:ident, $codes:ty, $blocks:literal, $shift:literal, $whole:expr, |$isa:ident, $bytes:ident, $lut:ident| $decode:expr) => {
        $(#[$doc])*
        pub(in crate::kernels) struct $name;

        impl Zipped for $name {
            const BLOCKS: usize = $blocks;
            const SHIFT: i32 = $shift;
            const WHOLE: bool = $whole;

            #[inline(always)]
            fn codes($isa: Proof<Avx512Lanes>, $bytes: __m512i, $lut: __m512i) -> [__m512i; 2] {
                $decode
            }
        }

        impl InputDot for $name {
            type L = Avx512Lanes;
            type C = $codes;

            #[inline(always)]
            unsafe fn dots(
                isa: Proof<Avx512Lanes>,
                chosen: [&Chosen; 2],
                skip: usize,
                n: usize,
                table: &[i8; 16],
                sums: *mut f32,
            ) {
                // SAFETY: `Proof` shows that the processor has AVX-512 F; the caller meets the requirements of `dots`, which are
                // those of `dot` too for some of the blocks.
                unsafe {
                    let lut = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
                    let lut = _mm512_broadcast_i32x4(lut);
                    for b in (0..n).step_by(Self::BLOCKS) {
                        let blocks = (skip + b * Self::C::BYTES, Self::BLOCKS.min(n - b));
                        dot::<Self>(isa, chosen, blocks, lut, sums.add(b * BLOCK));
                    }
                }
            }
        }
    };
}

vnni_inputs!(
    /// Signed bytes, shifted by flipping the sign bit.
    Int8Inputs,
    Int8Codes,
    2,
    128,
    false,
    // SAFETY: `Proof` shows that the processor has AVX-512 F.
    |_isa, bytes, _lut| unsafe { [_mm512_xor_si512(bytes, _mm512_set1_epi8(-128)), _mm512_setzero_si512()] }
);
vnni_inputs!(
    /// Nibbles through a table shifted by 128.
    Table4Inputs,
    Table4Codes,
    4,
    128,
    false,
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
    0,
    true,
    |isa, bytes, _lut| whole(isa, bytes)
);
vnni_inputs!(
    /// Nibbles less 8.
    Int4Inputs,
    Table4Codes,
    4,
    8,
    true,
    |isa, bytes, _lut| whole(isa, bytes)
);

/// Writes the dot products of `here` blocks of outputs, at most four, of nibbles with a fifth bit, whose codes begin at `skip`.
///
/// ```text
/// for each quad:
///     for each line: sort its words into nibbles and fifth bits, a quarter of a register for each block
///     zip the nibbles and the fifth bits of the four lines, put codes together, sums += codes * inputs
/// ```
///
/// The sums begin at `first`.
///
/// # Safety
/// As [`InputDot::dots`], for `here` blocks of 20 bytes.
#[inline(always)]
unsafe fn dot_fives(
    isa: Proof<Avx512Lanes>,
    [chosen, next]: [&Chosen; 2],
    (skip, here): (usize, usize),
    first: i32,
    sums: *mut f32,
) {
    // From its fifth word on, a line has the fifth bits of the first block, and then nibbles and bits of the others.
    let mask = ((1u32 << (5 * here - 4)) - 1) as __mmask16;
    // SAFETY: `Proof` shows that the processor has AVX-512 F, BW and VNNI. `mask` has a bit only for words of blocks that
    // every line has, as the caller promises; a quad is below 8; `sums` is writable for a multiple of four blocks.
    unsafe {
        let nibbles = _mm512_setr_epi32(0, 0, 0, 0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14);
        let fifths = _mm512_setr_epi32(0, 0, 0, 0, 5, 5, 5, 5, 10, 10, 10, 10, 15, 15, 15, 15);
        let by_byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        let low = _mm512_set1_epi8(15);
        let mut acc = [[_mm512_set1_epi32(first); 4]; 2];
        for quad in 0..chosen.quads.min(BLOCK / 4) {
            let x = _mm512_set1_epi32(*chosen.quants.get_unchecked(quad));
            let (mut four, mut upper) = ([_mm512_setzero_si512(); 4], _mm512_setzero_si512());
            for (i, v) in four.iter_mut().enumerate() {
                let line = chosen.lines.get_unchecked(4 * quad + i).add(skip);
                let ahead = next.lines.get_unchecked(4 * quad + i).wrapping_add(skip);
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64).cast());
                let words = _mm512_maskz_loadu_epi32(mask, line.add(16).cast());
                *v = _mm512_mask_loadu_epi32(_mm512_permutexvar_epi32(nibbles, words), 15, line.cast());
                upper = _mm512_mask_permutexvar_epi32(upper, 0x1111 << i, fifths, words);
            }
            let upper = _mm512_shuffle_epi8(upper, by_byte);
            let bits = fifth_bits(isa, upper);
            for (r, bytes) in zip(isa, four).into_iter().enumerate() {
                for half in 0..2 {
                    let nibble = if half == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
                    // (nibble & 15) | bits
                    let code = _mm512_ternarylogic_epi32::<0xf8>(bits[4 * half + r], nibble, low);
                    acc[half][r] = _mm512_dpbusd_epi32(acc[half][r], code, x);
                }
            }
        }
        store(isa, &acc, BLOCK, sums);
    }
}

/// Nibbles with a fifth bit.
pub(in crate::kernels) struct FiveInputs<S>(PhantomData<S>);

impl<S: Line> InputDot for FiveInputs<S> {
    type L = Avx512Lanes;
    type C = S::C;

    #[inline(always)]
    unsafe fn dots(
        isa: Proof<Avx512Lanes>,
        chosen: [&Chosen; 2],
        skip: usize,
        n: usize,
        _table: &[i8; 16],
        sums: *mut f32,
    ) {
        const { assert!(Self::C::BYTES == 20) };
        for b in (0..n).step_by(4) {
            // SAFETY: the caller meets the requirements of `dots`, which are those of `dot_fives` too for some of the blocks.
            unsafe {
                let blocks = (skip + b * Self::C::BYTES, 4.min(n - b));
                dot_fives(isa, chosen, blocks, avx2::start::<S>(chosen[0].offset), sums.add(b * BLOCK));
            }
        }
    }
}

/// Nibbles with upper bits: codes of 64 outputs, put together as by AVX2, whose products VNNI adds up.
pub(in crate::kernels) struct UpperInputs<S>(PhantomData<S>);

impl<S: Line> InputDot for UpperInputs<S> {
    type L = Avx512Lanes;
    type C = S::C;

    #[inline(always)]
    unsafe fn dots(
        _: Proof<Avx512Lanes>,
        chosen: [&Chosen; 2],
        skip: usize,
        n: usize,
        _table: &[i8; 16],
        sums: *mut f32,
    ) {
        // SAFETY: processors whose AVX-512 is used have AVX2; the caller meets the requirements of `dots` for `n` blocks, and
        // `sums` is writable for an even number.
        unsafe {
            let isa = Proof::assume();
            for b in (0..n).step_by(2) {
                add64::<S>(isa, chosen, (skip, b, n), sums.add(b * BLOCK));
            }
        }
    }
}

/// Writes the dot products of block `b` of `n` and of the one after it; of the last one twice.
///
/// # Safety
/// As [`InputDot::dots`], on a processor with AVX-512 VL and VNNI.
#[inline(always)]
unsafe fn add64<S: Line>(isa: Proof<Avx2Lanes>, chosen: [&Chosen; 2], place: (usize, usize, usize), out: *mut f32) {
    let [Chosen { quants, quads, offset, .. }, _] = chosen;
    // SAFETY: the caller's processor has the instructions; it gives at most 8 quads, whose lines have these blocks, and room
    // for 64 floats.
    unsafe {
        let (none, start) = (_mm256_setzero_si256(), _mm256_set1_epi32(avx2::start::<S>(*offset)));
        let mut sums = [start; 8];
        for quad in 0..(*quads).min(quants.len()) {
            let x = _mm256_set1_epi32(*quants.get_unchecked(quad));
            for (sum, codes) in sums.iter_mut().zip(codes64::<S>(isa, chosen, quad, place, none)) {
                *sum = _mm256_dpbusd_epi32(*sum, codes, x);
            }
        }
        store64(isa, sums, out);
    }
}
