//! NEON, in three levels. A register of codes holds four inputs of four outputs, so with the dot-product
//! instruction `sdot` one instruction takes a register of weights times four inputs into four sums.
//! Without it bytes are multiplied to 16 bits, where there is room for exactly two products (2 * 128 * 127 =
//! 32512): two are added there before a pairwise sum widens to 32 bits. The matrix instruction `smmla` multiplies eight
//! inputs of two outputs by those of two tokens.
//!
//! Codes come in pairs of quads q and q + 4: the two that share the bytes of nibbles, and the two that plain
//! NEON adds in 16 bits.

use super::matmul::{Dots, TileDot};
use crate::format::Format;
use crate::simd::Lanes;
use crate::simd::neon::NeonLanes;
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

/// Signed bytes.
pub(super) type Int8 = Plain<Bytes>;
/// Nibbles through a table.
pub(super) type Table4 = Plain<LookedUp>;
/// Unsigned nibbles with a minimum.
pub(super) type Affine4 = Plain<Nibbles>;
/// Signed bytes, with `sdot`.
pub(super) type DotInt8 = Dot<Bytes>;
/// Nibbles through a table, with `sdot`.
pub(super) type DotTable4 = Dot<LookedUp>;
/// Unsigned nibbles with a minimum, with `sdot`.
pub(super) type DotAffine4 = Dot<Nibbles>;

/// Signed bytes, with `sdot`, and `smmla` for several tokens.
pub(super) type MatrixInt8 = DotOrMatrix<Bytes>;
/// Nibbles through a table, with `sdot`, and `smmla` for several tokens.
pub(super) type MatrixTable4 = DotOrMatrix<LookedUp>;
/// Unsigned nibbles with a minimum, with `sdot`, and `smmla` for several tokens.
pub(super) type MatrixAffine4 = DotOrMatrix<Nibbles>;

/// Quads q and q + 4 of the codes of four outputs, or of the inputs.
type Pair = [int8x16_t; 2];

/// How a tile stores its codes.
///
/// # Safety
/// `pair` reads nothing outside a tile of `FORMAT`.
pub(super) unsafe trait Stored {
    /// A format stored this way.
    const FORMAT: Format;
    /// Whether a minimum per output stands behind the scales.
    const AFFINE: bool = false;

    /// Quads `quad` and `quad + 4` of outputs 4j..4j + 4.
    ///
    /// # Safety
    /// `tile` must point to a whole tile; `quad` and `j` must be below 4; NEON must be there.
    unsafe fn pair(tile: *const u8, table: int8x16_t, quad: usize, j: usize) -> Pair;
}

/// Signed bytes behind 16 scales.
pub(super) struct Bytes;

// SAFETY: 32 bytes of scales and 512 of codes.
unsafe impl Stored for Bytes {
    const FORMAT: Format = Format::Q8_0;

    #[inline(always)]
    unsafe fn pair(tile: *const u8, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: inside the tile by contract.
        unsafe {
            let p = tile.add(32 + 64 * quad + 16 * j).cast();
            [vld1q_s8(p), vld1q_s8(p.add(256))]
        }
    }
}

/// Nibbles behind 16 scales, to be looked up in the table.
pub(super) struct LookedUp;

// SAFETY: 32 bytes of scales and 256 of codes.
unsafe impl Stored for LookedUp {
    const FORMAT: Format = Format::Q4_0;

    #[inline(always)]
    unsafe fn pair(tile: *const u8, table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: inside the tile by contract.
        unsafe {
            let [low, high] = nibbles(vld1q_u8(tile.add(32 + 64 * quad + 16 * j)));
            [vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)]
        }
    }
}

/// Nibbles behind 16 scales and 16 minima.
pub(super) struct Nibbles;

// SAFETY: 64 bytes of scales and minima and 256 of codes.
unsafe impl Stored for Nibbles {
    const FORMAT: Format = Format::Q4_1;
    const AFFINE: bool = true;

    #[inline(always)]
    unsafe fn pair(tile: *const u8, _table: int8x16_t, quad: usize, j: usize) -> Pair {
        // SAFETY: inside the tile by contract.
        unsafe {
            let [low, high] = nibbles(vld1q_u8(tile.add(64 + 64 * quad + 16 * j)));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        }
    }
}

/// The low and the high nibbles of 16 bytes.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
pub(super) unsafe fn nibbles(v: uint8x16_t) -> [uint8x16_t; 2] {
    // SAFETY: by the contract.
    unsafe { [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)] }
}

/// 32 quants: `[half][16]`, so that a quad and the one four further have the same place in both.
///
/// # Safety
/// `x` must point to 32 quants; NEON must be there.
#[inline(always)]
unsafe fn inputs(x: *const i8) -> Pair {
    // SAFETY: by the contract.
    unsafe { [vld1q_s8(x), vld1q_s8(x.add(16))] }
}

/// NEON as every 64-bit Arm has it.
pub(super) struct Plain<S>(PhantomData<S>);

// SAFETY: needs NEON.
unsafe impl<S: Stored> TileDot for Plain<S> {
    type L = NeonLanes;
    /// A tile still packed: its sums and multiplications take the registers, and doing without spills saves
    /// more than decoding once for several tokens would.
    type Codes = (*const u8, int8x16_t);
    const TOKENS: usize = 1;
    const TILE: usize = S::FORMAT.tile_bytes();
    const AFFINE: bool = S::AFFINE;

    #[inline(always)]
    unsafe fn decode(tile: *const u8, table: &[i8; 16]) -> Self::Codes {
        // SAFETY: NEON by contract; the table has 16 bytes.
        (tile, unsafe { vld1q_s8(table.as_ptr()) })
    }

    #[inline(always)]
    unsafe fn dot(codes: &Self::Codes, x: *const i8, _offset: i32) -> NeonLanes {
        // SAFETY: a whole tile and 32 quants by contract.
        unsafe {
            let x = inputs(x);
            // Two lanes for each output.
            let mut sums = [[vdupq_n_s32(0); 2]; 4];
            add_pair::<S, 0>(&mut sums, codes, x);
            add_pair::<S, 1>(&mut sums, codes, x);
            add_pair::<S, 2>(&mut sums, codes, x);
            add_pair::<S, 3>(&mut sums, codes, x);
            NeonLanes::from(sums.map(|s| vcvtq_f32_s32(vpaddq_s32(s[0], s[1]))))
        }
    }
}

/// Adds the products of quads QUAD and QUAD + 4.
///
/// # Safety
/// As [`TileDot::dot`].
#[inline(always)]
unsafe fn add_pair<S: Stored, const QUAD: i32>(
    sums: &mut [[int32x4_t; 2]; 4],
    (tile, table): &(*const u8, int8x16_t),
    x: Pair,
) {
    // SAFETY: by the contract.
    unsafe {
        let x = [broadcast::<QUAD>(x[0]), broadcast::<QUAD>(x[1])];
        for (j, sums) in sums.iter_mut().enumerate() {
            let w = S::pair(*tile, *table, QUAD as usize, j);
            let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
            let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
            let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
            *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
        }
    }
}

/// Quad QUAD of `x`, four times. (The intrinsic would be narrowed to the eight bytes that `vmull_s8` reads,
/// and each `vmull_high_s8` would then become two instructions.)
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn broadcast<const QUAD: i32>(x: int8x16_t) -> int8x16_t {
    let r: int8x16_t;
    // SAFETY: reads and writes nothing but its operands.
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
pub(super) struct Dot<S>(PhantomData<S>);

// SAFETY: needs NEON and the dot-product instructions.
unsafe impl<S: Stored> TileDot for Dot<S> {
    type L = NeonLanes;
    /// `[quad][j]`. These are as many registers as there are, so with several tokens most codes and the
    /// results lie in memory; reading them back costs half of what decoding does.
    type Codes = [[Pair; 4]; 4];
    const TOKENS: usize = 8;
    const TILE: usize = S::FORMAT.tile_bytes();
    const AFFINE: bool = S::AFFINE;

    #[inline(always)]
    unsafe fn decode(tile: *const u8, table: &[i8; 16]) -> Self::Codes {
        // SAFETY: a whole tile by contract; the table has 16 bytes.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut codes = [[[table; 2]; 4]; 4];
            for (quad, row) in codes.iter_mut().enumerate() {
                for (j, pair) in row.iter_mut().enumerate() {
                    *pair = S::pair(tile, table, quad, j);
                }
            }
            codes
        }
    }

    #[inline(always)]
    unsafe fn dot(codes: &Self::Codes, x: *const i8, _offset: i32) -> NeonLanes {
        // SAFETY: 32 quants by contract.
        unsafe {
            let x = inputs(x);
            let mut sums = [vdupq_n_s32(0); 4];
            for half in 0..2 {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<0>(*sum, codes[0][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<1>(*sum, codes[1][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<2>(*sum, codes[2][j][half], x[half]);
                }
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = sdot::<3>(*sum, codes[3][j][half], x[half]);
                }
            }
            NeonLanes::from(sums.map(|s| vcvtq_f32_s32(s)))
        }
    }
}

/// `sum + codes * quad QUAD of x`, four products a lane. (The intrinsic is not stable yet.)
///
/// # Safety
/// The dot-product instructions must be there.
#[inline(always)]
pub(super) unsafe fn sdot<const QUAD: i32>(mut sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes nothing but its operands; the feature by the contract.
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
pub(super) struct DotOrMatrix<S>(PhantomData<S>);

impl<S: Stored> Dots for DotOrMatrix<S> {
    type One = Dot<S>;
    type Many = Matrix<S>;
}

/// With the matrix instructions (`FEAT_I8MM`).
pub(super) struct Matrix<S>(PhantomData<S>);

// SAFETY: needs NEON and the matrix instructions.
unsafe impl<S: Stored> TileDot for Matrix<S> {
    type L = NeonLanes;
    /// `[eight][two]`: inputs 8 * eight.. of two outputs from 2 * two.
    type Codes = [[int8x16_t; 8]; 4];
    const TOKENS: usize = 16;
    const TILE: usize = S::FORMAT.tile_bytes();
    const AFFINE: bool = S::AFFINE;
    /// Half of the registers hold the sums of so many.
    const TOGETHER: usize = 4;

    #[inline(always)]
    unsafe fn decode(tile: *const u8, table: &[i8; 16]) -> Self::Codes {
        // SAFETY: a whole tile by contract; the table has 16 bytes.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let mut codes = [[table; 8]; 4];
            for eight in 0..2 {
                for j in 0..4 {
                    let (a, b) = (S::pair(tile, table, 2 * eight, j), S::pair(tile, table, 2 * eight + 1, j));
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
    unsafe fn dot(codes: &Self::Codes, x: *const i8, offset: i32) -> NeonLanes {
        // SAFETY: by the contract.
        unsafe { Self::dots(codes, &[x; 2], &[offset; 2])[0] }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize>(codes: &Self::Codes, x: &[*const i8; N], _offsets: &[i32; N]) -> [NeonLanes; N] {
        // SAFETY: 32 quants of every token by contract; tokens come in twos.
        unsafe {
            let (zero, mut dots) = (vdupq_n_s32(0), [NeonLanes::splat(0.0); N]);
            // `[two tokens][eight]`, and `[two tokens][two outputs]`.
            let (mut pairs, mut sums) = ([[vdupq_n_s8(0); 4]; 2], [[zero; 8]; 2]);
            for p in 0..N / 2 {
                for half in 0..2 {
                    let a = vreinterpretq_s64_s8(vld1q_s8(x[2 * p].add(16 * half)));
                    let b = vreinterpretq_s64_s8(vld1q_s8(x[2 * p + 1].add(16 * half)));
                    pairs[p][2 * half] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
                    pairs[p][2 * half + 1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
                }
            }
            // Not a loop: its turns would find their inputs in memory.
            add_eight::<N, 0>(&mut sums, codes, &pairs);
            add_eight::<N, 1>(&mut sums, codes, &pairs);
            add_eight::<N, 2>(&mut sums, codes, &pairs);
            add_eight::<N, 3>(&mut sums, codes, &pairs);
            // A sum has two outputs of the first token, then those of the second.
            for p in 0..N / 2 {
                let (mut a, mut b) = ([vdupq_n_f32(0.0); 4], [vdupq_n_f32(0.0); 4]);
                for j in 0..4 {
                    let low = vreinterpretq_s64_s32(sums[p][2 * j]);
                    let high = vreinterpretq_s64_s32(sums[p][2 * j + 1]);
                    a[j] = vcvtq_f32_s32(vreinterpretq_s32_s64(vzip1q_s64(low, high)));
                    b[j] = vcvtq_f32_s32(vreinterpretq_s32_s64(vzip2q_s64(low, high)));
                }
                (dots[2 * p], dots[2 * p + 1]) = (NeonLanes::from(a), NeonLanes::from(b));
            }
            dots
        }
    }
}

/// Adds the products of inputs 8 * EIGHT.. of `N` tokens.
///
/// # Safety
/// The matrix instructions must be there.
#[inline(always)]
unsafe fn add_eight<const N: usize, const EIGHT: usize>(
    sums: &mut [[int32x4_t; 8]; 2],
    codes: &[[int8x16_t; 8]; 4],
    pairs: &[[int8x16_t; 4]; 2],
) {
    for two in 0..8 {
        for p in 0..N / 2 {
            // SAFETY: by the contract.
            sums[p][two] = unsafe { smmla(sums[p][two], pairs[p][EIGHT], codes[EIGHT][two]) };
        }
    }
}

/// `sum + a * b`, two rows of eight by two columns of eight. (The intrinsic is not stable yet.)
///
/// # Safety
/// The matrix instructions must be there.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes nothing but its operands; the feature by the contract.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
