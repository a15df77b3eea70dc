//! Predictors of one hidden layer: `scores = second relu(first x + bias) + bias`.

use super::{Choice, Run, padded};
use crate::format::Matrix;
use crate::kernels::{Activation, Input};
use crate::ops::linear::{Product, linear};
use crate::sparsity::predictor::{Output, Predictor};
use crate::sparsity::select::typical_kth;
use crate::sparsity::slot::Slot;
use core::ops::Range;

/// `hidden = relu(first x + bias)`, quantized.
pub fn hidden(c: &mut Choice, run: &Run, first: Matrix, bias: Option<&[f32]>, x: &Input) {
    let (rank, width) = (first.geometry().output_width(), c.hidden.width);
    c.bytes += linear(run.exec, run.kernels, &[Product::new(first, bias, c.hidden.values, width)], x, 1);
    c.bytes += bias.map_or(0, |b| 4 * b.len());
    run.kernels.activate(&Activation::Relu.into(), None, &mut c.hidden.values[..rank]);
    let shared = c.hidden.share();
    // SAFETY: no tasks run during this call.
    unsafe { shared.quantize(run.kernels, 0, shared.values(0..rank)) };
}

/// Chooses heads or neurons of `layers` by the scores of an output, which has the rows of these layers one after the
/// other.
pub fn choose(c: &mut Choice, run: &Run, p: &Predictor, part: Slot, output: Option<Output>, layers: Range<usize>) {
    let Some((second, bias)) = output else { return };
    let stride = c.scores.len();
    let input = Input { width: second.geometry().input_width(), ..c.hidden.input() };
    c.bytes += linear(run.exec, run.kernels, &[Product::new(second, bias, c.scores, stride)], &input, 1);
    c.bytes += bias.map_or(0, |b| 4 * b.len());
    let row = padded(c.row(part));
    for (i, layer) in layers.enumerate() {
        let (at, n) = (i * row, c.count(layer, part));
        let least = match p.ranks() {
            true => typical_kth(&c.scores[at..at + n], c.share(layer, part), c.scratch),
            false => c.threshold(layer, part),
        };
        let scores = &c.scores[at..];
        c.memory.choose(part, layer, |i| scores[i] >= least);
    }
}

/// Measures the time that `work` takes.
pub fn timed(c: &mut Choice, run: &Run, work: impl FnOnce(&mut Choice)) {
    let start = run.exec.nanoseconds();
    work(c);
    c.nanoseconds += run.exec.nanoseconds().saturating_sub(start);
}
