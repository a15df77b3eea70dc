//! The kernels of every instruction set: the generic code, compiled with its features.

use super::call::Call;
use super::tile_dot::Dots;
use super::*;
use crate::simd::Proof;
use input_dot::ByLanes;

/// Instantiates the generic kernels for one instruction set: a function each, in a module of their own, and their table.
macro_rules! instantiate {
    (
        $name:ident, $module:ident, $isa:expr, $features:tt, $lanes:ty,
        tile_dots: [$int8:ty, $table4:ty, $affine4:ty],
        input_dots: [$int8_inputs:ty, $table4_inputs:ty, $affine4_inputs:ty]
    ) => {
        mod $module {
            use super::*;
            use codes::{Affine4Codes, F16Codes, F32Codes, Int8Codes, Table4Codes};
            use gemm::{Floats, columns_float, columns_int};
            use half::f16;
            type L = $lanes;
            type Int8 = gemm::Integers<$int8>;
            type Table4 = gemm::Integers<$table4>;
            type Affine4 = gemm::Integers<$affine4>;

            // A row is a shape, in the order of `Shape`; the places in a row are those of the arithmetics.
            instantiate!(@matrix $features,
                all: [
                    [
                        gemm_f32 = gemm::gemm::<Floats<L, f32>>,
                        gemm_f16 = gemm::gemm::<Floats<L, f16>>,
                        gemm_int8 = gemm::gemm::<Int8>,
                        gemm_table4 = gemm::gemm::<Table4>,
                        gemm_affine4 = gemm::gemm::<Affine4>,
                    ]
                    [
                        gemm_rows_f32 = gemm::gemm_rows::<Floats<L, f32>, F32Codes>,
                        gemm_rows_f16 = gemm::gemm_rows::<Floats<L, f16>, F16Codes>,
                        gemm_rows_int8 = gemm::gemm_rows::<Int8, Int8Codes>,
                        gemm_rows_table4 = gemm::gemm_rows::<Table4, Table4Codes>,
                        gemm_rows_affine4 = gemm::gemm_rows::<Affine4, Affine4Codes>,
                    ]
                    [
                        columns_f32 = columns_float::<L, f32>,
                        columns_f16 = columns_float::<L, f16>,
                        columns_int8 = columns_int::<<$int8 as Dots>::One>,
                        columns_table4 = columns_int::<<$table4 as Dots>::One>,
                        columns_affine4 = columns_int::<<$affine4 as Dots>::One>,
                    ]
                    [
                        gemv_lines_f32 = lines::gemv_lines::<L, F32Codes>,
                        gemv_lines_f16 = lines::gemv_lines::<L, F16Codes>,
                        gemv_lines_int8 = lines::gemv_lines::<L, Int8Codes>,
                        gemv_lines_table4 = lines::gemv_lines::<L, Table4Codes>,
                        gemv_lines_affine4 = lines::gemv_lines::<L, Affine4Codes>,
                    ]
                    [
                        gemm_lines_f32 = lines::gemm_lines::<L, F32Codes>,
                        gemm_lines_f16 = lines::gemm_lines::<L, F16Codes>,
                        gemm_lines_int8 = lines::gemm_lines::<L, Int8Codes>,
                        gemm_lines_table4 = lines::gemm_lines::<L, Table4Codes>,
                        gemm_lines_affine4 = lines::gemm_lines::<L, Affine4Codes>,
                    ]
                ],
                integers: [
                    [
                        gemv_inputs_int8 = input_dot::gemv_inputs::<$int8_inputs>,
                        gemv_inputs_table4 = input_dot::gemv_inputs::<$table4_inputs>,
                        gemv_inputs_affine4 = input_dot::gemv_inputs::<$affine4_inputs>,
                    ]
                    [
                        gemm_inputs_int8 = gemm::gemm_inputs::<Int8, Int8Codes>,
                        gemm_inputs_table4 = gemm::gemm_inputs::<Table4, Table4Codes>,
                        gemm_inputs_affine4 = gemm::gemm_inputs::<Affine4, Affine4Codes>,
                    ]
                ]
            );
            instantiate!(@safe $features fn quantize(x: &[f32], q: &mut [i8], s: &mut [f32], o: &mut [i32]),
                |isa| quantize::quantize::<L>(isa, x, q, s, o));
            instantiate!(@safe $features fn select(x: &[f32], q: Option<&[i8]>, least: f32, list: &mut [u32]) -> usize,
                |isa| select::select_inputs::<L>(isa, x, q, least, list));
            instantiate!(@safe $features fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]),
                |isa| norm::rms_norm::<L>(isa, x, w, eps, out));
            instantiate!(@safe $features fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]),
                |isa| norm::layer_norm::<L>(isa, x, w, b, eps, out));
            instantiate!(@activate $features activate_silu, Activation::Silu);
            instantiate!(@activate $features activate_relu, Activation::Relu);
            instantiate!(@activate $features activate_relu2, Activation::Relu2);
            instantiate!(@activate $features activate_gelu_tanh, Activation::GeluTanh);
            instantiate!(@activate $features activate_gelu, Activation::Gelu);
            instantiate!(@activate $features activate_clamped_swiglu, Activation::ClampedSwiglu);
            instantiate!(@activate $features activate_fatrelu, Activation::FatRelu);
            instantiate!(@safe $features fn scale_and_cap(scale: f32, cap: f32, x: &mut [f32]),
                |isa| activation::scale_and_cap::<L>(isa, scale, cap, x));
            instantiate!(@attend $features attend_f16, f16);
            instantiate!(@attend $features attend_f32, f32);
        }
        pub(super) static $name: Kernels = Kernels {
            isa: $isa,
            matrix: $module::MATRIX,
            quantize: Some($module::quantize),
            select: $module::select,
            rms_norm: Some($module::rms_norm),
            layer_norm: Some($module::layer_norm),
            activate: [
                Some($module::activate_silu),
                Some($module::activate_relu),
                Some($module::activate_relu2),
                Some($module::activate_gelu_tanh),
                Some($module::activate_gelu),
                Some($module::activate_clamped_swiglu),
                Some($module::activate_fatrelu),
            ],
            scale_and_cap: Some($module::scale_and_cap),
            attend: [Some($module::attend_f16), Some($module::attend_f32)],
            angles: Some(rope::angles),
        };
    };
    (
        @matrix $features:tt,
        all: [$([$($all:ident = $all_body:expr),* $(,)?])*],
        integers: [$([$($integer:ident = $integer_body:expr),* $(,)?])*]
    ) => {
        $($(instantiate!(@kernel $features $all, $all_body);)*)*
        $($(instantiate!(@kernel $features $integer, $integer_body);)*)*
        pub(super) const MATRIX: MatrixKernels = [
            $([$(Some($all)),*],)*
            $([None, None, $(Some($integer)),*],)*
        ];
    };
    (@kernel [$($features:literal)?] $name:ident, $body:expr) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name(call: &Call) {
            // SAFETY: this function is only called where its features are, and the call is as the contract demands.
            unsafe { $body(Proof::assume(), call) }
        }
    };
    (@safe [$($features:literal)?] fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?, |$isa:ident| $body:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: this function is only called where its features are.
            let $isa = unsafe { Proof::assume() };
            $body
        }
    };
    (@activate $features:tt $name:ident, $kind:expr) => {
        instantiate!(@safe $features fn $name(activate: &Activate, gate: Option<&[f32]>, h: &mut [f32]),
            |isa| activation::activate::<L>(isa, &Activate { kind: $kind, ..*activate }, gate, h));
    };
    (@attend [$($features:literal)?] $name:ident, $element:ty) => {
        $(#[target_feature(enable = $features)])?
        pub(super) unsafe fn $name(a: &Attend, cap: Option<ScaleFn>, out: *mut f32) {
            // SAFETY: this function is only called where its features are, with a `cap` of the same table; `a` and `out`
            // fit together.
            unsafe { attention::attend::<L, $element>(Proof::assume(), a, cap, out) }
        }
    };
}

instantiate!(
    SCALAR,
    scalar_table,
    Isa::Scalar,
    [],
    crate::simd::scalar::ScalarLanes,
    tile_dots: [tile_dot::scalar::Int8, tile_dot::scalar::Table4, tile_dot::scalar::Affine4],
    input_dots: [ByLanes<L, Int8Codes>, ByLanes<L, Table4Codes>, ByLanes<L, Affine4Codes>]
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX2,
    avx2_table,
    Isa::Avx2,
    ["avx2,f16c,popcnt"],
    crate::simd::avx2::Avx2Lanes,
    tile_dots: [tile_dot::avx2::Int8, tile_dot::avx2::Table4, tile_dot::avx2::Affine4],
    input_dots: [ByLanes<L, Int8Codes>, ByLanes<L, Table4Codes>, ByLanes<L, Affine4Codes>]
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX512,
    avx512_table,
    Isa::Avx512,
    ["avx512f,avx512bw,avx512vl,avx512vnni,avx2,f16c,popcnt"],
    crate::simd::avx512::Avx512Lanes,
    tile_dots: [tile_dot::avx512::Int8, tile_dot::avx512::Table4, tile_dot::avx512::Affine4],
    input_dots: [
        input_dot::avx512::Int8Inputs,
        input_dot::avx512::Table4Inputs,
        input_dot::avx512::Affine4Inputs
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON,
    neon_table,
    Isa::Neon,
    ["neon"],
    crate::simd::neon::NeonLanes,
    tile_dots: [tile_dot::neon::Int8, tile_dot::neon::Table4, tile_dot::neon::Affine4],
    input_dots: [
        input_dot::neon::Plain<Int8Codes>,
        input_dot::neon::Plain<Table4Codes>,
        input_dot::neon::Plain<Affine4Codes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_DOT,
    neon_dot_table,
    Isa::NeonDot,
    ["neon,dotprod"],
    crate::simd::neon::NeonLanes<crate::simd::neon::DotProd>,
    tile_dots: [tile_dot::neon::DotInt8, tile_dot::neon::DotTable4, tile_dot::neon::DotAffine4],
    input_dots: [
        input_dot::neon::Dot<Int8Codes, crate::simd::neon::DotProd>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::DotProd>,
        input_dot::neon::Dot<Affine4Codes, crate::simd::neon::DotProd>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_I8MM,
    neon_i8mm_table,
    Isa::NeonI8mm,
    ["neon,dotprod,i8mm"],
    crate::simd::neon::NeonLanes<crate::simd::neon::I8mm>,
    tile_dots: [tile_dot::neon::MatrixInt8, tile_dot::neon::MatrixTable4, tile_dot::neon::MatrixAffine4],
    input_dots: [
        input_dot::neon::Dot<Int8Codes, crate::simd::neon::I8mm>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::I8mm>,
        input_dot::neon::Dot<Affine4Codes, crate::simd::neon::I8mm>
    ]
);
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
instantiate!(
    SIMD128,
    simd128_table,
    Isa::Simd128,
    ["simd128"],
    crate::simd::simd128::Simd128Lanes,
    tile_dots: [tile_dot::simd128::Int8, tile_dot::simd128::Table4, tile_dot::simd128::Affine4],
    input_dots: [ByLanes<L, Int8Codes>, ByLanes<L, Table4Codes>, ByLanes<L, Affine4Codes>]
);
