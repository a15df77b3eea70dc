//! WebAssembly's 128-bit lanes: four registers. There is no asking at run time: a module is compiled with them or not.

use super::Lanes;
use core::arch::wasm32::*;

/// Sixteen floats in four v128.
#[derive(Clone, Copy)]
pub struct Simd128Lanes([v128; 4]);

impl From<[v128; 4]> for Simd128Lanes {
    #[inline(always)]
    fn from(v: [v128; 4]) -> Self {
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

/// Four halves, in the low parts of 32-bit lanes, as floats.
#[inline(always)]
fn from_halves(h: v128) -> v128 {
    // An exponent moved to its place is 112 too small; the product is exact for subnormal numbers too.
    let magnitude = u32x4_shl(v128_and(h, u32x4_splat(0x7fff)), 13);
    let value = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((112 + 127) << 23)));
    let infinite = u32x4_ge(v128_and(h, u32x4_splat(0x7fff)), u32x4_splat(0x7c00));
    let value = v128_or(value, v128_and(infinite, u32x4_splat(0x7f80_0000)));
    v128_or(value, u32x4_shl(v128_and(h, u32x4_splat(0x8000)), 16))
}

macro_rules! lanewise {
    ($name:ident, |$a:ident, $b:ident| $e:expr) => {
        #[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            let mut r = self;
            for i in 0..4 {
                let ($a, $b) = (self.0[i], o.0[i]);
                r.0[i] = $e;
            }
            r
        }
    };
}

// SAFETY: needs simd128, without which this is not compiled.
unsafe impl Lanes for Simd128Lanes {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Simd128Lanes([f32x4_splat(x); 4])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        let p = p.cast::<v128>();
        // SAFETY: 16 elements by the trait's contract, at any address.
        unsafe { Simd128Lanes([v128_load(p), v128_load(p.add(1)), v128_load(p.add(2)), v128_load(p.add(3))]) }
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: 16 elements by the trait's contract.
        let (a, b) = unsafe { (v128_load(p.cast()), v128_load(p.add(8).cast())) };
        Simd128Lanes([
            from_halves(u32x4_extend_low_u16x8(a)),
            from_halves(u32x4_extend_high_u16x8(a)),
            from_halves(u32x4_extend_low_u16x8(b)),
            from_halves(u32x4_extend_high_u16x8(b)),
        ])
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: 16 elements by the trait's contract.
        widen(unsafe { v128_load(p.cast()) })
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: &[i8; 16]) -> (Self, Self) {
        // SAFETY: 16 elements by the trait's contract.
        let (codes, table) = unsafe { (v128_load(p.cast()), v128_load(table.as_ptr().cast())) };
        let (low, high) = (v128_and(codes, u8x16_splat(15)), u8x16_shr(codes, 4));
        (widen(i8x16_swizzle(table, low)), widen(i8x16_swizzle(table, high)))
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> Self {
        // SAFETY: one element by the trait's contract.
        Simd128Lanes([from_halves(u32x4_splat(u32::from(unsafe { p.read_unaligned() }))); 4])
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        for i in 0..4 {
            // SAFETY: 16 elements by the trait's contract, at any address.
            unsafe { v128_store(p.add(4 * i).cast(), self.0[i]) }
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8) {
        let n = self.0.map(|x| i32x4_trunc_sat_f32x4(x));
        let bytes = i8x16_narrow_i16x8(i16x8_narrow_i32x4(n[0], n[1]), i16x8_narrow_i32x4(n[2], n[3]));
        // SAFETY: 16 elements by the trait's contract, at any address.
        unsafe { v128_store(p.cast(), bytes) }
    }

    lanewise!(add, |a, b| f32x4_add(a, b));
    lanewise!(sub, |a, b| f32x4_sub(a, b));
    lanewise!(mul, |a, b| f32x4_mul(a, b));
    lanewise!(div, |a, b| f32x4_div(a, b));
    // `pmax(b, a)` is `b < a ? a : b`: of what cannot be ordered the second operand, as all other lanes.
    lanewise!(max, |a, b| f32x4_pmax(b, a));
    lanewise!(min, |a, b| f32x4_pmin(b, a));

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        Simd128Lanes(self.0.map(|x| u32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(x), i32x4_splat(127)), 23)))
    }
}
