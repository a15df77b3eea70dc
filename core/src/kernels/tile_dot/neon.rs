//! NEON, in three levels. A register of codes holds four inputs of four outputs, so one dot-product instruction `sdot`
//! multiplies a register of weights by four inputs and adds to four sums. Without `sdot`, bytes are multiplied to 16
//! bits, in which exactly two products fit (2 * 128 * 127 = 32512): two are added before a pairwise sum widens to 32
//! bits. The matrix instruction `smmla` multiplies eight inputs of two outputs by those of two tokens.
//!
//! Codes are handled in pairs of quads q and q + 4, which share the bytes of nibbles, and whose products plain NEON
//! adds in 16 bits.

use super::{
    Bytes, Dots, Entries, Fives, Nibbles, SignedFives, SignedFours, SignedSixes, Stored, Tile, TileDot, weigh,
};
use crate::kernels::call::Offset;
use crate::kernels::heads::Heads;
use crate::simd::neon::{DotProd, I8mm, NeonLanes, WithDotProd};
use crate::simd::{Lanes, Proof};
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// The dot products of the plain instructions.
pub(in crate::kernels) mod plain {
    /// The dot products of one kind of tiles.
    pub(in crate::kernels) type Dot<T> = super::Plain<T>;
}

/// The dot products with `sdot`.
pub(in crate::kernels) mod dot {
    /// The dot products of one kind of tiles.
    pub(in crate::kernels) type Dot<T> = super::WithSdot<T, super::DotProd>;
}

/// The dot products with `sdot`, and with `smmla` for several tokens.
pub(in crate::kernels) mod matrix {
    /// The dot products of one kind of tiles.
    pub(in crate::kernels) type Dot<T> = super::DotOrMatrix<T>;
}

/// Quads q and q + 4 of the codes of four outputs, or of the inputs.
type Pair = [int8x16_t; 2];

/// Codes in registers.
pub(in crate::kernels) trait Unpack: Stored {
    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4; both numbers are below 4.
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, table: int8x16_t, quad: usize, j: usize) -> Pair;
}

impl Unpack for Bytes {
    #[inline(always)]
    fn pair<F>(&self, _: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        let (low, high) = (&self.quads[quad][j], &self.quads[quad + 4][j]);
        // SAFETY: both arrays have 16 bytes; `Proof` shows that the processor has NEON.
        unsafe { [vld1q_s8(low.as_ptr().cast()), vld1q_s8(high.as_ptr().cast())] }
    }
}

impl Unpack for Entries {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: the array has 16 bytes; `Proof` shows that the processor has NEON.
        unsafe {
            let [low, high] = nibbles(isa, vld1q_u8(self.quads[quad][j].as_ptr()));
            [vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)]
        }
    }
}

impl Unpack for Nibbles {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: the array has 16 bytes; `Proof` shows that the processor has NEON.
        unsafe {
            let [low, high] = nibbles(isa, vld1q_u8(self.quads[quad][j].as_ptr()));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        }
    }
}

/// Nibbles with upper bits, less `less`: the bits of each half begin at bit `shifts` of its 16 bytes of `upper`, and
/// `mask` covers them.
#[inline(always)]
fn with_upper<F>(
    isa: Proof<NeonLanes<F>>,
    low: &[u8; 16],
    upper: [&[u8; 16]; 2],
    shifts: [usize; 2],
    mask: u8,
    less: i8,
) -> Pair {
    // SAFETY: all three arrays have 16 bytes; `Proof` shows that the processor has NEON.
    unsafe {
        let low = nibbles(isa, vld1q_u8(low.as_ptr()));
        let mut pair = [vdupq_n_s8(0); 2];
        for i in 0..2 {
            // A shift to the left by a negative number is a shift to the right.
            let bits = vshlq_u8(vld1q_u8(upper[i].as_ptr()), vdupq_n_s8(-(shifts[i] as i8)));
            let bits = vshlq_n_u8::<4>(vandq_u8(bits, vdupq_n_u8(mask)));
            pair[i] = vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(low[i], bits)), vdupq_n_s8(less));
        }
        pair
    }
}

impl Unpack for Fives {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        with_upper(isa, &self.low[quad][j], [&self.upper[0][j]; 2], [quad, quad + 4], 1, 0)
    }
}

impl Unpack for SignedFives {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        with_upper(isa, &self.low[quad][j], [&self.upper[0][j]; 2], [quad, quad + 4], 1, 16)
    }
}

impl Unpack for SignedFours {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: the array has 16 bytes; `Proof` shows that the processor has NEON.
        unsafe {
            let codes = nibbles(isa, vld1q_u8(self.quads[quad][j].as_ptr()));
            codes.map(|codes| vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8)))
        }
    }
}

impl Unpack for SignedSixes {
    #[inline(always)]
    fn pair<F>(&self, isa: Proof<NeonLanes<F>>, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        let upper = [&self.upper[0][j], &self.upper[1][j]];
        with_upper(isa, &self.low[quad][j], upper, [2 * quad; 2], 3, 32)
    }
}

/// The low and the high nibbles of 16 bytes.
#[inline(always)]
pub(in crate::kernels) fn nibbles<F>(_: Proof<NeonLanes<F>>, v: uint8x16_t) -> [uint8x16_t; 2] {
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe { [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)] }
}

/// 32 quants as `[half][16]`, so that quads q and q + 4 have the same place in both halves.
#[inline(always)]
fn inputs<F>(_: Proof<NeonLanes<F>>, x: &[i8; 32]) -> Pair {
    // SAFETY: `x` has 32 quants; `Proof` shows that the processor has NEON.
    unsafe { [vld1q_s8(x.as_ptr()), vld1q_s8(x.as_ptr().add(16))] }
}

/// The instructions that every 64-bit Arm has.
pub(in crate::kernels) struct Plain<T>(PhantomData<T>);

/// Sums of 16 outputs, two lanes for each.
type Sums = [[int32x4_t; 2]; 4];

#[inline(always)]
fn floats(isa: Proof<NeonLanes>, sums: Sums) -> NeonLanes {
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe { NeonLanes::new(isa, sums.map(|s| vcvtq_f32_s32(vpaddq_s32(s[0], s[1])))) }
}

impl<H: Heads, S: Unpack> TileDot for Plain<Tile<H, S>> {
    type L = NeonLanes;
    type H = H;
    type S = S;
    /// The tile stays packed: sums and products take all registers, and avoiding spills saves more than decoding once
    /// for several tokens would.
    type Codes<'a> = (&'a Tile<H, S>, int8x16_t);
    const TOKENS: usize = 1;

    #[inline(always)]
    fn decode<'a>(_: Proof<NeonLanes>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; `Proof` shows that the processor has NEON.
        (tile, unsafe { vld1q_s8(table.as_ptr()) })
    }

    #[inline(always)]
    fn dot(isa: Proof<NeonLanes>, (tile, table): &Self::Codes<'_>, x: &[i8; 32], _: Offset) -> NeonLanes {
        let (x, codes) = (inputs(isa, x), (&tile.codes, *table));
        // SAFETY: `Proof` shows that the processor has NEON.
        let zero = [[unsafe { vdupq_n_s32(0) }; 2]; 4];
        if H::HALVED {
            let mut sums = [zero; 2];
            add_halves::<S, 0>(isa, &mut sums, &codes, x);
            add_halves::<S, 1>(isa, &mut sums, &codes, x);
            add_halves::<S, 2>(isa, &mut sums, &codes, x);
            add_halves::<S, 3>(isa, &mut sums, &codes, x);
            return weigh([floats(isa, sums[0]), floats(isa, sums[1])], &tile.heads.halves(isa));
        }
        let mut sums = zero;
        add_pair::<S, 0>(isa, &mut sums, &codes, x);
        add_pair::<S, 1>(isa, &mut sums, &codes, x);
        add_pair::<S, 2>(isa, &mut sums, &codes, x);
        add_pair::<S, 3>(isa, &mut sums, &codes, x);
        floats(isa, sums)
    }
}

/// Adds the products of quads QUAD and QUAD + 4.
#[inline(always)]
fn add_pair<S: Unpack, const QUAD: i32>(
    isa: Proof<NeonLanes>,
    sums: &mut Sums,
    (codes, table): &(&S, int8x16_t),
    x: Pair,
) {
    let x = [broadcast::<QUAD>(isa, x[0]), broadcast::<QUAD>(isa, x[1])];
    for (j, sums) in sums.iter_mut().enumerate() {
        let w = codes.pair(isa, *table, QUAD as usize, j);
        // SAFETY: `Proof` shows that the processor has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
            let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
            let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
            *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
        }
    }
}

/// Adds the products of quads QUAD and QUAD + 4 to the sums of the first and of the second half.
#[inline(always)]
fn add_halves<S: Unpack, const QUAD: i32>(
    isa: Proof<NeonLanes>,
    sums: &mut [Sums; 2],
    (codes, table): &(&S, int8x16_t),
    x: Pair,
) {
    let x = [broadcast::<QUAD>(isa, x[0]), broadcast::<QUAD>(isa, x[1])];
    for j in 0..4 {
        let w = codes.pair(isa, *table, QUAD as usize, j);
        for half in 0..2 {
            // SAFETY: `Proof` shows that the processor has NEON.
            unsafe {
                let low = vmull_s8(vget_low_s8(w[half]), vget_low_s8(x[half]));
                let high = vmull_high_s8(w[half], x[half]);
                sums[half][j] = [vpadalq_s16(sums[half][j][0], low), vpadalq_s16(sums[half][j][1], high)];
            }
        }
    }
}

/// Quad QUAD of `x`, four times. (The intrinsic would be narrowed to the eight bytes that `vmull_s8` reads,
/// and each `vmull_high_s8` would then become two instructions.)
#[inline(always)]
fn broadcast<const QUAD: i32>(_: Proof<NeonLanes>, x: int8x16_t) -> int8x16_t {
    let r: int8x16_t;
    // SAFETY: the instruction reads and writes only its operands; `Proof` shows that the processor has NEON.
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
pub(in crate::kernels) struct WithSdot<T, F>(PhantomData<(T, F)>);

impl<H: Heads, S: Unpack, F: WithDotProd> TileDot for WithSdot<Tile<H, S>, F> {
    type L = NeonLanes<F>;
    type H = H;
    type S = S;
    /// `[quad][j]`, and the integers of halves. They would take all 32 registers, so with several tokens most codes and
    /// the results are spilled to memory; reading them back costs half as much as decoding.
    type Codes<'a> = ([[Pair; 4]; 4], [NeonLanes<F>; 2]);
    const TOKENS: usize = 8;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; `Proof` shows that the processor has NEON.
        let table = unsafe { vld1q_s8(table.as_ptr()) };
        let mut codes = [[[table; 2]; 4]; 4];
        for quad in 0..4 {
            for j in 0..4 {
                codes[quad][j] = tile.codes.pair(isa, table, quad, j);
            }
        }
        (codes, tile.heads.halves(isa))
    }

    #[inline(always)]
    fn dot(isa: Proof<Self::L>, (codes, halves): &Self::Codes<'_>, x: &[i8; 32], _: Offset) -> Self::L {
        let x = inputs(isa, x);
        // SAFETY: `Proof` shows that the processor has NEON.
        unsafe {
            let mut sums = [vdupq_n_s32(0); 4];
            add_half::<0, F>(isa, &mut sums, codes, x[0]);
            if H::HALVED {
                let mut second = [vdupq_n_s32(0); 4];
                add_half::<1, F>(isa, &mut second, codes, x[1]);
                let parts = [sums, second].map(|sums| NeonLanes::new(isa, sums.map(|s| vcvtq_f32_s32(s))));
                return weigh(parts, halves);
            }
            add_half::<1, F>(isa, &mut sums, codes, x[1]);
            NeonLanes::new(isa, sums.map(|s| vcvtq_f32_s32(s)))
        }
    }
}

/// Adds the products of the inputs of half HALF.
#[inline(always)]
fn add_half<const HALF: usize, F: WithDotProd>(
    isa: Proof<NeonLanes<F>>,
    sums: &mut [int32x4_t; 4],
    codes: &[[Pair; 4]; 4],
    x: int8x16_t,
) {
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = sdot::<0, F>(isa, *sum, codes[0][j][HALF], x);
    }
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = sdot::<1, F>(isa, *sum, codes[1][j][HALF], x);
    }
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = sdot::<2, F>(isa, *sum, codes[2][j][HALF], x);
    }
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = sdot::<3, F>(isa, *sum, codes[3][j][HALF], x);
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
    // SAFETY: the instruction reads and writes only its operands; `Proof` shows that the processor has the dot-product
    // instructions.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{quad}]",
            sum = inout(vreg) sum, codes = in(vreg) codes, x = in(vreg) x, quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`WithSdot`] for one token, [`Matrix`] for several.
pub(in crate::kernels) struct DotOrMatrix<T>(PhantomData<T>);

impl<H: Heads, S: Unpack> Dots for DotOrMatrix<Tile<H, S>> {
    type L = NeonLanes<I8mm>;
    type One = WithSdot<Tile<H, S>, I8mm>;
    type Many = Matrix<Tile<H, S>>;
}

/// With the matrix instructions (`FEAT_I8MM`).
pub(in crate::kernels) struct Matrix<T>(PhantomData<T>);

/// `[two tokens][two outputs]`.
type Products = [[int32x4_t; 8]; 2];

impl<H: Heads, S: Unpack> TileDot for Matrix<Tile<H, S>> {
    type L = NeonLanes<I8mm>;
    type H = H;
    type S = S;
    /// `[eight][two]`: inputs 8 * eight.. of two outputs from 2 * two; and the integers of halves.
    type Codes<'a> = ([[int8x16_t; 8]; 4], [NeonLanes<I8mm>; 2]);
    const TOKENS: usize = 4;
    /// The sums of four tokens take half of the registers.
    const AT_ONCE: usize = 4;

    #[inline(always)]
    fn decode<'a>(isa: Proof<Self::L>, tile: &'a Tile<H, S>, table: &[i8; 16]) -> Self::Codes<'a> {
        // SAFETY: the table has 16 bytes; `Proof` shows that the processor has NEON.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut codes = [[table; 8]; 4];
            for eight in 0..2 {
                for j in 0..4 {
                    let a = tile.codes.pair(isa, table, 2 * eight, j);
                    let b = tile.codes.pair(isa, table, 2 * eight + 1, j);
                    for half in 0..2 {
                        let (a, b) = (vreinterpretq_s32_s8(a[half]), vreinterpretq_s32_s8(b[half]));
                        codes[2 * half + eight][2 * j] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
                        codes[2 * half + eight][2 * j + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
                    }
                }
            }
            (codes, tile.heads.halves(isa))
        }
    }

    #[inline(always)]
    fn dot(isa: Proof<Self::L>, codes: &Self::Codes<'_>, x: &[i8; 32], offset: Offset) -> Self::L {
        Self::dots(isa, codes, &[x; 2], &[offset; 2])[0]
    }

    #[inline(always)]
    fn dots<const N: usize>(
        isa: Proof<Self::L>,
        (codes, halves): &Self::Codes<'_>,
        x: &[&[i8; 32]; N],
        _offsets: &[Offset; N],
    ) -> [Self::L; N] {
        // SAFETY: every token has 32 quants; `Proof` shows that the processor has NEON.
        unsafe {
            let zero = [[vdupq_n_s32(0); 8]; 2];
            // `[two tokens][eight]`.
            let (mut pairs, mut sums) = ([[vdupq_n_s8(0); 4]; 2], zero);
            for p in 0..N / 2 {
                for half in 0..2 {
                    let a = vreinterpretq_s64_s8(vld1q_s8(x[2 * p].as_ptr().add(16 * half)));
                    let b = vreinterpretq_s64_s8(vld1q_s8(x[2 * p + 1].as_ptr().add(16 * half)));
                    pairs[p][2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                    pairs[p][2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
                }
            }
            // Not a loop, which would keep its inputs in memory instead of registers.
            add_eight::<N, 0>(isa, &mut sums, codes, &pairs);
            add_eight::<N, 1>(isa, &mut sums, codes, &pairs);
            if H::HALVED {
                let mut second = zero;
                add_eight::<N, 2>(isa, &mut second, codes, &pairs);
                add_eight::<N, 3>(isa, &mut second, codes, &pairs);
                let (mut dots, second) = (products::<N>(isa, &sums), products::<N>(isa, &second));
                for i in 0..N {
                    dots[i] = weigh([dots[i], second[i]], halves);
                }
                return dots;
            }
            add_eight::<N, 2>(isa, &mut sums, codes, &pairs);
            add_eight::<N, 3>(isa, &mut sums, codes, &pairs);
            products::<N>(isa, &sums)
        }
    }
}

/// The products of `N` tokens as floats.
#[inline(always)]
fn products<const N: usize>(isa: Proof<NeonLanes<I8mm>>, sums: &Products) -> [NeonLanes<I8mm>; N] {
    let mut dots = [NeonLanes::splat(isa, 0.0); N];
    // SAFETY: `Proof` shows that the processor has NEON.
    unsafe {
        // A sum has two outputs of the first token, then the same two of the second.
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
    }
    dots
}

/// Adds the products of inputs 8 * EIGHT.. of `N` tokens.
#[inline(always)]
fn add_eight<const N: usize, const EIGHT: usize>(
    isa: Proof<NeonLanes<I8mm>>,
    sums: &mut Products,
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
    // SAFETY: the instruction reads and writes only its operands; `Proof` shows that the processor has the matrix
    // instructions.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
