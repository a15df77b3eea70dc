//! NEON, in three levels. A register of codes holds four inputs of four outputs, so with the dot-product
//! instruction `sdot` one instruction takes a register of weights times four inputs into four sums.
//! Without it bytes are multiplied to 16 bits, where there is room for exactly two products (2 * 128 * 127 =
//! 32512): two are added there before a pairwise sum widens to 32 bits. The matrix instruction `smmla` multiplies eight
//! inputs of two outputs by those of two tokens.
//!
//! Codes come in pairs of quads q and q + 4: the two that share the bytes of nibbles, and the two that plain
//! NEON adds in 16 bits.

use super::{AffineTile, ByteTile, Dots, NibbleTile, Tile, TileDot};
use crate::simd::neon::{DotProd, I8mm, NeonLanes, WithDotProd};
use crate::simd::{Lanes, Proof};
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// Signed bytes.
pub(in crate::kernels) type Int8 = Plain<ByteTile>;
/// Nibbles through a table.
pub(in crate::kernels) type Table4 = Plain<NibbleTile>;
/// Unsigned nibbles with a minimum.
pub(in crate::kernels) type Affine4 = Plain<AffineTile>;
/// Signed bytes, with `sdot`.
pub(in crate::kernels) type DotInt8 = Dot<ByteTile, DotProd>;
/// Nibbles through a table, with `sdot`.
pub(in crate::kernels) type DotTable4 = Dot<NibbleTile, DotProd>;
/// Unsigned nibbles with a minimum, with `sdot`.
pub(in crate::kernels) type DotAffine4 = Dot<AffineTile, DotProd>;
/// Signed bytes, with `sdot`, and `smmla` for several tokens.
pub(in crate::kernels) type MatrixInt8 = DotOrMatrix<ByteTile>;
/// Nibbles through a table, with `sdot`, and `smmla` for several tokens.
pub(in crate::kernels) type MatrixTable4 = DotOrMatrix<NibbleTile>;
/// Unsigned nibbles with a minimum, with `sdot`, and `smmla` for several tokens.
pub(in crate::kernels) type MatrixAffine4 = DotOrMatrix<AffineTile>;

/// Quads q and q + 4 of the codes of four outputs, or of the inputs.
type Pair = [int8x16_t; 2];

/// How a tile stores its codes.
pub(in crate::kernels) trait Stored: Tile + 'static {
    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4; both numbers are below 4.
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, table: int8x16_t, quad: usize, j: usize) -> Pair;
}

/// Signed bytes.
impl Stored for ByteTile {
    #[inline(always)]
    fn pair<F>(&self, _: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        let (low, high) = (&self.codes[quad][j], &self.codes[quad + 4][j]);
        // SAFETY: twice 16 bytes; the proof is one of NEON.
        unsafe { [vld1q_s8(low.as_ptr().cast()), vld1q_s8(high.as_ptr().cast())] }
    }
}

/// Nibbles to be looked up in the table.
impl Stored for NibbleTile {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: 16 bytes; the proof is one of NEON.
        unsafe {
            let [low, high] = nibbles(isa, vld1q_u8(self.codes[quad][j].as_ptr()));
            [vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)]
        }
    }
}

/// Nibbles that stand for themselves.
impl Stored for AffineTile {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: 16 bytes; the proof is one of NEON.
        unsafe {
            let [low, high] = nibbles(isa, vld1q_u8(self.codes[quad][j].as_ptr()));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        }
    }
}

/// The low and the high nibbles of 16 bytes.
#[inline(always)]
pub(in crate::kernels) fn nibbles<F>(_: Proof<NeonLanes<F>>, v: uint8x16_t) -> [uint8x16_t; 2] {
    // SAFETY: the proof is one of NEON.
    unsafe { [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)] }
}

/// 32 quants: `[half][16]`, so that a quad and the one four further have the same place in both.
#[inline(always)]
fn inputs<F>(_: Proof<NeonLanes<F>>, x: &[i8; 32]) -> Pair {
    // SAFETY: twice 16 quants; the proof is one of NEON.
    unsafe { [vld1q_s8(x.as_ptr()), vld1q_s8(x.as_ptr().add(16))] }
}

/// NEON as every 64-bit Arm has it.
pub(in crate::kernels) struct Plain<S>(PhantomData<S>);

impl<S: Stored> TileDot for Plain<S> {
    type L = NeonLanes;
    type Tile = S;
    /// A tile still packed: its sums and multiplications take the registers, and doing without spills saves
    /// more than decoding once for several tokens would.
    type Codes<'a> = (&'a S, int8x16_t);
    const TOKENS: usize = 1;

    #[inline(always)]
    fn decode<'a>(_: Proof<NeonLanes>, tile: &'a S, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; the proof is one of NEON.
        (tile, unsafe { vld1q_s8(table.as_ptr()) })
    }

    #[inline(always)]
    fn dot(isa: Proof<NeonLanes>, codes: &Self::Codes<'_>, x: &[i8; 32], _offset: i32) -> NeonLanes {
        let x = inputs(isa, x);
        // SAFETY: the proof is one of NEON.
        unsafe {
            // Two lanes for each output.
            let mut sums = [[vdupq_n_s32(0); 2]; 4];
            add_pair::<S, 0>(isa, &mut sums, codes, x);
            add_pair::<S, 1>(isa, &mut sums, codes, x);
            add_pair::<S, 2>(isa, &mut sums, codes, x);
            add_pair::<S, 3>(isa, &mut sums, codes, x);
            NeonLanes::new(isa, sums.map(|s| vcvtq_f32_s32(vpaddq_s32(s[0], s[1]))))
        }
    }
}

/// Adds the products of quads QUAD and QUAD + 4.
#[inline(always)]
fn add_pair<S: Stored, const QUAD: i32>(
    isa: Proof<NeonLanes>,
    sums: &mut [[int32x4_t; 2]; 4],
    (tile, table): &(&S, int8x16_t),
    x: Pair,
) {
    let x = [broadcast::<QUAD>(isa, x[0]), broadcast::<QUAD>(isa, x[1])];
    for (j, sums) in sums.iter_mut().enumerate() {
        let w = tile.pair(isa, *table, QUAD as usize, j);
        // SAFETY: the proof is one of NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
            let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
            let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
            *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
        }
    }
}

/// Quad QUAD of `x`, four times. (The intrinsic would be narrowed to the eight bytes that `vmull_s8` reads,
/// and each `vmull_high_s8` would then become two instructions.)
#[inline(always)]
fn broadcast<const QUAD: i32>(_: Proof<NeonLanes>, x: int8x16_t) -> int8x16_t {
    let r: int8x16_t;
    // SAFETY: reads and writes nothing but its operands; the proof is one of NEON.
    unsafe {
        asm!(
            "dup {r:v}.4s, {x:v}.s[{quad}]",
            r = lateout(vreg) r, x = in(vreg) x, quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    r
}

/// With the dot-product instructions (`FEAT_DotProd`).
pub(in crate::kernels) struct Dot<S, F>(PhantomData<(S, F)>);

impl<S: Stored, F: WithDotProd> TileDot for Dot<S, F> {
    type L = NeonLanes<F>;
    type Tile = S;
    /// `[quad][j]`. They would take all 32 registers, so with several tokens most codes and the
    /// results lie in memory; reading them back costs half of what decoding does.
    type Codes<'a> = [[Pair; 4]; 4];
    const TOKENS: usize = 8;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a S, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; the proof is one of NEON.
        let table = unsafe { vld1q_s8(table.as_ptr()) };
        let mut codes = [[[table; 2]; 4]; 4];
        for (quad, row) in codes.iter_mut().enumerate() {
            for (j, pair) in row.iter_mut().enumerate() {
                *pair = tile.pair(isa, table, quad, j);
            }
        }
        codes
    }

    #[inline(always)]
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], _offset: i32) -> Self::L {
        let x = inputs(isa, x);
        // SAFETY: the proof is one of NEON.
        unsafe {
            let mut sums = [vdupq_n_s32(0); 4];
            for half in 0..2 {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<0, F>(isa, *sum, codes[0][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<1, F>(isa, *sum, codes[1][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<2, F>(isa, *sum, codes[2][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<3, F>(isa, *sum, codes[3][j][half], x[half]);
                }
            }
            NeonLanes::new(isa, sums.map(|s| vcvtq_f32_s32(s)))
        }
    }
}

/// `sum + codes * quad QUAD of x`, four products a lane. (The intrinsic is not stable yet.)
#[inline(always)]
pub(in crate::kernels) fn sdot<const QUAD: i32, F: WithDotProd>(
    _: Proof<NeonLanes<F>>,
    mut sum: int32x4_t,
    codes: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: reads and writes nothing but its operands; the proof is one of the dot-product instructions.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{quad}]",
            sum = inout(vreg) sum, codes = in(vreg) codes, x = in(vreg) x, quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`Dot`] for one token, [`Matrix`] for several.
pub(in crate::kernels) struct DotOrMatrix<S>(PhantomData<S>);

impl<S: Stored> Dots for DotOrMatrix<S> {
    type L = NeonLanes<I8mm>;
    type One = Dot<S, I8mm>;
    type Many = Matrix<S>;
}

/// With the matrix instructions (`FEAT_I8MM`).
pub(in crate::kernels) struct Matrix<S>(PhantomData<S>);

impl<S: Stored> TileDot for Matrix<S> {
    type L = NeonLanes<I8mm>;
    type Tile = S;
    /// `[eight][two]`: inputs 8 * eight.. of two outputs from 2 * two.
    type Codes<'a> = [[int8x16_t; 8]; 4];
    const TOKENS: usize = 16;
    /// The sums of four tokens take half of the registers.
    const AT_ONCE: usize = 4;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a S, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; the proof is one of NEON.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut codes = [[table; 8]; 4];
            for eight in 0..2 {
                for j in 0..4 {
                    let (a, b) = (tile.pair(isa, table, 2 * eight, j), tile.pair(isa, table, 2 * eight + 1, j));
                    for half in 0..2 {
                        let (a, b) = (vreinterpretq_s32_s8(a[half]), vreinterpretq_s32_s8(b[half]));
                        codes[2 * half + eight][2 * j] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
                        codes[2 * half + eight][2 * j + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
                    }
                }
            }
            codes
        }
    }

    #[inline(always)]
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: i32) -> Self::L {
        Self::dots(isa, codes, &[x; 2], &[offset; 2])[0]
    }

    #[inline(always)]
    fn dots<const N: usize>(
        isa: Proof<Self::L>,
        codes: &Self::Codes<'_>,
        x: &[&[i8; 32]; N],
        _offsets: &[i32; N],
    ) -> [Self::L; N] {
        // SAFETY: 32 quants of every token; the proof is one of NEON.
        unsafe {
            let (zero, mut dots) = (vdupq_n_s32(0), [NeonLanes::splat(isa, 0.0); N]);
            // `[two tokens][eight]`, and `[two tokens][two outputs]`.
            let (mut pairs, mut sums) = ([[vdupq_n_s8(0); 4]; 2], [[zero; 8]; 2]);
            for p in 0..N / 2 {
                for half in 0..2 {
                    let a = vreinterpretq_s64_s8(vld1q_s8(x[2 * p].as_ptr().add(16 * half)));
                    let b = vreinterpretq_s64_s8(vld1q_s8(x[2 * p + 1].as_ptr().add(16 * half)));
                    pairs[p][2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                    pairs[p][2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
                }
            }
            // Not a loop: its turns would find their inputs in memory.
            add_eight::<N, 0>(isa, &mut sums, codes, &pairs);
            add_eight::<N, 1>(isa, &mut sums, codes, &pairs);
            add_eight::<N, 2>(isa, &mut sums, codes, &pairs);
            add_eight::<N, 3>(isa, &mut sums, codes, &pairs);
            // A sum has two outputs of the first token, then those of the second.
            for p in 0..N / 2 {
                let (mut a, mut b) = ([vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
                for j in 0..4 {
                    let low = vreinterpretq_s64_s32(sums[p][2 * j]);
                    let high = vreinterpretq_s64_s32(sums[p][2 * j + 1]);
                    a[j] = vcvtq_f32_s32(vreinterpretq_s32_s64(vzip1q_s64(low, high)));
                    b[j] = vcvtq_f32_s32(vreinterpretq_s32_s64(vzip2q_s64(low, high)));
                }
                (dots[2 * p], dots[2 * p + 1]) = (NeonLanes::new(isa, a), NeonLanes::new(isa, b));
            }
            dots
        }
    }
}

/// Adds the products of inputs 8 * EIGHT.. of `N` tokens.
#[inline(always)]
fn add_eight<const N: usize, const EIGHT: usize>(
    isa: Proof<NeonLanes<I8mm>>,
    sums: &mut [[int32x4_t; 8]; 2],
    codes: &[[int8x16_t; 8]; 4],
    pairs: &[[int8x16_t; 4]; 2],
) {
    for two in 0..8 {
        for p in 0..N / 2 {
            sums[p][two] = smmla(isa, sums[p][two], pairs[p][EIGHT], codes[EIGHT][two]);
        }
    }
}

/// `sum + a * b`, two rows of eight by two columns of eight. (The intrinsic is not stable yet.)
#[inline(always)]
fn smmla(_: Proof<NeonLanes<I8mm>>, mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes nothing but its operands; the proof is one of the matrix instructions.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
