//! The kernels of every instruction set: the generic code, compiled with its features.

use super::*;
use core::mem::MaybeUninit;
use matmul::Dots;
use tiles::{GatheredRows, StoredTiles};

/// Instantiates the generic kernels for one instruction set.
macro_rules! instantiate {
    ($name:ident, $module:ident, $isa:expr, [$($features:literal)?], $lanes:ty, [$int8:ty, $table4:ty, $affine4:ty],
     [$int8_codes:ty, $table4_codes:ty, $affine4_codes:ty]) => {
        #[allow(clippy::missing_safety_doc, missing_docs, reason = "private instances; contracts at the generic code")]
        mod $module {
            use super::*;
            instantiate!(@gemm gemm_f32, gemm_rows_f32, [$($features)?], Format::F32, codes::F32Codes, matmul::Floats<$lanes, f32>);
            instantiate!(@gemm gemm_f16, gemm_rows_f16, [$($features)?], Format::F16, codes::F16Codes, matmul::Floats<$lanes, half::f16>);
            instantiate!(@gemm gemm_int8, gemm_rows_int8, [$($features)?], Format::Q8_0, codes::Int8Codes, matmul::Integers<$int8>);
            instantiate!(@gemm gemm_table4, gemm_rows_table4, [$($features)?], Format::Q4_0, codes::Table4Codes, matmul::Integers<$table4>);
            instantiate!(@gemm gemm_affine4, gemm_rows_affine4, [$($features)?], Format::Q4_1, codes::Affine4Codes, matmul::Integers<$affine4>);
            instantiate!(@inputs gemv_inputs_f32, gemm_inputs_f32, [$($features)?], $lanes, codes::F32Codes);
            instantiate!(@inputs gemv_inputs_f16, gemm_inputs_f16, [$($features)?], $lanes, codes::F16Codes);
            instantiate!(@inputs gemv_inputs_int8, gemm_inputs_int8, [$($features)?], $lanes, codes::Int8Codes);
            instantiate!(@inputs gemv_inputs_table4, gemm_inputs_table4, [$($features)?], $lanes, codes::Table4Codes);
            instantiate!(@inputs gemv_inputs_affine4, gemm_inputs_affine4, [$($features)?], $lanes, codes::Affine4Codes);
            instantiate!(@codes gemv_codes_int8, gemm_codes_int8, [$($features)?], $int8_codes, $int8);
            instantiate!(@codes gemv_codes_table4, gemm_codes_table4, [$($features)?], $table4_codes, $table4);
            instantiate!(@codes gemv_codes_affine4, gemm_codes_affine4, [$($features)?], $affine4_codes, $affine4);
            instantiate!(@columns columns_f32, [$($features)?], matmul::columns_float::<$lanes, f32>);
            instantiate!(@columns columns_f16, [$($features)?], matmul::columns_float::<$lanes, half::f16>);
            instantiate!(@columns columns_int8, [$($features)?], matmul::columns_int::<<$int8 as Dots>::One>);
            instantiate!(@columns columns_table4, [$($features)?], matmul::columns_int::<<$table4 as Dots>::One>);
            instantiate!(@columns columns_affine4, [$($features)?], matmul::columns_int::<<$affine4 as Dots>::One>);
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn quantize(x: &[f32], q: &mut [i8], s: &mut [f32], o: &mut [i32]) {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { norm::quantize::<$lanes>(x, q, s, o) }
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn select_inputs(x: &[f32], q: Option<&[i8]>, least: f32, list: &mut [u32]) -> usize {
                // SAFETY: lengths by the caller; features enabled here.
                unsafe { select::select_inputs::<$lanes>(x, q, least, list) }
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
            instantiate!(@activate activate_silu, [$($features)?], $lanes, Activation::Silu);
            instantiate!(@activate activate_relu, [$($features)?], $lanes, Activation::Relu);
            instantiate!(@activate activate_relu2, [$($features)?], $lanes, Activation::Relu2);
            instantiate!(@activate activate_gelu_tanh, [$($features)?], $lanes, Activation::GeluTanh);
            instantiate!(@activate activate_gelu, [$($features)?], $lanes, Activation::Gelu);
            instantiate!(@attend attend_f16, [$($features)?], $lanes, half::f16);
            instantiate!(@attend attend_f32, [$($features)?], $lanes, f32);
        }
        pub(super) static $name: Kernels = Kernels {
            isa: $isa,
            gemm: [
                Some($module::gemm_f32), Some($module::gemm_f16), Some($module::gemm_int8), Some($module::gemm_table4),
                Some($module::gemm_affine4),
            ],
            gemm_rows: [
                Some($module::gemm_rows_f32), Some($module::gemm_rows_f16), Some($module::gemm_rows_int8),
                Some($module::gemm_rows_table4), Some($module::gemm_rows_affine4),
            ],
            gemv_inputs: [
                Some($module::gemv_inputs_f32), Some($module::gemv_inputs_f16), Some($module::gemv_inputs_int8),
                Some($module::gemv_inputs_table4), Some($module::gemv_inputs_affine4),
            ],
            gemm_inputs: [
                Some($module::gemm_inputs_f32), Some($module::gemm_inputs_f16), Some($module::gemm_inputs_int8),
                Some($module::gemm_inputs_table4), Some($module::gemm_inputs_affine4),
            ],
            gemv_codes: [
                Some($module::gemv_codes_int8), Some($module::gemv_codes_table4), Some($module::gemv_codes_affine4),
            ],
            gemm_codes: [
                Some($module::gemm_codes_int8), Some($module::gemm_codes_table4), Some($module::gemm_codes_affine4),
            ],
            gemv_columns: [
                Some($module::columns_f32), Some($module::columns_f16), Some($module::columns_int8),
                Some($module::columns_table4), Some($module::columns_affine4),
            ],
            quantize: Some($module::quantize),
            select: $module::select_inputs,
            rms_norm: Some($module::rms_norm),
            layer_norm: Some($module::layer_norm),
            activate: [
                Some($module::activate_silu), Some($module::activate_relu), Some($module::activate_relu2),
                Some($module::activate_gelu_tanh), Some($module::activate_gelu),
            ],
            attend: [Some($module::attend_f16), Some($module::attend_f32)],
            angles: Some(angles::angles),
        };
    };
    (@activate $name:ident, [$($features:literal)?], $lanes:ty, $kind:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(gate: Option<&[f32]>, h: &mut [f32]) {
            // SAFETY: lengths by the caller; features enabled here.
            unsafe { activation::activate::<$lanes>($kind, gate, h) }
        }
    };
    (@attend $name:ident, [$($features:literal)?], $lanes:ty, $element:ty) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(a: &Attend, out: *mut f32) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { attention::attend::<$lanes, $element>(a, out) }
        }
    };
    (@gemm $name:ident, $rows:ident, [$($features:literal)?], $format:expr, $line:ty, $panel:ty) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(lut: &[i8; 16], w: &Walk, x: &RawInput, n: usize, out: *mut f32, stride: usize) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { matmul::gemm::<$panel, _>(lut, &StoredTiles::new(w, const { $format.tile_bytes() }), x, n, out, stride) }
        }
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $rows(
            lut: &[i8; 16],
            rows: &Rows,
            later: &Rows,
            x: &RawInput,
            n: usize,
            out: *mut f32,
            stride: usize,
        ) {
            let mut room = MaybeUninit::<[u8; matmul::ROOM]>::uninit();
            // SAFETY: shapes by the caller; the room is this call's own; features enabled here.
            unsafe {
                let rows = GatheredRows::<$line>::new(rows, later, x.width / BLOCK);
                matmul::gemm_gathered::<$panel, _>(lut, rows, x, n, out, stride, room.as_mut_ptr().cast())
            }
        }
    };
    (@inputs $gemv:ident, $gemm:ident, [$($features:literal)?], $lanes:ty, $line:ty) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $gemv(
            lut: &[i8; 16],
            lines: &Lines,
            active: &[u32],
            x: *const f32,
            blocks: Range<usize>,
            y: *mut f32,
        ) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { lines::gemv_inputs::<$lanes, $line>(lut, lines, active, x, blocks, y) }
        }
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $gemm(
            lut: &[i8; 16],
            lines: &Lines,
            block: usize,
            x: &RawInput,
            n: usize,
            out: *mut f32,
            stride: usize,
        ) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { lines::gemm_inputs::<$lanes, $line>(lut, lines, block, x, n, out, stride) }
        }
    };
    (@codes $gemv:ident, $gemm:ident, [$($features:literal)?], $codes:ty, $tile:ty) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $gemv(
            lut: &[i8; 16],
            lines: &Lines,
            outputs: usize,
            active: &[u32],
            x: &RawInput,
            blocks: Range<usize>,
            y: *mut f32,
        ) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { inputs::gemv_codes::<$codes>(lut, lines, outputs, active, x, blocks, y) }
        }
        $(#[target_feature(enable = $features)])?
        #[allow(clippy::too_many_arguments, reason = "a matrix product's operands")]
        pub(super) unsafe fn $gemm(
            lut: &[i8; 16],
            lines: &Lines,
            panel: usize,
            outputs: usize,
            x: &RawInput,
            n: usize,
            out: *mut f32,
            stride: usize,
        ) {
            let mut room = MaybeUninit::<[u8; matmul::ROOM]>::uninit();
            // SAFETY: shapes by the caller; the room is this call's own; features enabled here.
            unsafe {
                type Kind = <$codes as inputs::InputDot>::C;
                let codes = inputs::GatheredCodes::<Kind>::new(lines, panel, outputs);
                let room = room.as_mut_ptr().cast();
                matmul::gemm_gathered::<matmul::Integers<$tile>, _>(lut, codes, x, n, out, stride, room)
            }
        }
    };
    (@columns $name:ident, [$($features:literal)?], $body:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(
            lut: &[i8; 16],
            tiles: *const u8,
            soon: Soon,
            n: usize,
            x: &RawInput,
            kb: usize,
            y: *mut f32,
        ) {
            // SAFETY: shapes by the caller; features enabled here.
            unsafe { $body(lut, tiles, soon, n, x, kb, y) }
        }
    };
}

instantiate!(
    SCALAR,
    scalar_set,
    Isa::Scalar,
    [],
    crate::simd::scalar::ScalarLanes,
    [scalar::Int8, scalar::Table4, scalar::Affine4],
    [
        inputs::Plain<crate::simd::scalar::ScalarLanes, codes::Int8Codes>,
        inputs::Plain<crate::simd::scalar::ScalarLanes, codes::Table4Codes>,
        inputs::Plain<crate::simd::scalar::ScalarLanes, codes::Affine4Codes>
    ]
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX2,
    avx2_set,
    Isa::Avx2,
    ["avx2,f16c,popcnt"],
    crate::simd::avx2::Avx2Lanes,
    [avx2::Int8, avx2::Table4, avx2::Affine4],
    [
        inputs::Plain<crate::simd::avx2::Avx2Lanes, codes::Int8Codes>,
        inputs::Plain<crate::simd::avx2::Avx2Lanes, codes::Table4Codes>,
        inputs::Plain<crate::simd::avx2::Avx2Lanes, codes::Affine4Codes>
    ]
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX512,
    avx512_set,
    Isa::Avx512,
    ["avx512f,avx512bw,avx512vl,avx512vnni,avx2,f16c,popcnt"],
    crate::simd::avx512::Avx512Lanes,
    [avx512::Int8, avx512::Table4, avx512::Affine4],
    [avx512::Int8Inputs, avx512::Table4Inputs, avx512::Affine4Inputs]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON,
    neon_set,
    Isa::Neon,
    ["neon"],
    crate::simd::neon::NeonLanes,
    [neon::Int8, neon::Table4, neon::Affine4],
    [
        neon_inputs::Plain<codes::Int8Codes>,
        neon_inputs::Plain<codes::Table4Codes>,
        neon_inputs::Plain<codes::Affine4Codes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_DOT,
    neon_dot_set,
    Isa::NeonDot,
    ["neon,dotprod"],
    crate::simd::neon::NeonLanes,
    [neon::DotInt8, neon::DotTable4, neon::DotAffine4],
    [
        neon_inputs::Dot<codes::Int8Codes>,
        neon_inputs::Dot<codes::Table4Codes>,
        neon_inputs::Dot<codes::Affine4Codes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_I8MM,
    neon_i8mm_set,
    Isa::NeonI8mm,
    ["neon,dotprod,i8mm"],
    crate::simd::neon::NeonLanes,
    [neon::MatrixInt8, neon::MatrixTable4, neon::MatrixAffine4],
    [
        neon_inputs::Dot<codes::Int8Codes>,
        neon_inputs::Dot<codes::Table4Codes>,
        neon_inputs::Dot<codes::Affine4Codes>
    ]
);
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
instantiate!(
    SIMD128,
    simd128_set,
    Isa::Simd128,
    ["simd128"],
    crate::simd::simd128::Simd128Lanes,
    [simd128::Int8, simd128::Table4, simd128::Affine4],
    [
        inputs::Plain<crate::simd::simd128::Simd128Lanes, codes::Int8Codes>,
        inputs::Plain<crate::simd::simd128::Simd128Lanes, codes::Table4Codes>,
        inputs::Plain<crate::simd::simd128::Simd128Lanes, codes::Affine4Codes>
    ]
);
