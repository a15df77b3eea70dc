//! The loops of the matrix kernels whose blocks run along the inputs, once for every instruction set. The contract is in
//! the parent module.
//!
//! ```text
//! many tokens: for every run of tiles of the panel, in the order of the inputs:
//!     decode their codes once
//!     for every whole group of tokens whose sums fit into registers:
//!         for every tile, for each token: sums[t] += dot(codes, x[t]) * (scale * scale of x[t])
//! the others, and few tokens (groups of T = 8, 4, 2, 1): each tile is decoded and used at once
//! ```

use super::call::{Call, Scale};
use super::codes::Codes;
use super::gather::{Gather, GatheredInputs, GatheredRows, InputCodes, Run, StoredTiles, Tiles};
use super::heads::{Heads, read_supers};
use super::prefetch::Prefetcher;
use super::tile_dot::{Dots, Tile, TileDot};
use crate::format::{BLOCK, Format, SUPER, TILE_ROWS};
use crate::simd::{Lanes, Proof};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;

/// The product of a panel, by its kind of numbers.
pub(super) trait Panel {
    /// The float lanes of its instruction set.
    type L: Lanes;
    /// The heads that tiles begin with.
    type H: Heads;
    /// Bytes of a tile.
    const TILE: usize;

    /// Computes the part of a panel's product that comes from k-blocks `kbs`. K-blocks after the first add to the
    /// outputs. In formats with super-blocks, `kbs` begins with one.
    ///
    /// # Safety
    /// `tiles` must give whole tiles of the format for all of `kbs`, and the numbers of their super-blocks; the rest of
    /// `call` must be as a [`super::call::MatrixKernel`] demands, for 16 outputs.
    unsafe fn add<S: Tiles<Self::L>>(isa: Proof<Self::L>, call: &Call, tiles: &S, kbs: Range<usize>);
}

/// The first panel of a call's stored tiles.
///
/// # Safety
/// As [`super::call::MatrixKernel`], for 16 outputs.
#[inline(always)]
pub(super) unsafe fn gemm<P: Panel>(isa: Proof<P::L>, call: &Call) {
    let tiles = StoredTiles::<P>::new(call);
    // SAFETY: the caller's call has a tile for every block of `x`.
    unsafe { P::add(isa, call, &tiles, 0..call.x.blocks()) }
}

/// Any 16 outputs of a matrix of lines, one for each.
///
/// # Safety
/// As [`super::call::MatrixKernel`], for 16 outputs.
#[inline(always)]
pub(super) unsafe fn gemm_rows<P: Panel, C: Codes>(isa: Proof<P::L>, call: &Call) {
    let (rows, prefetch) = call.rows();
    // SAFETY: the caller's call has lines with as many blocks as a row of `x`.
    unsafe { gemm_gathered::<P, _>(isa, call, GatheredRows::<C>::new(rows, prefetch, call.x.blocks())) }
}

/// A panel of an integer matrix stored by input.
///
/// # Safety
/// As [`super::call::MatrixKernel`], for 16 outputs.
#[inline(always)]
pub(super) unsafe fn gemm_inputs<P: Panel, C: InputCodes>(isa: Proof<P::L>, call: &Call) {
    let (lines, _, panel) = call.inputs();
    // SAFETY: the caller's call has a line for every input of `x`, and a panel of their outputs.
    unsafe { gemm_gathered::<P, _>(isa, call, GatheredInputs::<P::H, C>::new(lines, panel.start)) }
}

/// The most tiles that are put together at a time and then read by all tokens: those of a super-block, in formats with
/// super-blocks.
const RUN: usize = SUPER;
/// Bytes of the stack for these tiles; fewer fit where tiles are larger.
const ROOM: usize = RUN * Format::Q8_0.tile_bytes();

/// [`gemm`] of tiles that must be put together first.
///
/// # Safety
/// As [`super::call::MatrixKernel`], with tiles for all of `x` in `gather`.
#[inline(always)]
unsafe fn gemm_gathered<P: Panel, G: Gather>(isa: Proof<P::L>, call: &Call, mut gather: G) {
    let mut room = MaybeUninit::<[u8; ROOM]>::uninit();
    let room = room.as_mut_ptr().cast();
    let (blocks, most) = (call.x.blocks(), const { if ROOM / P::TILE < RUN { ROOM / P::TILE } else { RUN } });
    const { assert!(P::H::SUPERS == 0 || ROOM / P::TILE >= RUN) };
    for first in (0..blocks).step_by(most) {
        let run = most.min(blocks - first);
        // SAFETY: `run` tiles fit in `room` and are written before they are read; the caller's `gather` has tiles for
        // all of `x`.
        unsafe {
            let supers = gather.run(isa, run, call.tokens == 1, room);
            P::add(isa, call, &Run::new(room, P::TILE, supers), first..first + run);
        }
    }
}

/// Products of integers.
pub(super) struct Integers<D>(PhantomData<D>);

impl<D: Dots> Panel for Integers<D> {
    type L = D::L;
    type H = <D::One as TileDot>::H;
    const TILE: usize = size_of::<Tile<Self::H, <D::One as TileDot>::S>>();

    #[inline(always)]
    unsafe fn add<S: Tiles<Self::L>>(isa: Proof<Self::L>, call: &Call, tiles: &S, kbs: Range<usize>) {
        let (mut t, n, group) = (0, call.tokens, const { D::Many::TOKENS });
        // SAFETY: `tiles` and `kbs` are the caller's; a token is computed here if it is below `n`, the number of tokens
        // that the caller's operands have.
        unsafe {
            if const { D::Many::MANY < usize::MAX } && n >= D::Many::MANY {
                t = match const { D::Many::RUN } {
                    8 => add_many::<D::Many, S, 8>(isa, call, tiles, kbs.clone()),
                    _ => add_many::<D::Many, S, 1>(isa, call, tiles, kbs.clone()),
                };
            }
            if const { D::Many::MANY > D::Many::TOKENS } {
                while group >= 8 && n - t >= 8 {
                    add_few::<D::Many, S, 8>(isa, call, tiles, kbs.clone(), t);
                    t += 8;
                }
                while group >= 4 && n - t >= 4 {
                    add_few::<D::Many, S, 4>(isa, call, tiles, kbs.clone(), t);
                    t += 4;
                }
                if group >= 2 && n - t >= 2 {
                    add_few::<D::Many, S, 2>(isa, call, tiles, kbs.clone(), t);
                    t += 2;
                }
            }
            while n - t >= 1 {
                add_few::<D::One, S, 1>(isa, call, tiles, kbs.clone(), t);
                t += 1;
            }
        }
    }
}

/// The sums of `T` tokens from `t` so far: zero before the first k-block, else the outputs.
///
/// # Safety
/// The outputs of these tokens must be readable.
#[inline(always)]
pub(super) unsafe fn sums_so_far<L: Lanes, const T: usize>(
    isa: Proof<L>,
    call: &Call,
    first: usize,
    t: usize,
) -> [L; T] {
    let mut acc = [L::splat(isa, 0.0); T];
    if first > 0 {
        for (i, a) in acc.iter_mut().enumerate() {
            // SAFETY: `i` is below `T`, so these are outputs of one of the caller's tokens.
            *a = L::load(isa, unsafe { &*call.out.add((t + i) * call.stride).cast() });
        }
    }
    acc
}

/// Stores the sums of `T` tokens from `t`.
///
/// # Safety
/// The outputs of these tokens must be writable.
#[inline(always)]
pub(super) unsafe fn store_sums<L: Lanes, const T: usize>(acc: &[L; T], call: &Call, t: usize) {
    for (i, a) in acc.iter().enumerate() {
        // SAFETY: `i` is below `T`, so these are outputs of one of the caller's tokens.
        a.store(unsafe { &mut *call.out.add((t + i) * call.stride).cast() });
    }
}

/// A tile with its codes.
struct Decoded<'a, D: TileDot> {
    codes: D::Codes<'a>,
    scales: D::L,
    minima: D::L,
}

impl<'a, D: TileDot> Decoded<'a, D> {
    /// Decodes a tile; `supers` are the numbers of its super-block.
    #[inline(always)]
    fn new(isa: Proof<D::L>, tile: &'a Tile<D::H, D::S>, supers: &[D::L; 2], table: &[i8; 16]) -> Self {
        let codes = D::decode(isa, tile, table);
        Decoded { codes, scales: tile.heads.scales(isa, supers), minima: tile.heads.minima(isa, supers) }
    }
}

/// The next tile, which is k-block `kb`; `supers` become the numbers of its super-block.
///
/// # Safety
/// `tiles` must give one more whole tile, and the numbers of its super-block.
#[inline(always)]
unsafe fn next_tile<'a, D: TileDot, S: Tiles<D::L>>(
    isa: Proof<D::L>,
    (tiles, supers): (&mut S, &mut [D::L; 2]),
    kb: usize,
) -> &'a Tile<D::H, D::S> {
    // SAFETY: the caller gives a whole tile, whose type consists of bytes alone, and the numbers of a super-block.
    unsafe {
        if D::H::SUPERS > 0 && kb.is_multiple_of(SUPER) {
            *supers = read_supers::<D::L, D::H>(isa, tiles.supers());
        }
        &*tiles.next().cast()
    }
}

/// A tile, the numbers of its super-block, and the integers that 4-bit codes stand for.
type Operand<'a, D> = (&'a Tile<<D as TileDot>::H, <D as TileDot>::S>, &'a [<D as TileDot>::L; 2], &'a [i8; 16]);

/// Adds a tile's products for token `t`.
///
/// # Safety
/// Token `t` must have a row with a k-block `kb`.
#[inline(always)]
unsafe fn add_dot<D: TileDot>(
    isa: Proof<D::L>,
    call: &Call,
    (tile, supers, table): Operand<D>,
    kb: usize,
    t: usize,
    acc: D::L,
) -> D::L {
    let x = &call.x;
    let block = t * x.blocks() + kb;
    // SAFETY: the caller gives token `t` a row with this block.
    let (quants, offset, scale) =
        unsafe { (&*x.quants.add(t * x.width + kb * BLOCK).cast(), *x.offsets.add(block), &*x.scales.add(block)) };
    let dot = D::dot_once(isa, tile, table, quants, offset);
    add_scaled::<D>(isa, acc, dot, (tile.heads.scales(isa, supers), tile.heads.minima(isa, supers)), scale)
}

/// `acc + dot * (scales * the block's scale) + minima * (the block's scale times its sum)`.
#[inline(always)]
fn add_scaled<D: TileDot>(
    isa: Proof<D::L>,
    acc: D::L,
    dot: D::L,
    (scales, minima): (D::L, D::L),
    scale: &Scale,
) -> D::L {
    let acc = acc.add(dot.mul(scales.mul(D::L::splat(isa, scale[0]))));
    if D::H::AFFINE { acc.add(minima.mul(D::L::splat(isa, scale[1]))) } else { acc }
}

/// `T` tokens from `t`: each tile is decoded and used at once, and the sums stay in registers.
///
/// # Safety
/// As [`Panel::add`], with rows for tokens below `t + T`.
#[inline(always)]
unsafe fn add_few<D: TileDot, S: Tiles<D::L>, const T: usize>(
    isa: Proof<D::L>,
    call: &Call,
    tiles: &S,
    kbs: Range<usize>,
    t: usize,
) {
    // A local copy, so that the compiler knows that stores to the outputs do not change it.
    let table = *call.table;
    // SAFETY: the caller gives a whole tile for every k-block, and rows and outputs for these tokens.
    unsafe {
        let mut acc = sums_so_far::<D::L, T>(isa, call, kbs.start, t);
        let (mut tiles, mut supers) = (*tiles, [D::L::splat(isa, 0.0); 2]);
        for kb in kbs {
            let tile = next_tile::<D, S>(isa, (&mut tiles, &mut supers), kb);
            if t == 0 {
                tiles.prefetch(isa);
            }
            if const { T == 1 } {
                acc[0] = add_dot::<D>(isa, call, (tile, &supers, &table), kb, t, acc[0]);
            } else {
                add_tile::<D, T>(isa, call, &Decoded::new(isa, tile, &supers, &table), kb, t, &mut acc);
            }
        }
        store_sums(&acc, call, t);
    }
}

/// Many tokens: `RUN` tiles are decoded at a time, and then read by all tokens, [`TileDot::TOKENS`] at a time. Returns
/// how many were computed: fewer than that are left.
///
/// # Safety
/// As [`Panel::add`].
#[inline(always)]
unsafe fn add_many<D: TileDot, S: Tiles<D::L>, const RUN: usize>(
    isa: Proof<D::L>,
    call: &Call,
    tiles: &S,
    kbs: Range<usize>,
) -> usize {
    // A local copy, as in `add_few`.
    let table = *call.table;
    let (mut tiles, mut supers) = (*tiles, [D::L::splat(isa, 0.0); 2]);
    let (n, mut t) = (call.tokens, 0);
    for first in kbs.clone().step_by(RUN) {
        let mut run = [const { MaybeUninit::<Decoded<D>>::uninit() }; RUN];
        let blocks = RUN.min(kbs.end - first);
        // SAFETY: the caller gives a whole tile for every k-block, and rows and outputs for `n` tokens, below which
        // tokens stay; the first `blocks` tiles of `run` are written before they are read.
        unsafe {
            for (i, place) in run.iter_mut().enumerate().take(blocks) {
                let tile = next_tile::<D, S>(isa, (&mut tiles, &mut supers), first + i);
                place.write(Decoded::new(isa, tile, &supers, &table));
            }
            let run = core::slice::from_raw_parts(run.as_ptr().cast::<Decoded<D>>(), blocks);
            t = 0;
            while n - t >= D::TOKENS {
                match const { D::TOKENS } {
                    8 => add_run::<D, S, 8>(isa, call, (run, &mut tiles), first, t),
                    4 => add_run::<D, S, 4>(isa, call, (run, &mut tiles), first, t),
                    _ => add_run::<D, S, 2>(isa, call, (run, &mut tiles), first, t),
                }
                t += D::TOKENS;
            }
        }
    }
    t
}

/// Adds the products of tiles from k-block `first` on to the sums of `T` tokens from `t`. The first tokens prefetch a
/// later tile for each of these, so that memory has all of their products' time.
///
/// # Safety
/// Tokens below `t + T` must have rows with these k-blocks, and outputs.
#[inline(always)]
unsafe fn add_run<D: TileDot, S: Tiles<D::L>, const T: usize>(
    isa: Proof<D::L>,
    call: &Call,
    (run, tiles): (&[Decoded<D>], &mut S),
    first: usize,
    t: usize,
) {
    // SAFETY: the caller gives rows and outputs for these tokens.
    unsafe {
        let mut acc = sums_so_far::<D::L, T>(isa, call, first, t);
        for (i, tile) in run.iter().enumerate() {
            if t == 0 {
                tiles.prefetch(isa);
            }
            add_tile::<D, T>(isa, call, tile, first + i, t, &mut acc);
        }
        store_sums(&acc, call, t);
    }
}

/// How many of `tokens` are computed at once.
const fn at_once<D: TileDot>(tokens: usize) -> usize {
    if D::AT_ONCE < tokens { D::AT_ONCE } else { tokens }
}

/// Adds one tile's products, `T` tokens from `t`.
///
/// # Safety
/// Tokens below `t + T` must have rows with a k-block `kb`.
#[inline(always)]
unsafe fn add_tile<D: TileDot, const T: usize>(
    isa: Proof<D::L>,
    call: &Call,
    tile: &Decoded<D>,
    kb: usize,
    t: usize,
    acc: &mut [D::L; T],
) {
    // SAFETY: the caller's promise is the one that is needed.
    unsafe {
        match const { at_once::<D>(T) } {
            4 => add_dots::<D, T, 4>(isa, call, tile, kb, t, acc),
            2 => add_dots::<D, T, 2>(isa, call, tile, kb, t, acc),
            _ => add_dots::<D, T, 1>(isa, call, tile, kb, t, acc),
        }
    }
}

/// Adds one tile's products, `T` tokens from `t`, `N` at once.
///
/// # Safety
/// Tokens below `t + T` must have rows with a k-block `kb`.
#[inline(always)]
unsafe fn add_dots<D: TileDot, const T: usize, const N: usize>(
    isa: Proof<D::L>,
    call: &Call,
    tile: &Decoded<D>,
    kb: usize,
    t: usize,
    acc: &mut [D::L; T],
) {
    let (x, blocks) = (&call.x, call.x.blocks());
    for (group, acc) in acc.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let t = t + group * N;
        // SAFETY: tokens below `t + T` have rows with a block `kb`, and `N` is at most `T`.
        unsafe {
            let (mut quants, mut offsets) = ([&[0; BLOCK]; N], [[0; 2]; N]);
            for i in 0..N {
                quants[i] = &*x.quants.add((t + i) * x.width + kb * BLOCK).cast();
                offsets[i] = *x.offsets.add((t + i) * blocks + kb);
            }
            let dots = if N == 1 {
                [D::dot(isa, &tile.codes, quants[0], offsets[0]); N]
            } else {
                D::dots(isa, &tile.codes, &quants, &offsets)
            };
            for i in 0..N {
                let scale = &*x.scales.add((t + i) * blocks + kb);
                acc[i] = add_scaled::<D>(isa, acc[i], dots[i], (tile.scales, tile.minima), scale);
            }
        }
    }
}

/// Adds the products of a call's first k-block to panels.
///
/// ```text
/// for every panel: decode the codes of its tile
///     for each token: outputs += dot(codes, x) * (scale * scale of x)
/// ```
///
/// # Safety
/// As [`super::call::MatrixKernel`], for 16 outputs of every tile.
#[inline(always)]
pub(super) unsafe fn columns_int<D: Dots>(isa: Proof<D::L>, call: &Call) {
    // SAFETY: the caller meets the requirements of a matrix kernel, which are those of `add_columns` too.
    unsafe {
        if call.tokens == 1 {
            add_columns::<D::One, true>(isa, call);
        } else {
            add_columns::<D::Many, false>(isa, call);
        }
    }
}

/// [`columns_int`], for one token or for several.
///
/// # Safety
/// As [`columns_int`].
#[inline(always)]
unsafe fn add_columns<D: TileDot, const ONE: bool>(isa: Proof<D::L>, call: &Call) {
    let run = call.runs().tiles;
    // A local copy of the table, so that the compiler knows that stores to the outputs do not change it.
    let (n, table) = (run.inner, *call.table);
    // SAFETY: the caller gives `n` whole tiles, 16 outputs of each tile for every token, and a block of inputs for
    // every token.
    unsafe {
        let mut prefetcher = Prefetcher::<Integers<D>, false>::new(call, n);
        for p in 0..n {
            let tile = &*run.start.cast::<Tile<D::H, D::S>>().add(p);
            prefetcher.next(isa);
            let supers = read_supers::<D::L, D::H>(isa, run.supers.wrapping_add(2 * TILE_ROWS * D::H::SUPERS * p));
            let out = call.out.add(p * TILE_ROWS);
            if ONE {
                let acc = D::L::load(isa, &*out.cast());
                let acc = add_dot::<D>(isa, call, (tile, &supers, &table), 0, 0, acc);
                acc.store(&mut *out.cast());
                continue;
            }
            let tile = Decoded::<D>::new(isa, tile, &supers, &table);
            let mut t = 0;
            while D::AT_ONCE >= 4 && call.tokens - t >= 4 {
                add_column::<D, 4, 4>(isa, call, &tile, t, out);
                t += 4;
            }
            while call.tokens - t >= 1 {
                add_column::<D, 1, 1>(isa, call, &tile, t, out);
                t += 1;
            }
        }
    }
}

/// Adds one tile's products to the outputs of `T` tokens from `t`, the first token's at `out`.
///
/// # Safety
/// As [`columns_int`].
#[inline(always)]
unsafe fn add_column<D: TileDot, const T: usize, const N: usize>(
    isa: Proof<D::L>,
    call: &Call,
    tile: &Decoded<D>,
    t: usize,
    out: *mut f32,
) {
    let mut acc = [D::L::splat(isa, 0.0); T];
    // SAFETY: the caller gives tokens `t..t + T` 16 outputs each, and a block of inputs, which is the first one of its
    // row here.
    unsafe {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = D::L::load(isa, &*out.add((t + i) * call.stride).cast());
        }
        add_dots::<D, T, N>(isa, call, tile, 0, t, &mut acc);
        for (i, acc) in acc.iter().enumerate() {
            acc.store(&mut *out.add((t + i) * call.stride).cast());
        }
    }
}
