//! The portable lanes: the definition with which tests compare the others.

use super::{LANES, Lanes, Proof, ROUND};
use core::marker::PhantomData;

/// Sixteen floats in an array.
#[derive(Clone, Copy)]
pub struct ScalarLanes([f32; LANES]);

impl Proof<ScalarLanes> {
    /// The proof for portable code, which needs none.
    pub const PORTABLE: Self = Proof(PhantomData);
}

macro_rules! lanewise {
    ($name:ident, $a:ident, $b:ident, $e:expr) => {
        #[inline(always)]
        fn $name(self, o: Self) -> Self {
            let mut r = self;
            for l in 0..LANES {
                let ($a, $b) = (self.0[l], o.0[l]);
                r.0[l] = $e;
            }
            r
        }
    };
}

// SAFETY: portable code needs no instruction set, so its proof may be public.
unsafe impl Lanes for ScalarLanes {
    const SUMS: usize = 1;

    #[inline(always)]
    fn splat(_: Proof<Self>, x: f32) -> Self {
        ScalarLanes([x; LANES])
    }

    #[inline(always)]
    fn load_bytes(_: Proof<Self>, x: &[u8; 4 * LANES]) -> Self {
        // SAFETY: the array has 64 bytes, and the read allows any alignment.
        ScalarLanes(unsafe { x.as_ptr().cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    fn load_f16(_: Proof<Self>, x: &[u8; 2 * LANES]) -> Self {
        // SAFETY: the array has 32 bytes, and the read allows any alignment.
        let bits = unsafe { x.as_ptr().cast::<[u16; LANES]>().read_unaligned() };
        ScalarLanes(bits.map(|b| half::f16::from_bits(b).to_f32()))
    }

    #[inline(always)]
    fn load_i8(_: Proof<Self>, x: &[i8; LANES]) -> Self {
        ScalarLanes(x.map(f32::from))
    }

    #[inline(always)]
    fn lookup(_: Proof<Self>, codes: &[u8; LANES], table: &[i8; LANES]) -> (Self, Self) {
        let entry = |code: u8| f32::from(table[usize::from(code)]);
        (ScalarLanes(codes.map(|c| entry(c & 15))), ScalarLanes(codes.map(|c| entry(c >> 4))))
    }

    #[inline(always)]
    fn splat_f16(_: Proof<Self>, bits: u16) -> Self {
        ScalarLanes([half::f16::from_bits(bits).to_f32(); LANES])
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        *to = self.0.map(|x| x as i8);
    }

    lanewise!(add, a, b, a + b);
    lanewise!(sub, a, b, a - b);
    lanewise!(mul, a, b, a * b);
    lanewise!(div, a, b, a / b);
    lanewise!(max, a, b, if a > b { a } else { b });
    lanewise!(min, a, b, if a < b { a } else { b });

    #[inline(always)]
    fn pow2(self) -> Self {
        // The integer is in the low bits of n + ROUND; it is moved to the place of the exponent, whose bias is added.
        ScalarLanes(self.0.map(|n| f32::from_bits(((n + ROUND).to_bits() << 23).wrapping_add(127 << 23))))
    }
}
