//! Matrix products of a batch of tokens.
//!
//! For one token, weights that do not affect the result are not read: neither those of skipped heads' outputs
//! ([`Product::groups`]), nor those of inputs that are zero or left out ([`Product::inputs`]).

use crate::exec::Executor;
use crate::format::{BLOCK, Matrix, SUPER, Shape, TILE_ROWS};
use crate::kernels::{Input, Kernels, PanelProduct, RUNS};
use crate::views::Disjoint;
use core::ops::Range;
use heapless::Vec;

/// Up to this many tokens, a product takes as long as reading its weights.
const FEW: usize = 8;

/// One product of a step: `out = m x (+ bias)`.
pub struct Product<'a> {
    matrix: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: Disjoint<'a, f32>,
    stride: usize,
    groups: Option<(&'a [u32], usize)>,
    inputs: Option<&'a [u32]>,
}

impl<'a> Product<'a> {
    /// `out` is [tokens, stride], stride at least the matrix's output width.
    ///
    /// # Panics
    /// When the stride is too short.
    pub fn new(matrix: Matrix<'a>, bias: Option<&'a [f32]>, out: &'a mut [f32], stride: usize) -> Self {
        assert!(matrix.geometry().output_width() <= stride, "output rows too short");
        Product { matrix, bias, out: Disjoint::new(out), stride, groups: None, inputs: None }
    }

    /// Computes only these panels, of a matrix of rows; the other outputs keep what they were.
    pub fn only(self, panels: &'a [u32]) -> Self {
        Product { groups: Some((panels, 1)), ..self }
    }

    /// Computes only the outputs of these groups (heads) of `width` outputs each; the other outputs are left unchanged.
    pub fn groups(self, groups: Option<&'a [u32]>, width: usize) -> Self {
        let g = self.matrix.geometry();
        let per_group = if g.is_by_input() { width / BLOCK } else { g.units_per_group };
        Product { groups: groups.map(|list| (list, per_group)), ..self }
    }

    /// Reads only these inputs, in order, for one token and a matrix that is stored by input.
    pub fn inputs(self, inputs: &'a [u32]) -> Self {
        Product { inputs: Some(inputs), ..self }
    }

    /// Outputs computed together.
    fn item_width(&self) -> usize {
        self.matrix.geometry().order.output_multiple()
    }

    /// The number of items (panels, or blocks of outputs) to compute.
    fn items(&self) -> usize {
        match self.groups {
            Some((list, per_group)) => list.len() * per_group,
            None => self.matrix.geometry().panels * TILE_ROWS / self.item_width(),
        }
    }

    /// Number of the `i`th item to compute.
    fn item(&self, i: usize) -> usize {
        match self.groups {
            Some((list, per_group)) => list[i / per_group] as usize * per_group + i % per_group,
            None => i,
        }
    }

    /// Whether this k-block of the first token has an input that is not zero.
    fn block_matters(&self, x: &Input, kb: usize) -> bool {
        if self.matrix.geometry().takes_int8() {
            x.scales[kb][0] != 0.0
        } else {
            x.values[kb * BLOCK..(kb + 1) * BLOCK].iter().any(|x| *x != 0.0)
        }
    }

    /// Bytes of weights that computing this product reads.
    pub fn bytes(&self, x: &Input, tokens: usize) -> usize {
        let g = self.matrix.geometry();
        let all = (g.input_width(), g.k_blocks, g.k_blocks / g.format.blocks_together());
        let (inputs, k_blocks, supers) = match (self.shape(tokens), self.inputs) {
            (Shape::Columns, _) if tokens == 1 => {
                let read = (0..g.k_blocks).filter(|kb| self.block_matters(x, *kb));
                let blocks = read.clone().count();
                (blocks * BLOCK, blocks, runs(read.map(|kb| kb / SUPER)))
            }
            (Shape::Inputs | Shape::Codes, Some(inputs)) if inputs.len() < all.0 => {
                let blocks = inputs.iter().map(|i| *i as usize / BLOCK);
                (inputs.len(), runs(blocks.clone()), runs(blocks.map(|kb| kb / SUPER)))
            }
            _ => all,
        };
        g.bytes_read(self.items() * self.item_width(), inputs, k_blocks, supers)
    }

    /// The shape of kernel that computes it.
    fn shape(&self, tokens: usize) -> Shape {
        let [one, several] = self.matrix.geometry().shapes();
        // Few tokens, like one, take as long as reading the weights: so columns are read in the order in which they are
        // stored.
        if tokens == 1 || one == Shape::Columns && tokens <= FEW { one } else { several }
    }

    /// Computes some items for all tokens.
    ///
    /// # Safety
    /// No other task may run for the same items.
    unsafe fn run(&self, kernels: &Kernels, x: &Input, tokens: usize, items: Range<usize>) {
        let m = &self.matrix;
        assert!(self.out.len() >= tokens * self.stride, "too few output rows");
        let mut at = items.start;
        while at < items.end {
            // Consecutive items are computed in one call.
            let first = self.item(at);
            let mut n = 1;
            while at + n < items.end && self.item(at + n) == first + n {
                n += 1;
            }
            // SAFETY: an item has its own outputs in each row, which are inside `out` by the lengths checked here and
            // in `new`; the caller runs no other task for these items.
            unsafe {
                match self.shape(tokens) {
                    _ if m.geometry().is_by_input() => self.blocks(kernels, x, tokens, first..first + n),
                    Shape::Columns => self.columns(kernels, x, tokens, first..first + n),
                    _ => self.panels(kernels, x, tokens, at..at + n, items.end),
                }
                self.add_bias(tokens, first..first + n);
            }
            at += n;
        }
    }

    /// Computes panels; those up to item `end` are computed next.
    ///
    /// # Safety
    /// As [`Product::run`].
    unsafe fn panels(&self, kernels: &Kernels, x: &Input, tokens: usize, items: Range<usize>, end: usize) {
        let m = &self.matrix;
        for first in items.clone().step_by(RUNS) {
            let after = items.end.min(first + RUNS);
            let panels: Vec<_, RUNS> = (first..after)
                .map(|i| {
                    let panel = self.item(i);
                    // SAFETY: `run` has checked that `out` has all rows.
                    PanelProduct { matrix: m, panel, out: unsafe { self.out.as_ptr().add(m.output_offset(panel)) } }
                })
                .collect();
            let next = m.panel_start(self.item(after.min(end - 1)));
            // SAFETY: the caller runs no other task for these panels, and `run` has checked that `out` has all rows.
            unsafe { kernels.gemm_shared(&panels, next, x, 0..tokens, self.stride) };
        }
    }

    /// Computes blocks of outputs of a matrix stored by input.
    ///
    /// # Safety
    /// As [`Product::run`].
    unsafe fn blocks(&self, kernels: &Kernels, x: &Input, tokens: usize, blocks: Range<usize>) {
        // SAFETY: the caller runs no other task for these blocks, and `run` has checked that `out` has all rows.
        unsafe {
            match self.inputs {
                Some(inputs) if tokens == 1 => {
                    let y = self.out.range(blocks.start * BLOCK..blocks.end * BLOCK);
                    y.fill(0.0);
                    kernels.gemv_inputs(&self.matrix, inputs, blocks.start, x, y);
                }
                _ => {
                    for b in blocks {
                        let out = self.out.as_ptr().add(b * BLOCK);
                        kernels.gemm_inputs(&self.matrix, b, x, 0..tokens, out, self.stride);
                    }
                }
            }
        }
    }

    /// Computes panels of a matrix of columns for few tokens; for one token, k-blocks of zeros are not read.
    ///
    /// # Safety
    /// As [`Product::run`].
    unsafe fn columns(&self, kernels: &Kernels, x: &Input, tokens: usize, panels: Range<usize>) {
        let outputs = panels.start * TILE_ROWS..panels.end * TILE_ROWS;
        for row in 0..tokens {
            let from = row * self.stride;
            // SAFETY: the caller runs no other task for these panels.
            unsafe { self.out.range(from + outputs.start..from + outputs.end) }.fill(0.0);
        }
        let m = &self.matrix;
        let mut blocks = (0..m.geometry().k_blocks).filter(|kb| tokens > 1 || self.block_matters(x, *kb)).peekable();
        // A task reads its part of a run, and prefetches the same part of later runs.
        let skip = panels.start * m.format().tile_bytes();
        while blocks.peek().is_some() {
            let these: Vec<usize, RUNS> = blocks.by_ref().take(RUNS).collect();
            let next = m.unit_start(blocks.peek().copied().unwrap_or(these[0])).wrapping_add(skip);
            // SAFETY: the caller runs no other task for these panels, and `run` has checked that `out` has all rows.
            unsafe {
                let out = self.out.as_ptr().add(outputs.start);
                kernels.columns_shared(m, &these, next, panels.clone(), x, tokens, out, self.stride);
            }
        }
    }

    /// Adds the biases of some items to all rows.
    ///
    /// # Safety
    /// As [`Product::run`].
    unsafe fn add_bias(&self, tokens: usize, items: Range<usize>) {
        let Some(bias) = self.bias else { return };
        let width = self.item_width();
        for item in items {
            let at = if width == BLOCK { item * BLOCK } else { self.matrix.output_offset(item) };
            let bias = &bias[at.min(bias.len())..bias.len().min(at + width)];
            for t in 0..tokens {
                // SAFETY: the caller runs no other task for this item, so nothing else accesses its outputs in row t.
                let row = unsafe { self.out.range(t * self.stride + at..t * self.stride + at + bias.len()) };
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}

/// How many different numbers are among these sorted ones.
fn runs(numbers: impl Iterator<Item = usize>) -> usize {
    let mut last = None;
    numbers.filter(|n| last.replace(*n) != Some(*n)).count()
}

/// Runs several products of the same inputs as one step; returns the bytes of weights that it reads.
pub fn linear(exec: &dyn Executor, kernels: &Kernels, products: &[Product], x: &Input, tokens: usize) -> usize {
    let threads = exec.width().max(1);
    let total: usize = products.iter().map(Product::items).sum();
    // Long runs are fast to read, and several tasks a thread even out a slow core. A task on a matrix stored by input
    // or by k-block reads a piece of every line or k-block, so these products have few tasks, to keep the pieces long.
    let lines = products.iter().any(|p| match p.shape(tokens) {
        Shape::Columns => true,
        _ => tokens == 1 && p.matrix.geometry().is_by_input(),
    });
    let per_thread = if lines { 1 } else { 4 };
    let chunk = if threads == 1 { total.max(1) } else { total.div_ceil(per_thread * threads).max(2) };
    let tasks = |p: &Product| p.items().div_ceil(chunk);
    exec.run(products.iter().map(tasks).sum(), &|mut i| {
        for p in products {
            if i < tasks(p) {
                let range = i * chunk..((i + 1) * chunk).min(p.items());
                // SAFETY: the ranges of different tasks are disjoint.
                return unsafe { p.run(kernels, x, tokens, range) };
            }
            i -= tasks(p);
        }
    });
    products.iter().map(|p| p.bytes(x, tokens)).sum()
}
