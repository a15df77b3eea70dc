//! The first half of a feed-forward network: gate, up and activation.
//!
//! If all neurons are computed, gate, up and activation are fused for blocks of 32. If some are chosen, they are
//! computed in groups of 32, or 16 at a time, wherever they are. Neurons that are not computed are zero, and the down projection does not
//! read the weights that are multiplied by a zero.

use super::buffer::{Rows, SharedRows};
use super::for_ranges;
use super::linear::{Product, linear};
use crate::exec::Executor;
use crate::format::{BLOCK, Matrix, TILE_ROWS};
use crate::kernels::{Activate, Input, Kernels, Outputs, PanelProduct, RUNS};
use core::mem::MaybeUninit;
use core::ops::Range;
use heapless::Vec;

/// The most tokens of a block's product. Their gates are on the stack; kernels that decode weights once for many
/// tokens do it for all of them.
const TOKENS: usize = 32;

/// A projection with its bias, padded to the matrix's output width.
#[derive(Clone, Copy)]
pub struct Projection<'a> {
    /// [ffn, d_model].
    pub matrix: Matrix<'a>,
    /// `[ffn]`.
    pub bias: Option<&'a [f32]>,
}

/// Where the gate's values come from.
#[derive(Clone, Copy)]
pub enum Gate<'a> {
    /// The network has no gate.
    None,
    /// They are computed by this projection.
    Project(Projection<'a>),
    /// They were computed before, `[ffn]`, without the activation.
    Given(&'a [f32]),
}

/// The operands of the part of a feed-forward network before its down projection.
#[derive(Clone, Copy)]
pub struct Neurons<'a> {
    /// The gate, if the network has one.
    pub gate: Gate<'a>,
    /// The up projection.
    pub up: Projection<'a>,
    /// The activation: of the gate, or of `up` if there is no gate.
    pub activation: Activate,
    /// Whether the down projection takes quantized inputs, and not floats.
    pub int8: bool,
    /// Neurons in a group.
    pub group: usize,
}

impl Neurons<'_> {
    /// Bytes of the weights of this number of neurons.
    pub fn bytes(&self, neurons: usize) -> usize {
        let one = |p: &Projection| {
            let g = p.matrix.geometry();
            g.bytes_read(neurons, g.input_width(), g.k_blocks, g.k_blocks / g.format.blocks_together())
        };
        one(&self.up) + if let Gate::Project(gate) = &self.gate { one(gate) } else { 0 }
    }
}

/// `h = act(gate x) * (up x)`, or `act(up x)`: [tokens, ffn], quantized if the next product takes quants. With a list
/// `active` (for one token only), only its groups are computed, and the others are zero. Returns the bytes of weights
/// that it reads.
pub fn neurons(
    exec: &dyn Executor,
    kernels: &Kernels,
    ffn: &Neurons,
    x: &Input,
    tokens: usize,
    h: &mut Rows,
    active: Option<&[u32]>,
) -> usize {
    if let Some(active) = active {
        assert!(tokens == 1, "units are listed for one token");
        h.clear(0);
        chosen(exec, kernels, ffn, x, active, &h.share());
        return ffn.bytes(active.len() * ffn.group);
    }
    let (width, h) = (h.width, h.share());
    for_ranges(exec, width / BLOCK, &|range| {
        let walk = BlockWalk { ffn, active: None, end: range.end };
        for blocks in walk.steps(range, tokens) {
            for first in (0..tokens).step_by(TOKENS) {
                // SAFETY: no other range has these blocks, and a block has its own part of every row of h.
                unsafe { walk.compute(kernels, blocks.clone(), x, first, TOKENS.min(tokens - first), &h) };
            }
        }
    });
    ffn.bytes(width)
}

/// All neurons of a feed-forward network stored by input; `gate` has room for [tokens, ffn]. For one token, `inputs`
/// lists the inputs that are read, for the gate and for up. Returns the bytes of weights that it reads.
#[allow(clippy::too_many_arguments, reason = "a step's operands")]
pub fn neurons_by_input(
    exec: &dyn Executor,
    kernels: &Kernels,
    ffn: &Neurons,
    x: &Input,
    tokens: usize,
    h: &mut Rows,
    gate: &mut [f32],
    inputs: [&[u32]; 2],
) -> usize {
    let width = h.width;
    let up = Product::new(ffn.up.matrix, ffn.up.bias, h.values, width).inputs(inputs[1]);
    let (bytes, gate) = match &ffn.gate {
        Gate::Project(p) => {
            let product = Product::new(p.matrix, p.bias, gate, width).inputs(inputs[0]);
            (linear(exec, kernels, &[product, up], x, tokens), Some(&*gate))
        }
        _ => (linear(exec, kernels, &[up], x, tokens), None),
    };
    let h = h.share();
    for_ranges(exec, tokens * width / BLOCK, &|range| {
        let part = range.start * BLOCK..range.end * BLOCK;
        // SAFETY: no other range has this block.
        let row = unsafe { h.values(part.clone()) };
        kernels.activate(&ffn.activation, gate.map(|g| &g[part]), row);
    });
    bytes
}

/// Fills all groups of the one token's neurons with zeros, except the active ones.
pub fn keep_only(h: &mut Rows, active: &[u32], group: usize) {
    let mut from = 0;
    for g in active {
        h.clear_range(from..*g as usize * group);
        from = (*g as usize + 1) * group;
    }
    h.clear_range(from..h.width);
}

/// The neurons of some groups: groups of 32 as blocks, others 16 neurons at a time.
fn chosen(exec: &dyn Executor, kernels: &Kernels, ffn: &Neurons, x: &Input, active: &[u32], h: &SharedRows) {
    if ffn.group == BLOCK {
        return for_ranges(exec, active.len(), &|range| {
            let walk = BlockWalk { ffn, active: Some(active), end: range.end };
            for blocks in walk.steps(range, 1) {
                // SAFETY: no other range has these blocks.
                unsafe { walk.compute(kernels, blocks, x, 0, 1, h) };
            }
        });
    }
    let count = active.len() * ffn.group;
    // Number of chosen neuron i; after the last one it is the last again.
    let neuron = |i: usize| {
        let i = i.min(count - 1);
        active[i / ffn.group] * ffn.group as u32 + (i % ffn.group) as u32
    };
    for_ranges(exec, count.div_ceil(TILE_ROWS), &|range| {
        for run in range {
            let at = |first: usize| core::array::from_fn(|i| neuron(first + i));
            let (these, later) = (at(run * TILE_ROWS), at((run + 1) * TILE_ROWS));
            let values = sixteen(kernels, ffn, x, &these, &later);
            for (i, y) in these.iter().zip(values).take(count - run * TILE_ROWS) {
                // SAFETY: a neuron is chosen once, so no other range has it.
                unsafe { h.values(*i as usize..*i as usize + 1)[0] = y };
            }
        }
    });
}

/// Sixteen neurons of one token.
fn sixteen(
    kernels: &Kernels,
    ffn: &Neurons,
    x: &Input,
    these: &[u32; TILE_ROWS],
    later: &[u32; TILE_ROWS],
) -> [f32; TILE_ROWS] {
    let project = |p: &Projection| {
        let mut out = [0.0; TILE_ROWS];
        if p.matrix.geometry().order.unit_outputs() == 1 {
            kernels.gemm_rows(&p.matrix, Outputs { rows: these, prefetch: later }, x, 0..1, &mut out, TILE_ROWS);
        } else {
            kernels.gemm(&p.matrix, these[0] as usize / TILE_ROWS, x, 0..1, &mut out, TILE_ROWS);
        }
        if let Some(bias) = p.bias {
            out.iter_mut().zip(these).for_each(|(y, i)| *y += bias[*i as usize]);
        }
        out
    };
    let mut h = project(&ffn.up);
    match &ffn.gate {
        Gate::None => kernels.activate(&ffn.activation, None, &mut h),
        Gate::Project(p) => kernels.activate(&ffn.activation, Some(&project(p)), &mut h),
        Gate::Given(values) => {
            kernels.activate(&ffn.activation, Some(&these.map(|i| values[i as usize])), &mut h);
        }
    }
    h
}

/// The blocks of 32 neurons that a task goes through.
struct BlockWalk<'a> {
    ffn: &'a Neurons<'a>,
    /// The chosen blocks; `None` for all.
    active: Option<&'a [u32]>,
    /// The item after the last one.
    end: usize,
}

/// Panels of a projection in a block.
const PANELS: usize = BLOCK / TILE_ROWS;
/// Blocks that are computed together for one token: as many as one call of a kernel reads, with their gates.
const TOGETHER: usize = RUNS / (2 * PANELS);

impl<'a> BlockWalk<'a> {
    /// Number of the `i`th block.
    fn block(&self, i: usize) -> usize {
        self.active.map_or(i, |list| list[i] as usize)
    }

    /// The items of `range`, in steps of as many as are computed together: several for one token, one for several tokens.
    fn steps(&self, range: Range<usize>, tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let step = if tokens == 1 { TOGETHER } else { 1 };
        range.clone().step_by(step).map(move |at| at..range.end.min(at + step))
    }

    /// Adds the panels of a projection of item `i` to a list; the first token's outputs go to `out`.
    ///
    /// # Safety
    /// `out` must have 32 floats.
    unsafe fn panels(&self, p: &'a Projection<'a>, i: usize, out: *mut f32, list: &mut Vec<PanelProduct<'a>, RUNS>) {
        for half in 0..PANELS {
            // SAFETY: the caller's 32 floats are those of two panels.
            let out = unsafe { out.add(half * TILE_ROWS) };
            let product = PanelProduct { matrix: &p.matrix, panel: self.block(i) * PANELS + half, out };
            assert!(list.push(product).is_ok(), "too many panels");
        }
    }

    /// Some items, at most [`TOGETHER`] of them for one token and one for several, at most [`TOKENS`].
    ///
    /// # Safety
    /// No other task may run for the same blocks.
    unsafe fn compute(
        &self,
        kernels: &Kernels,
        items: Range<usize>,
        x: &Input,
        first: usize,
        tokens: usize,
        h: &SharedRows,
    ) {
        let (ffn, tokens) = (self.ffn, first..first + tokens);
        let place = |i: usize, t: usize| (first + t) * h.width + self.block(i) * BLOCK;
        assert!(
            h.values.len() >= tokens.end * h.width && items.len() * tokens.len() <= TOKENS,
            "too few rows of neurons"
        );
        assert!(items.len() == 1 || tokens.len() == 1, "several items are for one token");
        let mut gates = MaybeUninit::<[f32; TOKENS * BLOCK]>::uninit();
        let gates = gates.as_mut_ptr().cast::<f32>();
        let next = ffn.up.matrix.panel_start(self.block(items.end.min(self.end - 1)) * PANELS);
        let mut list = Vec::new();
        // SAFETY: the rows are inside `h`, and the caller runs no other task for these blocks, so nothing else accesses their part
        // of them; `gates` has room for every block of every token, and is read only after it was written for each of these.
        unsafe {
            for (at, i) in items.clone().enumerate() {
                self.panels(&ffn.up, i, h.values.as_ptr().add(place(i, 0)), &mut list);
                match &ffn.gate {
                    Gate::None => {}
                    Gate::Project(gate) => {
                        // The rows of gates have another length.
                        if tokens.len() > 1 {
                            kernels.gemm_shared(&list, next, x, tokens.clone(), h.width);
                            list.clear();
                        }
                        self.panels(gate, i, gates.add(at * BLOCK), &mut list);
                    }
                    Gate::Given(values) => {
                        assert!(tokens.len() == 1, "gates are given for one token");
                        gates.add(at * BLOCK).copy_from(values[self.block(i) * BLOCK..][..BLOCK].as_ptr(), BLOCK);
                    }
                }
            }
            let stride = if matches!(ffn.gate, Gate::Project(_)) { BLOCK } else { h.width };
            kernels.gemm_shared(&list, next, x, tokens.clone(), stride);
            for (at, i) in items.enumerate() {
                for t in 0..tokens.len() {
                    let (row, gate) = (h.values(place(i, t)..place(i, t) + BLOCK), gates.add((at + t) * BLOCK));
                    let gate = (!matches!(ffn.gate, Gate::None)).then(|| core::slice::from_raw_parts_mut(gate, BLOCK));
                    self.activate(kernels, i, row, gate);
                    if ffn.int8 {
                        h.quantize(kernels, place(i, t), row);
                    }
                }
            }
        }
    }

    /// Turns the products of a token for a block into its neurons: adds biases, and applies the activation.
    fn activate(&self, kernels: &Kernels, i: usize, row: &mut [f32], mut gate: Option<&mut [f32]>) {
        let ffn = self.ffn;
        let add = |row: &mut [f32], bias: Option<&[f32]>| {
            if let Some(bias) = bias {
                row.iter_mut().zip(&bias[self.block(i) * BLOCK..]).for_each(|(y, b)| *y += b);
            }
        };
        add(row, ffn.up.bias);
        if let (Gate::Project(p), Some(gate)) = (&ffn.gate, &mut gate) {
            add(gate, p.bias);
        }
        kernels.activate(&ffn.activation, gate.as_deref(), row);
    }
}
