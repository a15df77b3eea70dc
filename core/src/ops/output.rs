//! The output matrix in two stages: all of a 4-bit sketch of it, then those of its own rows that can matter.
//!
//! ```text
//! logits  = sketch x                          an estimate of each
//! least   = largest estimate - window
//! logits  = output x                          for the panels of 16 rows with an estimate of at least `least`
//! ```
//! Rows that are read have the bits that they have where all are read; the others keep their estimates. With the sketch
//! in Q4_0 and the matrix in Q8_0, an estimate is off by 0.25 (Qwen2.5-Coder-0.5B) to 0.7 (SmolLM2-135M) nats on average,
//! and in 200 logits of each model the likeliest token was at most 4 times that below the largest estimate. (After SVD-softmax, NeurIPS 2017,
//! whose low-rank previews were measured too: at equal divergence they left more rows to read.)

use super::feed_forward::Projection;
use super::linear::{Product, linear};
use crate::exec::Executor;
use crate::format::{Matrix, TILE_ROWS};
use crate::kernels::{Input, Kernels};

/// Logits of one token, `logits` [vocabulary rounded up to 16]; `panels` is room for the panels' numbers. Returns the
/// bytes of weights that were read.
pub fn sketched(
    exec: &dyn Executor,
    kernels: &Kernels,
    (sketch, output): (&Matrix, &Projection),
    (logits, vocab): (&mut [f32], usize),
    (window, panels): (f32, &mut [u32]),
    x: &Input,
) -> usize {
    let width = vocab.next_multiple_of(TILE_ROWS);
    let estimate = Product::new(*sketch, output.bias, &mut logits[..width], width);
    let bytes = linear(exec, kernels, &[estimate], x, 1);
    let least = largest(&logits[..vocab]) - window;
    let mut count = 0;
    for (number, panel) in logits[..vocab].chunks(TILE_ROWS).enumerate() {
        if panel.iter().any(|logit| *logit >= least) {
            panels[count] = number as u32;
            count += 1;
        }
    }
    let exact = Product::new(output.matrix, output.bias, &mut logits[..width], width).only(&panels[..count]);
    bytes + linear(exec, kernels, &[exact], x, 1)
}

/// The largest of some numbers; minus infinity of none, and of what is not a number.
fn largest(x: &[f32]) -> f32 {
    // A maximum for each lane, which a compiler can keep in vectors.
    let mut lanes = [f32::NEG_INFINITY; TILE_ROWS];
    for chunk in x.chunks(TILE_ROWS) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
