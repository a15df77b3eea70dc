//! The portable lanes: the definition the others are held to.

use super::{LANES, Lanes, ROUND};

/// Sixteen floats in an array.
#[derive(Clone, Copy)]
pub struct ScalarLanes([f32; LANES]);

macro_rules! lanewise {
    ($name:ident, $a:ident, $b:ident, $e:expr) => {
        #[inline(always)]
        unsafe fn $name(self, o: Self) -> Self {
            let mut r = self;
            for l in 0..LANES {
                let ($a, $b) = (self.0[l], o.0[l]);
                r.0[l] = $e;
            }
            r
        }
    };
}

// SAFETY: needs no target feature.
unsafe impl Lanes for ScalarLanes {
    const TOGETHER: usize = 1;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        ScalarLanes([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: 16 elements by contract.
        ScalarLanes(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        // SAFETY: 16 elements by contract.
        let h = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        ScalarLanes(h.map(|b| half::f16::from_bits(b).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self {
        // SAFETY: 16 elements by contract.
        ScalarLanes(unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: &[i8; LANES]) -> (Self, Self) {
        // SAFETY: 16 elements by contract.
        let codes = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        let entry = |code: u8| f32::from(table[usize::from(code)]);
        (ScalarLanes(codes.map(|c| entry(c & 15))), ScalarLanes(codes.map(|c| entry(c >> 4))))
    }

    #[inline(always)]
    unsafe fn splat_f16(p: *const u16) -> Self {
        // SAFETY: one element by contract.
        ScalarLanes([half::f16::from_bits(unsafe { p.read_unaligned() }).to_f32(); LANES])
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: 16 elements by contract.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8) {
        // SAFETY: 16 elements by contract.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(self.0.map(|x| x as i8)) }
    }

    lanewise!(add, a, b, a + b);
    lanewise!(sub, a, b, a - b);
    lanewise!(mul, a, b, a * b);
    lanewise!(div, a, b, a / b);
    lanewise!(max, a, b, if a > b { a } else { b });
    lanewise!(min, a, b, if a < b { a } else { b });

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // The integer stands in the low bits of x + ROUND; moved to the exponent's place with its bias.
        ScalarLanes(self.0.map(|n| f32::from_bits(((n + ROUND).to_bits() << 23).wrapping_add(127 << 23))))
    }
}
