//! The loops of the matrix kernels, once for every instruction set. The contract is in the parent module.

use super::RawInput;
use super::prefetch::{Scout, Soon};
use super::tiles::{Gather, Run, Tiles};
use crate::format::{BLOCK, Format, TILE_ROWS};
use crate::simd::Lanes;
use core::marker::PhantomData;
use core::ops::Range;

/// The exact integer dot products of one tile: the only part an instruction set writes itself.
///
/// # Safety
/// Methods may only be called where the implementation's target features are there; `tile` must point to a
/// whole tile of the format and `x` to 32 quants.
pub(super) unsafe trait TileDot {
    /// The float lanes that go with it.
    type L: Lanes;
    /// A tile's codes, decoded once for several tokens.
    type Codes: Copy;
    /// Tokens worth keeping in registers at once (a power of two up to 16).
    const TOKENS: usize;
    /// Bytes of a tile.
    const TILE: usize;
    /// Whether a minimum per output stands behind the scales.
    const AFFINE: bool = false;
    /// Tokens that [`TileDot::dots`] takes at once (1, 2 or 4).
    const TOGETHER: usize = 1;

    /// Reads the codes of a tile.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn decode(tile: *const u8, table: &[i8; 16]) -> Self::Codes;

    /// For each of 16 outputs the dot product of its 32 codes with `x`, as (exact) floats; `offset` is
    /// -128 times the sum of `x`, for implementations that shift the weights by 128.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn dot(codes: &Self::Codes, x: *const i8, offset: i32) -> Self::L;

    /// The same for `N` tokens, [`TileDot::TOGETHER`] or fewer.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn dots<const N: usize>(codes: &Self::Codes, x: &[*const i8; N], offsets: &[i32; N]) -> [Self::L; N] {
        // SAFETY: by the contract.
        unsafe {
            let mut dots = [Self::L::splat(0.0); N];
            for i in 0..N {
                dots[i] = Self::dot(codes, x[i], offsets[i]);
            }
            dots
        }
    }
}

/// The dot products for one token and for several, where these are not made in the same way.
pub(super) trait Dots {
    /// For one.
    type One: TileDot;
    /// For several.
    type Many: TileDot<L = <Self::One as TileDot>::L>;
}

impl<D: TileDot> Dots for D {
    type One = D;
    type Many = D;
}

/// Sum of a block's quants from its stored offset (exact: a multiple of 128 below 2^24).
#[inline(always)]
pub(super) fn block_sum(offset: i32) -> f32 {
    offset as f32 * (-1.0 / 128.0)
}

/// The product of a panel, by its kind of numbers.
///
/// # Safety
/// [`Panel::add`] may only be called where the implementation's target features are there.
pub(super) unsafe trait Panel {
    /// The float lanes that go with it.
    type L: Lanes;
    /// Bytes of a tile.
    const TILE: usize;

    /// Some k-blocks' part of a panel times `n` tokens; those behind the first add to `out`.
    ///
    /// # Safety
    /// `tiles` must hand out whole tiles of the format for all of `kbs`, the blocks of `x`; `x` must have `n` rows;
    /// `out` must be valid for 16 floats at each multiple of `stride`.
    unsafe fn add<S: Tiles<Self::L>>(
        table: &[i8; 16],
        tiles: &S,
        x: &RawInput,
        kbs: Range<usize>,
        n: usize,
        out: *mut f32,
        stride: usize,
    );
}

/// Panel times `n` tokens.
///
/// # Safety
/// As [`Panel::add`].
#[inline(always)]
pub(super) unsafe fn gemm<P: Panel, S: Tiles<P::L>>(
    table: &[i8; 16],
    tiles: &S,
    x: &RawInput,
    n: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: by the caller.
    unsafe { P::add(table, tiles, x, 0..x.width / BLOCK, n, out, stride) }
}

/// Tiles at most that are put together at a time, then read by all tokens.
const RUN: usize = 8;
/// Bytes of the stack for them; of large tiles fewer fit.
pub(super) const ROOM: usize = RUN * Format::Q8_0.tile_bytes();

/// [`gemm`] of tiles that must be put together first.
///
/// # Safety
/// As [`gemm`], with [`ROOM`] bytes at `room`, nobody else's.
#[inline(always)]
pub(super) unsafe fn gemm_gathered<P: Panel, G: Gather<P::L>>(
    table: &[i8; 16],
    mut gather: G,
    x: &RawInput,
    n: usize,
    out: *mut f32,
    stride: usize,
    room: *mut u8,
) {
    let (blocks, most) = (x.width / BLOCK, const { if ROOM / P::TILE < RUN { ROOM / P::TILE } else { RUN } });
    for first in (0..blocks).step_by(most) {
        let run = most.min(blocks - first);
        // SAFETY: the run's tiles, in their room; the rest by the caller.
        unsafe {
            gather.run(run, n == 1, room);
            P::add(table, &Run::new(room, P::TILE), x, first..first + run, n, out, stride);
        }
    }
}

/// Integers.
pub(super) struct Integers<D>(PhantomData<D>);

// SAFETY: as `D`.
unsafe impl<D: Dots> Panel for Integers<D> {
    type L = <D::One as TileDot>::L;
    const TILE: usize = D::One::TILE;

    #[inline(always)]
    unsafe fn add<S: Tiles<Self::L>>(
        table: &[i8; 16],
        tiles: &S,
        x: &RawInput,
        kbs: Range<usize>,
        n: usize,
        out: *mut f32,
        stride: usize,
    ) {
        let mut t = 0;
        // SAFETY: `t + step <= n` before each call; the rest by the caller.
        unsafe {
            while D::Many::TOKENS >= 16 && n - t >= 16 {
                add_int::<D::Many, S, 16>(table, tiles, x, kbs.clone(), t, out, stride);
                t += 16;
            }
            while D::Many::TOKENS >= 8 && n - t >= 8 {
                add_int::<D::Many, S, 8>(table, tiles, x, kbs.clone(), t, out, stride);
                t += 8;
            }
            while D::Many::TOKENS >= 4 && n - t >= 4 {
                add_int::<D::Many, S, 4>(table, tiles, x, kbs.clone(), t, out, stride);
                t += 4;
            }
            while D::Many::TOKENS >= 2 && n - t >= 2 {
                add_int::<D::Many, S, 2>(table, tiles, x, kbs.clone(), t, out, stride);
                t += 2;
            }
            while n - t >= 1 {
                add_int::<D::One, S, 1>(table, tiles, x, kbs.clone(), t, out, stride);
                t += 1;
            }
        }
    }
}

/// What `T` tokens from `t` have so far: nothing before the first k-block.
///
/// # Safety
/// `out` must be valid for them; `L`'s features must be there.
#[inline(always)]
unsafe fn so_far<L: Lanes, const T: usize>(first: usize, t: usize, out: *const f32, stride: usize) -> [L; T] {
    // SAFETY: by the contract.
    unsafe {
        let mut acc = [L::splat(0.0); T];
        if first > 0 {
            for (i, a) in acc.iter_mut().enumerate() {
                *a = L::load(out.add((t + i) * stride));
            }
        }
        acc
    }
}

/// `T` tokens from `t`: accumulators in registers, each tile decoded once.
///
/// # Safety
/// As [`Panel::add`], with `t + T` rows.
#[inline(always)]
unsafe fn add_int<D: TileDot, S: Tiles<D::L>, const T: usize>(
    table: &[i8; 16],
    tiles: &S,
    x: &RawInput,
    kbs: Range<usize>,
    t: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: by the contract.
    unsafe {
        let mut acc = so_far::<D::L, T>(kbs.start, t, out, stride);
        let mut tiles = *tiles;
        for kb in kbs {
            let tile = tiles.next(T == 1);
            let codes = D::decode(tile, table);
            let scale = D::L::load_f16(tile.cast());
            for i in (0..T).step_by(const { together::<D>(T) }) {
                let acc = acc.as_mut_ptr().add(i);
                match const { together::<D>(T) } {
                    4 => add_dots::<D, 4>(&codes, tile, scale, x, kb, t + i, acc),
                    2 => add_dots::<D, 2>(&codes, tile, scale, x, kb, t + i, acc),
                    _ => add_dots::<D, 1>(&codes, tile, scale, x, kb, t + i, acc),
                }
            }
        }
        for (i, a) in acc.iter().enumerate() {
            a.store(out.add((t + i) * stride));
        }
    }
}

/// Of `tokens`, those taken at once.
const fn together<D: TileDot>(tokens: usize) -> usize {
    if D::TOGETHER < tokens { D::TOGETHER } else { tokens }
}

/// Adds one tile's products, `N` tokens from `t`.
///
/// # Safety
/// As [`add_int`], with `N` accumulators at `acc`.
#[inline(always)]
unsafe fn add_dots<D: TileDot, const N: usize>(
    codes: &D::Codes,
    tile: *const u8,
    scale: D::L,
    x: &RawInput,
    kb: usize,
    t: usize,
    acc: *mut D::L,
) {
    // SAFETY: by the contract.
    unsafe {
        let blocks = x.width / BLOCK;
        let (mut quants, mut offsets) = ([core::ptr::null(); N], [0; N]);
        for i in 0..N {
            quants[i] = x.quants.add((t + i) * x.width + kb * BLOCK);
            offsets[i] = *x.offsets.add((t + i) * blocks + kb);
        }
        let dots = D::dots(codes, &quants, &offsets);
        for i in 0..N {
            let (acc, sx) = (&mut *acc.add(i), *x.scales.add((t + i) * blocks + kb));
            *acc = acc.add(dots[i].mul(scale.mul(D::L::splat(sx))));
            if D::AFFINE {
                let min = D::L::load_f16(tile.cast::<u16>().add(TILE_ROWS));
                *acc = acc.add(min.mul(D::L::splat(sx * block_sum(offsets[i]))));
            }
        }
    }
}

/// Adds one k-block's products to a run of panels, one token.
///
/// # Safety
/// `tiles` must hold `n` whole tiles, `y` 16 * n floats, `x` a block `kb`; `D`'s features must be there. `soon`
/// is what [`Scout::new`] wants.
#[inline(always)]
pub(super) unsafe fn columns_int<D: TileDot>(
    table: &[i8; 16],
    tiles: *const u8,
    soon: Soon,
    n: usize,
    x: &RawInput,
    kb: usize,
    y: *mut f32,
) {
    // SAFETY: by the contract.
    unsafe {
        let (q, sx, offset) = (x.quants.add(kb * BLOCK), *x.scales.add(kb), *x.offsets.add(kb));
        let (sum, sx_lanes) = (sx * block_sum(offset), D::L::splat(sx));
        let mut scout = Scout::new(soon, n, D::TILE);
        for p in 0..n {
            let tile = tiles.add(p * D::TILE);
            scout.next::<D::L>();
            let dot = D::dot(&D::decode(tile, table), q, offset);
            let scale = D::L::load_f16(tile.cast());
            let at = y.add(p * TILE_ROWS);
            let mut acc = D::L::load(at).add(dot.mul(scale.mul(sx_lanes)));
            if D::AFFINE {
                let min = D::L::load_f16(tile.cast::<u16>().add(TILE_ROWS));
                acc = acc.add(min.mul(D::L::splat(sum)));
            }
            acc.store(at);
        }
    }
}

/// An element that float tiles and the KV cache are made of.
///
/// # Safety
/// `load` as [`Lanes::load`].
pub(super) unsafe trait Element: Copy {
    /// Reads 16.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn load<L: Lanes>(p: *const Self) -> L;
}

// SAFETY: reads 16 elements at `p`.
unsafe impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const f32) -> L {
        // SAFETY: by the contract.
        unsafe { L::load(p) }
    }
}

// SAFETY: reads 16 elements at `p`.
unsafe impl Element for half::f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const half::f16) -> L {
        // SAFETY: by the contract; f16 is a transparent u16.
        unsafe { L::load_f16(p.cast()) }
    }
}

/// `acc[t] += sum over k of w[k * step..][..16] * x[t][k]`, in the order of k: the inner loop of float
/// matrices and of both products of attention.
///
/// # Safety
/// `w` must be valid for 16 elements at each multiple of `step` below `n`, each `x[t]` for `n` floats; `L`'s
/// features must be there.
#[inline(always)]
pub(super) unsafe fn accumulate<L: Lanes, E: Element, const T: usize>(
    acc: &mut [L; T],
    w: *const E,
    step: usize,
    n: usize,
    x: &[*const f32; T],
) {
    for k in 0..n {
        // SAFETY: by the contract.
        unsafe {
            let row: L = E::load(w.add(k * step));
            for t in 0..T {
                acc[t] = acc[t].add(row.mul(L::splat(*x[t].add(k))));
            }
        }
    }
}

/// Floats.
pub(super) struct Floats<L, E>(PhantomData<(L, E)>);

// SAFETY: as `L`.
unsafe impl<L: Lanes, E: Element> Panel for Floats<L, E> {
    type L = L;
    const TILE: usize = TILE_ROWS * BLOCK * size_of::<E>();

    #[inline(always)]
    unsafe fn add<S: Tiles<L>>(
        _table: &[i8; 16],
        tiles: &S,
        x: &RawInput,
        kbs: Range<usize>,
        n: usize,
        out: *mut f32,
        stride: usize,
    ) {
        let mut t = 0;
        // SAFETY: `t + step <= n` before each call; the rest by the caller.
        unsafe {
            while n - t >= 4 {
                add_float::<L, E, S, 4>(tiles, x, kbs.clone(), t, out, stride);
                t += 4;
            }
            while n - t >= 1 {
                add_float::<L, E, S, 1>(tiles, x, kbs.clone(), t, out, stride);
                t += 1;
            }
        }
    }
}

/// `T` tokens from `t`.
///
/// # Safety
/// As [`Panel::add`], with `t + T` rows.
#[inline(always)]
unsafe fn add_float<L: Lanes, E: Element, S: Tiles<L>, const T: usize>(
    tiles: &S,
    x: &RawInput,
    kbs: Range<usize>,
    t: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: by the contract.
    unsafe {
        let mut acc = so_far::<L, T>(kbs.start, t, out, stride);
        let mut tiles = *tiles;
        for kb in kbs {
            let rows: [*const f32; T] = core::array::from_fn(|i| x.values.add((t + i) * x.width + kb * BLOCK));
            accumulate::<L, E, T>(&mut acc, tiles.next(T == 1).cast(), TILE_ROWS, BLOCK, &rows);
        }
        for (i, a) in acc.iter().enumerate() {
            a.store(out.add((t + i) * stride));
        }
    }
}

/// Adds one k-block's products to a run of panels, float, one token.
///
/// # Safety
/// As [`columns_int`].
#[inline(always)]
pub(super) unsafe fn columns_float<L: Lanes, E: Element>(
    _table: &[i8; 16],
    tiles: *const u8,
    soon: Soon,
    n: usize,
    x: &RawInput,
    kb: usize,
    y: *mut f32,
) {
    // SAFETY: by the contract.
    unsafe {
        let rows = [x.values.add(kb * BLOCK)];
        let mut scout = Scout::new(soon, n, TILE_ROWS * BLOCK * size_of::<E>());
        for p in 0..n {
            scout.next::<L>();
            let tile = tiles.cast::<E>().add(p * TILE_ROWS * BLOCK);
            let at = y.add(p * TILE_ROWS);
            let mut acc = [L::load(at)];
            accumulate::<L, E, 1>(&mut acc, tile, TILE_ROWS, BLOCK, &rows);
            acc[0].store(at);
        }
    }
}
