//! Sixteen float lanes, the same on every machine.
//!
//! [`Lanes`] is the small vocabulary in which norms, soft-max, attention, activations and the float matrix
//! kernels are written once; an instruction set implements it and [`crate::kernels`] instantiates the
//! generic code under its target features. Every operation is one IEEE-754 operation per lane (or a fixed
//! sequence of them), sums over lanes are a fixed tree, and nothing is fused: the same bits come out of
//! every implementation.
//!
//! Lanes are made with a [`Proof`] that the processor has their instruction set, so every lane value is such a proof
//! too, and mathematics on lanes is safe code. `unsafe` is left to two kinds of places: where a proof is made (a
//! function that is compiled for the instruction set), and where memory is reached through pointers.

use core::marker::PhantomData;

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

/// Writes 16 times four bytes, one of each part: `out[4 * i + p] = parts[p][i]`. Every processor of an architecture has
/// the instructions that are used here.
///
/// # Safety
/// `out` must be valid for writes of 64 bytes.
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
        // SAFETY: `i` is below 64, and 64 bytes are valid.
        unsafe { out.add(i).write(parts[i % 4][i / 4]) };
    }
}

/// The low (`half` 0) or the high nibbles of 16 bytes at `low`, with those at `high` in the upper halves. Every processor
/// of an architecture has the instructions that are used here.
#[inline(always)]
pub fn join_nibbles(low: &[u8; LANES], high: &[u8; LANES], half: usize) -> u128 {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Advanced SIMD is part of 64-bit Arm; both references are to 16 bytes, of which both types consist.
    unsafe {
        use core::arch::aarch64::*;
        let (a, b) = (vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr()));
        core::mem::transmute(if half == 0 { vsliq_n_u8::<4>(a, b) } else { vsriq_n_u8::<4>(b, a) })
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        const LOW: u128 = u128::from_le_bytes([15; LANES]);
        // Shifted as one number, a byte gets bits of its neighbour only where they are masked.
        let nibbles = |bytes: &[u8; LANES]| u128::from_ne_bytes(*bytes) >> (4 * half) & LOW;
        nibbles(low) | nibbles(high) << 4
    }
}

/// The proof that the processor has the instruction set of lanes `L`.
pub struct Proof<L>(PhantomData<L>);

impl<L> Clone for Proof<L> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Proof<L> {}

impl<L: Lanes> Proof<L> {
    /// The proof, on the caller's word.
    ///
    /// # Safety
    /// The processor must have the instructions that `L` names. (Only code that is compiled for them is fast.)
    #[inline(always)]
    pub const unsafe fn assume() -> Self {
        Proof(PhantomData)
    }
}

/// Sixteen numbers of four bytes as their bytes.
#[inline(always)]
fn bytes(x: &[f32; LANES]) -> &[u8; 4 * LANES] {
    // SAFETY: 16 numbers are 64 bytes, every byte may be read, and bytes need no alignment.
    unsafe { &*core::ptr::from_ref(x).cast() }
}

/// Sixteen f32 values.
///
/// # Safety
/// There must be no way to a value but with a [`Proof`], or from another value.
pub unsafe trait Lanes: Copy {
    /// Vectors of sums that stay in registers beside the numbers that are added to them (a power of two).
    const SUMS: usize = 4;

    /// All lanes `x`.
    fn splat(isa: Proof<Self>, x: f32) -> Self;
    /// Reads 16 f32 at any alignment.
    fn load_bytes(isa: Proof<Self>, x: &[u8; 4 * LANES]) -> Self;
    /// Reads 16 f16, exactly.
    fn load_f16(isa: Proof<Self>, x: &[u8; 2 * LANES]) -> Self;
    /// Reads 16 i8.
    fn load_i8(isa: Proof<Self>, x: &[i8; LANES]) -> Self;
    /// Looks up the low and the high halves of 16 bytes.
    fn lookup(isa: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self);
    /// All lanes the f16 of these bits.
    fn splat_f16(isa: Proof<Self>, bits: u16) -> Self;
    /// Writes 16 f32.
    fn store(self, to: &mut [f32; LANES]);
    /// Writes 16 integral values in -128..=127 as i8.
    fn store_i8(self, to: &mut [i8; LANES]);
    /// Lane-wise sum.
    fn add(self, o: Self) -> Self;
    /// Lane-wise difference.
    fn sub(self, o: Self) -> Self;
    /// Lane-wise product.
    fn mul(self, o: Self) -> Self;
    /// Lane-wise quotient.
    fn div(self, o: Self) -> Self;
    /// Lane-wise maximum (of numbers).
    fn max(self, o: Self) -> Self;
    /// Lane-wise minimum (of numbers).
    fn min(self, o: Self) -> Self;
    /// 2^n for integral n in -126..=127.
    fn pow2(self) -> Self;

    /// The proof that this value is.
    #[inline(always)]
    fn isa(self) -> Proof<Self> {
        // SAFETY: a value exists, and the first one was made with a proof.
        unsafe { Proof::assume() }
    }

    /// Reads 16 f32.
    #[inline(always)]
    fn load(isa: Proof<Self>, x: &[f32; LANES]) -> Self {
        Self::load_bytes(isa, bytes(x))
    }

    /// [`Lanes::lookup`], times `factor`, the same in all lanes.
    #[inline(always)]
    fn lookup_times(codes: &[u8; LANES], table: &[i8; LANES], factor: Self) -> (Self, Self) {
        let (low, high) = Self::lookup(factor.isa(), codes, table);
        (low.mul(factor), high.mul(factor))
    }

    /// Interleaves 16 runs of `4 * quads` bytes (quads a multiple of 4) by fours, `[quad][run 0..16][4]`: each `per`
    /// quads (4 or 8) to a place `stride` bytes after the last.
    ///
    /// # Safety
    /// `4 * quads` bytes of every run must be readable, and the places writable for `64 * per` bytes each.
    #[inline(always)]
    unsafe fn interleave(
        _isa: Proof<Self>,
        runs: &[*const u8; LANES],
        quads: usize,
        out: *mut u8,
        per: usize,
        stride: usize,
    ) {
        for quad in 0..quads {
            for (r, run) in runs.iter().enumerate() {
                // SAFETY: `quad` is below `quads`, for which runs and places are valid.
                unsafe {
                    let four = run.add(4 * quad).cast::<u32>().read_unaligned();
                    let to = out.add(quad / per * stride + quad % per * 64 + 4 * r);
                    to.cast::<u32>().write_unaligned(four);
                }
            }
        }
    }

    /// Interleaves 16 runs of `n` numbers of two bytes, at most 8: `[number][run 0..16]`, each number's `stride`
    /// bytes after the last.
    ///
    /// # Safety
    /// 16 bytes of every run must be readable (whatever follows the numbers), and `n` places writable for 32 bytes.
    #[inline(always)]
    unsafe fn gather_halves(_isa: Proof<Self>, runs: &[*const u8; LANES], n: usize, out: *mut u8, stride: usize) {
        for i in 0..n {
            // SAFETY: `i` is below `n`, at most 8: the number is one of 16 readable bytes, the place writable.
            // Written in one go: a read in one go must not wait for 16 stores.
            unsafe {
                let halves: [u16; LANES] = core::array::from_fn(|r| runs[r].cast::<u16>().add(i).read_unaligned());
                out.add(i * stride).cast::<[u16; LANES]>().write_unaligned(halves);
            }
        }
    }

    /// Writes `first + i` for every `|x[i]|` that is not at most `threshold` (a NaN is not), and whose quant, where
    /// there are quants, is not 0; returns how many. The rest of the list may be overwritten.
    #[inline(always)]
    fn select(
        _isa: Proof<Self>,
        x: &[f32; LANES],
        quants: Option<&[i8; LANES]>,
        threshold: f32,
        first: u32,
        list: &mut [u32; LANES],
    ) -> usize {
        let mut n = 0;
        for i in 0..LANES {
            // Branchless: which inputs are large cannot be guessed.
            // SAFETY: `n` is at most `i`, which is below 16.
            unsafe { *list.get_unchecked_mut(n) = first + i as u32 };
            let small = x[i].abs() <= threshold || quants.is_some_and(|q| q[i] == 0);
            n += usize::from(!small);
        }
        n
    }

    /// Asks for the cache line at `p`, which will be read soon; any address will do.
    #[inline(always)]
    fn prefetch(_isa: Proof<Self>, _p: *const u8) {}

    /// All lanes as an array.
    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        self.store(&mut a);
        a
    }

    /// Sum of the lanes as the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1).
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut a = self.to_array();
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
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut a = self.to_array();
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
    #[inline(always)]
    fn round(self) -> Self {
        let round = Self::splat(self.isa(), ROUND);
        self.add(round).sub(round)
    }

    /// e^x to 2 units in the last place for x in -87..=88, held to that range outside.
    ///
    /// Range reduction and polynomial of Cephes' `expf` (S. Moshier), without fused operations.
    #[inline(always)]
    fn exp(self) -> Self {
        let isa = self.isa();
        let x = self.max(Self::splat(isa, -87.0)).min(Self::splat(isa, 88.0));
        let n = x.mul(Self::splat(isa, core::f32::consts::LOG2_E)).round();
        let r = x.sub(n.mul(Self::splat(isa, 0.693_359_4))).sub(n.mul(Self::splat(isa, -2.121_944_4e-4)));
        let mut p = Self::splat(isa, 1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
            p = p.mul(r).add(Self::splat(isa, c));
        }
        let y = p.mul(r).mul(r).add(r).add(Self::splat(isa, 1.0));
        y.mul(n.pow2())
    }
}
