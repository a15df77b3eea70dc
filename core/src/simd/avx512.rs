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

/// What the low and the high halves of 16 bytes name.
///
/// # Safety
/// There must be 16 bytes at `p`; AVX-512 F must be there.
#[inline(always)]
unsafe fn permute(p: *const u8, table: Avx512Lanes) -> (Avx512Lanes, Avx512Lanes) {
    // SAFETY: by the contract.
    unsafe {
        // The permutation looks at the lowest four bits only: nothing is masked.
        let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        let high = _mm512_srli_epi32::<4>(codes);
        (Avx512Lanes(_mm512_permutexvar_ps(codes, table.0)), Avx512Lanes(_mm512_permutexvar_ps(high, table.0)))
    }
}

/// Dwords 0, 1, 2, 3 of 16 runs of bytes, each dword's in a register.
///
/// # Safety
/// 16 bytes from `at` on must be in every run; AVX-512 F must be there.
#[inline(always)]
unsafe fn transpose4(runs: &[*const u8; 16], at: usize) -> [__m512i; 4] {
    // SAFETY: by the contract.
    unsafe {
        // Register r holds runs r, r + 4, r + 8, r + 12: transposed by fours inside their quarters, the runs come out
        // in order.
        let load = |r: usize| _mm_loadu_si128(runs[r].add(at).cast());
        let rows = |r: usize| {
            let v = _mm512_castsi128_si512(load(r));
            let v = _mm512_inserti32x4::<1>(v, load(r + 4));
            let v = _mm512_inserti32x4::<2>(v, load(r + 8));
            _mm512_inserti32x4::<3>(v, load(r + 12))
        };
        quarters(rows(0), rows(1), rows(2), rows(3))
    }
}

/// Transposes dwords by fours inside quarters of four registers.
///
/// # Safety
/// AVX-512 F must be there.
#[inline(always)]
unsafe fn quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    // SAFETY: by the contract.
    unsafe {
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ef, gh),
            _mm512_unpackhi_epi64(ef, gh),
        ]
    }
}

/// Dwords 0 to 15 of 16 runs of bytes, each dword's in a register.
///
/// # Safety
/// 64 bytes from `at` on must be in every run; AVX-512 F must be there.
#[inline(always)]
unsafe fn transpose16(runs: &[*const u8; 16], at: usize) -> [__m512i; 16] {
    // SAFETY: by the contract.
    unsafe {
        let load = |r: usize| _mm512_loadu_si512(runs[r].add(at).cast());
        let four = |r: usize| quarters(load(r), load(r + 1), load(r + 2), load(r + 3));
        // Quarter q of fours[f][c] has dword 4q + c of runs 4f..4f + 4.
        let (a, b, c, d) = (four(0), four(4), four(8), four(12));
        let mut out = [a[0]; 16];
        for i in 0..4 {
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a[i], b[i]), _mm512_shuffle_i32x4::<0x88>(c[i], d[i]));
            let (ef, gh) = (_mm512_shuffle_i32x4::<0xdd>(a[i], b[i]), _mm512_shuffle_i32x4::<0xdd>(c[i], d[i]));
            out[i] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            out[4 + i] = _mm512_shuffle_i32x4::<0x88>(ef, gh);
            out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
            out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(ef, gh);
        }
        out
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

// SAFETY: needs AVX-512 F, BW and VL.
unsafe impl Lanes for Avx512Lanes {
    const TOGETHER: usize = 8;

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
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        Avx512Lanes(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) })
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: &[i8; 16]) -> (Self, Self) {
        // SAFETY: 16 elements and AVX-512F by the trait's contract.
        unsafe { permute(p, Self::load_i8(table.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn lookup_times(p: *const u8, table: &[i8; 16], factor: Self) -> (Self, Self) {
        // SAFETY: 16 elements and AVX-512F by the trait's contract. The product is that of the code, made for all
        // codes at once.
        unsafe { permute(p, Self::load_i8(table.as_ptr()).mul(factor)) }
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> Self {
        // SAFETY: one element and AVX-512F by the trait's contract.
        Avx512Lanes(unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(p.read_unaligned() as i16)) })
    }

    #[inline(always)]
    unsafe fn interleave(runs: &[*const u8; 16], quads: usize, out: *mut u8, per: usize, stride: usize) {
        let place = |quad: usize| out.wrapping_add(quad / per * stride + quad % per * 64);
        let mut first = 0;
        while quads - first >= 16 {
            // SAFETY: AVX-512F by the trait's contract; 64 bytes from quad `first` on are in every run.
            unsafe {
                let v = transpose16(runs, 4 * first);
                for (i, v) in v.into_iter().enumerate() {
                    _mm512_storeu_si512(place(first + i).cast(), v);
                }
            }
            first += 16;
        }
        while first < quads {
            // SAFETY: AVX-512F by the trait's contract; 16 bytes from quad `first` on are in every run.
            unsafe {
                let v = transpose4(runs, 4 * first);
                for (i, v) in v.into_iter().enumerate() {
                    _mm512_storeu_si512(place(first + i).cast(), v);
                }
            }
            first += 4;
        }
    }

    #[inline(always)]
    unsafe fn gather_halves(runs: &[*const u8; 16], n: usize, out: *mut u8, stride: usize) {
        // SAFETY: AVX-512F by the trait's contract; 16 bytes are in every run.
        let pairs = unsafe { transpose4(runs, 0) };
        for (i, pair) in pairs.into_iter().enumerate().take(n.div_ceil(2)) {
            // SAFETY: the places of two numbers, or of one at the end.
            unsafe {
                let to = out.add(2 * i * stride);
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(pair));
                if 2 * i + 1 < n {
                    _mm256_storeu_si256(to.add(stride).cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pair)));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn select(x: *const f32, quants: *const i8, threshold: f32, first: u32, list: *mut u32) -> usize {
        // SAFETY: 16 of everything and AVX-512 F, BW, VL by the trait's contract.
        unsafe {
            let large = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(_mm512_abs_ps(_mm512_loadu_ps(x)), _mm512_set1_ps(threshold));
            let mask = if quants.is_null() {
                large
            } else {
                let quants = _mm_loadu_si128(quants.cast());
                large & _mm_test_epi8_mask(quants, quants)
            };
            let places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let numbers = _mm512_add_epi32(places, _mm512_set1_epi32(first as i32));
            _mm512_storeu_si512(list.cast(), _mm512_maskz_compress_epi32(mask, numbers));
            mask.count_ones() as usize
        }
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
