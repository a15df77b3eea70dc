//! AVX2 lanes: two registers. (F16C besides, for halves.)

use super::Lanes;
use core::arch::x86_64::*;

/// Sixteen floats in two ymm registers.
#[derive(Clone, Copy)]
pub struct Avx2Lanes(__m256, __m256);

impl From<(__m256, __m256)> for Avx2Lanes {
    #[inline(always)]
    fn from((low, high): (__m256, __m256)) -> Self {
        Avx2Lanes(low, high)
    }
}

macro_rules! lanewise {
    ($name:ident, $op:ident) => {
        #[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            // SAFETY: AVX2 by the trait's contract.
            unsafe { Avx2Lanes($op(self.0, o.0), $op(self.1, o.1)) }
        }
    };
}

// SAFETY: needs AVX2 and F16C.
unsafe impl Lanes for Avx2Lanes {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: AVX2 by the trait's contract.
        unsafe { Avx2Lanes(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: 16 elements and AVX2 by the trait's contract.
        unsafe { Avx2Lanes(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: 16 elements and F16C by the trait's contract.
        unsafe {
            let (a, b) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast()));
            Avx2Lanes(_mm256_cvtph_ps(a), _mm256_cvtph_ps(b))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: 16 elements and AVX2 by the trait's contract.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8) {
        // SAFETY: 16 elements and AVX2 by the trait's contract.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // The pack works in 128-bit halves: 0 2 1 3 puts the quarters back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }

    lanewise!(add, _mm256_add_ps);
    lanewise!(sub, _mm256_sub_ps);
    lanewise!(mul, _mm256_mul_ps);
    lanewise!(div, _mm256_div_ps);
    lanewise!(max, _mm256_max_ps);
    lanewise!(min, _mm256_min_ps);

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: AVX2 by the trait's contract.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), bias);
            let b = _mm256_add_epi32(_mm256_cvtps_epi32(self.1), bias);
            Avx2Lanes(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(b)))
        }
    }
}
