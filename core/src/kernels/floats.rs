//! The products of matrices of floats: the loops of [`super::gemm`] without decoding, since numbers are read as they are
//! stored.

use super::call::Call;
use super::gather::Tiles;
use super::gemm::{Panel, store_sums, sums_so_far};
use super::heads::NoHeads;
use super::prefetch::Prefetcher;
use crate::format::{BLOCK, TILE_ROWS};
use crate::simd::{LANES, Lanes, Proof};
use core::marker::PhantomData;
use core::ops::Range;

/// An element of float tiles and of the KV cache.
///
/// # Safety
/// [`Element::Row`] must consist of the bytes of 16 elements alone: then any address and any contents will do.
pub(super) unsafe trait Element {
    /// Bytes of 16 elements.
    type Row;
    /// Bytes of an element.
    const BYTES: usize = size_of::<Self::Row>() / LANES;

    /// Reads 16.
    fn load<L: Lanes>(isa: Proof<L>, row: &Self::Row) -> L;
}

// SAFETY: the row is an array of 64 bytes.
unsafe impl Element for f32 {
    type Row = [u8; 4 * LANES];

    #[inline(always)]
    fn load<L: Lanes>(isa: Proof<L>, row: &Self::Row) -> L {
        L::load_bytes(isa, row)
    }
}

// SAFETY: the row is an array of 32 bytes.
unsafe impl Element for half::bf16 {
    type Row = [u8; 2 * LANES];

    #[inline(always)]
    fn load<L: Lanes>(isa: Proof<L>, row: &Self::Row) -> L {
        load_bf16(isa, row)
    }
}

/// Reads 16 floats of which only the upper halves are stored.
#[inline(always)]
pub(super) fn load_bf16<L: Lanes>(isa: Proof<L>, row: &[u8; 2 * LANES]) -> L {
    let mut floats = [0.0; LANES];
    for i in 0..LANES {
        floats[i] = f32::from_bits(u32::from(u16::from_le_bytes([row[2 * i], row[2 * i + 1]])) << 16);
    }
    L::load(isa, &floats)
}

// SAFETY: the row is an array of 32 bytes.
unsafe impl Element for half::f16 {
    type Row = [u8; 2 * LANES];

    #[inline(always)]
    fn load<L: Lanes>(isa: Proof<L>, row: &Self::Row) -> L {
        L::load_f16(isa, row)
    }
}

/// An operand of [`accumulate`] is too short, which is a mistake of its caller.
#[cold]
#[inline(never)]
fn too_short() -> ! {
    panic!("a kernel's operand is too short")
}

/// `acc[t] += sum over k of w[k * step..][..16] * x[t][k]`, in the order of k, for the length of `x[0]`: the inner loop
/// of float matrices and of both products of attention. `w` has the bytes of elements.
///
/// # Panics
/// When `w` or another row of `x` is too short for this.
#[inline(always)]
pub(super) fn accumulate<L: Lanes, E: Element, const T: usize>(
    isa: Proof<L>,
    acc: &mut [L; T],
    w: &[u8],
    step: usize,
    x: &[&[f32]; T],
) {
    let n = x[0].len();
    let elements = |n: usize| (n - 1).checked_mul(step)?.checked_add(LANES)?.checked_mul(E::BYTES);
    if n == 0 {
        return;
    }
    if elements(n).is_none_or(|bytes| bytes > w.len()) || x.iter().any(|x| x.len() < n) {
        too_short();
    }
    for k in 0..n {
        // SAFETY: `k` is below `n`, and the lengths were checked: `w` has 16 elements from `k * step` on, and every
        // `x[t]` has a number `k`.
        unsafe {
            let row = E::load(isa, &*w.as_ptr().add(k * step * E::BYTES).cast());
            for t in 0..T {
                acc[t] = acc[t].add(L::mul(row, L::splat(isa, *x[t].get_unchecked(k))));
            }
        }
    }
}

/// Products of floats.
pub(super) struct Floats<L, E>(PhantomData<(L, E)>);

impl<L: Lanes, E: Element> Panel for Floats<L, E> {
    type L = L;
    type H = NoHeads;
    const TILE: usize = TILE_ROWS * BLOCK * E::BYTES;

    #[inline(always)]
    unsafe fn add<S: Tiles<L>>(isa: Proof<L>, call: &Call, tiles: &S, kbs: Range<usize>) {
        let (mut t, n) = (0, call.tokens);
        // SAFETY: `t` plus the number of tokens is at most `n`, the number of tokens that the caller's operands have;
        // `tiles` and `kbs` are the caller's.
        unsafe {
            while n - t >= 4 {
                add_float::<L, E, S, 4>(isa, call, tiles, kbs.clone(), t);
                t += 4;
            }
            while n - t >= 1 {
                add_float::<L, E, S, 1>(isa, call, tiles, kbs.clone(), t);
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
    isa: Proof<L>,
    call: &Call,
    tiles: &S,
    kbs: Range<usize>,
    t: usize,
) {
    let x = &call.x;
    // SAFETY: the caller gives a whole tile for every k-block, and rows and outputs for tokens below `t + T`.
    unsafe {
        let mut acc = sums_so_far::<L, T>(isa, call, kbs.start, t);
        let mut tiles = *tiles;
        for kb in kbs {
            let tile = core::slice::from_raw_parts(tiles.next(), Floats::<L, E>::TILE);
            if t == 0 {
                tiles.prefetch(isa);
            }
            let mut rows: [&[f32]; T] = [&[]; T];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = core::slice::from_raw_parts(x.values.add((t + i) * x.width + kb * BLOCK), BLOCK);
            }
            accumulate::<L, E, T>(isa, &mut acc, tile, TILE_ROWS, &rows);
        }
        store_sums(&acc, call, t);
    }
}

/// Adds the products of a call's first k-block to panels, for floats.
///
/// # Safety
/// As [`super::gemm::columns_int`].
#[inline(always)]
pub(super) unsafe fn columns_float<L: Lanes, E: Element>(isa: Proof<L>, call: &Call) {
    let run = call.runs().tiles;
    let (tile, n) = (Floats::<L, E>::TILE, run.inner);
    // SAFETY: the caller gives `n` whole tiles, 16 outputs of each tile for every token, and a block of inputs for
    // every token.
    unsafe {
        let mut prefetcher = Prefetcher::<Floats<L, E>, false>::new(call, n);
        for p in 0..n {
            prefetcher.next(isa);
            let weights = core::slice::from_raw_parts(run.start.add(p * tile), tile);
            for t in 0..call.tokens {
                let rows = [core::slice::from_raw_parts(call.x.values.add(t * call.x.width), BLOCK)];
                let at = &mut *call.out.add(p * TILE_ROWS + t * call.stride).cast();
                let mut acc = [L::load(isa, at)];
                accumulate::<L, E, 1>(isa, &mut acc, weights, TILE_ROWS, &rows);
                acc[0].store(at);
            }
        }
    }
}
