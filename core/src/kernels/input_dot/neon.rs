//! NEON for integer matrices stored by input: exact dot products of 32 outputs with the chosen inputs.
//!
//! With `sdot`, the codes of four inputs are zipped to quads; nibbles are zipped while they are packed, and spread to
//! bytes afterwards. Without it, the products of two inputs are added in 16 bits (see `tile_dot/neon.rs`) and then
//! widened.

use super::{Chosen, InputDot};
use crate::kernels::codes::{Affine4Codes, Int8Codes, Table4Codes};
use crate::kernels::gather::InputCodes;
use crate::kernels::tile_dot::neon::{nibbles, sdot};
use crate::simd::neon::{NeonLanes, WithDotProd};
use crate::simd::{Lanes, Proof};
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// Codes of a line, and how they are spread to bytes in registers.
pub(in crate::kernels) trait Spread: InputCodes {
    /// Pieces of 16 bytes that the codes of 32 outputs take: one for nibbles, two for bytes.
    const PARTS: usize;

    /// The codes in these bytes: of 16 outputs or, from nibbles, of 16 outputs and the next 16.
    fn spread<F>(isa: Proof<NeonLanes<F>>, bytes: uint8x16_t, table: int8x16_t) -> [int8x16_t; 2];
}

impl Spread for Int8Codes {
    const PARTS: usize = 2;

    #[inline(always)]
    fn spread<F>(_: Proof<NeonLanes<F>>, bytes: uint8x16_t, _table: int8x16_t) -> [int8x16_t; 2] {
        // SAFETY: `Proof` shows that the processor has NEON.
        [unsafe { vreinterpretq_s8_u8(bytes) }; 2]
    }
}

impl Spread for Table4Codes {
    const PARTS: usize = 1;

    #[inline(always)]
    fn spread<F>(isa: Proof<NeonLanes<F>>, bytes: uint8x16_t, table: int8x16_t) -> [int8x16_t; 2] {
        let [low, high] = nibbles(isa, bytes);
        // SAFETY: `Proof` shows that the processor has NEON.
        unsafe { [vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)] }
    }
}

impl Spread for Affine4Codes {
    const PARTS: usize = 1;

    #[inline(always)]
    fn spread<F>(isa: Proof<NeonLanes<F>>, bytes: uint8x16_t, _table: int8x16_t) -> [int8x16_t; 2] {
        let [low, high] = nibbles(isa, bytes);
        // SAFETY: `Proof` shows that the processor has NEON.
        unsafe { [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)] }
    }
}

/// The 16 bytes of part `part` of a line's codes.
///
/// # Safety
/// `16 * part + 16` bytes from `codes` on must be readable.
#[inline(always)]
unsafe fn load<F>(_: Proof<NeonLanes<F>>, codes: *const u8, part: usize) -> uint8x16_t {
    // SAFETY: the caller gives these 16 readable bytes; `Proof` shows that the processor has NEON.
    unsafe { vld1q_u8(codes.add(16 * part)) }
}

/// Prefetches the same part of the four lines of a quad.
#[inline(always)]
fn prefetch<F: Copy>(isa: Proof<NeonLanes<F>>, next: &Chosen, quad: usize, skip: usize) {
    for line in next.lines.as_chunks::<4>().0.get(quad).into_iter().flatten() {
        NeonLanes::prefetch(isa, line.wrapping_add(skip));
    }
}

/// Sums of 32 outputs as floats.
#[inline(always)]
fn floats<F>(isa: Proof<NeonLanes<F>>, sums: [int32x4_t; 8]) -> [NeonLanes<F>; 2] {
    let [a, b, c, d, e, f, g, h] = sums;
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe {
        let four = |v| vcvtq_f32_s32(v);
        [
            NeonLanes::new(isa, [four(a), four(b), four(c), four(d)]),
            NeonLanes::new(isa, [four(e), four(f), four(g), four(h)]),
        ]
    }
}

/// Dot products by the dot-product instructions.
pub(in crate::kernels) struct Dot<C, F>(PhantomData<(C, F)>);

impl<C: Spread, F: WithDotProd> InputDot for Dot<C, F> {
    type L = NeonLanes<F>;
    type C = C;

    #[inline(always)]
    unsafe fn dot32(isa: Proof<Self::L>, [chosen, next]: [&Chosen; 2], skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // SAFETY: `Proof` shows that the processor has NEON; `quad` is below `chosen.quads`, at most 8, and the
        // caller's lines have codes at `skip`.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut sums = [vdupq_n_s32(0); 8];
            for quad in 0..chosen.quads {
                prefetch(isa, next, quad, skip);
                let x = vreinterpretq_s8_s32(vdupq_n_s32(*chosen.quants.as_ptr().add(quad)));
                let lines = chosen.lines.as_ptr().add(4 * quad);
                for part in 0..C::PARTS {
                    let mut line = [vdupq_n_u8(0); 4];
                    for i in 0..4 {
                        line[i] = load(isa, (*lines.add(i)).add(skip), part);
                    }
                    let quads = zipped(isa, line);
                    for j in 0..4 {
                        let codes = C::spread(isa, quads[j], table);
                        sums[4 * part + j] = sdot::<0, F>(isa, sums[4 * part + j], codes[0], x);
                        if C::PARTS == 1 {
                            sums[4 + j] = sdot::<0, F>(isa, sums[4 + j], codes[1], x);
                        }
                    }
                }
            }
            floats(isa, sums)
        }
    }
}

/// Interleaves the bytes of four lines: `[place / 4][place % 4][line]`.
#[inline(always)]
fn zipped<F>(_: Proof<NeonLanes<F>>, [a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe {
        let (ac, bd) = (vzip1q_u8(a, c), vzip1q_u8(b, d));
        let (eg, fh) = (vzip2q_u8(a, c), vzip2q_u8(b, d));
        [vzip1q_u8(ac, bd), vzip2q_u8(ac, bd), vzip1q_u8(eg, fh), vzip2q_u8(eg, fh)]
    }
}

/// Dot products by the instructions that every 64-bit Arm has.
pub(in crate::kernels) struct Plain<C>(PhantomData<C>);

impl<C: Spread> InputDot for Plain<C> {
    type L = NeonLanes;
    type C = C;

    #[inline(always)]
    unsafe fn dot32(isa: Proof<Self::L>, [chosen, next]: [&Chosen; 2], skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // SAFETY: `Proof` shows that the processor has NEON; `quad` is below `chosen.quads`, at most 8, and the
        // caller's lines have codes at `skip`.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut sums = [vdupq_n_s32(0); 8];
            for quad in 0..chosen.quads {
                prefetch(isa, next, quad, skip);
                for two in [0, 2] {
                    let lines = chosen.lines.as_ptr().add(4 * quad + two);
                    let quants = chosen.quants.as_ptr().cast::<i8>().add(4 * quad + two);
                    let x = [everywhere(isa, *quants), everywhere(isa, *quants.add(1))];
                    for part in 0..C::PARTS {
                        let a = C::spread(isa, load(isa, (*lines).add(skip), part), table);
                        let b = C::spread(isa, load(isa, (*lines.add(1)).add(skip), part), table);
                        for half in 0..2 / C::PARTS {
                            add_two(isa, &mut sums, 4 * (part + half), [a[half], b[half]], x);
                        }
                    }
                }
            }
            floats(isa, sums)
        }
    }
}

/// Adds the products of two inputs to 16 sums, from sum `at` on.
#[inline(always)]
fn add_two(_: Proof<NeonLanes>, sums: &mut [int32x4_t; 8], at: usize, w: [int8x16_t; 2], x: [int8x16_t; 2]) {
    // SAFETY: `Proof` shows that the processor has NEON.
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

/// Sixteen times `x`. (Not the intrinsic: see `broadcast` in `tile_dot/neon.rs`.)
#[inline(always)]
fn everywhere(_: Proof<NeonLanes>, x: i8) -> int8x16_t {
    let r: int8x16_t;
    // SAFETY: the instruction reads and writes only its operands; `Proof` shows that the processor has NEON.
    unsafe {
        asm!("dup {r:v}.16b, {x:w}", r = lateout(vreg) r, x = in(reg) i32::from(x), options(pure, nomem, nostack, preserves_flags));
    }
    r
}
