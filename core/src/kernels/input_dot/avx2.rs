//! AVX2 for integer matrices stored by input: the codes of four inputs' lines are zipped to quads, which are multiplied as those
//! of tiles are (`tile_dot/avx2.rs`).
//!
//! ```text
//! for 64 outputs (the last 32, if they are alone, twice), and every run of quads whose products fit into 16 bits:
//!     for each quad: zip the bytes of its four lines, split nibbles, pairs += codes * inputs
//!     sums += pairs
//! ```
//! Zipping bytes before nibbles are split takes half of the instructions of splitting first: the registers hold the codes of
//! 64 outputs then instead of 32.

use super::{Chosen, InputCodes, InputDot};
use crate::format::BLOCK;
use crate::kernels::codes::{Affine4Codes, Affine5Codes, Int5Codes, Int6Codes, Int8Codes, Table4Codes};
use crate::kernels::tile_dot::avx2::{Unpack, fifth_bits, products, start, upper_twos};
use crate::kernels::tile_dot::{Bytes, Entries, Fives, Nibbles, SignedFives, SignedFours, SignedSixes};
use crate::simd::avx2::Avx2Lanes;
use crate::simd::{Lanes, Proof};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Codes of 32 outputs in a line, of the same meaning as those of a tile.
pub(in crate::kernels) trait Line: Unpack {
    /// The codes' arrangement in memory.
    type C: InputCodes;

    /// The integers that bytes of nibbles stand for; `lut` is the table in both halves.
    #[inline(always)]
    fn looked_up(_: Proof<Avx2Lanes>, codes: Codes64, _lut: __m256i) -> Codes64 {
        codes
    }
}

impl Line for Bytes {
    type C = Int8Codes;
}

impl Line for Entries {
    type C = Table4Codes;

    #[inline(always)]
    fn looked_up(_: Proof<Avx2Lanes>, mut codes: Codes64, lut: __m256i) -> Codes64 {
        for code in &mut codes {
            // SAFETY: `Proof` shows that the processor has AVX2.
            *code = unsafe { _mm256_shuffle_epi8(lut, *code) };
        }
        codes
    }
}

impl Line for Nibbles {
    type C = Affine4Codes;
}

impl Line for SignedFours {
    type C = Table4Codes;
}

impl Line for Fives {
    type C = Affine5Codes;
}

impl Line for SignedFives {
    type C = Int5Codes;
}

impl Line for SignedSixes {
    type C = Int6Codes;
}

/// The dot products of lines.
pub(in crate::kernels) struct Inputs<S>(PhantomData<S>);

impl<S: Line> InputDot for Inputs<S> {
    type L = Avx2Lanes;
    type C = S::C;

    #[inline(always)]
    unsafe fn dots(
        isa: Proof<Avx2Lanes>,
        chosen: [&Chosen; 2],
        skip: usize,
        n: usize,
        table: &[i8; 16],
        sums: *mut f32,
    ) {
        for b in (0..n).step_by(2) {
            // SAFETY: the caller meets the requirements of `dots` for `n` blocks, and `sums` is writable for an even number.
            unsafe { dot64::<S>(isa, chosen, (skip, b, n), table, sums.add(b * BLOCK)) };
        }
    }
}

/// Eight registers of bytes that become 64 codes each: register q has outputs 4q..4q + 4 of one block in its low half and
/// those of the next block in its high half, four inputs each.
pub(super) type Codes64 = [__m256i; 8];

/// Writes the dot products of block `b` of `n` and of the one after it; of the last one twice.
///
/// # Safety
/// As [`InputDot::dots`].
#[inline(always)]
unsafe fn dot64<S: Line>(
    isa: Proof<Avx2Lanes>,
    chosen: [&Chosen; 2],
    place: (usize, usize, usize),
    table: &[i8; 16],
    out: *mut f32,
) {
    let [Chosen { quants, .. }, _] = chosen;
    // SAFETY: `Proof` shows that the processor has AVX2; the caller gives at most 8 quads, whose lines have these blocks,
    // and room for 64 floats.
    unsafe {
        let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let (start, ones) = (_mm256_set1_epi32(start::<S>(chosen[0].offset)), _mm256_set1_epi16(1));
        let (mut sums, quads) = ([start; 8], chosen[0].quads.min(quants.len()));
        for first in (0..quads).step_by(S::TOGETHER) {
            let mut pairs = [_mm256_setzero_si256(); 8];
            for quad in first..quads.min(first + S::TOGETHER) {
                let x = _mm256_set1_epi32(*quants.get_unchecked(quad));
                for (pairs, w) in pairs.iter_mut().zip(codes64::<S>(isa, chosen, quad, place, lut)) {
                    *pairs = _mm256_add_epi16(*pairs, products::<S>(isa, w, x));
                }
            }
            for (sum, pairs) in sums.iter_mut().zip(pairs) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        store64(isa, sums, out);
    }
}

/// Stores the sums of [`Codes64`] as floats, in the order of the outputs.
///
/// # Safety
/// `out` must be writable for 64 floats.
#[inline(always)]
pub(super) unsafe fn store64(_: Proof<Avx2Lanes>, sums: [__m256i; 8], out: *mut f32) {
    for i in 0..4 {
        // SAFETY: `Proof` shows that the processor has AVX2; the caller gives room for two blocks.
        unsafe {
            let (a, b) = (sums[2 * i], sums[2 * i + 1]);
            let blocks = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
            for (block, sums) in blocks.into_iter().enumerate() {
                _mm256_storeu_ps(out.add(block * BLOCK + 8 * i), _mm256_cvtepi32_ps(sums));
            }
        }
    }
}

/// The codes of a quad's four lines: of block `b` of the `n` blocks at `skip` and of the one after it, or of the last one
/// twice; later lines are prefetched.
///
/// # Safety
/// As [`InputDot::dots`], for a quad of `chosen`.
#[inline(always)]
pub(super) unsafe fn codes64<S: Line>(
    isa: Proof<Avx2Lanes>,
    [chosen, next]: [&Chosen; 2],
    quad: usize,
    (skip, b, n): (usize, usize, usize),
    lut: __m256i,
) -> Codes64 {
    let bytes = const { <S::C as crate::kernels::codes::Codes>::BYTES };
    let (skip, second) = (skip + b * bytes, if b + 1 < n { bytes } else { 0 });
    // SAFETY: `Proof` shows that the processor has AVX2; the caller's lines have both blocks, of 16 bytes of nibbles and upper
    // bits after them, or of 32 bytes.
    unsafe {
        let (mut lines, mut four) = ([core::ptr::null(); 4], [_mm256_setzero_si256(); 4]);
        for i in 0..4 {
            let line = chosen.lines.get_unchecked(4 * quad + i).add(skip);
            (lines[i], four[i]) = (line, two(isa, line, line.add(second)));
            // A cache line holds several blocks, so that only the first of them prefetches.
            if skip % 64 < 2 * bytes {
                Avx2Lanes::prefetch(isa, next.lines.get_unchecked(4 * quad + i).wrapping_add(skip));
            }
        }
        let (zipped, low) = (zip(isa, four), _mm256_set1_epi8(15));
        let mut codes = [low; 8];
        if bytes == 32 {
            let more = zip(isa, lines.map(|line| two(isa, line.add(16), line.add(second + 16))));
            codes[..4].copy_from_slice(&zipped);
            codes[4..].copy_from_slice(&more);
            return codes;
        }
        let mut bits = [_mm256_setzero_si256(); 8];
        if bytes == 20 {
            bits = fifth_bits(isa, upper(isa, lines, 16, second));
        } else if bytes == 24 {
            let halves =
                [upper_twos(isa, upper(isa, lines, 16, second)), upper_twos(isa, upper(isa, lines, 20, second))];
            bits.copy_from_slice(halves.as_flattened());
        }
        for i in 0..4 {
            let high = _mm256_srli_epi16::<4>(zipped[i]);
            codes[i] = _mm256_or_si256(_mm256_and_si256(zipped[i], low), bits[i]);
            codes[4 + i] = _mm256_or_si256(_mm256_and_si256(high, low), bits[4 + i]);
        }
        S::looked_up(isa, codes, lut)
    }
}

/// Sixteen bytes in either half.
///
/// # Safety
/// 16 bytes must be readable at `a` and at `b`.
#[inline(always)]
unsafe fn two(_: Proof<Avx2Lanes>, a: *const u8, b: *const u8) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 16 readable bytes twice.
    unsafe { _mm256_set_m128i(_mm_loadu_si128(b.cast()), _mm_loadu_si128(a.cast())) }
}

/// Four bytes at `at` of each of two blocks of four lines, the second of them `step` after the first, in the order of
/// [`Codes64`]: byte i of every line, for each i.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn upper(_: Proof<Avx2Lanes>, lines: [*const u8; 4], at: usize, step: usize) -> __m256i {
    let mut words = [0i32; 8];
    for (i, word) in words.iter_mut().enumerate() {
        // SAFETY: the caller gives four readable bytes for each.
        *word = unsafe { lines[i % 4].add(at + i / 4 * step).cast::<i32>().read_unaligned() };
    }
    let [a, b, c, d, e, f, g, h] = words;
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        let by_byte = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm256_shuffle_epi8(_mm256_setr_epi32(a, b, c, d, e, f, g, h), _mm256_broadcastsi128_si256(by_byte))
    }
}

/// Interleaves the bytes of four registers: dword i of register r has byte 4r + i of each, in either half.
#[inline(always)]
fn zip(_: Proof<Avx2Lanes>, [a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
        let (ef, gh) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_unpacklo_epi16(ab, cd),
            _mm256_unpackhi_epi16(ab, cd),
            _mm256_unpacklo_epi16(ef, gh),
            _mm256_unpackhi_epi16(ef, gh),
        ]
    }
}
