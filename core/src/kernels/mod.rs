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
//! `scalar.rs`, `avx2.rs`, `avx512.rs`, `neon.rs` supply only `dot_b`; the loops around it (`matmul.rs`) and
//! all float mathematics (`norm.rs`, `activation.rs`, `attention.rs`) are written once over [`crate::simd::Lanes`].
//!
//! Shapes: [`Kernels::gemm`] (a panel of 16 outputs for a run of tokens; for one token it is the `gemv`)
//! and [`Kernels::gemv_columns`] (adds one k-block's contribution to a run of panels, for one token).

mod activation;
mod attention;
mod matmul;
mod matrix;
mod norm;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use activation::Activation;
pub use attention::{Attend, KvFormat, KvView};
pub use matrix::{Geometry, Layout, Matrix, Walk};

use crate::cpu::{Cpu, Isa};
use crate::format::{BLOCK, TILE_ROWS};

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
        if m.format.takes_int8() {
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
type ColumnsFn = unsafe fn(&[i8; 16], *const u8, usize, &RawInput, usize, *mut f32);
type QuantizeFn = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);
type LayerNormFn = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// One instruction set's kernels.
pub struct Kernels {
    isa: Isa,
    // Indexed by `Arithmetic`.
    gemm: [GemmFn; 5],
    gemv_columns: [ColumnsFn; 5],
    quantize: QuantizeFn,
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    layer_norm: LayerNormFn,
    activate: unsafe fn(Activation, Option<&[f32]>, &mut [f32]),
    attend: unsafe fn(&Attend, *mut f32),
}

impl Kernels {
    /// The kernels of `isa`, if this processor can run them and they are compiled in.
    pub fn for_isa(cpu: Cpu, isa: Isa) -> Option<&'static Kernels> {
        if !cpu.supports(isa) {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&AVX512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&NEON),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Some(&NEON_DOT),
            #[allow(unreachable_patterns, reason = "every level is some architecture's")]
            _ => None,
        }
    }

    /// The fastest kernels for this processor.
    pub fn best(cpu: Cpu) -> &'static Kernels {
        Self::for_isa(cpu, cpu.best()).unwrap_or(&SCALAR)
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
        x.check(m.geometry(), first + tokens);
        // SAFETY: lengths were just checked, the walk stays inside the matrix, `out` by the caller, and
        // `self` exists only where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, first, m.format().takes_int8());
            let kernel = self.gemm[m.format().arithmetic() as usize];
            kernel(m.format().table(), &m.walk(panel), &raw, tokens, out, out_stride);
        }
    }

    /// Adds k-block `k_block`'s part of the product of token 0 of `x` to panels `from..from + y.len() / 16`
    /// of a [`Layout::Columns`] matrix.
    ///
    /// # Panics
    /// When widths or lengths do not fit.
    pub fn gemv_columns(&self, m: &Matrix, k_block: usize, from: usize, x: &Input, y: &mut [f32]) {
        x.check(m.geometry(), 1);
        assert!(y.len().is_multiple_of(TILE_ROWS), "outputs come in panels of 16");
        let panels = y.len() / TILE_ROWS;
        let run = m.column_run(k_block, from, from + panels);
        // SAFETY: `run` holds exactly `panels` tiles and `k_block` is in range (column_run checks), the
        // input is long enough, and `self` exists only where its target features do.
        unsafe {
            let raw = RawInput::from_token(x, 0, m.format().takes_int8());
            let kernel = self.gemv_columns[m.format().arithmetic() as usize];
            kernel(m.format().table(), run.as_ptr(), panels, &raw, k_block, y.as_mut_ptr());
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
        unsafe { (self.quantize)(x, q, scales, offsets) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && out.len() == x.len(), "rms_norm: lengths differ");
        // SAFETY: lengths were just checked; features as above.
        unsafe { (self.rms_norm)(x, weight, eps, out) }
    }

    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn layer_norm(&self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && bias.len() == x.len() && out.len() == x.len(), "layer_norm: lengths");
        // SAFETY: lengths were just checked; features as above.
        unsafe { (self.layer_norm)(x, weight, bias, eps, out) }
    }

    /// `h = act(gate) * h` for a gated FFN, `h = act(h)` without a gate.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn activate(&self, kind: Activation, gate: Option<&[f32]>, h: &mut [f32]) {
        assert!(gate.is_none_or(|g| g.len() == h.len()), "activate: lengths differ");
        // SAFETY: lengths were just checked; features as above.
        unsafe { (self.activate)(kind, gate, h) }
    }

    /// Attention of some query heads over one KV head (see [`Attend`]); writes
    /// `out[t * out_token_stride + h * out_head_stride..][..head_dim]`.
    ///
    /// # Safety
    /// The pointers in `a` and `out` must be valid for the shapes that `a` declares, every cached position
    /// that a query may see must have been written, and no other task may write to these outputs now.
    pub unsafe fn attend(&self, a: &Attend, out: *mut f32) {
        // SAFETY: shapes by the caller; features as above.
        unsafe { (self.attend)(a, out) }
    }
}

/// Instantiates the generic kernels for one instruction set.
macro_rules! instantiate {
    ($name:ident, $module:ident, $isa:expr, [$($features:literal)?], $lanes:ty, $int8:ty, $table4:ty, $affine4:ty) => {
        #[allow(clippy::missing_safety_doc, missing_docs, reason = "private instances; contracts at the generic code")]
        mod $module {
            use super::*;
            instantiate!(@gemm gemm_f32, [$($features)?], matmul::gemm_float::<$lanes, f32>);
            instantiate!(@gemm gemm_f16, [$($features)?], matmul::gemm_float::<$lanes, half::f16>);
            instantiate!(@gemm gemm_int8, [$($features)?], matmul::gemm_int::<$int8>);
            instantiate!(@gemm gemm_table4, [$($features)?], matmul::gemm_int::<$table4>);
            instantiate!(@gemm gemm_affine4, [$($features)?], matmul::gemm_int::<$affine4>);
            instantiate!(@columns columns_f32, [$($features)?], matmul::columns_float::<$lanes, f32>);
            instantiate!(@columns columns_f16, [$($features)?], matmul::columns_float::<$lanes, half::f16>);
            instantiate!(@columns columns_int8, [$($features)?], matmul::columns_int::<$int8>);
            instantiate!(@columns columns_table4, [$($features)?], matmul::columns_int::<$table4>);
            instantiate!(@columns columns_affine4, [$($features)?], matmul::columns_int::<$affine4>);
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], s: &mut [f32], o: &mut [i32]) {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { norm::quantize::<$lanes>(x, q, s, o) }
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { norm::rms_norm::<$lanes>(x, w, eps, out) }
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { norm::layer_norm::<$lanes>(x, w, b, eps, out) }
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn activate(kind: Activation, gate: Option<&[f32]>, h: &mut [f32]) {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { activation::activate::<$lanes>(kind, gate, h) }
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn attend(a: &Attend, out: *mut f32) {
                // SAFETY: shapes by the caller; features enabled here.
                unsafe { attention::attend::<$lanes>(a, out) }
            }
        }
        static $name: Kernels = Kernels {
            isa: $isa,
            gemm: [$module::gemm_f32, $module::gemm_f16, $module::gemm_int8, $module::gemm_table4, $module::gemm_affine4],
            gemv_columns: [
                $module::columns_f32, $module::columns_f16, $module::columns_int8, $module::columns_table4,
                $module::columns_affine4,
            ],
            quantize: $module::quantize,
            rms_norm: $module::rms_norm,
            layer_norm: $module::layer_norm,
            activate: $module::activate,
            attend: $module::attend,
        };
    };
    (@gemm $name:ident, [$($features:literal)?], $body:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(lut: &[i8; 16], w: &Walk, x: &RawInput, n: usize, out: *mut f32, stride: usize) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { $body(lut, w, x, n, out, stride) }
        }
    };
    (@columns $name:ident, [$($features:literal)?], $body:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(lut: &[i8; 16], t: *const u8, n: usize, x: &RawInput, kb: usize, y: *mut f32) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { $body(lut, t, n, x, kb, y) }
        }
    };
}

instantiate!(
    SCALAR,
    scalar_set,
    Isa::Scalar,
    [],
    crate::simd::scalar::ScalarLanes,
    scalar::Int8,
    scalar::Table4,
    scalar::Affine4
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX2,
    avx2_set,
    Isa::Avx2,
    ["avx2,f16c"],
    crate::simd::avx2::Avx2Lanes,
    avx2::Int8,
    avx2::Table4,
    avx2::Affine4
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX512,
    avx512_set,
    Isa::Avx512,
    ["avx512f,avx512bw,avx512vl,avx512vnni,avx2,f16c"],
    crate::simd::avx512::Avx512Lanes,
    avx512::Int8,
    avx512::Table4,
    avx512::Affine4
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON,
    neon_set,
    Isa::Neon,
    ["neon"],
    crate::simd::neon::NeonLanes,
    neon::Int8,
    neon::Table4,
    neon::Affine4
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_DOT,
    neon_dot_set,
    Isa::NeonDot,
    ["neon,dotprod"],
    crate::simd::neon::NeonLanes,
    neon::DotInt8,
    neon::DotTable4,
    neon::DotAffine4
);
