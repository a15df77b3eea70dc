//! Sixteen float lanes, the same on every machine.
//!
//! [`Lanes`] is the small vocabulary in which norms, soft-max, attention, activations and the float matrix
//! kernels are written once; an instruction set implements it and [`crate::kernels`] instantiates the
//! generic code under its target features. Every operation is one IEEE-754 operation per lane (or a fixed
//! sequence of them), sums over lanes are a fixed tree, and nothing is fused: the same bits come out of
//! every implementation.

pub mod scalar;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub mod simd128;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// 1.5 * 2^23: adding and subtracting it rounds an f32 below 2^22 to the nearest integer, ties to even.
pub const ROUND: f32 = 12_582_912.0;

/// Writes 16 times four bytes, one of each part: `out[4 * i + p] = parts[p][i]`. What it takes is part of every
/// processor of its architecture.
///
/// # Safety
/// `out` must be valid for 64 bytes.
#[inline(always)]
pub unsafe fn zip(parts: [u128; 4], out: *mut u8) {
    let parts = parts.map(u128::to_le_bytes);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64; arrays of 16 bytes and 64 bytes of output.
    unsafe {
        use core::arch::x86_64::*;
        let load = |i: usize| _mm_loadu_si128(parts[i].as_ptr().cast());
        let (ab, cd) = (_mm_unpacklo_epi8(load(0), load(1)), _mm_unpacklo_epi8(load(2), load(3)));
        let (ef, gh) = (_mm_unpackhi_epi8(load(0), load(1)), _mm_unpackhi_epi8(load(2), load(3)));
        let out = out.cast::<__m128i>();
        _mm_storeu_si128(out, _mm_unpacklo_epi16(ab, cd));
        _mm_storeu_si128(out.add(1), _mm_unpackhi_epi16(ab, cd));
        _mm_storeu_si128(out.add(2), _mm_unpacklo_epi16(ef, gh));
        _mm_storeu_si128(out.add(3), _mm_unpackhi_epi16(ef, gh));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Advanced SIMD is part of 64-bit Arm; arrays of 16 bytes and 64 bytes of output.
    unsafe {
        use core::arch::aarch64::*;
        let load = |i: usize| vld1q_u8(parts[i].as_ptr());
        vst4q_u8(out, uint8x16x4_t(load(0), load(1), load(2), load(3)));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    for i in 0..64 {
        // SAFETY: 64 bytes by the contract.
        unsafe { out.add(i).write(parts[i % 4][i / 4]) };
    }
}

/// The low (`half` 0) or the high nibbles of 16 bytes at `low`, with those at `high` in the upper halves. What it takes is
/// part of every processor of its architecture.
///
/// # Safety
/// There must be 16 bytes at both.
#[inline(always)]
pub unsafe fn join_nibbles(low: *const u8, high: *const u8, half: usize) -> u128 {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Advanced SIMD is part of 64-bit Arm; 16 bytes by the contract, of which both types consist.
    unsafe {
        use core::arch::aarch64::*;
        let (a, b) = (vld1q_u8(low), vld1q_u8(high));
        core::mem::transmute(if half == 0 { vsliq_n_u8::<4>(a, b) } else { vsriq_n_u8::<4>(b, a) })
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        const LOW: u128 = u128::from_le_bytes([15; LANES]);
        // Shifted as one number, a byte gets bits of its neighbour only where they are masked.
        // SAFETY: 16 bytes by the contract.
        let nibbles = |p: *const u8| unsafe { p.cast::<u128>().read_unaligned() } >> (4 * half) & LOW;
        nibbles(low) | nibbles(high) << 4
    }
}

/// Sixteen f32 values.
///
/// # Safety
/// Every method may only be called where the implementation's target features are there; pointers must be
/// valid for 16 elements (no alignment asked).
pub unsafe trait Lanes: Copy {
    /// Sums that stay in registers beside what is added to them (a power of two).
    const TOGETHER: usize = 4;

    /// All lanes `x`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn splat(x: f32) -> Self;
    /// Reads 16 f32.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn load(p: *const f32) -> Self;
    /// Reads 16 f16, exactly.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn load_f16(p: *const u16) -> Self;
    /// Reads 16 i8.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn load_i8(p: *const i8) -> Self;
    /// Reads 16 bytes and looks up their low and their high halves.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn lookup(p: *const u8, table: &[i8; LANES]) -> (Self, Self);
    /// [`Lanes::lookup`], times `factor`, the same in all lanes.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn lookup_times(p: *const u8, table: &[i8; LANES], factor: Self) -> (Self, Self) {
        // SAFETY: by the contract.
        unsafe {
            let (low, high) = Self::lookup(p, table);
            (low.mul(factor), high.mul(factor))
        }
    }
    /// All lanes the one f16 at `p`.
    ///
    /// # Safety
    /// See the trait; one element is enough.
    unsafe fn splat_f16(p: *const u16) -> Self;
    /// Writes 16 f32.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn store(self, p: *mut f32);
    /// Writes 16 integral values in -128..=127 as i8.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn store_i8(self, p: *mut i8);
    /// Lane-wise sum.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn add(self, o: Self) -> Self;
    /// Lane-wise difference.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn sub(self, o: Self) -> Self;
    /// Lane-wise product.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn mul(self, o: Self) -> Self;
    /// Lane-wise quotient.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn div(self, o: Self) -> Self;
    /// Lane-wise maximum (of numbers).
    ///
    /// # Safety
    /// See the trait.
    unsafe fn max(self, o: Self) -> Self;
    /// Lane-wise minimum (of numbers).
    ///
    /// # Safety
    /// See the trait.
    unsafe fn min(self, o: Self) -> Self;
    /// 2^n for integral n in -126..=127.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn pow2(self) -> Self;

    /// Interleaves 16 runs of `4 * quads` bytes (quads a multiple of 4) by fours, `[quad][run 0..16][4]`: each `per`
    /// quads (4 or 8) to a place `stride` bytes behind the last.
    ///
    /// # Safety
    /// See the trait; the runs must be readable, the places writable, for so many bytes.
    #[inline(always)]
    unsafe fn interleave(runs: &[*const u8; LANES], quads: usize, out: *mut u8, per: usize, stride: usize) {
        for quad in 0..quads {
            for (r, run) in runs.iter().enumerate() {
                // SAFETY: by the contract.
                unsafe {
                    let four = run.add(4 * quad).cast::<u32>().read_unaligned();
                    let to = out.add(quad / per * stride + quad % per * 64 + 4 * r);
                    to.cast::<u32>().write_unaligned(four);
                }
            }
        }
    }

    /// Interleaves 16 runs of `n` numbers of two bytes, at most 8: `[number][run 0..16]`, each number's `stride`
    /// bytes behind the last.
    ///
    /// # Safety
    /// See the trait; 16 bytes of every run must be readable (whatever is behind the numbers), the places writable.
    #[inline(always)]
    unsafe fn gather_halves(runs: &[*const u8; LANES], n: usize, out: *mut u8, stride: usize) {
        for i in 0..n {
            // SAFETY: by the contract. Written in one go: what is read in one go must not wait for 16 stores.
            unsafe {
                let halves: [u16; LANES] = core::array::from_fn(|r| runs[r].cast::<u16>().add(i).read_unaligned());
                out.add(i * stride).cast::<[u16; LANES]>().write_unaligned(halves);
            }
        }
    }

    /// Writes `first + i` for every `|x[i]|` that is not at most `threshold` (what is no number is not), and whose
    /// quant, where there are any, is not 0; returns how many. Behind these the list's 16 places may be overwritten.
    ///
    /// # Safety
    /// See the trait; `quants` may be null.
    #[inline(always)]
    unsafe fn select(x: *const f32, quants: *const i8, threshold: f32, first: u32, list: *mut u32) -> usize {
        let mut n = 0;
        for i in 0..LANES {
            // SAFETY: 16 of everything by the contract.
            unsafe {
                // Branchless: which inputs are large is not to be guessed.
                list.add(n).write(first + i as u32);
                let small = (*x.add(i)).abs() <= threshold || !quants.is_null() && *quants.add(i) == 0;
                n += usize::from(!small);
            }
        }
        n
    }

    /// Asks for the cache line at `p` soon; any address will do.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}

    /// All lanes to memory.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        // SAFETY: the array holds 16 elements; features by the caller.
        unsafe { self.store(a.as_mut_ptr()) };
        a
    }

    /// Sum of the lanes as the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1).
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: features by the caller.
        let mut a = unsafe { self.to_array() };
        let mut half = LANES / 2;
        while half > 0 {
            for l in 0..half {
                a[l] += a[l + half];
            }
            half /= 2;
        }
        a[0]
    }

    /// Largest lane.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: features by the caller.
        let mut a = unsafe { self.to_array() };
        let mut half = LANES / 2;
        while half > 0 {
            for l in 0..half {
                a[l] = if a[l] > a[l + half] { a[l] } else { a[l + half] };
            }
            half /= 2;
        }
        a[0]
    }

    /// Nearest integer, ties to even, for |x| < 2^22.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: features by the caller.
        unsafe { self.add(Self::splat(ROUND)).sub(Self::splat(ROUND)) }
    }

    /// e^x to 2 units in the last place for x in -87..=88, held to that range outside.
    ///
    /// Range reduction and polynomial of Cephes' `expf` (S. Moshier), without fused operations.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: features by the caller.
        unsafe {
            let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
            let n = x.mul(Self::splat(core::f32::consts::LOG2_E)).round();
            let r = x.sub(n.mul(Self::splat(0.693_359_4))).sub(n.mul(Self::splat(-2.121_944_4e-4)));
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
                p = p.mul(r).add(Self::splat(c));
            }
            let y = p.mul(r).mul(r).add(r).add(Self::splat(1.0));
            y.mul(n.pow2())
        }
    }
}
