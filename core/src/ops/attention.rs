//! Attention of a batch of tokens: norms and rotation of the heads, writing to the KV cache, and looking up in it.

use super::buffer::SharedRows;
use crate::arena::Arena;
use crate::error::Error;
use crate::exec::Executor;
use crate::format::TILE_ROWS;
use crate::image::Architecture;
use crate::image::arch::{Attention, MAX_HEAD_DIM};
use crate::kernels::{Attend, Kernels, KvFormat, KvView, SPAN, rotate};
use crate::views::Disjoint;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Tokens per task in a prefill.
const TOKENS: usize = 16;

/// Positions that a layer with a window keeps in addition to the window and the batch, because keys are written and
/// read in whole tiles.
const SLACK: usize = 2 * TILE_ROWS;

/// The place of a layer's part of the cache.
#[derive(Clone, Copy)]
pub struct Place {
    /// First byte.
    offset: usize,
    /// Bytes of a KV head: its keys, [positions / 16, head_width, 16], then its values, [positions, head_width].
    head_bytes: usize,
    kv_heads: usize,
    head_width: usize,
    /// Positions that fit.
    positions: usize,
    /// Whether these are fewer than the session's. Then the last positions are kept in a ring: position p is at p
    /// modulo `positions`.
    ring: bool,
    /// Positions that a token sees, its own included; `None` for all.
    window: Option<usize>,
}

impl Place {
    fn new(a: &Attention, offset: usize, format: KvFormat, context: usize, batch: usize) -> Self {
        let all = context.next_multiple_of(TILE_ROWS);
        // A whole batch is written before its tokens look up, so the ring has room for it beside the window.
        let ring = a.window.saturating_add(batch.max(TILE_ROWS)).saturating_add(SLACK).next_multiple_of(SPAN);
        let window = (a.window > 0).then_some(a.window);
        let (positions, ring) = if window.is_some() && ring < all { (ring, true) } else { (all, false) };
        let head_bytes = positions.saturating_mul(2 * a.head_width() * format.bytes());
        Place { offset, head_bytes, kv_heads: a.kv_heads, head_width: a.head_width(), positions, ring, window }
    }

    fn bytes(&self) -> usize {
        self.head_bytes.saturating_mul(self.kv_heads)
    }

    /// The first position that a token after `positions` positions may see, rounded down to a multiple of 16.
    fn first(&self, positions: usize) -> usize {
        self.window.map_or(0, |window| positions.saturating_sub(window) / TILE_ROWS * TILE_ROWS)
    }

    /// The first position that is not overwritten yet after `written` positions were written.
    fn kept(&self, written: usize) -> usize {
        if self.ring { written.next_multiple_of(TILE_ROWS).saturating_sub(self.positions) } else { 0 }
    }
}

/// The whole cache: per layer and KV head the keys, then the values.
pub struct KvCache<'m> {
    format: KvFormat,
    memory: &'m mut [MaybeUninit<u8>],
    layers: &'m [Place],
    /// Positions that were written, including those that a rewind has taken back.
    written: usize,
    /// Layers with a window do not hold positions before this one.
    floor: usize,
}

impl<'m> KvCache<'m> {
    /// A cache for `context` positions, of which at most `batch` are written at once.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn new(
        arena: &mut Arena<'m>,
        arch: &Architecture,
        format: KvFormat,
        context: usize,
        batch: usize,
    ) -> Result<Self, Error> {
        let mut offset = 0;
        let layers = arena.fill(arch.globals().layers, |layer| {
            let place = Place::new(&attention_of(arch, layer), offset, format, context, batch);
            offset = offset.saturating_add(place.bytes());
            Ok(place)
        })?;
        let memory = arena.uninit(Self::bytes(arch, format, context, batch))?;
        Ok(KvCache { format, memory, layers, written: 0, floor: 0 })
    }

    /// Bytes of such a cache.
    pub fn bytes(arch: &Architecture, format: KvFormat, context: usize, batch: usize) -> usize {
        let place = |layer: usize| Place::new(&attention_of(arch, layer), 0, format, context, batch);
        (0..arch.globals().layers).fold(0, |sum: usize, layer| sum.saturating_add(place(layer).bytes()))
    }

    /// One layer's heads, for tasks.
    pub fn layer(&mut self, layer: usize) -> LayerCache<'_> {
        let place = self.layers[layer];
        let memory = Disjoint::new(&mut self.memory[place.offset..place.offset + place.bytes()]);
        LayerCache { format: self.format, memory, place }
    }

    /// Number format.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Records that the first `positions` positions are written.
    pub fn has_written(&mut self, positions: usize) {
        self.written = self.written.max(positions);
    }

    /// Whether the cache holds all earlier positions that a token at `position` may see.
    pub fn reaches(&self, position: usize) -> bool {
        let lost = |place: &Place| self.floor.max(place.kept(self.written));
        position == 0 || self.layers.iter().all(|p| p.window.is_none() || p.first(position) >= lost(p))
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        (self.written, self.floor) = (0, 0);
    }

    /// The bytes of the first positions, as far as a later token may see them: layer by layer, head by head, for every
    /// 16 positions the keys (a whole tile) and then the values.
    fn parts(&self, positions: usize) -> impl Iterator<Item = Range<usize>> + use<'m> {
        let (layers, size) = (self.layers, self.format.bytes());
        layers.iter().flat_map(move |p| {
            let row = p.head_width * size;
            (0..p.kv_heads).flat_map(move |head| {
                (p.first(positions)..positions).step_by(TILE_ROWS).flat_map(move |from| {
                    let count = TILE_ROWS.min(positions - from);
                    let keys = p.offset + head * p.head_bytes + from % p.positions * row;
                    let values = keys + p.head_bytes / 2;
                    [keys..keys + TILE_ROWS * row, values..values + count * row]
                })
            })
        })
    }

    /// Bytes of the first positions in a saved state.
    pub fn used_bytes(&self, positions: usize) -> usize {
        self.parts(positions).map(|part| part.len()).sum()
    }

    /// Copies the first positions, all of which were written, to the beginning of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`KvCache::used_bytes`].
    pub fn save(&self, positions: usize, out: &mut [u8]) {
        let mut at = 0;
        for part in self.parts(positions) {
            let (from, to) = (&self.memory[part.clone()], &mut out[at..at + part.len()]);
            // SAFETY: every key tile was filled with zeros when its first position was written, and every value was
            // written with its position, both before the position was counted. The caller saves only counted positions.
            to.copy_from_slice(unsafe { from.assume_init_ref() });
            at += part.len();
        }
    }

    /// Restores the positions that [`KvCache::save`] wrote; the cache must have room for them.
    ///
    /// # Panics
    /// When `bytes` is shorter than [`KvCache::used_bytes`].
    pub fn load(&mut self, positions: usize, bytes: &[u8]) {
        let mut at = 0;
        for part in self.parts(positions) {
            self.memory[part.clone()].write_copy_of_slice(&bytes[at..at + part.len()]);
            at += part.len();
        }
        self.set_restored(positions);
    }

    /// Copies the first positions of another cache of the same model and format.
    pub fn copy(&mut self, positions: usize, from: &KvCache) {
        for (to, part) in self.parts(positions).zip(from.parts(positions)) {
            self.memory[to].copy_from_slice(&from.memory[part]);
        }
        self.set_restored(positions);
    }

    fn set_restored(&mut self, positions: usize) {
        self.written = positions;
        self.floor = self.layers.iter().filter(|p| p.window.is_some()).map(|p| p.first(positions)).max().unwrap_or(0);
    }
}

/// The attention of a layer; one without heads where the layer has none.
fn attention_of(arch: &Architecture, layer: usize) -> Attention {
    arch.layer(layer).attention().copied().unwrap_or(Attention::NONE)
}

/// The largest number that the cache holds as f16. An infinite value would make a sum NaN even with weight 0, which the
/// values of later positions have.
const MOST: f32 = half::f16::MAX.to_f32_const();

/// One layer's part of the cache.
pub struct LayerCache<'a> {
    format: KvFormat,
    memory: Disjoint<'a, MaybeUninit<u8>>,
    place: Place,
}

impl LayerCache<'_> {
    fn view(&self, head: usize) -> KvView {
        let place = &self.place;
        // SAFETY: callers pass a head below `kv_heads`, so both addresses are inside the layer's memory.
        unsafe {
            let keys = self.memory.as_ptr().add(head * place.head_bytes).cast::<u8>();
            let values = keys.add(place.head_bytes / 2);
            KvView { format: self.format, keys, values, ring: if place.ring { place.positions } else { usize::MAX } }
        }
    }

    /// Whether a batch that ends before position `end` fits.
    fn holds(&self, end: usize) -> bool {
        self.place.ring || end <= self.place.positions
    }

    /// Writes one position's key and value (`head_width` floats each).
    ///
    /// # Safety
    /// No other task may access this head during the call.
    unsafe fn write(&self, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let (size, width, position) = (self.format.bytes(), self.place.head_width, position % self.place.positions);
        let half = self.place.head_bytes / 2;
        let tile = position / TILE_ROWS * width * TILE_ROWS;
        // SAFETY: the caller lets no other task access this head's memory.
        let memory = unsafe { self.memory.range(head * 2 * half..(head + 1) * 2 * half) };
        let (keys, values) = memory.split_at_mut(half);
        if position.is_multiple_of(TILE_ROWS) {
            // The kernel reads whole tiles, so positions that are not written yet must hold valid numbers.
            keys[tile * size..(tile + width * TILE_ROWS) * size].fill(MaybeUninit::new(0));
        }
        let put = |memory: &mut [MaybeUninit<u8>], at: usize, x: f32| match self.format {
            KvFormat::F16 => {
                let bytes = half::f16::from_f32(x.clamp(-MOST, MOST)).to_le_bytes().map(MaybeUninit::new);
                memory[at * 2..at * 2 + 2].copy_from_slice(&bytes);
            }
            KvFormat::F32 => memory[at * 4..at * 4 + 4].copy_from_slice(&x.to_le_bytes().map(MaybeUninit::new)),
        };
        for (d, (k, v)) in key.iter().zip(value).enumerate() {
            put(keys, tile + d * TILE_ROWS + position % TILE_ROWS, *k);
            put(values, position * width + d, *v);
        }
    }
}

/// RMS norm of all heads of a token together (OLMo 2): `rows` is [tokens, heads * slot], each head `dim` wide, `room` as
/// long as a row, is left zero.
pub fn norm_heads(
    kernels: &Kernels,
    (weight, eps): (&[f32], f32),
    (dim, slot): (usize, usize),
    rows: &mut [f32],
    room: &mut [f32],
    tokens: usize,
) {
    let heads = weight.len() / dim.max(1);
    for row in rows.chunks_exact_mut((heads * slot).max(1)).take(tokens) {
        for h in 0..heads {
            room[h * dim..(h + 1) * dim].copy_from_slice(&row[h * slot..h * slot + dim]);
        }
        kernels.rms_norm(&room[..heads * dim], weight, eps, &mut row[..heads * dim]);
        // Heads move back to their slots, the last one first: a slot is at least as wide as a head, so none overwrites
        // another.
        for h in (0..heads).rev().filter(|_| slot != dim) {
            row.copy_within(h * dim..(h + 1) * dim, h * slot);
        }
        row.chunks_exact_mut(slot).for_each(|head| head[dim..].fill(0.0));
    }
    // The padding of heads is zero: it is quantized together with them.
    room[..heads * dim].fill(0.0);
}

/// The operands of one attention step; `q` is [tokens, heads * head_slot], `k` and `v` are [tokens, kv_heads *
/// head_slot].
pub struct Step<'a> {
    /// The block.
    pub attention: &'a Attention,
    /// Tokens in the batch.
    pub tokens: usize,
    /// Position of the first.
    pub first: usize,
    /// Queries.
    pub q: Disjoint<'a, f32>,
    /// Keys.
    pub k: Disjoint<'a, f32>,
    /// Values.
    pub v: &'a [f32],
    /// RMS norms of each query and key head.
    pub head_norms: Option<(&'a [f32], &'a [f32])>,
    /// [tokens, head_dim / 2] cosines and sines, under RoPE.
    pub rope: Option<(&'a [f32], &'a [f32])>,
    /// The sink of every query head: a score that has no value.
    pub sinks: Option<&'a [f32]>,
    /// The query heads that are computed, in order, if some are skipped (for one token only); the others' outputs are
    /// zero.
    pub active: Option<&'a [u32]>,
    /// The layer's cache.
    pub cache: LayerCache<'a>,
    /// The outputs of the heads, [tokens, heads * head_slot].
    pub out: SharedRows<'a>,
    /// Whether the output projection takes quantized inputs.
    pub int8: bool,
}

impl Step<'_> {
    /// Runs the step. For one token: a task per KV head. In a prefill: a task per KV head that writes all keys and
    /// values, then a task per KV head and run of tokens that looks up.
    ///
    /// # Panics
    /// When the batch does not fit in the cache or the buffers.
    pub fn run(&self, exec: &dyn Executor, kernels: &Kernels) {
        assert!(self.cache.holds(self.first + self.tokens), "the batch does not fit in the cache");
        let heads = self.attention.kv_heads;
        if self.tokens == 1 {
            exec.run(heads, &|h| {
                // SAFETY: each task has a KV head of its own, and accesses only that head, its query heads and their
                // outputs; the task writes before it looks up.
                unsafe {
                    self.write_head(kernels, h);
                    self.look_up(kernels, h, 0, 1);
                }
            });
        } else {
            // SAFETY: each task has a KV head of its own, and accesses only that head and its query heads.
            exec.run(heads, &|h| unsafe { self.write_head(kernels, h) });
            let runs = self.tokens.div_ceil(TOKENS);
            exec.run(heads * runs, &|i| {
                let first = i / heads * TOKENS;
                // SAFETY: all writes have returned, and different heads or runs of tokens have different outputs.
                unsafe { self.look_up(kernels, i % heads, first, TOKENS.min(self.tokens - first)) };
            });
        }
    }

    /// Norms and rotates this KV head's key and its query heads, scales the queries, and writes to the cache.
    ///
    /// # Safety
    /// No other task may run for the same head.
    unsafe fn write_head(&self, kernels: &Kernels, head: usize) {
        let c = self.attention;
        let (slot, width, group) = (c.head_slot(), c.head_width(), c.heads / c.kv_heads);
        let scale = c.scale;
        for t in 0..self.tokens {
            let at = (t * c.kv_heads + head) * slot;
            // SAFETY: the caller runs no other task for this head, so nothing else accesses its slots of row t.
            unsafe {
                let key = self.k.range(at..at + width);
                self.norm_and_rotate(kernels, t, key, self.head_norms.map(|n| n.1));
                self.cache.write(head, self.first + t, key, &self.v[at..at + width]);
                for q in (head * group..(head + 1) * group).filter(|q| self.is_active(*q)) {
                    let at = (t * c.heads + q) * slot;
                    let query = self.q.range(at..at + width);
                    self.norm_and_rotate(kernels, t, query, self.head_norms.map(|n| n.0));
                    query.iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
    }

    /// Head norm and rotation of one head of token `t`.
    fn norm_and_rotate(&self, kernels: &Kernels, t: usize, head: &mut [f32], norm: Option<&[f32]>) {
        let dim = self.attention.head_dim;
        if let Some(weight) = norm {
            let mut row = [0.0; MAX_HEAD_DIM];
            row[..dim].copy_from_slice(&head[..dim]);
            kernels.rms_norm(&row[..dim], weight, self.attention.head_norm_eps, &mut head[..dim]);
        }
        if let Some((cos, sin)) = self.rope {
            let half = t * dim / 2..(t + 1) * dim / 2;
            rotate(&mut head[..dim], &cos[half.clone()], &sin[half]);
        }
    }

    /// Whether this query head is computed.
    fn is_active(&self, q: usize) -> bool {
        self.active.is_none_or(|list| list.binary_search(&(q as u32)).is_ok())
    }

    /// Attention of some tokens' query heads over one KV head.
    ///
    /// # Safety
    /// Keys and values up to the last token must have been written; no other task may run for the same head and tokens.
    unsafe fn look_up(&self, kernels: &Kernels, head: usize, first: usize, tokens: usize) {
        let group = self.attention.heads / self.attention.kv_heads;
        let heads = head * group..(head + 1) * group;
        let Some(active) = self.active else {
            // SAFETY: the caller has written keys and values, and runs no other task for this head and these tokens.
            return unsafe { self.look_up_heads(kernels, head, heads, None, first, tokens) };
        };
        let below = |n: usize| active.partition_point(|q| (*q as usize) < n);
        let picked = &active[below(heads.start)..below(heads.end)];
        let slot = self.attention.head_slot();
        // SAFETY: the caller runs no other task for this head, so nothing else accesses its slots of the one row; the
        // picked numbers are query heads of this KV head.
        unsafe {
            if !picked.is_empty() {
                self.look_up_heads(kernels, head, 0..picked.len(), Some(picked), first, tokens);
            }
            for q in heads {
                let at = (first * self.attention.heads + q) * slot;
                let out = self.out.values(at..at + slot);
                if picked.binary_search(&(q as u32)).is_err() {
                    out.fill(0.0);
                }
                if self.int8 {
                    self.out.quantize(kernels, at, out);
                }
            }
        }
    }

    /// Attention of consecutive query heads, whose outputs are quantized too; or of the `picked` ones, without
    /// quantization.
    ///
    /// # Safety
    /// As [`Step::look_up`]; `picked`, if given, has a number for each of the heads.
    unsafe fn look_up_heads(
        &self,
        kernels: &Kernels,
        head: usize,
        heads: Range<usize>,
        picked: Option<&[u32]>,
        first: usize,
        tokens: usize,
    ) {
        let c = self.attention;
        let (slot, group) = (c.head_slot(), heads.len());
        let row = c.heads * slot;
        let start = first * row + heads.start * slot;
        // SAFETY: `first + tokens` rows and all heads are inside q and out, both [tokens, heads * slot]; the caller
        // promises that the cache is written and that no other task accesses these outputs.
        unsafe {
            let attend = Attend {
                q: self.q.as_ptr().add(start),
                token_stride: row,
                head_stride: slot,
                tokens,
                heads: group,
                picked,
                head_width: c.head_width(),
                first: self.first + first,
                window: if c.window == 0 { usize::MAX } else { c.window },
                cap: c.cap,
                // Consecutive heads are numbered from the first of them.
                sinks: self.sinks.and_then(|sinks| sinks.get(heads.start..)),
                kv: self.cache.view(head),
            };
            kernels.attend(&attend, self.out.values.as_ptr().add(start));
            if self.int8 && picked.is_none() {
                for t in 0..tokens {
                    let at = start + t * row;
                    self.out.quantize(kernels, at, self.out.values(at..at + group * slot));
                }
            }
        }
    }
}
