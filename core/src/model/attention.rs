//! A block of attention.

use super::buffers::out_width;
use super::forward::{Pass, lists, observe, part, units};
use super::layers::AttentionWeights;
use super::session::Session;
use crate::image::arch::HeadNorm;
use crate::ops::attention::{Step, norm_heads};
use crate::ops::linear::{Product, linear};
use crate::ops::residual::BlockNorms;
use crate::sparsity::{Slot, Source};
use crate::views::Disjoint;

impl Session<'_, '_> {
    pub(super) fn attention(&mut self, pass: &Pass, norms: &BlockNorms, w: &AttentionWeights) {
        let int8 = [&w.q, &w.k, &w.v].iter().any(|p| p.matrix.geometry().takes_int8());
        self.read_stream(pass, norms, int8);
        observe(self.observer, pass, Source::Attention, &self.buffers.normed);
        let (b, run) = (&self.buffers, pass.run(self.predictor.as_ref()));
        if let Some(state) = &mut self.sparsity {
            state.before_attention(&run, pass.layer, &b.normed, &b.heads);
        }
        pass.exec.before_layer(pass.layer, units(&self.sparsity));
        let bytes = self.project_heads(pass, w);
        self.look_up(pass, w);
        let heads = &mut self.buffers.heads.narrow(w.shape.heads * w.shape.head_slot());
        observe(self.observer, pass, Source::Heads, heads);
        let dropped = match &mut self.sparsity {
            Some(state) => state.after_heads(pass.layer, heads, pass.tokens),
            None => 0,
        };
        let by_input = self.sparsity.as_ref().is_some_and(|s| s.policy().by_input());
        self.traffic.add(pass.layer, bytes[0] - part(bytes[0], dropped, w.shape.heads), true);
        self.traffic.add(pass.layer, bytes[1], by_input);
        self.project_out(pass, w);
        self.add_to_stream(pass, norms);
    }

    /// Computes queries, keys and values. Returns the bytes read for Q, and for K and V.
    fn project_heads(&mut self, pass: &Pass, w: &AttentionWeights) -> [usize; 2] {
        let (a, b) = (&w.shape, &mut self.buffers);
        let mut counts = [0; 3];
        if a.by_input {
            // An input that is quantized to zero can be skipped only if all maps take quants.
            let int8 = [&w.q, &w.k, &w.v].iter().all(|p| p.matrix.geometry().takes_int8());
            let source = (&b.normed, int8);
            counts = pass.select(&mut self.sparsity, &[Slot::Q, Slot::K, Slot::V], source, &mut b.inputs);
        }
        let [q_in, k_in, v_in] = lists(&b.inputs, counts);
        let active = units(&self.sparsity).and_then(|units| units.heads(pass.layer));
        // Heads that are normed together are computed all or none.
        let active = active.filter(|_| a.head_norm != HeadNorm::Whole);
        let (slot, kv_width) = (a.head_slot(), a.kv_heads * a.head_slot());
        let products = [
            Product::new(w.q.matrix, w.q.bias, b.q, a.heads * slot).groups(active, slot).inputs(q_in),
            Product::new(w.k.matrix, w.k.bias, b.k, kv_width).inputs(k_in),
            Product::new(w.v.matrix, w.v.bias, b.v, kv_width).inputs(v_in),
        ];
        let x = b.normed.input();
        let all = linear(pass.exec, pass.kernels, &products, &x, pass.tokens);
        let q = products[0].bytes(&x, pass.tokens);
        if let Some((q_norm, k_norm)) = w.head_norms.filter(|_| a.head_norm == HeadNorm::Whole) {
            let (sizes, eps, room) = ((a.head_dim, slot), a.head_norm_eps, &mut *b.heads.values);
            norm_heads(pass.kernels, (q_norm, eps), sizes, b.q, room, pass.tokens);
            norm_heads(pass.kernels, (k_norm, eps), sizes, b.k, room, pass.tokens);
        }
        [q, all - q]
    }

    /// Writes to the KV cache, and looks up in it.
    fn look_up(&mut self, pass: &Pass, w: &AttentionWeights) {
        let (a, b) = (&w.shape, &mut self.buffers);
        let ropes = self.model.image().arch().globals().ropes.max(1);
        let mut heads = b.heads.narrow(a.heads * a.head_slot());
        let step = Step {
            attention: a,
            tokens: pass.tokens,
            first: self.position,
            q: Disjoint::new(b.q),
            k: Disjoint::new(b.k),
            v: b.v,
            head_norms: w.head_norms.filter(|_| a.head_norm == HeadNorm::PerHead),
            rope: a.rope.map(|table| {
                let part = table * b.cos.len() / ropes..(table + 1) * b.cos.len() / ropes;
                (&b.cos[part.clone()], &b.sin[part])
            }),
            sinks: w.sinks,
            active: units(&self.sparsity).and_then(|units| units.heads(pass.layer)),
            cache: self.cache.layer(pass.layer),
            out: heads.share(),
            int8: w.o.matrix.geometry().takes_int8(),
        };
        step.run(pass.exec, pass.kernels);
    }

    fn project_out(&mut self, pass: &Pass, w: &AttentionWeights) {
        let b = &mut self.buffers;
        let heads = b.heads.narrow(w.shape.heads * w.shape.head_slot());
        let mut counts = [0; 3];
        if w.shape.by_input {
            let source = (&heads, w.o.matrix.geometry().takes_int8());
            counts = pass.select(&mut self.sparsity, &[Slot::O], source, &mut b.inputs);
        }
        let [o_in, ..] = lists(&b.inputs, counts);
        let width = out_width(self.model.config());
        let product = Product::new(w.o.matrix, w.o.bias, b.out, width).inputs(o_in);
        let bytes = linear(pass.exec, pass.kernels, &[product], &heads.input(), pass.tokens);
        self.traffic.add(pass.layer, bytes, true);
    }
}
