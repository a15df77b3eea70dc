//! NEON lanes: four registers. (Advanced SIMD is part of every 64-bit Arm, conversion of halves included.)

use super::{LANES, Lanes, Proof};
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// The level of Advanced SIMD without extensions.
#[derive(Clone, Copy)]
pub struct Plain;
/// The level with the dot-product instructions (`FEAT_DotProd`).
#[derive(Clone, Copy)]
pub struct DotProd;
/// The level with the dot-product and the matrix instructions (`FEAT_I8MM`).
#[derive(Clone, Copy)]
pub struct I8mm;

/// The levels with dot-product instructions.
pub trait WithDotProd: Copy {}
impl WithDotProd for DotProd {}
impl WithDotProd for I8mm {}

/// Sixteen floats in four q registers. Their [`Proof`] shows that the processor has NEON, and the extensions of level
/// `F`.
#[derive(Clone, Copy)]
pub struct NeonLanes<F = Plain>([float32x4_t; 4], PhantomData<F>);

impl<F> NeonLanes<F> {
    /// Lanes of four registers.
    #[inline(always)]
    pub(crate) fn new(_: Proof<Self>, v: [float32x4_t; 4]) -> Self {
        NeonLanes(v, PhantomData)
    }
}

/// For each mask of four bits: the numbers of the bits that are set, in order, one byte each.
static KEPT: [u32; 16] = {
    let mut all = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        let (mut i, mut n) = (0, 0);
        while i < 4 {
            if bits >> i & 1 == 1 {
                all[bits] |= i << (8 * n);
                n += 1;
            }
            i += 1;
        }
        bits += 1;
    }
    all
};

/// Sixteen signed bytes as floats.
#[inline(always)]
fn widen<F>(isa: Proof<NeonLanes<F>>, bytes: int8x16_t) -> NeonLanes<F> {
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe {
        let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        NeonLanes::new(
            isa,
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
                vcvtq_f32_s32(vmovl_high_s16(a)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
                vcvtq_f32_s32(vmovl_high_s16(b)),
            ],
        )
    }
}

/// Floats whose third and fourth bytes are looked up; the others are zero.
#[inline(always)]
fn floats<F>(isa: Proof<NeonLanes<F>>, third: uint8x16_t, fourth: uint8x16_t, codes: uint8x16_t) -> NeonLanes<F> {
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe {
        let zero = vdupq_n_u16(0);
        let (third, fourth) = (vqtbl1q_u8(third, codes), vqtbl1q_u8(fourth, codes));
        let a = vreinterpretq_u16_u8(vzip1q_u8(third, fourth));
        let b = vreinterpretq_u16_u8(vzip2q_u8(third, fourth));
        NeonLanes::new(
            isa,
            [
                vreinterpretq_f32_u16(vzip1q_u16(zero, a)),
                vreinterpretq_f32_u16(vzip2q_u16(zero, a)),
                vreinterpretq_f32_u16(vzip1q_u16(zero, b)),
                vreinterpretq_f32_u16(vzip2q_u16(zero, b)),
            ],
        )
    }
}

macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $e:expr) => {
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            let mut r = self;
            for i in 0..4 {
                let ($a, $b) = (self.0[i], o.0[i]);
                // SAFETY: a value of this type exists only on processors with NEON.
                r.0[i] = unsafe { $e };
            }
            r
        }
    };
}

// SAFETY: the field is private, and every constructor takes a proof.
unsafe impl<F: Copy> Lanes for NeonLanes<F> {
    #[inline(always)]
    fn splat(isa: Proof<Self>, x: f32) -> Self {
        // SAFETY: `Proof` shows that the processor has NEON.
        NeonLanes::new(isa, [unsafe { vdupq_n_f32(x) }; 4])
    }

    #[inline(always)]
    fn load_bytes(isa: Proof<Self>, x: &[u8; 4 * LANES]) -> Self {
        let p = x.as_ptr();
        // SAFETY: the array has 64 bytes, and the loads allow any alignment; `Proof` shows that the processor has NEON.
        unsafe {
            let load = |i: usize| vreinterpretq_f32_u8(vld1q_u8(p.add(16 * i)));
            NeonLanes::new(isa, [load(0), load(1), load(2), load(3)])
        }
    }

    #[inline(always)]
    fn load_f16(isa: Proof<Self>, x: &[u8; 2 * LANES]) -> Self {
        let p = x.as_ptr();
        // SAFETY: the array has 32 bytes, and the loads allow any alignment; `Proof` shows that the processor has NEON.
        unsafe {
            let a = vreinterpretq_f16_u8(vld1q_u8(p));
            let b = vreinterpretq_f16_u8(vld1q_u8(p.add(16)));
            NeonLanes::new(
                isa,
                [
                    vcvt_f32_f16(vget_low_f16(a)),
                    vcvt_high_f32_f16(a),
                    vcvt_f32_f16(vget_low_f16(b)),
                    vcvt_high_f32_f16(b),
                ],
            )
        }
    }

    #[inline(always)]
    fn load_i8(isa: Proof<Self>, x: &[i8; LANES]) -> Self {
        // SAFETY: the array has 16 bytes; `Proof` shows that the processor has NEON.
        widen(isa, unsafe { vld1q_s8(x.as_ptr()) })
    }

    #[inline(always)]
    fn lookup(isa: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self) {
        // The floats of 8-bit integers have zeros in their lower half: only the two bytes of the upper half are looked
        // up. SAFETY: both arrays have 16 bytes; `Proof` shows that the processor has NEON.
        unsafe {
            let t = widen(isa, vld1q_s8(table.as_ptr())).0.map(|v| vreinterpretq_u16_f32(v));
            let (a, b) = (vuzp2q_u16(t[0], t[1]), vuzp2q_u16(t[2], t[3]));
            let (a, b) = (vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
            let (third, fourth) = (vuzp1q_u8(a, b), vuzp2q_u8(a, b));
            let codes = vld1q_u8(codes.as_ptr());
            let (low, high) = (vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes));
            (floats(isa, third, fourth, low), floats(isa, third, fourth, high))
        }
    }

    #[inline(always)]
    fn splat_f16(isa: Proof<Self>, bits: u16) -> Self {
        // SAFETY: `Proof` shows that the processor has NEON.
        unsafe { NeonLanes::new(isa, [vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))); 4]) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        for (to, v) in to.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            // SAFETY: `to` has four floats; a value of this type exists only on processors with NEON.
            unsafe { vst1q_f32(to.as_mut_ptr(), v) }
        }
    }

    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        // SAFETY: `to` has 16 bytes; a value of this type exists only on processors with NEON.
        unsafe {
            let n = [
                vcvtq_s32_f32(self.0[0]),
                vcvtq_s32_f32(self.0[1]),
                vcvtq_s32_f32(self.0[2]),
                vcvtq_s32_f32(self.0[3]),
            ];
            let low = vqmovn_high_s32(vqmovn_s32(n[0]), n[1]);
            let high = vqmovn_high_s32(vqmovn_s32(n[2]), n[3]);
            vst1q_s8(to.as_mut_ptr(), vqmovn_high_s16(vqmovn_s16(low), high));
        }
    }

    lanewise!(add, |a, b| vaddq_f32(a, b));
    lanewise!(sub, |a, b| vsubq_f32(a, b));
    lanewise!(mul, |a, b| vmulq_f32(a, b));
    lanewise!(div, |a, b| vdivq_f32(a, b));
    // Not fmax and fmin, which order the two zeros and return NaN: on other instruction sets the second operand is the
    // result.
    lanewise!(max, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b));
    lanewise!(min, |a, b| vbslq_f32(vcltq_f32(a, b), a, b));

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
            // A place holds a multiple of four quads, so these four are in one place.
            let to = out.wrapping_add(first / per * stride + first % per * 64);
            for r in (0..LANES).step_by(4) {
                // SAFETY: `first + 3` is below `quads`, up to which the caller gives readable runs and writable places;
                // `Proof` shows that the processor has NEON.
                unsafe {
                    let load = |i: usize| vreinterpretq_u32_u8(vld1q_u8(runs[r + i].add(4 * first)));
                    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
                    let (ac, bd) = (vzip1q_u32(a, c), vzip1q_u32(b, d));
                    let (eg, fh) = (vzip2q_u32(a, c), vzip2q_u32(b, d));
                    let four = [vzip1q_u32(ac, bd), vzip2q_u32(ac, bd), vzip1q_u32(eg, fh), vzip2q_u32(eg, fh)];
                    for (i, v) in four.into_iter().enumerate() {
                        vst1q_u8(to.add(64 * i + 4 * r), vreinterpretq_u8_u32(v));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn gather_halves(_: Proof<Self>, runs: &[*const u8; LANES], n: usize, out: *mut u8, stride: usize) {
        for eight in [0, 8] {
            // SAFETY: the caller gives 16 readable bytes of every run and `n` writable places; `Proof` shows that the
            // processor has NEON.
            unsafe {
                let mut v = [vdupq_n_u16(0); 8];
                for r in 0..8 {
                    v[r] = vreinterpretq_u16_u8(vld1q_u8(runs[eight + r]));
                }
                // A zip of rows i and i + 4 rotates the bits of a number's place, from its row number into its column
                // number: three zips transpose.
                for _ in 0..3 {
                    v = [
                        vzip1q_u16(v[0], v[4]),
                        vzip2q_u16(v[0], v[4]),
                        vzip1q_u16(v[1], v[5]),
                        vzip2q_u16(v[1], v[5]),
                        vzip1q_u16(v[2], v[6]),
                        vzip2q_u16(v[2], v[6]),
                        vzip1q_u16(v[3], v[7]),
                        vzip2q_u16(v[3], v[7]),
                    ];
                }
                for (i, v) in v.into_iter().enumerate().take(n) {
                    vst1q_u8(out.add(i * stride + 2 * eight), vreinterpretq_u8_u16(v));
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
        // SAFETY: every array has 16 elements, and `n` is at most 4 * i when four are written at `n`; `Proof` shows
        // that the processor has NEON.
        unsafe {
            let (least, weights) = (vdupq_n_f32(threshold), vld1q_u32([1, 2, 4, 8].as_ptr()));
            let mut zeros = [vdupq_n_u32(0); 4];
            if let Some(quants) = quants {
                let q = vceqzq_s8(vld1q_s8(quants.as_ptr()));
                let (a, b) = (vreinterpretq_s8_u8(q), vmovl_high_s8(vreinterpretq_s8_u8(q)));
                let a = vmovl_s8(vget_low_s8(a));
                zeros = [vmovl_s16(vget_low_s16(a)), vmovl_high_s16(a), vmovl_s16(vget_low_s16(b)), vmovl_high_s16(b)]
                    .map(|v| vreinterpretq_u32_s32(v));
            }
            let mut n = 0;
            for i in 0..4 {
                // Comparisons with a NaN are false, so a NaN is not small.
                let small = vcaleq_f32(vld1q_f32(x.as_ptr().add(4 * i)), least);
                let dropped = vorrq_u32(small, zeros[i]);
                let kept = vaddvq_u32(vbicq_u32(weights, dropped)) as usize & 15;
                let places = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(KEPT[kept])));
                let places = vaddw_u16(vdupq_n_u32(first + 4 * i as u32), vget_low_u16(places));
                vst1q_u32(list.as_mut_ptr().add(n), places);
                n += kept.count_ones() as usize;
            }
            n
        }
    }

    #[inline(always)]
    fn prefetch(_: Proof<Self>, p: *const u8) {
        // SAFETY: a prefetch is a hint, which no address can make fail. (The intrinsic is not stable yet.)
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn pow2(self) -> Self {
        let mut r = self;
        for x in &mut r.0 {
            // SAFETY: a value of this type exists only on processors with NEON.
            unsafe {
                let n = vaddq_s32(vcvtq_s32_f32(*x), vdupq_n_s32(127));
                *x = vreinterpretq_f32_s32(vshlq_n_s32::<23>(n));
            }
        }
        r
    }
}
