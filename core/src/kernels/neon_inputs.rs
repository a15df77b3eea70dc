//! NEON for integer matrices stored by input ([`super::inputs`]): exact dot products of 32 outputs with the chosen inputs.
//!
//! With `sdot` the codes of four inputs are zipped to quads, packed nibbles before they are spread. Without it two inputs
//! are added in 16 bits (see `neon.rs`) and widened.

use super::codes::{Affine4Codes, Int8Codes, Table4Codes};
use super::inputs::{Chosen, InputCodes, InputDot};
use super::neon::{nibbles, sdot};
use crate::simd::Lanes;
use crate::simd::neon::NeonLanes;
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// Codes of a line as registers hold them.
///
/// # Safety
/// `load` reads nothing but [`super::codes::Codes::BYTES`].
pub(super) unsafe trait Spread: InputCodes {
    /// Sixteen bytes of a line that are zipped before they are spread: one for nibbles, two for bytes.
    const PARTS: usize;

    /// Part `part` of the codes.
    ///
    /// # Safety
    /// The codes must be there, and NEON.
    #[inline(always)]
    unsafe fn load(codes: *const u8, part: usize) -> uint8x16_t {
        // SAFETY: by the contract.
        unsafe { vld1q_u8(codes.add(16 * part)) }
    }

    /// The codes in these bytes, for 16 outputs or, from nibbles, for 16 and the 16 that follow.
    ///
    /// # Safety
    /// NEON must be there.
    unsafe fn spread(bytes: uint8x16_t, table: int8x16_t) -> [int8x16_t; 2];
}

// SAFETY: two times 16 bytes of 32.
unsafe impl Spread for Int8Codes {
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn spread(bytes: uint8x16_t, _table: int8x16_t) -> [int8x16_t; 2] {
        // SAFETY: NEON by the contract.
        [unsafe { vreinterpretq_s8_u8(bytes) }; 2]
    }
}

// SAFETY: 16 bytes.
unsafe impl Spread for Table4Codes {
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn spread(bytes: uint8x16_t, table: int8x16_t) -> [int8x16_t; 2] {
        // SAFETY: NEON by the contract.
        unsafe {
            let [low, high] = nibbles(bytes);
            [vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)]
        }
    }
}

// SAFETY: 16 bytes.
unsafe impl Spread for Affine4Codes {
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn spread(bytes: uint8x16_t, _table: int8x16_t) -> [int8x16_t; 2] {
        // SAFETY: NEON by the contract.
        unsafe {
            let [low, high] = nibbles(bytes);
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        }
    }
}

/// Asks for the same part of four lines that are needed later.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn ask(chosen: &Chosen, quad: usize, skip: usize) {
    for i in 0..4 {
        // SAFETY: a hint, whatever the address; quads are below 8.
        unsafe { NeonLanes::prefetch((*chosen.later.as_ptr().add(4 * quad + i)).wrapping_add(skip)) };
    }
}

/// Sums of 32 outputs as floats.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn floats(sums: [int32x4_t; 8]) -> [NeonLanes; 2] {
    // SAFETY: by the contract.
    unsafe {
        let [a, b, c, d, e, f, g, h] = sums;
        let four = |v| vcvtq_f32_s32(v);
        [NeonLanes::from([four(a), four(b), four(c), four(d)]), NeonLanes::from([four(e), four(f), four(g), four(h)])]
    }
}

/// With the dot-product instructions.
pub(super) struct Dot<C>(PhantomData<C>);

// SAFETY: needs NEON and the dot-product instructions.
unsafe impl<C: Spread> InputDot for Dot<C> {
    type L = NeonLanes;
    type C = C;

    #[inline(always)]
    unsafe fn dot32(chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [NeonLanes; 2] {
        // SAFETY: by the contract; quads are at most 8.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut sums = [vdupq_n_s32(0); 8];
            for quad in 0..chosen.quads {
                ask(chosen, quad, skip);
                let x = vreinterpretq_s8_s32(vdupq_n_s32(*chosen.quants.as_ptr().add(quad)));
                let lines = chosen.lines.as_ptr().add(4 * quad);
                for part in 0..C::PARTS {
                    let mut line = [vdupq_n_u8(0); 4];
                    for i in 0..4 {
                        line[i] = C::load((*lines.add(i)).add(skip), part);
                    }
                    let quads = zipped(line);
                    for j in 0..4 {
                        let codes = C::spread(quads[j], table);
                        sums[4 * part + j] = sdot::<0>(sums[4 * part + j], codes[0], x);
                        if C::PARTS == 1 {
                            sums[4 + j] = sdot::<0>(sums[4 + j], codes[1], x);
                        }
                    }
                }
            }
            floats(sums)
        }
    }
}

/// Four bytes of each place together: `[place / 4][place % 4][line]`.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn zipped([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: by the contract.
    unsafe {
        let (ac, bd) = (vzip1q_u8(a, c), vzip1q_u8(b, d));
        let (eg, fh) = (vzip2q_u8(a, c), vzip2q_u8(b, d));
        [vzip1q_u8(ac, bd), vzip2q_u8(ac, bd), vzip1q_u8(eg, fh), vzip2q_u8(eg, fh)]
    }
}

/// As every 64-bit Arm has it.
pub(super) struct Plain<C>(PhantomData<C>);

// SAFETY: needs NEON.
unsafe impl<C: Spread> InputDot for Plain<C> {
    type L = NeonLanes;
    type C = C;

    #[inline(always)]
    unsafe fn dot32(chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [NeonLanes; 2] {
        // SAFETY: by the contract; quads are at most 8.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut sums = [vdupq_n_s32(0); 8];
            for quad in 0..chosen.quads {
                ask(chosen, quad, skip);
                for two in [0, 2] {
                    let lines = chosen.lines.as_ptr().add(4 * quad + two);
                    let quants = chosen.quants.as_ptr().cast::<i8>().add(4 * quad + two);
                    let x = [everywhere(*quants), everywhere(*quants.add(1))];
                    for part in 0..C::PARTS {
                        let a = C::spread(C::load((*lines).add(skip), part), table);
                        let b = C::spread(C::load((*lines.add(1)).add(skip), part), table);
                        for half in 0..2 / C::PARTS {
                            add_two(&mut sums, 4 * (part + half), [a[half], b[half]], x);
                        }
                    }
                }
            }
            floats(sums)
        }
    }
}

/// Adds the products of two inputs to 16 sums, those from `at`.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn add_two(sums: &mut [int32x4_t; 8], at: usize, w: [int8x16_t; 2], x: [int8x16_t; 2]) {
    // SAFETY: by the contract.
    unsafe {
        let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
        let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
        let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
        sums[at] = vaddw_s16(sums[at], vget_low_s16(low));
        sums[at + 1] = vaddw_high_s16(sums[at + 1], low);
        sums[at + 2] = vaddw_s16(sums[at + 2], vget_low_s16(high));
        sums[at + 3] = vaddw_high_s16(sums[at + 3], high);
    }
}

/// Sixteen times `x`. (Not the intrinsic: see `broadcast` in `neon.rs`.)
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn everywhere(x: i8) -> int8x16_t {
    let r: int8x16_t;
    // SAFETY: reads and writes nothing but its operands.
    unsafe {
        asm!("dup {r:v}.16b, {x:w}", r = lateout(vreg) r, x = in(reg) i32::from(x), options(pure, nomem, nostack, preserves_flags));
    }
    r
}
