//! The forward pass: embedding, layers, logits.
//!
//! It walks through the architecture ([`crate::image::arch`]): blocks, and the norms around them. Each operation of a
//! block has its own file: `attention.rs`, `feed_forward.rs`, `mixture.rs`.

use super::buffers::out_width;
use super::layers::{BlockWeights, LayerWeights, OpWeights};
use super::session::{Observer, Session};
use super::totals::Traffic;
use crate::active::Units;
use crate::error::Error;
use crate::exec::Executor;
use crate::kernels::Kernels;
use crate::ops::buffer::Rows;
use crate::ops::for_ranges;
use crate::ops::linear::{Product, linear};
use crate::ops::output::sketched;
use crate::ops::residual::{BlockNorms, add, prepare};
use crate::sparsity::{Predictor, Run, Slot, Source, State};
use crate::views::Disjoint;
use core::sync::atomic::Ordering;

/// The current step of a forward pass.
#[derive(Clone, Copy)]
pub(super) struct Pass<'p> {
    pub exec: &'p dyn Executor,
    pub kernels: &'p Kernels,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Position of the first of them.
    pub first: usize,
    pub layer: usize,
    /// Whether blocks read the layer's input.
    pub parallel: bool,
}

impl<'p> Pass<'p> {
    /// The executor, kernels and predictor for choosers.
    pub fn run<'a>(&self, predictor: Option<&'p Predictor<'a>>) -> Run<'p, 'a> {
        Run { exec: self.exec, kernels: self.kernels, predictor }
    }

    /// Lists the inputs of one token that up to three maps stored by input read: those that are not zero and exceed the
    /// map's threshold. Returns the lists' lengths; a pass of several tokens reads all inputs.
    pub fn select(
        &self,
        sparsity: &mut Option<State>,
        maps: &[Slot],
        (rows, int8): (&Rows, bool),
        lists: &mut [&mut [u32]; 3],
    ) -> [usize; 3] {
        let mut counts = [0; 3];
        if let Some(state) = sparsity {
            state.observe(self.layer, maps[0], rows, self.first..self.first + self.tokens);
        }
        if self.tokens != 1 {
            return counts;
        }
        for ((map, list), count) in maps.iter().zip(lists).zip(&mut counts) {
            let x = &rows.values[..rows.width];
            let threshold = sparsity.as_mut().map_or(0.0, |s| s.input_threshold(self.layer, *map, x));
            *count = self.kernels.select_inputs(x, int8.then(|| rows.quants()), threshold, list);
        }
        counts
    }
}

/// The heads and neurons of this pass, if they are chosen by list, which they are only in a pass of one token. A batch
/// (a prefill, a verification) has no list, so that the same code computes all heads and neurons.
pub(super) fn units<'s, 'm>(sparsity: &'s Option<State<'m>>) -> Option<&'s Units<'m>> {
    sparsity.as_ref().and_then(State::lists)
}

/// Shows an input of linear maps to the session's observer.
pub(super) fn observe(observer: Option<Observer>, pass: &Pass, source: Source, rows: &Rows) {
    if let Some(see) = observer {
        see(pass.layer, source, &rows.values[..pass.tokens * rows.width], rows.width);
    }
}

/// The filled parts of the lists.
pub(super) fn lists<'a>(lists: &'a [&mut [u32]; 3], counts: [usize; 3]) -> [&'a [u32]; 3] {
    core::array::from_fn(|i| &lists[i][..counts[i]])
}

/// The part of some bytes that belongs to `parts` of `all` units.
pub(super) fn part(bytes: usize, parts: usize, all: usize) -> usize {
    // The product has more than 32 bits where addresses have 32.
    (bytes as u64 * parts as u64 / all.max(1) as u64) as usize
}

impl Traffic {
    /// Counts bytes that a layer read.
    pub(super) fn add(&mut self, layer: usize, bytes: usize, skippable: bool) {
        self.weights += bytes;
        if layer > 0 && skippable {
            self.skippable += bytes;
        }
    }
}

impl Session<'_, '_> {
    /// Runs a batch through all layers: writes the KV cache at `position..` and leaves the residual stream in
    /// `buffers.x`; then computes the logits of the last `rows` tokens. All is one pass of the executor, so that its
    /// workers are woken once a token. The caller advances the position.
    pub(super) fn forward(&mut self, exec: &dyn Executor, tokens: &[u32], rows: usize) -> Result<(), Error> {
        let mut result = Ok(());
        exec.pass(&mut || {
            result = self.layers(exec, tokens);
            if rows > 0 && result.is_ok() {
                self.output(exec, tokens.len() - rows, rows);
            }
        });
        result
    }

    fn layers(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<(), Error> {
        self.embed(exec, tokens);
        let (layers, kernels) = (self.layers, &self.model.kernels().for_threads(exec.width()));
        for (number, layer) in layers.iter().enumerate() {
            if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                // A cancelled pass must not influence the next choice, so its statistics are forgotten.
                if let Some(state) = &mut self.sparsity {
                    state.forget();
                }
                return Err(Error::Cancelled);
            }
            let (first, tokens, parallel) = (self.position, tokens.len(), layer.parallel);
            let pass = Pass { exec, kernels, tokens, first, layer: number, parallel };
            self.begin_layer(&pass, layer);
            layer.blocks.iter().try_for_each(|block| self.block(&pass, block))?;
        }
        if let Some(state) = &mut self.sparsity {
            let (bytes, nanoseconds) = state.take_costs();
            self.traffic.predictor += bytes;
            self.traffic.predictor_nanoseconds += nanoseconds;
            self.traffic.weights += bytes;
        }
        Ok(())
    }

    /// The work that needs the residual stream before the layer's first block changes it.
    fn begin_layer(&mut self, pass: &Pass, layer: &LayerWeights) {
        let b = &mut self.buffers;
        if layer.parallel {
            let used = pass.tokens * b.x.width;
            b.start[..used].copy_from_slice(&b.x.values[..used]);
        }
        if let Some(router) = layer.early() {
            prepare(pass.exec, pass.kernels, None, (b.x.values, &mut b.normed), pass.tokens, true);
            self.route(pass, router);
        }
    }

    fn block(&mut self, pass: &Pass, block: &BlockWeights) -> Result<(), Error> {
        match &block.op {
            OpWeights::Attention(w) => self.attention(pass, &block.norms, w),
            OpWeights::Mlp(w) => self.feed_forward(pass, &block.norms, w),
            OpWeights::Mixture(w) => self.mixture(pass, &block.norms, w)?,
        }
        Ok(())
    }

    /// Computes the input of a block's operation in `buffers.normed`; also its quants, if `int8` or if a choice may be
    /// made from it.
    pub(super) fn read_stream(&mut self, pass: &Pass, norms: &BlockNorms, int8: bool) {
        let int8 = int8 || self.sparsity.is_some();
        let b = &mut self.buffers;
        let from = if pass.parallel { &*b.start } else { &*b.x.values };
        prepare(pass.exec, pass.kernels, norms.input.as_ref(), (from, &mut b.normed), pass.tokens, int8);
    }

    /// Adds the output of a block's operation, in `buffers.out`, to the residual stream.
    pub(super) fn add_to_stream(&mut self, pass: &Pass, norms: &BlockNorms) {
        let c = self.model.config();
        let b = &mut self.buffers;
        let y = (&*b.out, out_width(c));
        add(pass.exec, pass.kernels, norms, (&mut b.x, c.d_model), y, &mut b.normed, pass.tokens);
    }

    /// Computes token embeddings (projected, if the model projects them) plus learned positions, and the angles of
    /// RoPE.
    fn embed(&mut self, exec: &dyn Executor, tokens: &[u32]) {
        let (w, kernels) = (self.globals, &self.model.kernels().for_threads(exec.width()));
        let scale = self.model.image().arch().globals().embed_scale;
        let b = &mut self.buffers;
        let target = if w.project_in.is_some() { &mut b.embed } else { &mut b.x };
        let width = target.width;
        for (row, &token) in target.values.chunks_exact_mut(width).zip(tokens) {
            for (kb, block) in row.chunks_exact_mut(32).enumerate() {
                block.copy_from_slice(&w.embed.block(token as usize, kb));
            }
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
        if let Some(m) = w.project_in {
            let shared = b.embed.share();
            for t in 0..tokens.len() {
                // SAFETY: rows are processed one after the other, without tasks.
                unsafe { shared.quantize(kernels, t * width, shared.values(t * width..(t + 1) * width)) };
            }
            let product = Product::new(m, None, b.x.values, b.x.width);
            self.traffic.weights += linear(exec, kernels, &[product], &b.embed.input(), tokens.len());
        }
        if let Some(positions) = w.positions {
            let rows = positions.chunks_exact(self.model.config().d_model).skip(self.position);
            for (x, p) in b.x.values.chunks_exact_mut(b.x.width).zip(rows).take(tokens.len()) {
                x.iter_mut().zip(p).for_each(|(x, p)| *x += p);
            }
        }
        self.angles(tokens.len());
    }

    /// Cosines and sines of the batch's positions: [tables, batch, head_dim / 2].
    fn angles(&mut self, tokens: usize) {
        let b = &mut self.buffers;
        let ropes = self.model.image().arch().globals().ropes;
        let table = b.cos.len().checked_div(ropes).unwrap_or(0).max(1);
        let tables = b.cos.chunks_exact_mut(table).zip(b.sin.chunks_exact_mut(table));
        for ((cos, sin), frequencies) in tables.zip(self.globals.ropes.iter().flatten()) {
            let half = frequencies.len();
            let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
            for (t, (cos, sin)) in rows.take(tokens).enumerate() {
                self.model.kernels().angles(self.position + t, frequencies, cos, sin);
            }
        }
    }

    /// Computes the logits of `rows` tokens of the last batch, from token `row` on, in `buffers.logits`.
    pub(super) fn compute_logits(&mut self, exec: &dyn Executor, row: usize, rows: usize) {
        exec.pass(&mut || self.output(exec, row, rows));
    }

    fn output(&mut self, exec: &dyn Executor, row: usize, rows: usize) {
        let (w, c, kernels) = (self.globals, *self.model.config(), &self.model.kernels().for_threads(exec.width()));
        exec.before_layer(c.layers, None);
        let b = &mut self.buffers;
        let first = [w.project_out.as_ref(), Some(&w.output.matrix), w.sketch.as_ref()];
        // Without a projection, the sketch may read quants though the matrix does not.
        let first = if w.project_out.is_some() { &first[..1] } else { &first[1..] };
        let int8 = first.iter().flatten().any(|m| m.geometry().takes_int8());
        let from = &b.x.values[row * b.x.width..];
        prepare(exec, kernels, w.norm.as_ref(), (from, &mut b.normed), rows, int8);
        let mut input = b.normed.input();
        if let Some(m) = w.project_out {
            let width = b.embed.width;
            self.traffic.weights +=
                linear(exec, kernels, &[Product::new(m, None, b.embed.values, width)], &input, rows);
            let shared = b.embed.share();
            for t in 0..rows {
                // SAFETY: rows are processed one after the other, without tasks.
                unsafe { shared.quantize(kernels, t * width, shared.values(t * width..(t + 1) * width)) };
            }
            input = b.embed.input();
        }
        let width = c.vocab.next_multiple_of(16);
        let window = self.sparsity.as_ref().and_then(State::window).filter(|_| rows == 1);
        self.traffic.weights += match w.sketch.zip(window) {
            Some((sketch, window)) => {
                let logits = (&mut *b.logits, c.vocab);
                sketched(exec, kernels, (&sketch, &w.output), logits, (window, b.panels), &input)
            }
            None => {
                let product = Product::new(w.output.matrix, w.output.bias, b.logits, width);
                linear(exec, kernels, &[product], &input, rows)
            }
        };
        let g = self.model.image().arch().globals();
        if (g.logit_scale, g.logit_cap) != (1.0, 0.0) {
            let logits = Disjoint::new(b.logits);
            for_ranges(exec, rows * width / 16, &|range| {
                // SAFETY: no other range of `for_ranges` has these logits.
                let part = unsafe { logits.range(range.start * 16..range.end * 16) };
                kernels.scale_and_cap(g.logit_scale, g.logit_cap, part);
            });
        }
    }
}
