//! AVX-512 lanes: one register.

use super::Lanes;
use core::arch::x86_64::*;

/// Sixteen floats in a zmm register.
#[derive(Clone, Copy)]
pub struct Avx512Lanes(__m512);

impl From<__m512> for Avx512Lanes {
    #[inline(always)]
    fn from(v: __m512) -> Self {
        Avx512Lanes(v)
    }
}

macro_rules! lanewise {
    ($name:ident, $op:ident) => {
        #[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            // SAFETY: AVX-512F by the trait's contract.
            Avx512Lanes(unsafe { $op(self.0, o.0) })
        }
    };
}

// SAFETY: needs AVX-512 F.
unsafe impl Lanes for Avx512Lanes {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: AVX-512F by the trait's contract.
        Avx512Lanes(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        Avx512Lanes(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        Avx512Lanes(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8) {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }

    lanewise!(add, _mm512_add_ps);
    lanewise!(sub, _mm512_sub_ps);
    lanewise!(mul, _mm512_mul_ps);
    lanewise!(div, _mm512_div_ps);
    lanewise!(max, _mm512_max_ps);
    lanewise!(min, _mm512_min_ps);

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: AVX-512F by the trait's contract.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Avx512Lanes(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
}
