//! NEON, in two levels. A register of codes holds four inputs of four outputs, so with the dot-product
//! instruction `sdot` one instruction takes a register of weights times four inputs into four sums.
//! Without it bytes are multiplied to 16 bits, where there is room for exactly two products (2 * 128 * 127 =
//! 32512): two are added there before a pairwise sum widens to 32 bits.
//!
//! Codes come in pairs of quads q and q + 4: the two that share the bytes of nibbles, and the two that plain
//! NEON adds in 16 bits.

use super::matmul::TileDot;
use crate::format::Format;
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
            let [low, high] = nibbles(tile.add(32 + 64 * quad + 16 * j));
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
            let [low, high] = nibbles(tile.add(64 + 64 * quad + 16 * j));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        }
    }
}

/// The low and the high nibbles of 16 bytes.
///
/// # Safety
/// `packed` must point to 16 bytes; NEON must be there.
#[inline(always)]
unsafe fn nibbles(packed: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: by the contract.
    unsafe {
        let v = vld1q_u8(packed);
        [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)]
    }
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
unsafe fn sdot<const QUAD: i32>(mut sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
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
