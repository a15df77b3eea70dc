//! AVX2 lanes: two registers. (F16C converts f16.)

use super::{LANES, Lanes, Proof};
use core::arch::x86_64::*;

/// Sixteen floats in two ymm registers. Their [`Proof`] shows that the processor has AVX2, F16C and POPCNT.
#[derive(Clone, Copy)]
pub struct Avx2Lanes(__m256, __m256);

impl Avx2Lanes {
    /// Lanes of two registers.
    #[inline(always)]
    pub(crate) fn new(_: Proof<Self>, low: __m256, high: __m256) -> Self {
        Avx2Lanes(low, high)
    }
}

/// Sixteen signed bytes as floats.
#[inline(always)]
fn widen(_: Proof<Avx2Lanes>, bytes: __m128i) -> Avx2Lanes {
    // SAFETY: `Proof` shows that the processor has AVX2.
    unsafe {
        let (a, b) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)));
        Avx2Lanes(_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b))
    }
}

macro_rules! lanewise {
    ($name:ident, $op:ident) => {
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            // SAFETY: a value of this type exists only on processors with AVX2.
            unsafe { Avx2Lanes($op(self.0, o.0), $op(self.1, o.1)) }
        }
    };
}

// SAFETY: the field is private, and every constructor takes a proof.
unsafe impl Lanes for Avx2Lanes {
    #[inline(always)]
    fn splat(_: Proof<Self>, x: f32) -> Self {
        // SAFETY: `Proof` shows that the processor has AVX2.
        unsafe { Avx2Lanes(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    fn load_bytes(_: Proof<Self>, x: &[u8; 4 * LANES]) -> Self {
        let p = x.as_ptr().cast::<f32>();
        // SAFETY: the array has 64 bytes, and the load allows any alignment; `Proof` shows that the processor has AVX2.
        unsafe { Avx2Lanes(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    fn load_f16(_: Proof<Self>, x: &[u8; 2 * LANES]) -> Self {
        let p = x.as_ptr();
        // SAFETY: the array has 32 bytes, and the load allows any alignment; `Proof` shows that the processor has F16C.
        unsafe {
            let (a, b) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast()));
            Avx2Lanes(_mm256_cvtph_ps(a), _mm256_cvtph_ps(b))
        }
    }

    #[inline(always)]
    fn load_i8(isa: Proof<Self>, x: &[i8; LANES]) -> Self {
        // SAFETY: the array has 16 bytes, and the load allows any alignment.
        widen(isa, unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
    }

    #[inline(always)]
    fn lookup(isa: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self) {
        // SAFETY: both arrays have 16 bytes, and the load allows any alignment; `Proof` shows that the processor has
        // AVX2.
        unsafe {
            let (codes, table) = (_mm_loadu_si128(codes.as_ptr().cast()), _mm_loadu_si128(table.as_ptr().cast()));
            let low = _mm_set1_epi8(15);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(codes), low);
            let low = _mm_shuffle_epi8(table, _mm_and_si128(codes, low));
            (widen(isa, low), widen(isa, _mm_shuffle_epi8(table, high)))
        }
    }

    #[inline(always)]
    fn splat_f16(_: Proof<Self>, bits: u16) -> Self {
        // SAFETY: `Proof` shows that the processor has F16C.
        unsafe {
            let v = _mm256_cvtph_ps(_mm_set1_epi16(bits as i16));
            Avx2Lanes(v, v)
        }
    }

    #[inline(always)]
    unsafe fn interleave(
        _: Proof<Self>,
        runs: &[*const u8; LANES],
        quads: usize,
        out: *mut u8,
        per: usize,
        stride: usize,
    ) {
        for first in (0..quads).step_by(4) {
            for half in 0..2 {
                // SAFETY: `Proof` shows that the processor has AVX2. `first + 3` is below `quads`, so the caller's runs
                // have 16 bytes from quad `first` on; runs 8 * half.. are written to their half of four quads, for
                // which the caller gives room.
                unsafe {
                    let pair = |r: usize| {
                        let load = |r: usize| _mm_loadu_si128(runs[r].add(4 * first).cast());
                        _mm256_set_m128i(load(8 * half + 4 + r), load(8 * half + r))
                    };
                    let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
                    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                    let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                    let four = [
                        _mm256_unpacklo_epi64(ab, cd),
                        _mm256_unpackhi_epi64(ab, cd),
                        _mm256_unpacklo_epi64(ef, gh),
                        _mm256_unpackhi_epi64(ef, gh),
                    ];
                    // A place holds a multiple of four quads, so these four are in one place.
                    let to = out.add(first / per * stride + first % per * 64 + 32 * half);
                    for (i, v) in four.into_iter().enumerate() {
                        _mm256_storeu_si256(to.add(64 * i).cast(), v);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        let p = to.as_mut_ptr();
        // SAFETY: `to` has 16 floats; a value of this type exists only on processors with AVX2.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        // SAFETY: `to` has 16 bytes; a value of this type exists only on processors with AVX2.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // The pack works within 128-bit halves: 0 2 1 3 puts the quarters back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    lanewise!(add, _mm256_add_ps);
    lanewise!(sub, _mm256_sub_ps);
    lanewise!(mul, _mm256_mul_ps);
    lanewise!(div, _mm256_div_ps);
    lanewise!(max, _mm256_max_ps);
    lanewise!(min, _mm256_min_ps);

    #[inline(always)]
    fn prefetch(_: Proof<Self>, p: *const u8) {
        // SAFETY: a prefetch is a hint, which no address can make fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    fn prefetch_near(_: Proof<Self>, p: *const u8) {
        // SAFETY: a prefetch is a hint, which no address can make fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn pow2(self) -> Self {
        // SAFETY: a value of this type exists only on processors with AVX2.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), bias);
            let b = _mm256_add_epi32(_mm256_cvtps_epi32(self.1), bias);
            Avx2Lanes(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(b)))
        }
    }
}
