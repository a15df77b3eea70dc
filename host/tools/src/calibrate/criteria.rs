//! The importance of a head or a neuron, from its values in a window of text.
//!
//! These are the criteria of ShadowLLM ([arXiv 2406.16635](https://arxiv.org/abs/2406.16635), section 3) that need only
//! values and their gradients. With a mask m on every head and neuron, which is 1 if nothing is left out, the
//! derivative of the loss with respect to a mask at m = 1 is value times gradient, summed over the values that the mask
//! covers.

use super::autograd::Trace;

/// A measure of importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// |dL/dm|, the first-order change of the loss when the unit is left out: mean over the tokens.
    Plainact,
    /// Mean over the tokens of (value * gradient)^2, summed over a head's dimensions.
    Fisher,
    /// Euclidean norm of the gradient, over the tokens and a head's dimensions.
    GradNorm,
    /// Euclidean norm of the value, over the tokens and a head's dimensions.
    L2Norm,
}

impl Criterion {
    /// All.
    pub const ALL: [Criterion; 4] = [Criterion::Plainact, Criterion::Fisher, Criterion::GradNorm, Criterion::L2Norm];

    /// Name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Criterion::Plainact => "plainact",
            Criterion::Fisher => "fisher",
            Criterion::GradNorm => "grad_norm",
            Criterion::L2Norm => "l2_norm",
        }
    }

    /// Whether it needs gradients.
    pub const fn needs_gradients(self) -> bool {
        !matches!(self, Criterion::L2Norm)
    }

    /// The term of one value and its gradient in the sum of their unit.
    fn term(self, value: f32, gradient: f32) -> f64 {
        let (v, g) = (f64::from(value), f64::from(gradient));
        match self {
            Criterion::Plainact => (v * g).abs(),
            Criterion::Fisher => (v * g) * (v * g),
            Criterion::GradNorm => g * g,
            Criterion::L2Norm => v * v,
        }
    }

    /// The importance, from the sum of the terms over all tokens.
    fn finish(self, sum: f64, tokens: usize) -> f32 {
        let importance = match self {
            Criterion::Plainact | Criterion::Fisher => sum / tokens.max(1) as f64,
            Criterion::GradNorm | Criterion::L2Norm => sum.sqrt(),
        };
        importance as f32
    }

    /// Importances of `units` from values and gradients, both [tokens, units * width].
    fn of(self, values: &[f32], gradients: &[f32], units: usize, tokens: usize) -> Vec<f32> {
        if values.is_empty() || units == 0 || self.needs_gradients() && gradients.len() != values.len() {
            return Vec::new();
        }
        let width = (values.len() / tokens.max(1) / units).max(1);
        let mut sums = vec![0f64; units];
        for (i, value) in values.iter().enumerate() {
            sums[i / width % units] += self.term(*value, gradients.get(i).copied().unwrap_or(0.0));
        }
        sums.into_iter().map(|sum| self.finish(sum, tokens)).collect()
    }
}

/// A layer's part of a trace; empty if the trace does not have it.
fn part(of: &[Vec<f32>], layer: usize) -> &[f32] {
    of.get(layer).map_or(&[], Vec::as_slice)
}

impl Trace {
    /// [`Criterion::Plainact`] of every token: |sum over the head of value * gradient|, [tokens, heads].
    /// Empty without gradients.
    pub fn head_importance(&self, layer: usize) -> Vec<f32> {
        let (values, gradients) = (part(&self.head_output, layer), part(&self.head_gradient, layer));
        if values.len() != gradients.len() {
            return Vec::new();
        }
        let width = (values.len() / (self.tokens * self.heads).max(1)).max(1);
        let heads = values.chunks_exact(width).zip(gradients.chunks_exact(width));
        heads.map(|(v, g)| v.iter().zip(g).map(|(v, g)| v * g).sum::<f32>().abs()).collect()
    }

    /// [`Criterion::Plainact`] of every token: |value * gradient|, [tokens, ffn]. Empty without gradients.
    pub fn neuron_importance(&self, layer: usize) -> Vec<f32> {
        let (values, gradients) = (part(&self.neurons, layer), part(&self.neuron_gradient, layer));
        values.iter().zip(gradients).map(|(v, g)| (v * g).abs()).collect()
    }

    /// A layer's heads over the whole window, `[heads]`. Empty if the criterion needs gradients and the trace has none.
    pub fn head_criterion(&self, criterion: Criterion, layer: usize) -> Vec<f32> {
        if criterion == Criterion::Plainact {
            // Per token the products of a head are summed before the absolute value is taken.
            let heads = self.head_importance(layer);
            return criterion.of(&heads, &vec![1.0; heads.len()], self.heads, self.tokens);
        }
        criterion.of(part(&self.head_output, layer), part(&self.head_gradient, layer), self.heads, self.tokens)
    }

    /// A layer's neurons over the whole window, `[ffn]`. Empty if the criterion needs gradients and the trace has none.
    pub fn neuron_criterion(&self, criterion: Criterion, layer: usize) -> Vec<f32> {
        let values = part(&self.neurons, layer);
        let neurons = values.len() / self.tokens.max(1);
        criterion.of(values, part(&self.neuron_gradient, layer), neurons, self.tokens)
    }
}
