//! AVX2 for integer matrices stored by input: the codes of four inputs' lines are zipped to quads, which are multiplied as those
//! of tiles are (`tile_dot/avx2.rs`).
//!
//! ```text
//! for every run of quads whose products fit into 16 bits:
//!     for each quad: zip the codes of its four lines for 32 outputs, pairs += codes * inputs
//!     sums += pairs
//! ```

use super::{Chosen, InputCodes, InputDot};
use crate::kernels::codes::{Affine4Codes, Affine5Codes, Int5Codes, Int6Codes, Int8Codes, Table4Codes};
use crate::kernels::tile_dot::avx2::{Unpack, products, start};
use crate::kernels::tile_dot::{Bytes, Entries, Fives, Nibbles, SignedFives, SignedFours, SignedSixes};
use crate::simd::avx2::Avx2Lanes;
use crate::simd::{Lanes, Proof};
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Codes of 32 outputs in a line, of the same meaning as those of a tile.
pub(in crate::kernels) trait Line: Unpack {
    /// The codes' arrangement in memory.
    type C: InputCodes;

    /// The codes of outputs 0..32, a byte each; `lut` is the table in both halves.
    ///
    /// # Safety
    /// [`InputDot::C`]'s bytes must be readable at `at`.
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, lut: __m256i) -> __m256i;
}

/// The low nibbles of 16 bytes, then the high ones.
///
/// # Safety
/// 16 bytes must be readable at `at`.
#[inline(always)]
unsafe fn nibbles(_: Proof<Avx2Lanes>, at: *const u8) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 16 readable bytes.
    unsafe {
        let packed = _mm_loadu_si128(at.cast());
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), _mm256_set1_epi8(15))
    }
}

/// Nibbles with a fifth bit: bit q of byte i of four belongs to output 4 * q + i.
///
/// # Safety
/// 20 bytes must be readable at `at`.
#[inline(always)]
unsafe fn fives(isa: Proof<Avx2Lanes>, at: *const u8) -> __m256i {
    // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 20 readable bytes.
    unsafe {
        let upper = _mm256_set1_epi32(at.add(16).cast::<i32>().read_unaligned());
        let upper = _mm256_srlv_epi32(upper, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let upper = _mm256_slli_epi16::<4>(_mm256_and_si256(upper, _mm256_set1_epi8(1)));
        _mm256_or_si256(nibbles(isa, at), upper)
    }
}

impl Line for Bytes {
    type C = Int8Codes;

    #[inline(always)]
    unsafe fn read(_: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 32 readable bytes.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
}

impl Line for Entries {
    type C = Table4Codes;

    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, lut: __m256i) -> __m256i {
        // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 16 readable bytes.
        unsafe { _mm256_shuffle_epi8(lut, nibbles(isa, at)) }
    }
}

impl Line for Nibbles {
    type C = Affine4Codes;

    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: the caller gives a block of these codes, which has 16 readable bytes.
        unsafe { nibbles(isa, at) }
    }
}

impl Line for SignedFours {
    type C = Table4Codes;

    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: the caller gives a block of these codes, which has 16 readable bytes.
        unsafe { nibbles(isa, at) }
    }
}

impl Line for Fives {
    type C = Affine5Codes;

    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: the caller gives a block of these codes, which has 20 readable bytes.
        unsafe { fives(isa, at) }
    }
}

impl Line for SignedFives {
    type C = Int5Codes;

    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: the caller gives a block of these codes, which has 20 readable bytes.
        unsafe { fives(isa, at) }
    }
}

impl Line for SignedSixes {
    type C = Int6Codes;

    /// Bits 2q and 2q + 1 of byte i of the first four belong to output 4 * q + i, those of the next four bytes to
    /// outputs 16 further on.
    #[inline(always)]
    unsafe fn read(isa: Proof<Avx2Lanes>, at: *const u8, _lut: __m256i) -> __m256i {
        // SAFETY: `Proof` shows that the processor has AVX2; the caller gives 24 readable bytes.
        unsafe {
            let upper = at.add(16).cast::<i32>();
            let [a, b] = [0, 1].map(|part| _mm_set1_epi32(upper.add(part).read_unaligned()));
            let upper = _mm256_srlv_epi32(_mm256_set_m128i(b, a), _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
            let upper = _mm256_slli_epi16::<4>(_mm256_and_si256(upper, _mm256_set1_epi8(3)));
            _mm256_or_si256(nibbles(isa, at), upper)
        }
    }
}

/// The dot products of lines.
pub(in crate::kernels) struct Inputs<S>(PhantomData<S>);

impl<S: Line> InputDot for Inputs<S> {
    type L = Avx2Lanes;
    type C = S::C;

    #[inline(always)]
    unsafe fn dot32(isa: Proof<Avx2Lanes>, chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [Avx2Lanes; 2] {
        // SAFETY: `Proof` shows that the processor has AVX2; the caller gives at most 8 quads, whose lines have the
        // codes of 32 outputs at `skip`.
        unsafe {
            let lut = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let mut sums = [_mm256_set1_epi32(start::<S>(chosen.offset)); 4];
            let quads = chosen.quads.min(chosen.quants.len());
            for first in (0..quads).step_by(S::TOGETHER) {
                let mut pairs = [_mm256_setzero_si256(); 4];
                for quad in first..quads.min(first + S::TOGETHER) {
                    let x = _mm256_set1_epi32(*chosen.quants.get_unchecked(quad));
                    for (pairs, w) in pairs.iter_mut().zip(zipped::<S>(isa, chosen, quad, skip, lut)) {
                        *pairs = _mm256_add_epi16(*pairs, products::<S>(isa, w, x));
                    }
                }
                for (sum, pairs) in sums.iter_mut().zip(pairs) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
            }
            // Register i has outputs 4 * i.. in its low half and the outputs 16 further on in its high half.
            let halves = |a: __m256i, b: __m256i| {
                [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
            };
            let ([a, c], [b, d]) = (halves(sums[0], sums[1]), halves(sums[2], sums[3]));
            [[a, b], [c, d]].map(|[x, y]| Avx2Lanes::new(isa, _mm256_cvtepi32_ps(x), _mm256_cvtepi32_ps(y)))
        }
    }
}

/// The codes of the four inputs of a quad, by output; later lines are prefetched.
///
/// # Safety
/// As [`InputDot::dot32`], for a quad of `chosen`.
#[inline(always)]
unsafe fn zipped<S: Line>(
    isa: Proof<Avx2Lanes>,
    chosen: &Chosen,
    quad: usize,
    skip: usize,
    lut: __m256i,
) -> [__m256i; 4] {
    // SAFETY: `Proof` shows that the processor has AVX2; the caller's lines have the codes of 32 outputs at `skip`.
    unsafe {
        let mut lines = [_mm256_setzero_si256(); 4];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = S::read(isa, chosen.lines.get_unchecked(4 * quad + i).add(skip), lut);
            // A cache line holds the codes of several blocks, so that only the first of them prefetches.
            if skip % 64 < const { size_of::<<S::C as crate::kernels::codes::Codes>::Block>() } {
                Avx2Lanes::prefetch(isa, chosen.prefetch.get_unchecked(4 * quad + i).wrapping_add(skip));
            }
        }
        let [a, b] = [_mm256_unpacklo_epi8(lines[0], lines[1]), _mm256_unpackhi_epi8(lines[0], lines[1])];
        let [c, d] = [_mm256_unpacklo_epi8(lines[2], lines[3]), _mm256_unpackhi_epi8(lines[2], lines[3])];
        [
            _mm256_unpacklo_epi16(a, c),
            _mm256_unpackhi_epi16(a, c),
            _mm256_unpacklo_epi16(b, d),
            _mm256_unpackhi_epi16(b, d),
        ]
    }
}
