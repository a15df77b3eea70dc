//! Sixteen float lanes, the same on every machine.
//!
//! [`Lanes`] is the small set of operations in which norms, soft-max, attention, activations and the float matrix
//! kernels are written once. Each instruction set implements it, and [`crate::kernels`] compiles the generic code under
//! its target features. Every operation is one IEEE-754 operation per lane (or a fixed sequence of them), sums over
//! lanes are a fixed tree, and nothing is fused: every implementation gives the same bits.
//!
//! Lanes are made with a [`Proof`] that the processor has their instruction set, so every lane value is such a proof
//! too, and mathematics on lanes is safe code. `unsafe` is needed in two kinds of places only: where a proof is made
//! (in a function that is compiled for the instruction set), and where memory is accessed through pointers.

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

/// Writes 16 times four bytes, one of each part: `out[4 * i + p] = parts[p][i]`. It needs only instructions that every
/// processor of its architecture has.
///
/// # Safety
/// `out` must be valid for writes of 64 bytes.
#[inline(always)]
pub unsafe fn zip(parts: [u128; 4], out: *mut u8) {
    let parts = parts.map(u128::to_le_bytes);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64; every part has 16 bytes, and the caller gives 64 bytes of output.
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
    // SAFETY: Advanced SIMD is part of 64-bit Arm; every part has 16 bytes, and the caller gives 64 bytes of output.
    unsafe {
        use core::arch::aarch64::*;
        let load = |i: usize| vld1q_u8(parts[i].as_ptr());
        vst4q_u8(out, uint8x16x4_t(load(0), load(1), load(2), load(3)));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    for i in 0..64 {
        // SAFETY: `i` is below 64, and the caller gives 64 bytes of output.
        unsafe { out.add(i).write(parts[i % 4][i / 4]) };
    }
}

/// The low (`half` 0) or the high nibbles of the bytes of `low`, with the same nibbles of `high` in the upper halves.
/// It needs only instructions that every processor of its architecture has.
#[inline(always)]
pub fn join_nibbles(low: &[u8; LANES], high: &[u8; LANES], half: usize) -> u128 {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Advanced SIMD is part of 64-bit Arm; `low` and `high` have 16 bytes each, and both types of the transmute
    // are 16 bytes without padding.
    unsafe {
        use core::arch::aarch64::*;
        let (a, b) = (vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr()));
        core::mem::transmute(if half == 0 { vsliq_n_u8::<4>(a, b) } else { vsriq_n_u8::<4>(b, a) })
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        const LOW: u128 = u128::from_le_bytes([15; LANES]);
        // The bytes are shifted as one number: the bits that a byte gets from its neighbour are masked.
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
    /// The proof, as the caller asserts it.
    ///
    /// # Safety
    /// The processor must have the instructions of `L`. (Only code that is compiled for them is fast.)
    #[inline(always)]
    pub const unsafe fn assume() -> Self {
        Proof(PhantomData)
    }
}

/// Sixteen numbers of four bytes as their bytes.
#[inline(always)]
fn bytes(x: &[f32; LANES]) -> &[u8; 4 * LANES] {
    // SAFETY: 16 floats are 64 initialized bytes, and bytes need no alignment.
    unsafe { &*core::ptr::from_ref(x).cast() }
}

/// Eight bytes, each with these bits.
pub(crate) const fn eight(bits: u8) -> u64 {
    u64::from_ne_bytes([bits; 8])
}

/// Sixteen integers as floats, output 0 in the lowest byte of the first eight.
#[inline(always)]
pub(crate) fn floats<L: Lanes>(isa: Proof<L>, eights: [u64; 2]) -> L {
    let bytes = eights.map(u64::to_le);
    // Reinterpreted as a whole, because bytes that are made one by one are also moved to a register one by one. SAFETY:
    // both types are 16 bytes, and every byte is a valid integer.
    L::load_i8(isa, unsafe { &*core::ptr::from_ref(&bytes).cast() })
}

/// Sixteen f32 values.
///
/// # Safety
/// A value must be obtainable only with a [`Proof`], or from another value.
pub unsafe trait Lanes: Copy {
    /// How many vectors of sums stay in registers while other numbers are added to them (a power of two).
    const SUMS: usize = 4;
    /// Whether processors with these lanes prefetch a stream of reads by themselves as far as its page goes.
    const FOLLOWS_STREAMS: bool = false;

    /// All lanes equal to `x`.
    fn splat(isa: Proof<Self>, x: f32) -> Self;
    /// Reads 16 f32 at any alignment.
    fn load_bytes(isa: Proof<Self>, x: &[u8; 4 * LANES]) -> Self;
    /// Reads 16 f16, exactly.
    fn load_f16(isa: Proof<Self>, x: &[u8; 2 * LANES]) -> Self;
    /// Reads 16 i8.
    fn load_i8(isa: Proof<Self>, x: &[i8; LANES]) -> Self;
    /// Loads two times 16 integers of six bits: the lower six bits of 16 bytes, and those of which the upper two bits there are
    /// the lower two and nibbles of `rest` the upper four, the low nibbles for the first eight.
    #[inline(always)]
    fn load_six_bits(isa: Proof<Self>, low: &[u8; LANES], rest: &[u8; LANES / 2]) -> [Self; 2] {
        let (halves, _) = low.as_chunks::<8>();
        let [first, second] = [u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])];
        let rest = u64::from_le_bytes(*rest);
        let upper = [rest & eight(15), rest >> 4 & eight(15)];
        let others = [first >> 6 & eight(3) | upper[0] << 2, second >> 6 & eight(3) | upper[1] << 2];
        [floats(isa, [first & eight(63), second & eight(63)]), floats(isa, others)]
    }
    /// Looks up the low and the high halves of 16 bytes in a table.
    fn lookup(isa: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self);
    /// All lanes equal to the f16 of these bits.
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

    /// The proof that comes with this value.
    #[inline(always)]
    fn isa(self) -> Proof<Self> {
        // SAFETY: this value was made with a proof, or from a value that was.
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

    /// Interleaves 16 runs of `4 * quads` bytes (quads a multiple of 4) in pieces of four bytes, `[quad][run
    /// 0..16][4]`. Every `per` quads (4 or 8) go to a place of their own, `stride` bytes after the place before.
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
                // SAFETY: `quad` is below `quads`, up to which the caller gives readable runs and writable places.
                unsafe {
                    let four = run.add(4 * quad).cast::<u32>().read_unaligned();
                    let to = out.add(quad / per * stride + quad % per * 64 + 4 * r);
                    to.cast::<u32>().write_unaligned(four);
                }
            }
        }
    }

    /// Interleaves 16 runs of `n` numbers of two bytes, at most 8: `[number][run 0..16]`, each number's row `stride`
    /// bytes after the row before.
    ///
    /// # Safety
    /// 16 bytes of every run must be readable (also where the numbers are fewer), and `n` places writable for 32 bytes.
    #[inline(always)]
    unsafe fn gather_halves(_isa: Proof<Self>, runs: &[*const u8; LANES], n: usize, out: *mut u8, stride: usize) {
        for i in 0..n {
            // A row is written by one store, because a later load of the whole row would have to wait for 16 small
            // ones. SAFETY: `i` is below `n`, at most 8, so the number is within the caller's 16 readable bytes and the
            // place is writable.
            unsafe {
                let halves: [u16; LANES] = core::array::from_fn(|r| runs[r].cast::<u16>().add(i).read_unaligned());
                out.add(i * stride).cast::<[u16; LANES]>().write_unaligned(halves);
            }
        }
    }

    /// Writes `first + i` for every `|x[i]|` that is not at most `threshold` (a NaN is not), and whose quant, if quants
    /// are given, is not 0; returns their number. The rest of the list may be overwritten.
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
            // Without a branch, since no processor can predict which inputs are large. SAFETY: `n` is at most `i`,
            // which is below 16, the length of the list.
            unsafe { *list.get_unchecked_mut(n) = first + i as u32 };
            let small = x[i].abs() <= threshold || quants.is_some_and(|q| q[i] == 0);
            n += usize::from(!small);
        }
        n
    }

    /// Prefetches the cache line at `p`, which will be read soon; `p` may be any address. On x86 it goes into the second
    /// cache: a line that is awaited in the first one keeps one of a few buffers, which bound what memory gives (Zen 4:
    /// 1.1 to 1.3 times as fast); from the second cache, the processor's own prefetcher fetches it in time.
    #[inline(always)]
    fn prefetch(_isa: Proof<Self>, _p: *const u8) {}

    /// Prefetches a cache line from the second cache into the first, where the processor cannot predict which line is read next.
    #[inline(always)]
    fn prefetch_near(_isa: Proof<Self>, _p: *const u8) {}

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

    /// e^x to 2 units in the last place for x in -87..=88; x outside this range is clamped to it.
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
