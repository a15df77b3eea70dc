//! The first half of a feed-forward network: gate, up and activation.
//!
//! If all neurons are computed, gate, up and activation are fused for blocks of 32. If some are chosen, they are
//! computed 16 at a time, wherever they are. Neurons that are not computed are zero, and the down projection does not
//! read the weights that are multiplied by a zero.

use super::buffer::{Rows, SharedRows};
use super::for_ranges;
use super::linear::{Product, linear};
use crate::exec::Executor;
use crate::format::{BLOCK, Matrix, TILE_ROWS};
use crate::kernels::{Activate, Input, Kernels, Outputs};
use core::mem::MaybeUninit;
use core::ops::Range;

/// The most tokens of a block's product. Their gates are on the stack; weights are decoded once for all of them.
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
        for block in range.clone() {
            let walk = BlockWalk { ffn, active: None, at: block, last: range.end - 1 };
            for first in (0..tokens).step_by(TOKENS) {
                // SAFETY: no other range has this block, and a block has its own part of every row of h.
                unsafe { block_of_neurons(kernels, &walk, x, first, TOKENS.min(tokens - first), &h) };
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

/// The neurons of some groups, 16 at a time.
fn chosen(exec: &dyn Executor, kernels: &Kernels, ffn: &Neurons, x: &Input, active: &[u32], h: &SharedRows) {
    if ffn.group == BLOCK {
        return for_ranges(exec, active.len(), &|range| {
            for i in range.clone() {
                let walk = BlockWalk { ffn, active: Some(active), at: i, last: range.end - 1 };
                // SAFETY: no other range has this block.
                unsafe { block_of_neurons(kernels, &walk, x, 0, 1, h) };
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
    /// The current block, and the last one.
    at: usize,
    last: usize,
}

/// Panels of a projection in a block.
const PANELS: usize = BLOCK / TILE_ROWS;

impl BlockWalk<'_> {
    /// Number of the `i`th block.
    fn block(&self, i: usize) -> usize {
        self.active.map_or(i, |list| list[i] as usize)
    }

    /// The address of the panel that is read `i` panels after the first one of this block; a block reads the panels of
    /// up, then those of the gate.
    fn panel(&self, i: usize) -> *const u8 {
        let (up, gate) = match &self.ffn.gate {
            Gate::Project(gate) => (&self.ffn.up, Some(gate)),
            _ => (&self.ffn.up, None),
        };
        let per_block = if gate.is_some() { 2 * PANELS } else { PANELS };
        let (block, part) = (self.block((self.at + i / per_block).min(self.last)), i % per_block);
        let from = gate.filter(|_| part >= PANELS).unwrap_or(up);
        from.matrix.unit_start(block * PANELS + part % PANELS)
    }
}

/// One block of 32 neurons for some tokens.
///
/// # Safety
/// No other task may run for the same block.
unsafe fn block_of_neurons(
    kernels: &Kernels,
    walk: &BlockWalk,
    x: &Input,
    first: usize,
    tokens: usize,
    h: &SharedRows,
) {
    let (ffn, block) = (walk.ffn, walk.block(walk.at));
    let place = |t: usize| (first + t) * h.width + block * BLOCK;
    assert!(h.values.len() >= (first + tokens) * h.width, "too few rows of neurons");
    let mut gate = MaybeUninit::<[f32; TOKENS * BLOCK]>::uninit();
    let gate = gate.as_mut_ptr().cast::<f32>();
    // SAFETY: the rows are inside `h`, and the caller runs no other task for this block, so nothing else accesses its part
    // of them; `gate` has room for the most tokens, and is read only after it was written for each of these.
    unsafe {
        project(kernels, walk, (&ffn.up, 0), x, first..first + tokens, h.values.as_ptr().add(place(0)), h.width);
        match &ffn.gate {
            Gate::None => {}
            Gate::Project(p) => {
                project(kernels, walk, (p, PANELS), x, first..first + tokens, gate, BLOCK);
            }
            Gate::Given(values) => {
                assert!(tokens == 1, "gates are given for one token");
                gate.copy_from(values[block * BLOCK..(block + 1) * BLOCK].as_ptr(), BLOCK);
            }
        }
        let gated = !matches!(ffn.gate, Gate::None);
        for t in 0..tokens {
            let row = h.values(place(t)..place(t) + BLOCK);
            let gate = gated.then(|| core::slice::from_raw_parts(gate.add(t * BLOCK), BLOCK));
            kernels.activate(&ffn.activation, gate, row);
            if ffn.int8 {
                h.quantize(kernels, place(t), row);
            }
        }
    }
}

/// `out[t][0..32] = p's outputs of the block` for some tokens, the first one's at `out`, `stride` floats from one token
/// to the next; `part` is the number of their first panel among those that the block reads.
///
/// # Safety
/// `out` must be valid for 32 floats at each multiple of `stride` below the number of tokens, at most [`TOKENS`], and
/// no other task may access them.
unsafe fn project(
    kernels: &Kernels,
    walk: &BlockWalk,
    (p, part): (&Projection, usize),
    x: &Input,
    tokens: Range<usize>,
    out: *mut f32,
    stride: usize,
) {
    let (block, ahead) = (walk.block(walk.at), part + p.matrix.prefetch_runs());
    for half in 0..PANELS {
        let (panel, ahead) = (block * PANELS + half, ahead + half);
        // Only the first tokens prefetch: later ones find the weights in the processor's caches.
        let prefetch = if tokens.start == 0 {
            [walk.panel(ahead), walk.panel(ahead + 1)]
        } else {
            [p.matrix.unit_start(panel); 2]
        };
        // SAFETY: the caller's 32 floats for each token are those of two panels.
        unsafe {
            let out = out.add(half * TILE_ROWS);
            kernels.gemm_shared(&p.matrix, panel, prefetch, x, tokens.clone(), out, stride);
        }
    }
    if let Some(bias) = p.bias {
        for t in 0..tokens.len() {
            // SAFETY: these are the caller's floats of token `t`.
            let row = unsafe { core::slice::from_raw_parts_mut(out.add(t * stride), BLOCK) };
            row.iter_mut().zip(&bias[block * BLOCK..]).for_each(|(y, b)| *y += b);
        }
    }
}
