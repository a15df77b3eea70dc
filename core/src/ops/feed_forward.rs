//! The first half of the feed-forward part: gate, up and activation, fused per group of neurons.

use super::buffer::SharedRows;
use super::for_ranges;
use crate::exec::Executor;
use crate::format::{BLOCK, TILE_ROWS};
use crate::kernels::{Activation, Input, Kernels, Matrix};

/// Tokens whose neurons are held on the stack at once.
const TOKENS: usize = 16;

/// A projection with its bias, padded to the matrix's output width.
#[derive(Clone, Copy)]
pub struct Projection<'a> {
    /// [ffn, d_model].
    pub matrix: Matrix<'a>,
    /// `[ffn]`.
    pub bias: Option<&'a [f32]>,
}

/// What a feed-forward layer computes before its down projection.
#[derive(Clone, Copy)]
pub struct Neurons<'a> {
    /// Present in gated FFNs.
    pub gate: Option<Projection<'a>>,
    /// Always present.
    pub up: Projection<'a>,
    /// Between them, or behind `up`.
    pub activation: Activation,
    /// Whether the down projection takes quantized inputs (else floats).
    pub int8: bool,
}

/// `h = act(gate x) * (up x)`, or `act(up x)`: [tokens, ffn], quantized where the next product wants it.
pub fn neurons(exec: &dyn Executor, kernels: &Kernels, ffn: &Neurons, x: &Input, tokens: usize, h: &SharedRows) {
    let groups = ffn.up.matrix.geometry().panels * TILE_ROWS / BLOCK;
    for_ranges(exec, groups, &|range| {
        for group in range {
            for first in (0..tokens).step_by(TOKENS) {
                // SAFETY: each group is in one range, and owns its block of every row of h.
                unsafe { group_of_neurons(kernels, ffn, x, group, first, TOKENS.min(tokens - first), h) };
            }
        }
    });
}

/// One group's 32 neurons for some tokens.
///
/// # Safety
/// No other task may be given the same group.
unsafe fn group_of_neurons(
    kernels: &Kernels,
    ffn: &Neurons,
    x: &Input,
    group: usize,
    first: usize,
    tokens: usize,
    h: &SharedRows,
) {
    let mut up = [0.0; TOKENS * BLOCK];
    let mut gate = [0.0; TOKENS * BLOCK];
    project(kernels, &ffn.up, x, group, first, tokens, &mut up);
    if let Some(p) = &ffn.gate {
        project(kernels, p, x, group, first, tokens, &mut gate);
    }
    let n = tokens * BLOCK;
    kernels.activate(ffn.activation, ffn.gate.is_some().then_some(&gate[..n]), &mut up[..n]);
    for (t, row) in up[..n].chunks_exact(BLOCK).enumerate() {
        let at = (first + t) * h.width + group * BLOCK;
        // SAFETY: this group's block of row first + t, by the caller's promise nobody else's.
        unsafe {
            if ffn.int8 {
                h.quantize(kernels, at, row);
            } else {
                h.values(at..at + BLOCK).copy_from_slice(row);
            }
        }
    }
}

/// `out[t][0..32] = p's outputs of this group`.
fn project(
    kernels: &Kernels,
    p: &Projection,
    x: &Input,
    group: usize,
    first: usize,
    tokens: usize,
    out: &mut [f32; TOKENS * BLOCK],
) {
    for half in 0..BLOCK / TILE_ROWS {
        let panel = group * (BLOCK / TILE_ROWS) + half;
        kernels.gemm(&p.matrix, panel, x, first, tokens, &mut out[half * TILE_ROWS..], BLOCK);
    }
    if let Some(bias) = p.bias {
        for row in out.chunks_exact_mut(BLOCK).take(tokens) {
            row.iter_mut().zip(&bias[group * BLOCK..]).for_each(|(y, b)| *y += b);
        }
    }
}
