//! Causal attention of some query heads over one KV head, in one pass over the cache.
//!
//! Keys lie in tiles of 16 positions, `[position / 16][dimension][16]`, values as `[position][dimension]`:
//! both products are then the float matrix kernel's inner loop (`accumulate`), with no sum across lanes.
//! Soft-max runs online (arXiv 1805.02867) over blocks of 64 positions that start at multiples of 64, so
//! the result does not depend on how many tokens are computed together.

use super::matmul::{Element, accumulate};
use crate::simd::{LANES, Lanes};

/// Positions per soft-max block.
const SPAN: usize = 64;

/// How the KV cache stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvFormat {
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl KvFormat {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            KvFormat::F16 => 2,
            KvFormat::F32 => 4,
        }
    }
}

/// The cache of one KV head in one layer.
#[derive(Clone, Copy)]
pub struct KvView {
    /// Number format of both.
    pub format: KvFormat,
    /// [positions / 16, head_width, 16].
    pub keys: *const u8,
    /// [positions, head_width].
    pub values: *const u8,
}

/// Queries and the cache they look at.
#[derive(Clone, Copy)]
pub struct Attend {
    /// Query of token t and head h at `q + t * token_stride + h * head_stride`, `head_width` floats; scaled
    /// by 1 / sqrt(head_dim) already.
    pub q: *const f32,
    /// Floats between tokens, in `q` and in the output.
    pub token_stride: usize,
    /// Floats between heads, in `q` and in the output.
    pub head_stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// Query heads that look at the KV head.
    pub heads: usize,
    /// Their numbers in `q` and in the output, or null where they are 0, 1, ...
    pub picked: *const u32,
    /// head_dim rounded up to 16.
    pub head_width: usize,
    /// Position of token 0; token t sees positions up to `first + t`.
    pub first: usize,
    /// How many positions back a token sees, itself counted; `usize::MAX` for all.
    pub window: usize,
    /// The cache.
    pub kv: KvView,
}

impl Attend {
    /// Where query `i`, counted token by token and head by head, begins in `q` and in the output.
    ///
    /// # Safety
    /// There must be such a query, and as many numbers at `picked` as heads.
    #[inline(always)]
    unsafe fn place(&self, i: usize) -> usize {
        let (token, head) = (i / self.heads.max(1), i % self.heads.max(1));
        // SAFETY: less than `heads`, by the caller that many.
        let head = if self.picked.is_null() { head } else { unsafe { *self.picked.add(head) as usize } };
        token * self.token_stride + head * self.head_stride
    }

    /// Positions that token `t` sees.
    fn visible(&self, t: usize) -> (usize, usize) {
        let end = self.first + t + 1;
        (end.saturating_sub(self.window), end)
    }
}

/// See [`super::Kernels::attend`], for a cache of `E`.
///
/// # Safety
/// As there; `L`'s features must be there.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes, E: Element>(a: &Attend, out: *mut f32) {
    let queries = a.tokens * a.heads;
    // SAFETY: `i + step <= queries` before each call; the rest by the caller.
    unsafe {
        let mut i = 0;
        while queries - i >= 4 {
            attend_queries::<L, E, 4>(a, i, out);
            i += 4;
        }
        // What is left in one pass over the cache too, where sums stay in registers: else it is not worth the code.
        match queries - i {
            3 if L::TOGETHER > 2 => attend_queries::<L, E, 3>(a, i, out),
            2 if L::TOGETHER > 1 => attend_queries::<L, E, 2>(a, i, out),
            _ => {
                while i < queries {
                    attend_queries::<L, E, 1>(a, i, out);
                    i += 1;
                }
            }
        }
    }
}

/// Running state of one query's soft-max.
#[derive(Clone, Copy)]
struct Online {
    largest: f32,
    sum: f32,
}

/// `T` queries (counted token by token, head by head) from number `first`.
///
/// # Safety
/// As [`attend`], with `first + T` queries.
#[inline(always)]
unsafe fn attend_queries<L: Lanes, E: Element, const T: usize>(a: &Attend, first: usize, out: *mut f32) {
    // SAFETY: pointers stay inside the shapes declared by `a` (the contract of `attend`).
    unsafe {
        let heads = a.heads.max(1);
        let q: [*const f32; T] = core::array::from_fn(|i| a.q.add(a.place(first + i)));
        let o: [*mut f32; T] = core::array::from_fn(|i| out.add(a.place(first + i)));
        let sees: [(usize, usize); T] = core::array::from_fn(|i| a.visible((first + i) / heads));
        let mut state = [Online { largest: f32::NEG_INFINITY, sum: 0.0 }; T];
        for at in o {
            core::slice::from_raw_parts_mut(at, a.head_width).fill(0.0);
        }
        // Queries are in the order of their tokens: the first starts earliest, the last ends latest.
        let mut block = sees[0].0 / SPAN * SPAN;
        while block < sees[T - 1].1 {
            let mut scores = scores::<L, E, T>(a, &q, block, sees[T - 1].1);
            let mut keep = [0.0; T];
            for i in 0..T {
                keep[i] = soften::<L>(&mut scores[i], &mut state[i], block, sees[i]);
            }
            add_values::<L, E, T>(a, &scores, &keep, block, sees, &o);
            block += SPAN;
        }
        for i in 0..T {
            let scale = 1.0 / state[i].sum;
            for x in core::slice::from_raw_parts_mut(o[i], a.head_width) {
                *x *= scale;
            }
        }
    }
}

/// Dot products of the queries with the keys of positions `block..end`, in whole tiles.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn scores<L: Lanes, E: Element, const T: usize>(
    a: &Attend,
    q: &[*const f32; T],
    block: usize,
    end: usize,
) -> [[f32; SPAN]; T] {
    let mut scores = [[f32::NEG_INFINITY; SPAN]; T];
    let tiles = end.min(block + SPAN).div_ceil(LANES) - block / LANES;
    for tile in 0..tiles {
        // SAFETY: by the contract; tile < SPAN / LANES.
        unsafe {
            let keys = a.kv.keys.cast::<E>().add((block / LANES + tile) * a.head_width * LANES);
            let mut acc = [L::splat(0.0); T];
            accumulate::<L, E, T>(&mut acc, keys, LANES, a.head_width, q);
            for i in 0..T {
                acc[i].store(scores[i].as_mut_ptr().add(tile * LANES));
            }
        }
    }
    scores
}

/// Place of a position in a block, held to it.
fn within(position: usize, block: usize) -> usize {
    position.saturating_sub(block).min(SPAN)
}

/// Turns one query's scores into weights e^(score - largest so far), zero where it may not look; updates
/// its state and returns the factor by which earlier sums shrink.
///
/// # Safety
/// `L`'s features must be there.
#[inline(always)]
unsafe fn soften<L: Lanes>(scores: &mut [f32; SPAN], state: &mut Online, block: usize, sees: (usize, usize)) -> f32 {
    let (from, to) = (within(sees.0, block), within(sees.1, block));
    let hide = |scores: &mut [f32; SPAN], x: f32| {
        scores.iter_mut().take(from).for_each(|s| *s = x);
        scores.iter_mut().skip(to).for_each(|s| *s = x);
    };
    hide(scores, f32::NEG_INFINITY);
    if from >= to {
        scores.fill(0.0);
        return 1.0;
    }
    // SAFETY: 64 floats are four vectors of 16; features by the caller.
    unsafe {
        let p = scores.as_mut_ptr();
        let mut top = L::load(p);
        for i in 1..SPAN / LANES {
            top = top.max(L::load(p.add(i * LANES)));
        }
        let largest = state.largest.max(top.largest());
        for i in 0..SPAN / LANES {
            L::load(p.add(i * LANES)).sub(L::splat(largest)).exp().store(p.add(i * LANES));
        }
        // e^x is held above e^-87, so what must not count is zeroed by hand.
        hide(scores, 0.0);
        let p = scores.as_ptr();
        let mut sum = L::splat(0.0);
        for i in 0..SPAN / LANES {
            sum = sum.add(L::load(p.add(i * LANES)));
        }
        let keep = if state.largest == f32::NEG_INFINITY {
            0.0
        } else {
            L::splat(state.largest - largest).exp().to_array()[0]
        };
        state.sum = state.sum * keep + sum.sum();
        state.largest = largest;
        keep
    }
}

/// `o = o * keep + weights * values`.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn add_values<L: Lanes, E: Element, const T: usize>(
    a: &Attend,
    weights: &[[f32; SPAN]; T],
    keep: &[f32; T],
    block: usize,
    sees: [(usize, usize); T],
    o: &[*mut f32; T],
) {
    let (start, end) = (within(sees[0].0, block), within(sees[T - 1].1, block));
    // SAFETY: by the contract; start <= end <= SPAN.
    unsafe {
        let w: [*const f32; T] = core::array::from_fn(|i| weights[i].as_ptr().add(start));
        let mut d = 0;
        while d < a.head_width {
            let mut acc = [L::splat(0.0); T];
            for i in 0..T {
                acc[i] = L::load(o[i].add(d)).mul(L::splat(keep[i]));
            }
            let values = a.kv.values.cast::<E>().add((block + start) * a.head_width + d);
            accumulate::<L, E, T>(&mut acc, values, a.head_width, end - start, &w);
            for i in 0..T {
                acc[i].store(o[i].add(d));
            }
            d += LANES;
        }
    }
}
