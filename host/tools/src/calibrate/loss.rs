//! Cross-entropy over a vocabulary, computed in chunks, and the chain rule across the cuts between graphs.

use super::failure::Result;
use super::parts::Tensors;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use shadowllm_host::Error;

/// Rows of the output matrix that are multiplied at a time. All logits of a window at once would be by far the largest
/// tensors, which are slow because their memory is returned to the system each time.
const VOCABULARY_CHUNK: usize = 4096;

fn chunks(output: &Tensor) -> Tensors<Vec<Tensor>> {
    let vocab = output.dim(0)?;
    let starts = (0..vocab).step_by(VOCABULARY_CHUNK);
    starts.map(|at| output.narrow(0, at, VOCABULARY_CHUNK.min(vocab - at))).collect()
}

/// Some logits of every row of `x` less the row's largest.
fn exponents(x: &Tensor, rows: &Tensor, top: &Tensor) -> Tensors<Tensor> {
    x.matmul(&rows.t()?)?.broadcast_sub(top)
}

/// For every row of `x` [tokens, d_embed]: the maximum of its logits, and the sum of exp(logit - maximum), both
/// [tokens, 1].
fn exponentials(x: &Tensor, output: &Tensor) -> Tensors<(Tensor, Tensor)> {
    let (mut tops, mut sums) = (Vec::new(), Vec::new());
    for rows in chunks(output)? {
        let logits = x.matmul(&rows.t()?)?;
        let top = logits.max_keepdim(1)?;
        sums.push(logits.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?);
        tops.push(top);
    }
    let tops = Tensor::cat(&tops, 1)?;
    let top = tops.max_keepdim(1)?;
    let sums = (tops.broadcast_sub(&top)?.exp()? * Tensor::cat(&sums, 1)?)?.sum_keepdim(1)?;
    Ok((top, sums))
}

/// Mean over the rows of log(sum of exp(logits)) - logit of the target.
fn mean_loss(x: &Tensor, output: &Tensor, targets: &[u32], top: &Tensor, sums: &Tensor) -> Tensors<Tensor> {
    let chosen = output.index_select(&Tensor::new(targets, &Device::Cpu)?, 0)?;
    let target = (x * chosen)?.sum_keepdim(1)?;
    ((sums.log()? + top)? - target)?.mean_all()
}

/// Mean next-token cross-entropy of rows `x` [tokens, d_embed] under an output matrix [vocab, d_embed].
pub fn cross_entropy(x: &Tensor, output: &Tensor, targets: &[u32]) -> Tensors<f32> {
    let (top, sums) = exponentials(x, output)?;
    mean_loss(x, output, targets, &top, &sums)?.to_scalar()
}

/// The same, and its gradient with respect to `x`. The graph is cut at the sums of exponentials, to which every chunk
/// contributes.
pub fn cross_entropy_and_gradient(x: &Tensor, output: &Tensor, targets: &[u32]) -> Result<(f32, Tensor)> {
    let (top, sums) = exponentials(x, output)?;
    let (x, sums) = (Var::from_tensor(x)?, Var::from_tensor(&sums)?);
    let loss = mean_loss(&x, output, targets, &top, &sums)?;
    let mut found = loss.backward()?;
    let (mut gradient, by_sums) = (take(&mut found, &x)?, take(&mut found, &sums)?);
    for rows in chunks(output)? {
        let part = exponents(&x, &rows, &top)?.exp()?.sum_keepdim(1)?;
        gradient = (gradient + take(&mut chain(&part, &by_sums)?, &x)?)?;
    }
    Ok((loss.to_scalar()?, gradient))
}

/// Continues the chain rule across a cut: gradients with respect to the leaves of `output`, if `gradient` is that of
/// the loss with respect to `output`.
pub fn chain(output: &Tensor, gradient: &Tensor) -> Tensors<GradStore> {
    (output * gradient)?.sum_all()?.backward()
}

/// A leaf's gradient.
pub fn take(found: &mut GradStore, leaf: &Var) -> Result<Tensor> {
    let gradient = found.remove(leaf);
    Ok(gradient.ok_or_else(|| Error::Other("the loss does not depend on a value that it should".into()))?)
}
