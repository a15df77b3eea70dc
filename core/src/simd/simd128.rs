//! WebAssembly's 128-bit lanes: four registers. A module is compiled with or without them; it cannot detect them at run
//! time.

use super::{LANES, Lanes, Proof};
use core::arch::wasm32::*;

/// Sixteen floats in four v128.
#[derive(Clone, Copy)]
pub struct Simd128Lanes([v128; 4]);

impl Simd128Lanes {
    /// Lanes of four registers.
    #[inline(always)]
    pub(crate) fn new(_: Proof<Self>, v: [v128; 4]) -> Self {
        Simd128Lanes(v)
    }
}

/// Sixteen signed bytes as floats.
#[inline(always)]
fn widen(bytes: v128) -> Simd128Lanes {
    let (a, b) = (i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes));
    Simd128Lanes([
        f32x4_convert_i32x4(i32x4_extend_low_i16x8(a)),
        f32x4_convert_i32x4(i32x4_extend_high_i16x8(a)),
        f32x4_convert_i32x4(i32x4_extend_low_i16x8(b)),
        f32x4_convert_i32x4(i32x4_extend_high_i16x8(b)),
    ])
}

/// Four f16, in the low halves of 32-bit lanes, as floats.
#[inline(always)]
fn from_halves(h: v128) -> v128 {
    // An exponent that is only moved to its place is 112 too small, which a product corrects; it is exact for subnormal
    // numbers too.
    let magnitude = u32x4_shl(v128_and(h, u32x4_splat(0x7fff)), 13);
    let value = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((112 + 127) << 23)));
    let infinite = u32x4_ge(v128_and(h, u32x4_splat(0x7fff)), u32x4_splat(0x7c00));
    let value = v128_or(value, v128_and(infinite, u32x4_splat(0x7f80_0000)));
    v128_or(value, u32x4_shl(v128_and(h, u32x4_splat(0x8000)), 16))
}

macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $e:expr) => {
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            let mut r = self;
            for i in 0..4 {
                let ($a, $b) = (self.0[i], o.0[i]);
                r.0[i] = $e;
            }
            r
        }
    };
}

// SAFETY: this file is compiled only into modules that use simd128.
unsafe impl Lanes for Simd128Lanes {
    #[inline(always)]
    fn splat(_: Proof<Self>, x: f32) -> Self {
        Simd128Lanes([f32x4_splat(x); 4])
    }

    #[inline(always)]
    fn load_bytes(_: Proof<Self>, x: &[u8; 4 * LANES]) -> Self {
        let p = x.as_ptr().cast::<v128>();
        // SAFETY: the array has 64 bytes, and the loads allow any alignment.
        unsafe { Simd128Lanes([v128_load(p), v128_load(p.add(1)), v128_load(p.add(2)), v128_load(p.add(3))]) }
    }

    #[inline(always)]
    fn load_f16(_: Proof<Self>, x: &[u8; 2 * LANES]) -> Self {
        let p = x.as_ptr().cast::<v128>();
        // SAFETY: the array has 32 bytes, and the loads allow any alignment.
        let (a, b) = unsafe { (v128_load(p), v128_load(p.add(1))) };
        Simd128Lanes([
            from_halves(u32x4_extend_low_u16x8(a)),
            from_halves(u32x4_extend_high_u16x8(a)),
            from_halves(u32x4_extend_low_u16x8(b)),
            from_halves(u32x4_extend_high_u16x8(b)),
        ])
    }

    #[inline(always)]
    fn load_i8(_: Proof<Self>, x: &[i8; LANES]) -> Self {
        // SAFETY: the array has 16 bytes, and the load allows any alignment.
        widen(unsafe { v128_load(x.as_ptr().cast()) })
    }

    #[inline(always)]
    fn lookup(_: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self) {
        // SAFETY: both arrays have 16 bytes, and the loads allow any alignment.
        let (codes, table) = unsafe { (v128_load(codes.as_ptr().cast()), v128_load(table.as_ptr().cast())) };
        let (low, high) = (v128_and(codes, u8x16_splat(15)), u8x16_shr(codes, 4));
        (widen(i8x16_swizzle(table, low)), widen(i8x16_swizzle(table, high)))
    }

    #[inline(always)]
    fn splat_f16(_: Proof<Self>, bits: u16) -> Self {
        Simd128Lanes([from_halves(u32x4_splat(u32::from(bits))); 4])
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        for (to, v) in to.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            // SAFETY: `to` has four floats, and the store allows any alignment.
            unsafe { v128_store(to.as_mut_ptr().cast(), v) }
        }
    }

    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        let n = self.0.map(|x| i32x4_trunc_sat_f32x4(x));
        let bytes = i8x16_narrow_i16x8(i16x8_narrow_i32x4(n[0], n[1]), i16x8_narrow_i32x4(n[2], n[3]));
        // SAFETY: `to` has 16 bytes, and the store allows any alignment.
        unsafe { v128_store(to.as_mut_ptr().cast(), bytes) }
    }

    lanewise!(add, |a, b| f32x4_add(a, b));
    lanewise!(sub, |a, b| f32x4_sub(a, b));
    lanewise!(mul, |a, b| f32x4_mul(a, b));
    lanewise!(div, |a, b| f32x4_div(a, b));
    // `pmax(b, a)` is `b < a ? a : b`: the second operand if either is NaN, as on all other instruction sets.
    lanewise!(max, |a, b| f32x4_pmax(b, a));
    lanewise!(min, |a, b| f32x4_pmin(b, a));

    #[inline(always)]
    fn pow2(self) -> Self {
        Simd128Lanes(self.0.map(|x| u32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(x), i32x4_splat(127)), 23)))
    }
}
