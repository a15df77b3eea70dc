//! The forward pass: embedding, layers, logits.
//!
//! A walk through what the architecture says ([`crate::image::arch`]): blocks, and the norms around them.

use super::session::{Session, Traffic, out_width};
use crate::error::Error;
use crate::exec::Executor;
use crate::format::Matrix;
use crate::image::arch::{Attention, Block, Op};
use crate::image::{Config, Image, Role};
use crate::kernels::{Input, Kernels};
use crate::ops::attention::Step;
use crate::ops::buffer::Rows;
use crate::ops::feed_forward::{Gate, Neurons, Projection, keep_only, neurons, neurons_by_input};
use crate::ops::linear::{Product, linear};
use crate::ops::residual::{ATTENTION_NORMS, BlockNorms, MLP_NORMS, NormWeights, add, prepare, quantize};
use crate::sparsity::{Run, Slot, State};
use crate::views::Disjoint;
use core::sync::atomic::Ordering;

/// A layer's tensor that [`Image::parse`] has seen.
fn matrix<'a>(image: &Image<'a>, role: Role, layer: usize) -> Result<Matrix<'a>, Error> {
    image.matrix(role, layer).ok_or(Error::MissingTensor(role.name()))
}

/// Lists the inputs of one token that up to three maps of a layer stored by input read: those that are not zero and
/// exceed the map's threshold. Returns the lists' lengths.
#[allow(clippy::too_many_arguments, reason = "a step's operands")]
fn select(
    kernels: &Kernels,
    c: &Config,
    by_input: bool,
    tokens: usize,
    sparsity: &mut Option<&mut State>,
    layer: usize,
    maps: &[Slot],
    (rows, int8): (&Rows, bool),
    lists: &mut [&mut [u32]; 3],
) -> [usize; 3] {
    let mut counts = [0; 3];
    if !by_input {
        return counts;
    }
    let width = maps[0].source().width(c);
    if let Some(state) = sparsity {
        state.observe(layer, maps[0], rows, width, tokens);
    }
    if tokens != 1 {
        return counts;
    }
    for ((map, list), count) in maps.iter().zip(lists).zip(&mut counts) {
        let x = &rows.values[..width];
        let threshold = sparsity.as_mut().map_or(0.0, |s| s.input_threshold(layer, *map, x));
        *count = kernels.select_inputs(x, int8.then(|| rows.quants()), threshold, list);
    }
    counts
}

/// The filled parts of the lists.
fn lists<'a>(lists: &'a [&mut [u32]; 3], counts: [usize; 3]) -> [&'a [u32]; 3] {
    core::array::from_fn(|i| &lists[i][..counts[i]])
}

/// Q, K and V in one step; returns the bytes of Q, and those of K and V.
fn linear_all(
    exec: &dyn Executor,
    kernels: &Kernels,
    q: Product,
    [k, v]: [Product; 2],
    x: &Input,
    tokens: usize,
) -> [usize; 2] {
    let products = [q, k, v];
    let all = linear(exec, kernels, &products, x, tokens);
    let q = products[0].bytes(x, tokens);
    [q, all - q]
}

impl Traffic {
    /// Counts what a layer read.
    fn add(&mut self, layer: usize, bytes: usize, skippable: bool) {
        self.weights += bytes;
        if layer > 0 && skippable {
            self.skippable += bytes;
        }
    }
}

impl Session<'_, '_> {
    /// Runs a batch through all layers: writes the KV cache at `position..` and leaves the residual stream
    /// in `buffers.x`; then, where `logits`, computes those of the last token. One pass of the executor, so that its
    /// workers are woken once for a token. The position is the caller's to advance.
    pub(super) fn forward(&mut self, exec: &dyn Executor, tokens: &[u32], logits: bool) -> Result<(), Error> {
        let mut result = Ok(());
        exec.pass(&mut || {
            result = self.layers(exec, tokens);
            if logits && result.is_ok() {
                result = self.output(exec, tokens.len() - 1, 1);
            }
        });
        result
    }

    fn layers(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<(), Error> {
        self.embed(exec, tokens)?;
        for layer in 0..self.model.config().layers {
            if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                // How far it came must not show in what is chosen next.
                if let Some(state) = &mut self.sparsity {
                    state.forget();
                }
                return Err(Error::Cancelled);
            }
            let kind = self.model.image().arch().layer(layer);
            for block in kind.blocks() {
                match &block.op {
                    Op::Attention(a) => self.attention(exec, layer, (block, a), tokens.len())?,
                    Op::Mlp(_) => self.feed_forward(exec, layer, block, tokens.len())?,
                }
            }
        }
        if let Some(state) = &mut self.sparsity {
            let (bytes, nanoseconds) = state.take_costs();
            self.traffic.predictor += bytes;
            self.traffic.predictor_nanoseconds += nanoseconds;
            self.traffic.weights += bytes;
        }
        Ok(())
    }

    /// Token embeddings (projected where the model does), plus learned positions; RoPE's angles.
    fn embed(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<(), Error> {
        let (image, c, kernels) = (*self.model.image(), *self.model.config(), self.model.kernels());
        let table = matrix(&image, Role::Embed, 0)?;
        let b = &mut self.buffers;
        let projected = image.matrix(Role::ProjectIn, 0);
        let target = if projected.is_some() { &mut b.embed } else { &mut b.x };
        let width = target.width;
        for (row, &token) in target.values.chunks_exact_mut(width).zip(tokens) {
            for (kb, block) in row.chunks_exact_mut(32).enumerate() {
                block.copy_from_slice(&table.block(token as usize, kb));
            }
        }
        if let Some(m) = projected {
            let shared = b.embed.share();
            for t in 0..tokens.len() {
                // SAFETY: one row after the other, no tasks.
                unsafe { shared.quantize(kernels, t * width, shared.values(t * width..(t + 1) * width)) };
            }
            let stride = b.x.width;
            self.traffic.weights +=
                linear(exec, kernels, &[Product::new(m, None, b.x.values, stride)], &b.embed.input(), tokens.len());
        }
        if let Some(positions) = image.vector(Role::EmbedPositions, 0) {
            let stride = b.x.width;
            let rows = positions.chunks_exact(c.d_model).skip(self.position);
            for (x, p) in b.x.values.chunks_exact_mut(stride).zip(rows).take(tokens.len()) {
                x.iter_mut().zip(p).for_each(|(x, p)| *x += p);
            }
        }
        // [tables, batch, head_dim / 2]
        let ropes = image.arch().globals().ropes;
        let table = b.cos.len().checked_div(ropes).unwrap_or(0).max(1);
        for (i, (cos, sin)) in b.cos.chunks_exact_mut(table).zip(b.sin.chunks_exact_mut(table)).enumerate() {
            let Some(frequencies) = image.vector(Role::RopeFrequencies, i) else { continue };
            let half = frequencies.len();
            let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
            for (t, (cos, sin)) in rows.take(tokens.len()).enumerate() {
                kernels.angles(self.position + t, frequencies, cos, sin);
            }
        }
        Ok(())
    }

    fn attention(
        &mut self,
        exec: &dyn Executor,
        layer: usize,
        (block, a): (&Block, &Attention),
        tokens: usize,
    ) -> Result<(), Error> {
        let (image, c, kernels) = (*self.model.image(), *self.model.config(), self.model.kernels());
        let (b, predictor) = (&mut self.buffers, self.predictor.as_ref());
        let get = |kind| matrix(&image, kind, layer);
        let (q, k, v, o) = (get(Role::Q)?, get(Role::K)?, get(Role::V)?, get(Role::O)?);
        let norms = BlockNorms::get(&image, &block.norms, &ATTENTION_NORMS, layer)?;
        let int8 = [q, k, v].iter().any(|m| m.geometry().takes_int8());
        let may_skip = self.sparsity.is_some();
        prepare(exec, kernels, norms.input.as_ref(), (b.x.values, &mut b.normed), tokens, int8 || may_skip);
        let mut sparsity = self.sparsity.as_mut();
        if let Some(state) = &mut sparsity {
            state.before_attention(&Run { exec, kernels, predictor }, layer, &b.normed, &b.heads);
        }
        exec.before_layer(layer, sparsity.as_ref().and_then(|s| s.lists()));
        let maps = &[Slot::Q, Slot::K, Slot::V];
        let counts = select(
            kernels,
            &c,
            c.attention_by_input,
            tokens,
            &mut sparsity,
            layer,
            maps,
            (&b.normed, q.geometry().takes_int8()),
            &mut b.inputs,
        );
        let [q_in, k_in, v_in] = lists(&b.inputs, counts);
        let active = sparsity.as_ref().and_then(|s| s.lists()).and_then(|a| a.heads(layer));
        let ropes = image.arch().globals().ropes.max(1);
        let (q_width, kv_width) = (c.heads * c.head_slot(), c.kv_heads * c.head_slot());
        let bias = |kind| image.vector(kind, layer);
        let product = Product::new(q, bias(Role::QBias), b.q, q_width).groups(active, c.head_slot()).inputs(q_in);
        let others = [
            Product::new(k, bias(Role::KBias), b.k, kv_width).inputs(k_in),
            Product::new(v, bias(Role::VBias), b.v, kv_width).inputs(v_in),
        ];
        let bytes = linear_all(exec, kernels, product, others, &b.normed.input(), tokens);
        let step = Step {
            attention: a,
            tokens,
            first: self.position,
            q: Disjoint::new(b.q),
            k: Disjoint::new(b.k),
            v: b.v,
            head_norms: bias(Role::QNorm).zip(bias(Role::KNorm)),
            rope: a.rope.map(|table| {
                let part = table * b.cos.len() / ropes..(table + 1) * b.cos.len() / ropes;
                (&b.cos[part.clone()], &b.sin[part])
            }),
            active,
            cache: self.cache.layer(layer),
            out: b.heads.share(),
            int8: o.geometry().takes_int8(),
        };
        step.run(exec, kernels);
        let dropped = sparsity.as_mut().map_or(0, |s| s.after_heads(layer, &mut b.heads, tokens));
        self.traffic.add(layer, bytes[0] - bytes[0] * dropped / c.heads, true);
        self.traffic.add(layer, bytes[1], sparsity.as_ref().is_some_and(|s| s.policy().by_input()));
        let maps = &[Slot::O];
        let counts = select(
            kernels,
            &c,
            c.attention_by_input,
            tokens,
            &mut sparsity,
            layer,
            maps,
            (&b.heads, o.geometry().takes_int8()),
            &mut b.inputs,
        );
        let [o_in, ..] = lists(&b.inputs, counts);
        let width = out_width(&c);
        let product = Product::new(o, bias(Role::OBias), b.out, width).inputs(o_in);
        let bytes = linear(exec, kernels, &[product], &b.heads.input(), tokens);
        self.traffic.add(layer, bytes, true);
        add(exec, kernels, &norms, (&mut b.x, c.d_model), (b.out, width), &mut b.normed, tokens);
        Ok(())
    }

    fn feed_forward(&mut self, exec: &dyn Executor, layer: usize, block: &Block, tokens: usize) -> Result<(), Error> {
        let (image, c, kernels) = (*self.model.image(), *self.model.config(), self.model.kernels());
        let (b, predictor) = (&mut self.buffers, self.predictor.as_ref());
        let norms = BlockNorms::get(&image, &block.norms, &MLP_NORMS, layer)?;
        let bias = |kind| image.vector(kind, layer);
        let project =
            |kind, bias_kind| image.matrix(kind, layer).map(|matrix| Projection { matrix, bias: bias(bias_kind) });
        let down = matrix(&image, Role::Down, layer)?;
        let gate = project(Role::Gate, Role::GateBias);
        let mut ffn = Neurons {
            gate: gate.map_or(Gate::None, Gate::Project),
            up: project(Role::Up, Role::UpBias).ok_or(Error::MissingTensor("up"))?,
            activation: c.activation,
            int8: down.geometry().takes_int8(),
            group: c.neuron_group,
        };
        let may_skip = self.sparsity.is_some();
        let int8 = may_skip || ffn.up.matrix.geometry().takes_int8();
        prepare(exec, kernels, norms.input.as_ref(), (b.x.values, &mut b.normed), tokens, int8);
        let mut sparsity = self.sparsity.as_mut();
        if let Some(state) = &mut sparsity {
            state.before_feed_forward(&Run { exec, kernels, predictor }, layer, &b.normed);
        }
        let mut bytes = 0;
        if c.ffn_by_input {
            let maps = &[Slot::Gate, Slot::Up];
            let counts = select(
                kernels,
                &c,
                true,
                tokens,
                &mut sparsity,
                layer,
                maps,
                (&b.normed, ffn.up.matrix.geometry().takes_int8()),
                &mut b.inputs,
            );
            let [gate_in, up_in, _] = lists(&b.inputs, counts);
            let input = b.normed.input();
            bytes += neurons_by_input(exec, kernels, &ffn, &input, tokens, &mut b.neurons, b.gate, [gate_in, up_in]);
            if let Some(state) = sparsity.as_mut().filter(|s| s.gate_first(layer) && gate.is_some()) {
                state.after_gate(&Run { exec, kernels, predictor }, layer, b.gate);
            }
            // Gate and up are read whole, whoever is active; down is not.
            if let Some(active) = sparsity.as_ref().and_then(|s| s.lists()).and_then(|a| a.neurons(layer)) {
                keep_only(&mut b.neurons, active, c.neuron_group);
            }
        } else {
            if let (Some(state), Some(p)) = (sparsity.as_mut().filter(|s| s.gate_first(layer)), gate) {
                let width = b.neurons.width;
                let product = Product::new(p.matrix, p.bias, b.gate, width);
                bytes += linear(exec, kernels, &[product], &b.normed.input(), 1);
                state.after_gate(&Run { exec, kernels, predictor }, layer, b.gate);
                ffn.gate = Gate::Given(b.gate);
            }
            let active = sparsity.as_ref().and_then(|s| s.lists()).and_then(|a| a.neurons(layer));
            bytes += neurons(exec, kernels, &ffn, &b.normed.input(), tokens, &mut b.neurons, active);
        }
        if let Some(state) = &mut sparsity {
            let dropped = state.after_neurons(predictor, layer, &mut b.neurons, tokens);
            // A share of what was read: stored by input, not every input was.
            bytes -= bytes * dropped / c.neuron_width();
        }
        let means = sparsity.as_ref().and_then(|s| s.means(predictor, layer));
        if let (Some((means, _)), Some(active)) = (means, sparsity.as_mut().and_then(|s| s.units().neurons(layer))) {
            for i in active.iter().flat_map(|g| *g as usize * c.neuron_group..(*g as usize + 1) * c.neuron_group) {
                b.neurons.values[i] -= means[i];
            }
        }
        if c.ffn_by_input && ffn.int8 {
            // What is left out counts as zero, for the blocks' scales too.
            quantize(exec, kernels, &mut b.neurons, tokens);
        }
        let by_input = down.geometry().is_by_input();
        let counts = select(
            kernels,
            &c,
            by_input,
            tokens,
            &mut sparsity,
            layer,
            &[Slot::Down],
            (&b.neurons, ffn.int8),
            &mut b.inputs,
        );
        let [down_in, ..] = lists(&b.inputs, counts);
        let width = out_width(&c);
        let product = Product::new(down, bias(Role::DownBias), b.out, width).inputs(down_in);
        bytes += linear(exec, kernels, &[product], &b.neurons.input(), tokens);
        if let Some((_, constant)) = means {
            b.out.iter_mut().zip(constant).for_each(|(y, m)| *y += m);
        }
        self.traffic.add(layer, bytes, true);
        add(exec, kernels, &norms, (&mut b.x, c.d_model), (b.out, width), &mut b.normed, tokens);
        Ok(())
    }

    /// Logits of `rows` tokens of the last batch from token `row` on, to `buffers.logits`.
    pub(super) fn compute_logits(&mut self, exec: &dyn Executor, row: usize, rows: usize) -> Result<(), Error> {
        let mut result = Ok(());
        exec.pass(&mut || result = self.output(exec, row, rows));
        result
    }

    fn output(&mut self, exec: &dyn Executor, row: usize, rows: usize) -> Result<(), Error> {
        let (image, c, kernels) = (*self.model.image(), *self.model.config(), self.model.kernels());
        let output = self.model.output().ok_or(Error::MissingTensor("output"))?;
        exec.before_layer(c.layers, None);
        let b = &mut self.buffers;
        let roles = [Role::FinalNorm, Role::FinalNormBias];
        let norm = NormWeights::get(&image, image.arch().globals().final_norm, roles, 0)?;
        let project = image.matrix(Role::ProjectOut, 0);
        let int8 = project.as_ref().unwrap_or(&output).geometry().takes_int8();
        let from = &b.x.values[row * b.x.width..];
        prepare(exec, kernels, norm.as_ref(), (from, &mut b.normed), rows, int8);
        let mut input = b.normed.input();
        if let Some(m) = project {
            let width = b.embed.width;
            self.traffic.weights +=
                linear(exec, kernels, &[Product::new(m, None, b.embed.values, width)], &input, rows);
            let shared = b.embed.share();
            for t in 0..rows {
                // SAFETY: one row after the other, no tasks.
                unsafe { shared.quantize(kernels, t * width, shared.values(t * width..(t + 1) * width)) };
            }
            input = b.embed.input();
        }
        let width = c.vocab.next_multiple_of(16);
        self.traffic.weights += linear(exec, kernels, &[Product::new(output, None, b.logits, width)], &input, rows);
        Ok(())
    }
}
