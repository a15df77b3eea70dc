//! Kernels: stateless functions on borrowed slices, one table per instruction set.
//!
//! # The contract of the matrix kernels
//! `x` is a row of inputs, `w` the weights of one output, both in blocks of 32 (k-blocks). All instruction
//! sets compute exactly this, in f32, each operation rounded once:
//! ```text
//! float formats:   acc = 0; for k in 0..K:       acc = acc + w[k] * x[k]
//! integer formats: acc = 0; for b in 0..K/32:    acc = acc + float(dot_b) * (scale_w[b] * scale_x[b])
//!                           with a minimum too:  acc = acc + min_w[b] * (scale_x[b] * sum_x[b])
//! ```
//! where `dot_b` is the exact integer dot product of 32 codes and 32 quantized inputs. Where halves of a block have
//! integer factors, the codes include them. Where blocks have integer factors of a super-block's numbers, `scale_w` and
//! `min_w` are the products, which are exact in f32 (`heads.rs`). An instruction set supplies only `dot_b`: in
//! `tile_dot/` for tiles, in `input_dot/` for chosen inputs. The loops around it (`gemm.rs`, `input_dot.rs`) and all
//! float mathematics (`norm.rs`, `activation.rs`, `attention.rs`, ...) are written once over [`crate::simd::Lanes`].
//! Matrices with blocks along their outputs ([`crate::format::Order::ColumnLines`]) have a contract of their own
//! (`lines.rs`).
//!
//! # Dispatch
//! A matrix kernel has a [`Shape`] and an arithmetic; an order of blocks says which shapes it needs
//! ([`crate::format::Order::shapes`]). All matrix kernels have the same operands (`call.rs`), whose lengths the methods
//! of [`Kernels`] check. `table.rs` compiles the generic code for every instruction set.

mod activation;
mod attention;
mod call;
mod codes;
mod floats;
mod gather;
mod gemm;
mod heads;
mod input_dot;
mod lines;
mod needs;
mod norm;
mod prefetch;
mod quantize;
mod rope;
mod select;
mod table;
mod tile_dot;

pub use activation::{Activate, Activation};
pub use attention::{Attend, KvFormat, KvView, SPAN};
pub use call::{Input, Offset, RUNS, Scale};
pub use needs::Needs;
pub use rope::rotate;

use crate::cpu::{Cpu, Isa};
use crate::format::{Arithmetic, BLOCK, Matrix, PanelTiles, Shape, TILE_ROWS};
use call::{Call, MatrixKernel, RawInput, RowStarts, Runs, TileRun, Weights};
use core::ops::Range;
use heapless::Vec;

/// Shapes of matrix kernels.
const SHAPES: usize = Shape::AllCodes as usize + 1;

/// By arithmetic and shape. `None` is a kernel that was left out ([`Kernels::portable`]), or that no order needs.
type MatrixKernels = [[Option<MatrixKernel>; SHAPES]; Arithmetic::COUNT];
type QuantizeFn = unsafe fn(&[f32], &mut [i8], &mut [Scale], &mut [Offset]);
type SelectFn = unsafe fn(&[f32], Option<&[i8]>, f32, &mut [u32]) -> usize;
type ActivateFn = unsafe fn(&Activate, Option<&[f32]>, &mut [f32]);
type ScaleFn = unsafe fn(f32, f32, &mut [f32]);
type AttendFn = unsafe fn(&Attend, Option<ScaleFn>, *mut f32);
type AnglesFn = fn(usize, &[f32], &mut [f32], &mut [f32]);
type RmsNormFn = unsafe fn(&[f32], &[f32], f32, &mut [f32]);
type LayerNormFn = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// One instruction set's kernels.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    /// Whether one thread alone reads weights.
    alone: bool,
    matrix: MatrixKernels,
    // In these, too, `None` is a kernel that was left out.
    quantize: Option<QuantizeFn>,
    select: SelectFn,
    rms_norm: Option<RmsNormFn>,
    layer_norm: Option<LayerNormFn>,
    // Indexed by `Activation` and by `KvFormat`.
    activate: [Option<ActivateFn>; Activation::ALL.len()],
    scale_and_cap: Option<ScaleFn>,
    attend: [Option<AttendFn>; 2],
    angles: Option<AnglesFn>,
}

/// The kernel, which must not have been left out.
#[inline(always)]
fn present<F: Copy>(kernel: Option<F>) -> F {
    #[cold]
    #[inline(never)]
    fn missing() -> ! {
        panic!("this kernel is not in the program's Needs, so it was left out")
    }
    match kernel {
        Some(kernel) => kernel,
        None => missing(),
    }
}

/// Any 16 outputs of a matrix of [`crate::format::Order::RowLines`].
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// The outputs' numbers, in the order in which they are computed.
    pub rows: &'a [u32; TILE_ROWS],
    /// Outputs that will be computed next, whose weights are prefetched: a hint, which may be any numbers.
    pub prefetch: &'a [u32; TILE_ROWS],
}

/// A panel of a product.
#[derive(Clone, Copy)]
pub struct PanelProduct<'a> {
    /// The matrix.
    pub matrix: &'a Matrix<'a>,
    /// The panel's number.
    pub panel: usize,
    /// Where the first token's 16 outputs go.
    pub out: *mut f32,
}

impl Kernels {
    /// The same kernels for a number of threads that read weights at the same time, which decides how weights are prefetched.
    pub(crate) fn for_threads(&self, threads: usize) -> Kernels {
        Kernels { alone: threads <= 1, ..*self }
    }

    /// The kernels of `isa`, if this processor can run them and the program contains them.
    pub fn for_isa(cpu: Cpu, isa: Isa) -> Option<&'static Kernels> {
        if !cpu.supports(isa) {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&table::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&table::AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&table::AVX512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&table::NEON),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Some(&table::NEON_DOT),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Some(&table::NEON_I8MM),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => Some(&table::SIMD128),
            #[allow(unreachable_patterns, reason = "every level belongs to some architecture")]
            _ => None,
        }
    }

    /// The fastest kernels for this processor.
    pub fn best(cpu: Cpu) -> &'static Kernels {
        Self::for_isa(cpu, cpu.best()).unwrap_or(&table::SCALAR)
    }

    /// The instruction set of these kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls the kernel of a shape for a matrix.
    ///
    /// # Safety
    /// As [`MatrixKernel`], for a matrix of this format; `self` exists only on processors with its instruction set.
    unsafe fn run(&self, shape: Shape, m: &Matrix, call: &Call) {
        let kernel = present(self.matrix[m.format().arithmetic() as usize][shape as usize]);
        // SAFETY: the caller meets the requirements of `MatrixKernel`, and the processor has the instruction set, since
        // `self` exists.
        unsafe { kernel(call) }
    }

    /// Calls the kernel of a shape for every run of tiles, and does nothing else meanwhile: see [`RUNS`].
    ///
    /// # Safety
    /// As [`Kernels::run`].
    unsafe fn run_all(&self, shape: Shape, m: &Matrix, mut call: Call) {
        let kernel = present(self.matrix[m.format().arithmetic() as usize][shape as usize]);
        let (list, x) = (call.runs().list, call.x);
        for i in 0..list.len() {
            call.set_run(&list[i..], &x);
            // SAFETY: the caller meets the requirements of `MatrixKernel`, and the processor has the instruction set, since
            // `self` exists.
            unsafe { kernel(&call) }
        }
    }

    /// Panel `panel` of `m` times some tokens of `x`: writes 16 outputs per token, the first's at `out[0..16]`, each
    /// `stride` floats after the one before.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemm(&self, m: &Matrix, panel: usize, x: &Input, tokens: Range<usize>, out: &mut [f32], stride: usize) {
        check_output(out, tokens.len(), stride);
        let panels = [PanelProduct { matrix: m, panel, out: out.as_mut_ptr() }];
        // SAFETY: `out` is exclusively borrowed, and `check_output` has checked its length.
        unsafe { self.gemm_shared(&panels, m.panel_start(panel), x, tokens, stride) }
    }

    /// Panels of `m` from `first` on times the first token of `x`: 16 outputs a panel.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemv(&self, m: &Matrix, first: usize, x: &Input, y: &mut [f32]) {
        let (panels, rest) = y.as_chunks_mut::<TILE_ROWS>();
        assert!(rest.is_empty(), "outputs come in panels of 16");
        for (at, run) in panels.chunks_mut(RUNS).enumerate() {
            let first = first.saturating_add(at * RUNS);
            let panel = |i: usize, out: &mut [f32; TILE_ROWS]| PanelProduct {
                matrix: m,
                panel: first + i,
                out: out.as_mut_ptr(),
            };
            let products: Vec<_, RUNS> = run.iter_mut().enumerate().map(|(i, out)| panel(i, out)).collect();
            let next = m.panel_start(first.saturating_add(RUNS).min(m.geometry().panels.saturating_sub(1)));
            // SAFETY: every panel has its own 16 floats of `y`, which is exclusively borrowed.
            unsafe { self.gemm_shared(&products, next, x, 0..1, TILE_ROWS) }
        }
    }

    /// Panels times some tokens of `x`: writes 16 outputs per panel and token, the first token's where the panel says, each
    /// `stride` floats after the one before. `next` is an address that will be read afterwards, a hint.
    ///
    /// # Safety
    /// The outputs of every panel must be valid for writes of 16 floats at each multiple of `stride` below the number of tokens,
    /// and no other task may access them during the call.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub unsafe fn gemm_shared(
        &self,
        panels: &[PanelProduct],
        next: *const u8,
        x: &Input,
        tokens: Range<usize>,
        stride: usize,
    ) {
        let mut rest = panels;
        while let Some(first) = rest.first() {
            let (m, g) = (first.matrix, first.matrix.geometry());
            let [_, shape] = g.shapes();
            if matches!(shape, Shape::Rows | Shape::AllCodes) {
                rest = &rest[1..];
                // SAFETY: the caller's promise about the outputs is the one that is needed.
                unsafe { self.gemm_lines(first, x, tokens.clone(), stride) };
                continue;
            }
            // Panels whose tiles lie in the same way, up to `RUNS` of them, are read one after the other.
            let tiles = m.panel_tiles(first.panel);
            let mut list = Vec::<_, RUNS>::new();
            for panel in rest {
                let these = panel.matrix.panel_tiles(panel.panel);
                let alike =
                    core::ptr::eq(panel.matrix, m) || panel.matrix.format() == m.format() && these.is_shaped_as(&tiles);
                let run = TileRun { start: these.start, supers: these.supers, block: 0, out: panel.out };
                if !alike || list.push(run).is_err() {
                    break;
                }
            }
            let later = &rest[list.len()..];
            let next = later.first().map_or(next, |panel| panel.matrix.panel_start(panel.panel));
            let weights = Weights::Tiles(Runs { list: &list, next, tiles });
            let call = self.call(m, weights, x.rows(g, tokens.clone()), tokens.len(), (first.out, stride));
            // SAFETY: the panels are inside their matrices, which have as many tiles as `x` has blocks (both checked), and the
            // caller's outputs are valid for 16 floats a token.
            unsafe { self.run_all(shape, m, call) };
            rest = later;
        }
    }

    /// A panel of a matrix of lines: [`Kernels::gemm_shared`].
    ///
    /// # Safety
    /// As [`Kernels::gemm_shared`].
    unsafe fn gemm_lines(&self, product: &PanelProduct, x: &Input, tokens: Range<usize>, stride: usize) {
        let (PanelProduct { matrix: m, panel, out }, g) = (*product, product.matrix.geometry());
        let [_, shape] = g.shapes();
        assert!(panel < g.panels, "panel out of range");
        if shape == Shape::Rows {
            let rows = core::array::from_fn(|r| (panel * TILE_ROWS + r) as u32);
            let outputs = Outputs { rows: &rows, prefetch: &rows.map(|r| r + TILE_ROWS as u32) };
            // SAFETY: the caller's promise about `out` is the one that `gemm_rows_shared` needs.
            return unsafe { self.gemm_rows_shared(m, outputs, x, tokens, out, stride) };
        }
        let weights = Weights::Inputs { lines: m.lines(), active: &[], outputs: panel..panel + 1 };
        let call = self.call(m, weights, x.rows(g, tokens.clone()), tokens.len(), (out, stride));
        // SAFETY: the panel is inside the matrix (checked), `x` has these rows (checked by `rows`), and the caller's
        // `out` is valid for 16 floats a token.
        unsafe { self.run(shape, m, &call) }
    }

    /// The operands of a kernel for this matrix; `out` is where the first token's outputs go, and the distance to the next one's.
    fn call<'a>(
        &self,
        m: &Matrix<'a>,
        weights: Weights<'a>,
        x: RawInput,
        tokens: usize,
        (out, stride): (*mut f32, usize),
    ) -> Call<'a> {
        Call { table: m.format().table(), weights, x, tokens, out, stride, alone: self.alone }
    }

    /// Any 16 outputs of a matrix of [`crate::format::Order::RowLines`] times some tokens of `x`: writes 16 outputs per token in the
    /// order of `outputs`, the first's at `out[0..16]`, each `stride` floats after the one before.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemm_rows(
        &self,
        m: &Matrix,
        outputs: Outputs,
        x: &Input,
        tokens: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        check_output(out, tokens.len(), stride);
        // SAFETY: `out` is exclusively borrowed, and `check_output` has checked its length.
        unsafe { self.gemm_rows_shared(m, outputs, x, tokens, out.as_mut_ptr(), stride) }
    }

    /// [`Kernels::gemm_rows`] into memory shared between tasks.
    ///
    /// # Safety
    /// As [`Kernels::gemm_shared`].
    unsafe fn gemm_rows_shared(
        &self,
        m: &Matrix,
        outputs: Outputs,
        x: &Input,
        tokens: Range<usize>,
        out: *mut f32,
        stride: usize,
    ) {
        let (g, lines) = (m.geometry(), m.lines());
        let count = g.units() as u32;
        assert!(g.shapes()[0] == Shape::Rows && outputs.rows.iter().all(|r| *r < count), "output out of range");
        let mut starts: [RowStarts; 2] = [[core::ptr::null(); TILE_ROWS]; 2];
        for (starts, numbers) in starts.iter_mut().zip([outputs.rows, outputs.prefetch]) {
            for (start, number) in starts.iter_mut().zip(numbers) {
                // SAFETY: the matrix has `count` lines, and the number is clamped to them.
                *start = unsafe { lines.line((*number).min(count - 1) as usize) };
            }
        }
        let weights = Weights::Rows(&starts[0], &starts[1]);
        let call = self.call(m, weights, x.rows(g, tokens.clone()), tokens.len(), (out, stride));
        // SAFETY: the lines are inside the matrix (checked), `x` has these rows (checked by `rows`), and the caller's
        // `out` is valid for 16 floats a token.
        unsafe { self.run(Shape::Rows, m, &call) }
    }

    /// Adds the products of the inputs in `active` (sorted, each once; of the first token of `x`) to outputs `32 * block..32 *
    /// block + y.len()` of a matrix stored by input: k-block by k-block for integers, else input by input.
    ///
    /// # Panics
    /// When widths or lengths do not fit, the inputs are not in order, or the matrix has no such input.
    pub fn gemv_inputs(&self, m: &Matrix, active: &[u32], block: usize, x: &Input, y: &mut [f32]) {
        let (g, lines) = (m.geometry(), m.lines());
        let outputs = block..block.saturating_add(y.len() / BLOCK);
        assert!(g.is_by_input() && y.len().is_multiple_of(BLOCK), "outputs come in blocks of 32");
        assert!(outputs.end <= g.outputs() / BLOCK, "outputs out of range");
        assert!(active.is_sorted_by(|a, b| a < b), "inputs out of order");
        assert!(active.last().is_none_or(|i| (*i as usize) < g.units()), "input out of range");
        let [shape, _] = g.shapes();
        let weights = Weights::Inputs { lines, active, outputs };
        let call = self.call(m, weights, x.rows(g, 0..1), 1, (y.as_mut_ptr(), 0));
        // SAFETY: lines and blocks are inside the matrix and `x` has a row (all checked), and `y` has 32 floats a
        // block.
        unsafe { self.run(shape, m, &call) }
    }

    /// Outputs `32 * block..32 * block + 32` of a matrix stored by input for some tokens of `x`, the first's at
    /// `out[0..32]`, each `stride` floats after the one before.
    ///
    /// # Safety
    /// `out` must be valid for writes of 32 floats at each multiple of `stride` below the number of tokens, and no
    /// other task may access them during the call.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub unsafe fn gemm_inputs(
        &self,
        m: &Matrix,
        block: usize,
        x: &Input,
        tokens: Range<usize>,
        out: *mut f32,
        stride: usize,
    ) {
        let g = m.geometry();
        assert!(g.is_by_input() && block < g.outputs() / BLOCK, "outputs out of range");
        let [_, shape] = g.shapes();
        if shape == Shape::AllCodes {
            for half in 0..BLOCK / TILE_ROWS {
                let panel = block * (BLOCK / TILE_ROWS) + half;
                // SAFETY: the caller's `out` is valid for 32 floats a token, of which this is a half.
                unsafe {
                    let product = PanelProduct { matrix: m, panel, out: out.add(half * TILE_ROWS) };
                    self.gemm_lines(&product, x, tokens.clone(), stride);
                }
            }
            return;
        }
        let weights = Weights::Inputs { lines: m.lines(), active: &[], outputs: block..block + 1 };
        let call = self.call(m, weights, x.rows(g, tokens.clone()), tokens.len(), (out, stride));
        // SAFETY: the block is inside the matrix (checked), `x` has these rows (checked by `rows`), and the caller's
        // `out` is valid for 32 floats a token.
        unsafe { self.run(shape, m, &call) }
    }

    /// Adds the parts of the product of some tokens of `x` that come from `k_blocks` (in this order) to `panels` of a matrix of
    /// [`crate::format::Order::Columns`]: 16 outputs a panel, the first token's at `out`, each `stride` floats after the one before.
    /// `next` is an address that will be read afterwards, a hint.
    ///
    /// # Safety
    /// `out` must be valid for reads and writes of 16 floats for every panel at each multiple of `stride` below the
    /// number of tokens, and no other task may access them during the call.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    pub unsafe fn columns_shared(
        &self,
        m: &Matrix,
        k_blocks: &[usize],
        next: *const u8,
        panels: Range<usize>,
        x: &Input,
        tokens: usize,
        out: *mut f32,
        stride: usize,
    ) {
        let g = m.geometry();
        let x = x.rows(g, 0..tokens);
        if panels.is_empty() {
            return;
        }
        let start = |kb: usize| m.column_run(kb, panels.start, panels.end).as_ptr();
        for (at, these) in k_blocks.chunks(RUNS).enumerate() {
            let run =
                |kb: &usize| TileRun { start: start(*kb), supers: m.column_supers(*kb, panels.start), block: *kb, out };
            let list: Vec<_, RUNS> = these.iter().map(run).collect();
            let next = k_blocks.get((at + 1) * RUNS).map_or(next, |kb| start(*kb));
            let tiles = PanelTiles {
                start: list[0].start,
                supers: list[0].supers,
                outer: 1,
                outer_stride: 0,
                inner: panels.len(),
                inner_stride: g.format.tile_bytes(),
            };
            let runs = Runs { list: &list, next, tiles };
            let call = self.call(m, Weights::Tiles(runs), x, tokens, (out, stride));
            // SAFETY: `column_run` has checked that the matrix has these k-blocks and that they have a tile for each of
            // `panels`; `x` has these rows (checked by `rows`), and the caller's `out` is valid for 16 floats a panel and
            // token.
            unsafe { self.run_all(Shape::Columns, m, call) }
        }
    }

    /// [`Kernels::columns_shared`] for the first token of `x`, from panel `from` on.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemv_columns(&self, m: &Matrix, k_blocks: &[usize], from: usize, x: &Input, y: &mut [f32]) {
        assert!(y.len().is_multiple_of(TILE_ROWS), "outputs come in panels of 16");
        let panels = from..from.saturating_add(y.len() / TILE_ROWS);
        let next = m.unit_start(0);
        // SAFETY: `y` is exclusively borrowed and has 16 floats for every panel.
        unsafe { self.columns_shared(m, k_blocks, next, panels, x, 1, y.as_mut_ptr(), 0) }
    }

    /// Quantizes rows by block of 32: `scale = largest |x| / 127`, `q = round(x * (127 / largest |x|))`,
    /// `offset = -128 * sum(q)`, and the same of the first half.
    ///
    /// # Panics
    /// When lengths do not fit: x and q are n * 32, scales and offsets n.
    pub fn quantize(&self, x: &[f32], q: &mut [i8], scales: &mut [Scale], offsets: &mut [Offset]) {
        let blocks = x.len() / BLOCK;
        assert!(x.len().is_multiple_of(BLOCK) && q.len() == x.len(), "quantize: lengths differ");
        assert!(scales.len() == blocks && offsets.len() == blocks, "quantize: block counts differ");
        // SAFETY: the lengths were checked above, and the processor has the instruction set, since `self` exists.
        unsafe { present(self.quantize)(x, q, scales, offsets) }
    }

    /// Writes to `list` the numbers of the inputs with `|x| > threshold` (0: all that are not zero), in order, and
    /// returns how many they are. NaN is listed too, so that it reaches the result. Where the product takes quantized
    /// inputs, inputs that are quantized to zero are left out.
    ///
    /// # Panics
    /// When `list` or `quants` are shorter than `x`.
    pub fn select_inputs(&self, x: &[f32], quants: Option<&[i8]>, threshold: f32, list: &mut [u32]) -> usize {
        assert!(list.len() >= x.len() && quants.is_none_or(|q| q.len() >= x.len()), "select: too short");
        // SAFETY: the lengths were checked above, and the processor has the instruction set, since `self` exists.
        unsafe { (self.select)(x, quants, threshold, list) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && out.len() == x.len(), "rms_norm: lengths differ");
        // SAFETY: the lengths were checked above, and the processor has the instruction set, since `self` exists.
        unsafe { present(self.rms_norm)(x, weight, eps, out) }
    }

    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && bias.len() == x.len() && out.len() == x.len(), "layer_norm: lengths");
        // SAFETY: the lengths were checked above, and the processor has the instruction set, since `self` exists.
        unsafe { present(self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `h = act(gate) * h` with a gate, `h = act(h)` without.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn activate(&self, activate: &Activate, gate: Option<&[f32]>, h: &mut [f32]) {
        assert!(gate.is_none_or(|g| g.len() == h.len()), "activate: lengths differ");
        // SAFETY: the lengths were checked above, and the processor has the instruction set, since `self` exists.
        unsafe { present(self.activate[activate.kind as usize])(activate, gate, h) }
    }

    /// `x = cap * tanh(scale * x / cap)`, or `x = scale * x` where `cap` is 0.
    pub fn scale_and_cap(&self, scale: f32, cap: f32, x: &mut [f32]) {
        // SAFETY: the processor has the instruction set, since `self` exists.
        unsafe { present(self.scale_and_cap)(scale, cap, x) }
    }

    /// Attention of some query heads over one KV head (see [`Attend`]); writes
    /// `out[t * token_stride + h * head_stride..][..head_dim]`.
    ///
    /// # Safety
    /// The pointers in `a` and `out` must be valid for the shapes that `a` declares, every cached position that a query
    /// may see must have been written, and no other task may access these outputs during the call.
    pub unsafe fn attend(&self, a: &Attend, out: *mut f32) {
        // SAFETY: the caller meets the requirements of `AttendFn`, which are those stated here, and the processor has
        // the instruction set, since `self` exists.
        unsafe { present(self.attend[a.kv.format as usize])(a, self.scale_and_cap, out) }
    }

    /// Cosines and sines of one position, [head_dim / 2] each: angle = position * inverse frequency.
    pub fn angles(&self, position: usize, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
        present(self.angles)(position, frequencies, cos, sin);
    }
}

/// # Panics
/// When `out` is too short for 16 floats at each multiple of `stride` below `tokens`.
fn check_output(out: &[f32], tokens: usize, stride: usize) {
    let last = tokens.checked_sub(1).map(|last| last.checked_mul(stride).and_then(|at| at.checked_add(TILE_ROWS)));
    assert!(last.is_none_or(|end| end.is_some_and(|end| end <= out.len())), "output too short");
}
