//! A block of a mixture of experts.

use super::buffers::out_width;
use super::forward::{Pass, observe};
use super::layers::{MixtureWeights, MlpWeights, RouterWeights};
use super::session::Session;
use crate::error::Error;
use crate::ops::experts::network;
use crate::ops::linear::{Product, linear};
use crate::ops::residual::BlockNorms;
use crate::sparsity::Source;

impl Session<'_, '_> {
    /// Chooses the experts of each token of the batch, from `buffers.normed`.
    pub(super) fn route(&mut self, pass: &Pass, w: &RouterWeights) {
        let b = &mut self.buffers;
        let stride = b.routes.stride;
        let product = Product::new(w.matrix.matrix, w.matrix.bias, b.routes.outputs(), stride);
        let bytes = linear(pass.exec, pass.kernels, &[product], &b.normed.input(), pass.tokens);
        self.traffic.add(pass.layer, bytes, false);
        b.routes.choose(&w.shape, w.choice_bias, pass.tokens);
        pass.exec.before_experts(pass.layer, b.routes.chosen(pass.tokens));
    }

    /// # Errors
    /// [`Error::MissingTensor`].
    pub(super) fn mixture(&mut self, pass: &Pass, norms: &BlockNorms, w: &MixtureWeights) -> Result<(), Error> {
        self.read_stream(pass, norms, true);
        observe(self.observer, pass, Source::FeedForward, &self.buffers.normed);
        let run = pass.run(self.predictor.as_ref());
        if let Some(state) = &mut self.sparsity {
            // The heads of the next layer may be chosen from this input.
            state.before_feed_forward(&run, pass.layer, &self.buffers.normed);
        }
        if !w.router.shape.early {
            self.route(pass, &w.router);
        }
        let used = pass.tokens * out_width(self.model.config());
        self.buffers.sum[..used].fill(0.0);
        for expert in 0..w.router.shape.experts {
            let n = self.buffers.routes.gather(expert, w.router.shape.used, pass.tokens);
            if n > 0 {
                self.expert(pass, &w.expert(expert)?, n);
            }
        }
        if let Some(shared) = &w.shared {
            self.shared(pass, w, shared);
        }
        // Both buffers have the same length, so the sum takes the place of the block's output.
        core::mem::swap(&mut self.buffers.out, &mut self.buffers.sum);
        self.add_to_stream(pass, norms);
        Ok(())
    }

    /// The expert that every token uses.
    fn shared(&mut self, pass: &Pass, w: &MixtureWeights, shared: &MlpWeights) {
        let b = &mut self.buffers;
        if let Some(matrix) = w.shared_router {
            let stride = b.routes.stride;
            let product = Product::new(matrix, None, b.routes.outputs(), stride);
            let bytes = linear(pass.exec, pass.kernels, &[product], &b.normed.input(), pass.tokens);
            self.traffic.add(pass.layer, bytes, false);
        }
        b.routes.gather_all(pass.tokens, w.shared_router.is_some());
        self.expert(pass, shared, pass.tokens);
    }

    /// Adds an expert's output for the first `n` listed tokens.
    fn expert(&mut self, pass: &Pass, w: &MlpWeights, n: usize) {
        let (b, width) = (&mut self.buffers, out_width(self.model.config()));
        // If all tokens use the expert, their rows are already together.
        if n < pass.tokens {
            b.gathered.gather(&b.normed, b.routes.members(n));
        }
        let x = if n < pass.tokens { b.gathered.input() } else { b.normed.input() };
        let (out, mut h) = ((&mut *b.out, width), b.neurons.narrow(w.shape.width()));
        let bytes = network(pass.exec, pass.kernels, &w.neurons(), &w.down, &x, n, &mut h, out);
        b.routes.add(pass.exec, n, b.out, b.sum, width);
        self.traffic.add(pass.layer, bytes, false);
    }
}
