//! A block of a feed-forward network.

use super::buffers::out_width;
use super::forward::{Pass, lists, observe, part, units};
use super::layers::MlpWeights;
use super::session::Session;
use crate::ops::feed_forward::{Gate, Neurons, Projection, keep_only, neurons, neurons_by_input};
use crate::ops::linear::{Product, linear};
use crate::ops::residual::{BlockNorms, quantize};
use crate::sparsity::{Slot, Source};

impl<'a> MlpWeights<'a> {
    /// Up and gate, which read the same inputs.
    fn projections(&self) -> impl Iterator<Item = &Projection<'a>> {
        self.gate.iter().chain([&self.up])
    }

    /// The operands of the part before the down projection.
    pub(super) fn neurons(&self) -> Neurons<'a> {
        Neurons {
            gate: self.gate.map_or(Gate::None, Gate::Project),
            up: self.up,
            activation: self.shape.activate(),
            int8: self.down.matrix.geometry().takes_int8(),
            group: self.shape.group,
        }
    }
}

impl Session<'_, '_> {
    pub(super) fn feed_forward(&mut self, pass: &Pass, norms: &BlockNorms, w: &MlpWeights) {
        self.read_stream(pass, norms, w.projections().any(|p| p.matrix.geometry().takes_int8()));
        observe(self.observer, pass, Source::FeedForward, &self.buffers.normed);
        let run = pass.run(self.predictor.as_ref());
        if let Some(state) = &mut self.sparsity {
            state.before_feed_forward(&run, pass.layer, &self.buffers.normed);
        }
        let mut bytes = match w.shape.by_input {
            true => self.neurons_by_input(pass, w),
            false => self.neurons(pass, w),
        };
        let h = &mut self.buffers.neurons.narrow(w.shape.width());
        observe(self.observer, pass, Source::Neurons, h);
        if let Some(state) = &mut self.sparsity {
            let dropped = state.after_neurons(self.predictor.as_ref(), pass.layer, h, pass.tokens);
            // The bytes are reduced by the share of dropped neurons, and not recounted: by input, not all inputs were
            // read.
            bytes -= part(bytes, dropped, w.shape.width());
        }
        bytes += self.project_down(pass, w);
        self.traffic.add(pass.layer, bytes, true);
        self.add_to_stream(pass, norms);
    }

    /// The neurons of a network that is stored by neurons. Returns the bytes read.
    fn neurons(&mut self, pass: &Pass, w: &MlpWeights) -> usize {
        let (b, mut ffn, mut bytes) = (&mut self.buffers, w.neurons(), 0);
        let (mut h, width) = (b.neurons.narrow(w.shape.width()), w.shape.width());
        if let (Some(state), Some(p)) = (self.sparsity.as_mut().filter(|s| s.gate_first(pass.layer)), w.gate) {
            let product = Product::new(p.matrix, p.bias, b.gate, width);
            bytes += linear(pass.exec, pass.kernels, &[product], &b.normed.input(), 1);
            let run = pass.run(self.predictor.as_ref());
            state.after_gate(&run, pass.layer, &b.gate[..width]);
            ffn.gate = Gate::Given(b.gate);
        }
        let active = units(&self.sparsity).and_then(|units| units.neurons(pass.layer));
        bytes + neurons(pass.exec, pass.kernels, &ffn, &b.normed.input(), pass.tokens, &mut h, active)
    }

    /// The neurons of a network that is stored by input. Returns the bytes read.
    fn neurons_by_input(&mut self, pass: &Pass, w: &MlpWeights) -> usize {
        let (b, ffn) = (&mut self.buffers, w.neurons());
        let mut h = b.neurons.narrow(w.shape.width());
        let source = (&b.normed, w.projections().all(|p| p.matrix.geometry().takes_int8()));
        let counts = pass.select(&mut self.sparsity, &[Slot::Gate, Slot::Up], source, &mut b.inputs);
        let [gate_in, up_in, _] = lists(&b.inputs, counts);
        let (x, inputs) = (b.normed.input(), [gate_in, up_in]);
        let bytes = neurons_by_input(pass.exec, pass.kernels, &ffn, &x, pass.tokens, &mut h, b.gate, inputs);
        if let Some(state) = self.sparsity.as_mut().filter(|s| s.gate_first(pass.layer) && w.gate.is_some()) {
            let run = pass.run(self.predictor.as_ref());
            state.after_gate(&run, pass.layer, &b.gate[..h.width]);
        }
        // Stored by input, gate and up are read for all neurons; only down is not read for those that are not active.
        if let Some(active) = units(&self.sparsity).and_then(|units| units.neurons(pass.layer)) {
            keep_only(&mut h, active, w.shape.group);
        }
        bytes
    }

    /// The down projection; for policies that need it, skipped neurons count with their means. Returns the bytes read.
    fn project_down(&mut self, pass: &Pass, w: &MlpWeights) -> usize {
        let (b, group) = (&mut self.buffers, w.shape.group);
        let mut h = b.neurons.narrow(w.shape.width());
        let means = self.sparsity.as_ref().and_then(|s| s.means(self.predictor.as_ref(), pass.layer));
        let active = self.sparsity.as_mut().and_then(|s| s.units().neurons(pass.layer));
        if let (Some((means, _)), Some(active)) = (means, active) {
            for i in active.iter().flat_map(|g| *g as usize * group..(*g as usize + 1) * group) {
                h.values[i] -= means[i];
            }
        }
        let int8 = w.down.matrix.geometry().takes_int8();
        if w.shape.by_input && int8 {
            // Inputs that are left out count as zero, also in the scales of their blocks.
            quantize(pass.exec, pass.kernels, &mut h, pass.tokens);
        }
        let mut counts = [0; 3];
        if w.down.matrix.geometry().is_by_input() {
            counts = pass.select(&mut self.sparsity, &[Slot::Down], (&h, int8), &mut b.inputs);
        }
        let [down_in, ..] = lists(&b.inputs, counts);
        let product = Product::new(w.down.matrix, w.down.bias, b.out, out_width(self.model.config())).inputs(down_in);
        let bytes = linear(pass.exec, pass.kernels, &[product], &h.input(), pass.tokens);
        if let Some((_, constant)) = means {
            b.out.iter_mut().zip(constant).for_each(|(y, m)| *y += m);
        }
        bytes
    }
}
