//! Matrix products of a batch of tokens.

use crate::exec::Executor;
use crate::format::TILE_ROWS;
use crate::kernels::{Input, Kernels, Layout, Matrix};
use crate::views::Disjoint;
use core::ops::Range;

/// One product of a step: `out = m x (+ bias)`.
pub struct Product<'a> {
    matrix: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a, f32>,
    stride: usize,
}

impl<'a> Product<'a> {
    /// `out` is [tokens, stride], stride at least the matrix's output width.
    ///
    /// # Panics
    /// When the stride is too short.
    pub fn new(matrix: Matrix<'a>, bias: Option<&'a [f32]>, out: &'a mut [f32], stride: usize) -> Self {
        assert!(matrix.geometry().output_width() <= stride, "output rows too short");
        Product { matrix, bias, out: Disjoint::new(out), stride }
    }

    /// Computes the outputs of some panels for all tokens.
    ///
    /// # Safety
    /// No other task may be given the same panels.
    unsafe fn panels(&self, kernels: &Kernels, x: &Input, tokens: usize, panels: Range<usize>) {
        let m = &self.matrix;
        assert!(self.out.len() >= tokens * self.stride, "too few output rows");
        // SAFETY: panel p owns its 16 outputs of each row, inside `out` by the lengths checked here and in
        // `new`; panels are not given twice.
        unsafe {
            if tokens == 1 && m.geometry().layout == Layout::Columns {
                let y = self.out.range(panels.start * TILE_ROWS..panels.end * TILE_ROWS);
                y.fill(0.0);
                for kb in 0..m.geometry().k_blocks {
                    kernels.gemv_columns(m, kb, panels.start, x, y);
                }
            } else {
                for p in panels.clone() {
                    let out = self.out.as_ptr().add(m.output_offset(p));
                    kernels.gemm_shared(m, p, x, 0, tokens, out, self.stride);
                }
            }
            let Some(bias) = self.bias else { return };
            for p in panels {
                let at = m.output_offset(p);
                let bias = &bias[at.min(bias.len())..bias.len().min(at + TILE_ROWS)];
                for t in 0..tokens {
                    let row = self.out.range(t * self.stride + at..t * self.stride + at + bias.len());
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
        }
    }
}

/// Runs several products of the same inputs as one step.
pub fn linear(exec: &dyn Executor, kernels: &Kernels, products: &[Product], x: &Input, tokens: usize) {
    let threads = exec.threads().max(1);
    let total: usize = products.iter().map(|p| p.matrix.geometry().panels).sum();
    // Long runs for the memory's sake, enough tasks to even out a slow core.
    let chunk = if threads == 1 { total } else { total.div_ceil(4 * threads).max(2) };
    let tasks = |p: &Product| p.matrix.geometry().panels.div_ceil(chunk);
    exec.run(products.iter().map(tasks).sum(), &|mut i| {
        for p in products {
            if i < tasks(p) {
                let range = i * chunk..((i + 1) * chunk).min(p.matrix.geometry().panels);
                // SAFETY: ranges of different tasks are disjoint.
                return unsafe { p.panels(kernels, x, tokens, range) };
            }
            i -= tasks(p);
        }
    });
}
