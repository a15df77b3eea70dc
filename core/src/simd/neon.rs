//! NEON lanes: four registers. (Advanced SIMD is part of every 64-bit Arm, conversion of halves included.)

use super::Lanes;
use core::arch::aarch64::*;
use core::arch::asm;

/// Sixteen floats in four q registers.
#[derive(Clone, Copy)]
pub struct NeonLanes([float32x4_t; 4]);

impl From<[float32x4_t; 4]> for NeonLanes {
    #[inline(always)]
    fn from(v: [float32x4_t; 4]) -> Self {
        NeonLanes(v)
    }
}

/// Sixteen signed bytes as floats.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn widen(bytes: int8x16_t) -> NeonLanes {
    // SAFETY: by the contract.
    unsafe {
        let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        NeonLanes([
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
            vcvtq_f32_s32(vmovl_high_s16(a)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
            vcvtq_f32_s32(vmovl_high_s16(b)),
        ])
    }
}

macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $e:expr) => {
        #[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            let mut r = self;
            for i in 0..4 {
                let ($a, $b) = (self.0[i], o.0[i]);
                // SAFETY: NEON by the trait's contract.
                r.0[i] = unsafe { $e };
            }
            r
        }
    };
}

// SAFETY: needs NEON.
unsafe impl Lanes for NeonLanes {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: NEON by the trait's contract.
        NeonLanes([unsafe { vdupq_n_f32(x) }; 4])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: 16 elements and NEON by the trait's contract.
        unsafe { NeonLanes([vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: 16 elements and NEON by the trait's contract.
        unsafe {
            let a = vreinterpretq_f16_u16(vld1q_u16(p));
            let b = vreinterpretq_f16_u16(vld1q_u16(p.add(8)));
            NeonLanes([
                vcvt_f32_f16(vget_low_f16(a)),
                vcvt_high_f32_f16(a),
                vcvt_f32_f16(vget_low_f16(b)),
                vcvt_high_f32_f16(b),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: 16 elements and NEON by the trait's contract.
        unsafe { widen(vld1q_s8(p)) }
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: &[i8; 16]) -> (Self, Self) {
        // SAFETY: 16 elements and NEON by the trait's contract.
        unsafe {
            let (codes, table) = (vld1q_u8(p), vld1q_s8(table.as_ptr()));
            let (low, high) = (vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes));
            (widen(vqtbl1q_s8(table, low)), widen(vqtbl1q_s8(table, high)))
        }
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> Self {
        // SAFETY: one element and NEON by the trait's contract.
        unsafe {
            let v = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(p.read_unaligned())));
            NeonLanes([v; 4])
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        for i in 0..4 {
            // SAFETY: 16 elements and NEON by the trait's contract.
            unsafe { vst1q_f32(p.add(4 * i), self.0[i]) }
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8) {
        // SAFETY: 16 elements and NEON by the trait's contract.
        unsafe {
            let n = [
                vcvtq_s32_f32(self.0[0]),
                vcvtq_s32_f32(self.0[1]),
                vcvtq_s32_f32(self.0[2]),
                vcvtq_s32_f32(self.0[3]),
            ];
            let low = vqmovn_high_s32(vqmovn_s32(n[0]), n[1]);
            let high = vqmovn_high_s32(vqmovn_s32(n[2]), n[3]);
            vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(low), high));
        }
    }

    lanewise!(add, |a, b| vaddq_f32(a, b));
    lanewise!(sub, |a, b| vsubq_f32(a, b));
    lanewise!(mul, |a, b| vmulq_f32(a, b));
    lanewise!(div, |a, b| vdivq_f32(a, b));
    // Not fmax and fmin: those order the zeros and hand NaN on, where all other lanes take the second operand.
    lanewise!(max, |a, b| vbslq_f32(vcgtq_f32(a, b), a, b));
    lanewise!(min, |a, b| vbslq_f32(vcltq_f32(a, b), a, b));

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a hint, whatever the address. (The intrinsic is not stable yet.)
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        let mut r = self;
        for x in &mut r.0 {
            // SAFETY: NEON by the trait's contract.
            unsafe {
                let n = vaddq_s32(vcvtq_s32_f32(*x), vdupq_n_s32(127));
                *x = vreinterpretq_f32_s32(vshlq_n_s32::<23>(n));
            }
        }
        r
    }
}
