//! AVX-512 lanes: one register.

use super::{LANES, Lanes, Proof};
use core::arch::x86_64::*;

/// Sixteen floats in a zmm register. Their [`Proof`] shows that the processor has AVX-512 F, BW, VL and VNNI, and
/// everything that [`super::avx2`] needs.
#[derive(Clone, Copy)]
pub struct Avx512Lanes(__m512);

impl Avx512Lanes {
    /// Lanes of a register.
    #[inline(always)]
    pub(crate) fn new(_: Proof<Self>, v: __m512) -> Self {
        Avx512Lanes(v)
    }
}

/// The entries whose numbers are the low and the high halves of 16 bytes.
#[inline(always)]
fn permute(codes: &[u8; LANES], table: Avx512Lanes) -> (Avx512Lanes, Avx512Lanes) {
    // SAFETY: the array has 16 bytes, and the load allows any alignment; `table` exists only on processors with AVX-512
    // F.
    unsafe {
        // The permutation uses only the lowest four bits, so that nothing needs a mask.
        let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
        let high = _mm512_srli_epi32::<4>(codes);
        (Avx512Lanes(_mm512_permutexvar_ps(codes, table.0)), Avx512Lanes(_mm512_permutexvar_ps(high, table.0)))
    }
}

/// Dwords 0, 1, 2, 3 of 16 runs of bytes, each dword's in a register.
///
/// # Safety
/// 16 bytes from `at` on must be readable in every run.
#[inline(always)]
unsafe fn transpose4(isa: Proof<Avx512Lanes>, runs: &[*const u8; LANES], at: usize) -> [__m512i; 4] {
    // SAFETY: the caller gives 16 readable bytes of every run; `Proof` shows that the processor has AVX-512 F.
    unsafe {
        // Register r holds runs r, r + 4, r + 8, r + 12: transposing fours within their quarters puts the runs in
        // order.
        let load = |r: usize| _mm_loadu_si128(runs[r].add(at).cast());
        let rows = |r: usize| {
            let v = _mm512_castsi128_si512(load(r));
            let v = _mm512_inserti32x4::<1>(v, load(r + 4));
            let v = _mm512_inserti32x4::<2>(v, load(r + 8));
            _mm512_inserti32x4::<3>(v, load(r + 12))
        };
        quarters(isa, rows(0), rows(1), rows(2), rows(3))
    }
}

/// Transposes fours of dwords within the quarters of four registers.
#[inline(always)]
fn quarters(_: Proof<Avx512Lanes>, a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    // SAFETY: `Proof` shows that the processor has AVX-512 F.
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
/// 64 bytes from `at` on must be readable in every run.
#[inline(always)]
unsafe fn transpose16(isa: Proof<Avx512Lanes>, runs: &[*const u8; LANES], at: usize) -> [__m512i; 16] {
    // SAFETY: the caller gives 64 readable bytes of every run; `Proof` shows that the processor has AVX-512 F.
    unsafe {
        let load = |r: usize| _mm512_loadu_si512(runs[r].add(at).cast());
        let four = |r: usize| quarters(isa, load(r), load(r + 1), load(r + 2), load(r + 3));
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
        fn $name(self, o: Self) -> Self {
            // SAFETY: a value of this type exists only on processors with AVX-512 F.
            Avx512Lanes(unsafe { $op(self.0, o.0) })
        }
    };
}

// SAFETY: the field is private, and every constructor takes a proof.
unsafe impl Lanes for Avx512Lanes {
    const SUMS: usize = 8;
    const FOLLOWS_STREAMS: bool = true;

    #[inline(always)]
    fn splat(_: Proof<Self>, x: f32) -> Self {
        // SAFETY: `Proof` shows that the processor has AVX-512 F.
        Avx512Lanes(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load_bytes(_: Proof<Self>, x: &[u8; 4 * LANES]) -> Self {
        // SAFETY: the array has 64 bytes, and the load allows any alignment; `Proof` shows that the processor has
        // AVX-512 F.
        Avx512Lanes(unsafe { _mm512_loadu_ps(x.as_ptr().cast()) })
    }

    #[inline(always)]
    fn load_f16(_: Proof<Self>, x: &[u8; 2 * LANES]) -> Self {
        // SAFETY: the array has 32 bytes, and the load allows any alignment; `Proof` shows that the processor has
        // AVX-512 F.
        Avx512Lanes(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_i8(_: Proof<Self>, x: &[i8; LANES]) -> Self {
        // SAFETY: the array has 16 bytes, and the load allows any alignment; `Proof` shows that the processor has
        // AVX-512 F.
        Avx512Lanes(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) })
    }

    #[inline(always)]
    fn load_six_bits(_: Proof<Self>, low: &[u8; LANES], rest: &[u8; LANES / 2]) -> [Self; 2] {
        let floats = |v: __m128i| {
            // SAFETY: `Proof` shows that the processor has AVX-512 F.
            Avx512Lanes(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v)) })
        };
        // SAFETY: `Proof` shows that the processor has AVX-512 F and VL; the arrays have 16 and 8 bytes, and the loads allow any
        // alignment.
        unsafe {
            let six = _mm_set1_epi8(63);
            let low = _mm_loadu_si128(low.as_ptr().cast());
            // The first eight need the low nibbles, 2 bits higher, the others the high ones, 2 bits lower.
            let rest = _mm_rolv_epi64(_mm_castpd_si128(_mm_loaddup_pd(rest.as_ptr().cast())), _mm_set_epi64x(62, 2));
            let upper = _mm_and_si128(rest, _mm_set1_epi8(60));
            let lower = _mm_andnot_si128(_mm_set1_epi8(60), _mm_srli_epi64::<6>(low));
            [floats(_mm_and_si128(low, six)), floats(_mm_and_si128(_mm_or_si128(upper, lower), six))]
        }
    }

    #[inline(always)]
    fn lookup(isa: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self) {
        permute(codes, Self::load_i8(isa, table))
    }

    #[inline(always)]
    fn lookup_times(codes: &[u8; LANES], table: &[i8; LANES], factor: Self) -> (Self, Self) {
        // Each product is computed once for all codes: the table is multiplied, not the entries that are looked up.
        permute(codes, Self::load_i8(factor.isa(), table).mul(factor))
    }

    #[inline(always)]
    fn splat_f16(_: Proof<Self>, bits: u16) -> Self {
        // SAFETY: `Proof` shows that the processor has AVX-512 F and AVX2.
        Avx512Lanes(unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits as i16)) })
    }

    #[inline(always)]
    unsafe fn interleave(
        isa: Proof<Self>,
        runs: &[*const u8; LANES],
        quads: usize,
        out: *mut u8,
        per: usize,
        stride: usize,
    ) {
        let place = |quad: usize| out.wrapping_add(quad / per * stride + quad % per * 64);
        let mut first = 0;
        while quads - first >= 16 {
            // SAFETY: `Proof` shows that the processor has AVX-512 F; the caller's runs have 16 quads, 64 bytes, from
            // quad `first` on, and their places are writable.
            unsafe {
                let v = transpose16(isa, runs, 4 * first);
                for (i, v) in v.into_iter().enumerate() {
                    _mm512_storeu_si512(place(first + i).cast(), v);
                }
            }
            first += 16;
        }
        while first < quads {
            // SAFETY: `Proof` shows that the processor has AVX-512 F; the caller's runs have 4 quads, 16 bytes, from
            // quad `first` on, and their places are writable.
            unsafe {
                let v = transpose4(isa, runs, 4 * first);
                for (i, v) in v.into_iter().enumerate() {
                    _mm512_storeu_si512(place(first + i).cast(), v);
                }
            }
            first += 4;
        }
    }

    #[inline(always)]
    unsafe fn gather_halves(isa: Proof<Self>, runs: &[*const u8; LANES], n: usize, out: *mut u8, stride: usize) {
        // SAFETY: the caller gives 16 readable bytes of every run.
        let pairs = unsafe { transpose4(isa, runs, 0) };
        for (i, pair) in pairs.into_iter().enumerate().take(n.div_ceil(2)) {
            // SAFETY: `Proof` shows that the processor has AVX-512 F; the caller gives writable places of numbers 2 * i
            // and, if it is below `n`, 2 * i + 1.
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
    fn select(
        _: Proof<Self>,
        x: &[f32; LANES],
        quants: Option<&[i8; LANES]>,
        threshold: f32,
        first: u32,
        list: &mut [u32; LANES],
    ) -> usize {
        // SAFETY: every array has 16 elements; `Proof` shows that the processor has AVX-512 F, BW and VL.
        unsafe {
            let x = _mm512_loadu_ps(x.as_ptr());
            let large = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(_mm512_abs_ps(x), _mm512_set1_ps(threshold));
            let mask = match quants {
                None => large,
                Some(quants) => {
                    let quants = _mm_loadu_si128(quants.as_ptr().cast());
                    large & _mm_test_epi8_mask(quants, quants)
                }
            };
            let places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let numbers = _mm512_add_epi32(places, _mm512_set1_epi32(first as i32));
            _mm512_storeu_si512(list.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, numbers));
            mask.count_ones() as usize
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: `to` has 16 floats; a value of this type exists only on processors with AVX-512 F.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        // SAFETY: `to` has 16 bytes; a value of this type exists only on processors with AVX-512 F.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }

    lanewise!(add, _mm512_add_ps);
    lanewise!(sub, _mm512_sub_ps);
    lanewise!(mul, _mm512_mul_ps);
    lanewise!(div, _mm512_div_ps);
    lanewise!(max, _mm512_max_ps);
    lanewise!(min, _mm512_min_ps);

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
        // SAFETY: a value of this type exists only on processors with AVX-512 F.
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Avx512Lanes(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
}
