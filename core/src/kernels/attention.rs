//! Causal attention of some query heads over one KV head, in one pass over the cache.
//!
//! Keys are stored in tiles of 16 positions, `[position / 16][dimension][16]`, values as `[position][dimension]`. So
//! both products are the inner loop of the float matrix kernels (`accumulate`), without sums across lanes. Soft-max
//! runs online (arXiv 1805.02867) over blocks of 64 positions that start at multiples of 64, so the result does not
//! depend on how many tokens are computed together. The ring of a layer with a window holds a whole number of such
//! blocks, so that none of them wraps around.
//!
//! ```text
//! for every four queries (then those that remain):
//!     for every block of 64 positions that one of them sees:
//!         scores = q * keys (capped)                  one pass over the keys for all of them
//!         largest = max(largest so far, scores); weights = e^(scores - largest), 0 where not visible
//!         keep = e^(largest so far - largest); sum = sum * keep + weights
//!         out = out * keep + weights * values         one pass over the values
//!     out = out / sum
//! ```

use super::ScaleFn;
use super::floats::{Element, accumulate};
use crate::simd::{LANES, Lanes, Proof};

/// Positions per soft-max block.
pub const SPAN: usize = 64;

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
    /// Positions that a ring holds, a multiple of [`SPAN`]: position p is stored at p modulo this. `usize::MAX` where
    /// each position has its own place.
    pub ring: usize,
}

/// Queries and the cache in which they look up keys and values.
#[derive(Clone, Copy)]
pub struct Attend<'a> {
    /// Query of token t and head h at `q + t * token_stride + h * head_stride`, `head_width` floats; scaled
    /// by 1 / sqrt(head_dim) already.
    pub q: *const f32,
    /// Floats between tokens, in `q` and in the output.
    pub token_stride: usize,
    /// Floats between heads, in `q` and in the output.
    pub head_stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// Query heads that share the KV head.
    pub heads: usize,
    /// Their numbers in `q` and in the output, if they are not 0, 1, ...
    pub picked: Option<&'a [u32]>,
    /// head_dim rounded up to 16.
    pub head_width: usize,
    /// Position of token 0; token t sees positions up to `first + t`.
    pub first: usize,
    /// Positions that a token sees, its own included; `usize::MAX` for all.
    pub window: usize,
    /// Scores become `cap * tanh(score / cap)`; 0 for none.
    pub cap: f32,
    /// The sink of each query head, by its number in `q`: a score that takes part in the soft-max but has no value.
    pub sinks: Option<&'a [f32]>,
    /// The cache.
    pub kv: KvView,
}

impl Attend<'_> {
    /// The token of query `i`, counted token by token and head by head, and the number of its head.
    #[inline(always)]
    fn query(&self, i: usize) -> (usize, usize) {
        let (token, head) = (i / self.heads.max(1), i % self.heads.max(1));
        let number = |picked: &[u32]| picked.get(head).map_or(0, |number| *number as usize);
        (token, self.picked.map_or(head, number))
    }

    /// Where query `i` begins in `q` and in the output.
    #[inline(always)]
    fn place(&self, i: usize) -> usize {
        let (token, head) = self.query(i);
        token * self.token_stride + head * self.head_stride
    }

    /// The soft-max of query `i` before it has seen a position.
    fn begin(&self, i: usize) -> Online {
        match self.sinks.and_then(|sinks| sinks.get(self.query(i).1)) {
            Some(sink) => Online { largest: *sink, sum: 1.0 },
            None => Online { largest: f32::NEG_INFINITY, sum: 0.0 },
        }
    }

    /// Positions that token `t` sees.
    fn visible(&self, t: usize) -> (usize, usize) {
        let end = self.first + t + 1;
        (end.saturating_sub(self.window), end)
    }
}

/// See [`super::Kernels::attend`], for a cache of `E`. `cap` caps the scores of models that need it; it is called
/// through a pointer, since few models do.
///
/// # Safety
/// As [`super::Kernels::attend`]; `cap` must be compiled for an instruction set that this processor has.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes, E: Element>(isa: Proof<L>, a: &Attend, cap: Option<ScaleFn>, out: *mut f32) {
    let queries = a.tokens * a.heads;
    // SAFETY: the caller gives valid operands for `queries` queries, and `i` plus the number of queries is at most that
    // in each call.
    unsafe {
        let mut i = 0;
        while queries - i >= 4 {
            attend_queries::<L, E, 4>(isa, a, cap, i, out);
            i += 4;
        }
        // The last queries share one pass over the cache too, unless their sums would not fit in registers: then it
        // gains too little.
        match queries - i {
            3 if L::SUMS > 2 => attend_queries::<L, E, 3>(isa, a, cap, i, out),
            2 if L::SUMS > 1 => attend_queries::<L, E, 2>(isa, a, cap, i, out),
            _ => {
                while i < queries {
                    attend_queries::<L, E, 1>(isa, a, cap, i, out);
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
unsafe fn attend_queries<L: Lanes, E: Element, const T: usize>(
    isa: Proof<L>,
    a: &Attend,
    cap: Option<ScaleFn>,
    first: usize,
    out: *mut f32,
) {
    let (heads, width) = (a.heads.max(1), a.head_width);
    // SAFETY: the caller gives queries and outputs of `width` floats at these places, and no two outputs overlap.
    let (q, mut o): ([&[f32]; T], [&mut [f32]; T]) = unsafe {
        (
            core::array::from_fn(|i| core::slice::from_raw_parts(a.q.add(a.place(first + i)), width)),
            core::array::from_fn(|i| core::slice::from_raw_parts_mut(out.add(a.place(first + i)), width)),
        )
    };
    let sees: [(usize, usize); T] = core::array::from_fn(|i| a.visible((first + i) / heads));
    let mut state: [Online; T] = core::array::from_fn(|i| a.begin(first + i));
    for o in &mut o {
        o.fill(0.0);
    }
    // Queries are in the order of their tokens: the first starts earliest, the last ends latest.
    let (start, end) = (sees[0].0, sees[T - 1].1);
    let mut block = start / SPAN * SPAN;
    while block < end {
        let (from, to) = (within(start, block), within(end, block));
        // SAFETY: queries see positions from `start` to `end`, which the caller has written: keys in whole tiles of 16, and
        // values. A block of 64 positions does not wrap around a ring.
        let (keys, values) = unsafe {
            let tiles = to.div_ceil(LANES) - from / LANES;
            let place = if block < a.kv.ring { block } else { block % a.kv.ring.max(1) };
            let keys = a.kv.keys.add((place + from / LANES * LANES) * width * E::BYTES);
            let values = a.kv.values.add((place + from) * width * E::BYTES);
            (
                core::slice::from_raw_parts(keys, tiles * LANES * width * E::BYTES),
                core::slice::from_raw_parts(values, (to - from) * width * E::BYTES),
            )
        };
        let mut scores = scores::<L, E, T>(isa, keys, from / LANES, &q);
        if let Some(cap) = cap.filter(|_| a.cap != 0.0) {
            // SAFETY: the caller gives a `cap` that is compiled for an instruction set that this processor has.
            scores.iter_mut().for_each(|scores| unsafe { cap(1.0, a.cap, scores) });
        }
        let mut keep = [0.0; T];
        for i in 0..T {
            keep[i] = soften(isa, &mut scores[i], &mut state[i], within(sees[i].0, block), within(sees[i].1, block));
        }
        let mut weights: [&[f32]; T] = [&[]; T];
        for i in 0..T {
            weights[i] = scores[i].get(from..to).unwrap_or_default();
        }
        add_values::<L, E, T>(isa, values, &weights, &keep, &mut o);
        block += SPAN;
    }
    for i in 0..T {
        let scale = 1.0 / state[i].sum;
        for x in o[i].iter_mut() {
            *x *= scale;
        }
    }
}

/// Dot products of the queries with keys of a block of 64 positions, in whole tiles of `[dimension][16]` from tile
/// `first` of the block on.
#[inline(always)]
fn scores<L: Lanes, E: Element, const T: usize>(
    isa: Proof<L>,
    keys: &[u8],
    first: usize,
    q: &[&[f32]; T],
) -> [[f32; SPAN]; T] {
    let mut scores = [[f32::NEG_INFINITY; SPAN]; T];
    let tile_bytes = q[0].len() * LANES * E::BYTES;
    let (mut keys, mut tile) = (keys, first);
    while let Some((tile_keys, rest)) = keys.split_at_checked(tile_bytes).filter(|_| tile < SPAN / LANES) {
        let mut acc = [L::splat(isa, 0.0); T];
        accumulate::<L, E, T>(isa, &mut acc, tile_keys, LANES, q);
        for i in 0..T {
            if let Some(to) = scores[i].as_chunks_mut::<LANES>().0.get_mut(tile) {
                acc[i].store(to);
            }
        }
        (keys, tile) = (rest, tile + 1);
    }
    scores
}

/// Place of a position in a block, clamped to the block's ends. Not inlined: a loop with this as its bound would
/// compute it anew in every turn.
#[inline(never)]
fn within(position: usize, block: usize) -> usize {
    position.saturating_sub(block).min(SPAN)
}

/// Sets the scores outside `from..to` to `x`.
#[inline(always)]
fn hide(scores: &mut [f32; SPAN], from: usize, to: usize, x: f32) {
    scores.iter_mut().take(from).for_each(|s| *s = x);
    scores.iter_mut().skip(to).for_each(|s| *s = x);
}

/// Turns one query's scores into weights e^(score - largest so far), zero outside the positions `from..to` that it
/// sees; updates its state and returns the factor by which earlier sums shrink.
#[inline(always)]
fn soften<L: Lanes>(isa: Proof<L>, scores: &mut [f32; SPAN], state: &mut Online, from: usize, to: usize) -> f32 {
    hide(scores, from, to, f32::NEG_INFINITY);
    if from >= to {
        scores.fill(0.0);
        return 1.0;
    }
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let mut top = L::load(isa, &vectors[0]);
    for v in &vectors[1..] {
        top = top.max(L::load(isa, v));
    }
    let largest = state.largest.max(top.largest());
    for v in vectors {
        L::load(isa, v).sub(L::splat(isa, largest)).exp().store(v);
    }
    // The exponential never returns less than e^-87, so weights that must not count are set to zero.
    hide(scores, from, to, 0.0);
    let mut sum = L::splat(isa, 0.0);
    for v in scores.as_chunks::<LANES>().0 {
        sum = sum.add(L::load(isa, v));
    }
    let keep = if state.largest == f32::NEG_INFINITY {
        0.0
    } else {
        L::splat(isa, state.largest - largest).exp().to_array()[0]
    };
    state.sum = state.sum * keep + sum.sum();
    state.largest = largest;
    keep
}

/// `o = o * keep + weights * values`, where values are `[position][dimension]`, a position for each weight.
#[inline(always)]
fn add_values<L: Lanes, E: Element, const T: usize>(
    isa: Proof<L>,
    values: &[u8],
    weights: &[&[f32]; T],
    keep: &[f32; T],
    o: &mut [&mut [f32]; T],
) {
    let width = o[0].len();
    for d in 0..width / LANES {
        let mut acc = [L::splat(isa, 0.0); T];
        for i in 0..T {
            if let Some(o) = o[i].as_chunks().0.get(d) {
                acc[i] = L::load(isa, o).mul(L::splat(isa, keep[i]));
            }
        }
        let column = values.get(d * LANES * E::BYTES..).unwrap_or_default();
        accumulate::<L, E, T>(isa, &mut acc, column, width, weights);
        for i in 0..T {
            if let Some(o) = o[i].as_chunks_mut().0.get_mut(d) {
                acc[i].store(o);
            }
        }
    }
}
