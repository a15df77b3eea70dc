//! Kernels: stateless functions on borrowed slices, one set per instruction set.
//!
//! # The contract of the matrix kernels
//! `x` is a row of inputs, `w` the weights of one output, both in blocks of 32 (k-blocks). All instruction
//! sets compute exactly this, in f32, each operation rounded once:
//! ```text
//! float formats:   acc = 0; for k in 0..K:       acc = acc + w[k] * x[k]
//! integer formats: acc = 0; for b in 0..K/32:    acc = acc + float(dot_b) * (scale_w[b] * scale_x[b])
//!                           with a minimum too:  acc = acc + min_w[b] * (scale_x[b] * sum_x[b])
//! ```
//! where `dot_b` is the exact integer dot product of 32 codes and 32 quantized inputs. The twins in
//! `scalar.rs`, `avx2.rs`, `avx512.rs`, `neon.rs`, `simd128.rs` supply only `dot_b`; the loops around it (`matmul.rs`) and
//! all float mathematics (`norm.rs`, `activation.rs`, `attention.rs`) are written once over [`crate::simd::Lanes`].
//!
//! Matrices with blocks along their outputs ([`Order::ColumnLines`]) have a contract of their own (`lines.rs`).
//!
//! Shapes: [`Kernels::gemm`] (a panel of 16 outputs for a run of tokens; for one token it is the `gemv`),
//! [`Kernels::gemm_rows`] (any 16 outputs of a matrix of lines: with a list of chosen outputs the `gemv_rows`),
//! [`Kernels::gemv_columns`] (adds one k-block's contribution to a run of panels, for one token),
//! [`Kernels::gemv_inputs`] (adds the contributions of chosen inputs, for one token: the `gemv_cols`) and
//! [`Kernels::gemm_inputs`] (the same matrices for a run of tokens, all inputs).

mod activation;
mod angles;
mod attention;
mod codes;
mod inputs;
mod lines;
mod matmul;
mod needs;
mod norm;
mod prefetch;
mod scalar;
mod select;
mod sets;
mod tiles;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_inputs;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

pub use activation::Activation;
pub use attention::{Attend, KvFormat, KvView};
pub use needs::Needs;
pub use prefetch::{Soon, Walk};

use crate::cpu::{Cpu, Isa};
use crate::format::{BLOCK, Format, Geometry, Lines, Matrix, Order, TILE_ROWS};
use core::ops::Range;

/// Rows of inputs, one per token, as floats and (for integer formats) quantized by block.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Length of a row, a multiple of 32.
    pub width: usize,
    /// [tokens, width]; may be empty when only integer formats read it.
    pub values: &'a [f32],
    /// [tokens, width], round(x / scale); may be empty when only float formats read it.
    pub quants: &'a [i8],
    /// [tokens, width / 32], largest |x| of the block / 127.
    pub scales: &'a [f32],
    /// [tokens, width / 32], -128 times the sum of the block's quants (what an unsigned dot product of
    /// weights shifted by 128 has too much).
    pub offsets: &'a [i32],
}

impl Input<'_> {
    fn check(&self, m: &Geometry, tokens: usize) {
        assert!(self.width == m.input_width(), "input width does not fit the matrix");
        if m.takes_int8() {
            let blocks = tokens * (self.width / BLOCK);
            assert!(self.quants.len() >= tokens * self.width, "too few quantized inputs");
            assert!(self.scales.len() >= blocks && self.offsets.len() >= blocks, "too few input scales");
        } else {
            assert!(self.values.len() >= tokens * self.width, "too few inputs");
        }
    }
}

/// Raw arguments of a matrix kernel; lengths are checked by the safe wrappers in [`Kernels`].
#[derive(Clone, Copy)]
struct RawInput {
    width: usize,
    values: *const f32,
    quants: *const i8,
    scales: *const f32,
    offsets: *const i32,
}

impl RawInput {
    /// The same rows from token `t` on.
    ///
    /// # Safety
    /// There must be a row `t`.
    unsafe fn from_token(x: &Input, t: usize, int8: bool) -> RawInput {
        let blocks = x.width / BLOCK;
        // SAFETY: inside the slices by the caller; the arrays that are not read are not advanced.
        unsafe {
            RawInput {
                width: x.width,
                values: if int8 { x.values.as_ptr() } else { x.values.as_ptr().add(t * x.width) },
                quants: if int8 { x.quants.as_ptr().add(t * x.width) } else { x.quants.as_ptr() },
                scales: if int8 { x.scales.as_ptr().add(t * blocks) } else { x.scales.as_ptr() },
                offsets: if int8 { x.offsets.as_ptr().add(t * blocks) } else { x.offsets.as_ptr() },
            }
        }
    }
}

type GemmFn = unsafe fn(&[i8; 16], &Walk, &RawInput, usize, *mut f32, usize);
type Rows = [*const u8; TILE_ROWS];
type GemmRowsFn = unsafe fn(&[i8; 16], &Rows, &Rows, &RawInput, usize, *mut f32, usize);
type GemvInputsFn = unsafe fn(&[i8; 16], &Lines, &[u32], *const f32, Range<usize>, *mut f32);
type GemvCodesFn = unsafe fn(&[i8; 16], &Lines, usize, &[u32], &RawInput, Range<usize>, *mut f32);
type GemmCodesFn = unsafe fn(&[i8; 16], &Lines, usize, usize, &RawInput, usize, *mut f32, usize);
type GemmInputsFn = unsafe fn(&[i8; 16], &Lines, usize, &RawInput, usize, *mut f32, usize);
type ColumnsFn = unsafe fn(&[i8; 16], *const u8, Soon, usize, &RawInput, usize, *mut f32);
type QuantizeFn = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);
type SelectFn = unsafe fn(&[f32], Option<&[i8]>, f32, &mut [u32]) -> usize;
type ActivateFn = unsafe fn(Option<&[f32]>, &mut [f32]);
type AttendFn = unsafe fn(&Attend, *mut f32);
type AnglesFn = fn(usize, &[f32], &mut [f32], &mut [f32]);
type RmsNormFn = unsafe fn(&[f32], &[f32], f32, &mut [f32]);
type LayerNormFn = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// One instruction set's kernels.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    // Indexed by `Arithmetic`. What is `None` was left out ([`Kernels::portable`]).
    gemm: [Option<GemmFn>; 5],
    gemm_rows: [Option<GemmRowsFn>; 5],
    gemv_columns: [Option<ColumnsFn>; 5],
    gemv_inputs: [Option<GemvInputsFn>; 5],
    gemm_inputs: [Option<GemmInputsFn>; 5],
    // Indexed by `Arithmetic` less `Int8`.
    gemv_codes: [Option<GemvCodesFn>; 3],
    gemm_codes: [Option<GemmCodesFn>; 3],
    quantize: Option<QuantizeFn>,
    select: SelectFn,
    rms_norm: Option<RmsNormFn>,
    layer_norm: Option<LayerNormFn>,
    // By `Activation`, `KvFormat`.
    activate: [Option<ActivateFn>; 5],
    attend: [Option<AttendFn>; 2],
    angles: Option<AnglesFn>,
}

/// A kernel, if it was not left out.
#[inline(always)]
fn there<F: Copy>(kernel: Option<F>) -> F {
    #[cold]
    #[inline(never)]
    fn left_out() -> ! {
        panic!("the program has no kernel for this: it was left out of its Needs")
    }
    match kernel {
        Some(kernel) => kernel,
        None => left_out(),
    }
}

impl Kernels {
    /// The kernels of `isa`, if this processor can run them and they are compiled in.
    pub fn for_isa(cpu: Cpu, isa: Isa) -> Option<&'static Kernels> {
        if !cpu.supports(isa) {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&sets::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&sets::AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&sets::AVX512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&sets::NEON),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Some(&sets::NEON_DOT),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Some(&sets::NEON_I8MM),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => Some(&sets::SIMD128),
            #[allow(unreachable_patterns, reason = "every level is some architecture's")]
            _ => None,
        }
    }

    /// The fastest kernels for this processor.
    pub fn best(cpu: Cpu) -> &'static Kernels {
        Self::for_isa(cpu, cpu.best()).unwrap_or(&sets::SCALAR)
    }

    /// Which instruction set these are for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Panel `panel` of `m` times tokens `first..first + tokens` of `x`: writes 16 outputs per token, token
    /// `t`'s at `out[t * out_stride..]`.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    pub fn gemm(
        &self,
        m: &Matrix,
        panel: usize,
        x: &Input,
        first: usize,
        tokens: usize,
        out: &mut [f32],
        out_stride: usize,
    ) {
        if tokens == 0 {
            return;
        }
        assert!(out.len() >= (tokens - 1) * out_stride + TILE_ROWS, "output too short");
        // SAFETY: `out` is exclusively borrowed and long enough.
        unsafe { self.gemm_shared(m, panel, x, first, tokens, out.as_mut_ptr(), out_stride) }
    }

    /// Panel `panel` of `m` times the one token of `x`: writes 16 outputs. `soon` is what will be read soon.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemv(&self, m: &Matrix, panel: usize, soon: Soon, x: &Input, out: &mut [f32]) {
        if m.geometry().order != Order::Rows {
            return self.gemm(m, panel, x, 0, 1, out, TILE_ROWS);
        }
        assert!(out.len() >= TILE_ROWS, "output too short");
        x.check(m.geometry(), 1);
        // SAFETY: lengths were just checked, the walk stays inside the matrix, and `self` exists only where its
        // target features do.
        unsafe {
            let raw = RawInput::from_token(x, 0, m.geometry().takes_int8());
            let kernel = there(self.gemm[m.format().arithmetic() as usize]);
            kernel(m.format().table(), &Walk { soon, ..m.walk(panel) }, &raw, 1, out.as_mut_ptr(), TILE_ROWS);
        }
    }

    /// [`Kernels::gemm`] into memory shared between tasks.
    ///
    /// # Safety
    /// `out` must be valid for writes of 16 floats at each multiple of `out_stride` below `tokens`, and no
    /// other task may touch them now.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    pub unsafe fn gemm_shared(
        &self,
        m: &Matrix,
        panel: usize,
        x: &Input,
        first: usize,
        tokens: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        if m.geometry().order == Order::RowLines {
            let rows = core::array::from_fn(|r| (panel * TILE_ROWS + r) as u32);
            let later = rows.map(|r| r + TILE_ROWS as u32);
            // SAFETY: `out` by the caller.
            return unsafe { self.gemm_rows_shared(m, &rows, &later, x, first, tokens, out, out_stride) };
        }
        x.check(m.geometry(), first + tokens);
        if m.geometry().order == Order::Inputs && m.geometry().takes_int8() {
            let outputs = m.geometry().panels * TILE_ROWS;
            assert!(panel < m.geometry().panels, "panel out of range");
            // SAFETY: the lines exist, lengths were just checked, `out` by the caller, and `self` exists only where
            // its target features do.
            return unsafe {
                let raw = RawInput::from_token(x, first, true);
                let kernel = there(self.gemm_codes[codes_index(m)]);
                kernel(m.format().table(), &m.lines(), panel, outputs, &raw, tokens, out, out_stride);
            };
        }
        // SAFETY: lengths were just checked, the walk stays inside the matrix, `out` by the caller, and
        // `self` exists only where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, first, m.geometry().takes_int8());
            let kernel = there(self.gemm[m.format().arithmetic() as usize]);
            kernel(m.format().table(), &m.walk(panel), &raw, tokens, out, out_stride);
        }
    }

    /// Any 16 outputs of a [`Order::RowLines`] matrix times tokens `first..first + tokens` of `x`; token `t`'s
    /// go to `out[t * out_stride..]` in the order of `rows`. `later` names the outputs that will be asked for
    /// next (a hint; any numbers will do).
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    pub fn gemm_rows(
        &self,
        m: &Matrix,
        rows: &[u32; TILE_ROWS],
        later: &[u32; TILE_ROWS],
        x: &Input,
        first: usize,
        tokens: usize,
        out: &mut [f32],
        out_stride: usize,
    ) {
        if tokens == 0 {
            return;
        }
        assert!(out.len() >= (tokens - 1) * out_stride + TILE_ROWS, "output too short");
        // SAFETY: `out` is exclusively borrowed and long enough.
        unsafe { self.gemm_rows_shared(m, rows, later, x, first, tokens, out.as_mut_ptr(), out_stride) }
    }

    /// [`Kernels::gemm_rows`] into memory shared between tasks.
    ///
    /// # Safety
    /// As [`Kernels::gemm_shared`].
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    unsafe fn gemm_rows_shared(
        &self,
        m: &Matrix,
        rows: &[u32; TILE_ROWS],
        later: &[u32; TILE_ROWS],
        x: &Input,
        first: usize,
        tokens: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let (g, lines) = (m.geometry(), m.lines());
        x.check(g, first + tokens);
        let count = g.units() as u32;
        assert!(g.order == Order::RowLines && rows.iter().all(|r| *r < count), "output out of range");
        // SAFETY: the lines exist (a hint is cut to those that do), lengths were just checked, `out` by the
        // caller, and `self` exists only where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, first, g.takes_int8());
            let (mut these, mut next) = ([core::ptr::null(); TILE_ROWS], [core::ptr::null(); TILE_ROWS]);
            for r in 0..TILE_ROWS {
                these[r] = lines.line(rows[r] as usize);
                next[r] = lines.line(later[r].min(count - 1) as usize);
            }
            let kernel = there(self.gemm_rows[m.format().arithmetic() as usize]);
            kernel(m.format().table(), &these, &next, &raw, tokens, out, out_stride);
        }
    }

    /// Adds the products of the inputs in `active` (in order; of token 0 of `x`) to outputs
    /// `32 * block..32 * block + y.len()` of a matrix stored by input, whole k-blocks of integers or else one input
    /// after the other.
    ///
    /// # Panics
    /// When widths or lengths do not fit, or an input is not there.
    pub fn gemv_inputs(&self, m: &Matrix, active: &[u32], block: usize, x: &Input, y: &mut [f32]) {
        let (g, lines) = (m.geometry(), m.lines());
        x.check(g, 1);
        let blocks = block..block + y.len() / BLOCK;
        assert!(g.is_by_input() && y.len().is_multiple_of(BLOCK), "outputs come in blocks of 32");
        assert!(blocks.end * BLOCK <= g.panels * TILE_ROWS, "outputs out of range");
        assert!(active.iter().all(|i| (*i as usize) < g.units()), "input out of range");
        // SAFETY: lines and blocks exist, lengths were just checked, and `self` exists only where its target
        // features do.
        unsafe {
            if g.takes_int8() {
                let (raw, outputs) = (RawInput::from_token(x, 0, true), g.panels * TILE_ROWS);
                let kernel = there(self.gemv_codes[codes_index(m)]);
                return kernel(m.format().table(), &lines, outputs, active, &raw, blocks, y.as_mut_ptr());
            }
            let kernel = there(self.gemv_inputs[m.format().arithmetic() as usize]);
            kernel(m.format().table(), &lines, active, x.values.as_ptr(), blocks, y.as_mut_ptr());
        }
    }

    /// Outputs `32 * block..32 * block + 32` of a matrix stored by input for tokens
    /// `first..first + tokens` of `x`, token `t`'s at `out[t * out_stride..]`.
    ///
    /// # Safety
    /// `out` must be valid for writes of 32 floats at each multiple of `out_stride` below `tokens`, and no
    /// other task may touch them now.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
    pub unsafe fn gemm_inputs(
        &self,
        m: &Matrix,
        block: usize,
        x: &Input,
        first: usize,
        tokens: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        let (g, lines) = (m.geometry(), m.lines());
        x.check(g, first + tokens);
        assert!(g.is_by_input() && (block + 1) * BLOCK <= g.panels * TILE_ROWS, "outputs out of range");
        if g.takes_int8() {
            for half in 0..BLOCK / TILE_ROWS {
                let panel = block * (BLOCK / TILE_ROWS) + half;
                // SAFETY: `out` by the caller.
                unsafe {
                    self.gemm_shared(m, panel, x, first, tokens, out.add(half * TILE_ROWS), out_stride);
                }
            }
            return;
        }
        // SAFETY: lines and blocks exist, lengths were just checked, `out` by the caller, and `self` exists only
        // where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, first, false);
            let kernel = there(self.gemm_inputs[m.format().arithmetic() as usize]);
            kernel(m.format().table(), &lines, block, &raw, tokens, out, out_stride);
        }
    }

    /// Adds k-block `k_block`'s part of the product of token 0 of `x` to panels `from..from + y.len() / 16`
    /// of a [`Order::Columns`] matrix. `soon` is what will be read soon.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemv_columns(&self, m: &Matrix, k_block: usize, soon: Soon, from: usize, x: &Input, y: &mut [f32]) {
        x.check(m.geometry(), 1);
        assert!(y.len().is_multiple_of(TILE_ROWS), "outputs come in panels of 16");
        let panels = y.len() / TILE_ROWS;
        if panels == 0 {
            return;
        }
        let run = m.column_run(k_block, from, from + panels);
        // SAFETY: `run` holds exactly `panels` tiles and `k_block` is in range (column_run checks), the
        // input is long enough, and `self` exists only where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, 0, m.geometry().takes_int8());
            let kernel = there(self.gemv_columns[m.format().arithmetic() as usize]);
            kernel(m.format().table(), run.as_ptr(), soon, panels, &raw, k_block, y.as_mut_ptr());
        }
    }

    /// Quantizes rows by block of 32: `scale = largest |x| / 127`, `q = round(x * (127 / largest |x|))`,
    /// `offset = -128 * sum(q)`.
    ///
    /// # Panics
    /// When lengths do not fit: x and q are n * 32, scales and offsets n.
    pub fn quantize(&self, x: &[f32], q: &mut [i8], scales: &mut [f32], offsets: &mut [i32]) {
        let blocks = x.len() / BLOCK;
        assert!(x.len().is_multiple_of(BLOCK) && q.len() == x.len(), "quantize: lengths differ");
        assert!(scales.len() == blocks && offsets.len() == blocks, "quantize: block counts differ");
        // SAFETY: lengths were just checked; features as above.
        unsafe { there(self.quantize)(x, q, scales, offsets) }
    }

    /// Writes to `list` the numbers of the inputs with `|x| > threshold` (0: all that are not zero; what is no number
    /// too, to be seen), in order, and returns how many there are. Where the product takes quantized inputs, those
    /// that are quantized to zero are left out too.
    ///
    /// # Panics
    /// When `list` or `quants` are shorter than `x`.
    pub fn select_inputs(&self, x: &[f32], quants: Option<&[i8]>, threshold: f32, list: &mut [u32]) -> usize {
        assert!(list.len() >= x.len() && quants.is_none_or(|q| q.len() >= x.len()), "select: too short");
        // SAFETY: lengths were just checked; features as above.
        unsafe { (self.select)(x, quants, threshold, list) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && out.len() == x.len(), "rms_norm: lengths differ");
        // SAFETY: lengths were just checked; features as above.
        unsafe { there(self.rms_norm)(x, weight, eps, out) }
    }

    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && bias.len() == x.len() && out.len() == x.len(), "layer_norm: lengths");
        // SAFETY: lengths were just checked; features as above.
        unsafe { there(self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `h = act(gate) * h` for a gated FFN, `h = act(h)` without a gate.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn activate(&self, kind: Activation, gate: Option<&[f32]>, h: &mut [f32]) {
        assert!(gate.is_none_or(|g| g.len() == h.len()), "activate: lengths differ");
        // SAFETY: lengths were just checked; features as above.
        unsafe { there(self.activate[kind as usize])(gate, h) }
    }

    /// Attention of some query heads over one KV head (see [`Attend`]); writes
    /// `out[t * out_token_stride + h * out_head_stride..][..head_dim]`.
    ///
    /// # Safety
    /// The pointers in `a` and `out` must be valid for the shapes that `a` declares, every cached position
    /// that a query may see must have been written, and no other task may write to these outputs now.
    pub unsafe fn attend(&self, a: &Attend, out: *mut f32) {
        // SAFETY: shapes by the caller; features as above.
        unsafe { there(self.attend[a.kv.format as usize])(a, out) }
    }

    /// Cosines and sines of one position, [head_dim / 2] each: angle = position * inverse frequency.
    pub fn angles(&self, position: usize, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
        there(self.angles)(position, frequencies, cos, sin);
    }
}

/// Place of an integer matrix's kernels in the tables that have no floats.
fn codes_index(m: &Matrix) -> usize {
    m.format().arithmetic() as usize - crate::format::Arithmetic::Int8 as usize
}
