//! The kernels of every instruction set: the generic code, compiled with the target features of each.

use super::call::Call;
use super::tile_dot::tiles;
use super::*;
use crate::simd::Proof;

/// Instantiates the generic kernels for one instruction set: a function for each kernel, in modules of their own, and
/// the table of these functions.
///
/// `tile_dots` is the module with the dot products of tiles, `Dot<T>` for every kind; `input_dots` are those of integer
/// matrices that are stored by input.
macro_rules! instantiate {
    (
        $name:ident, $module:ident, $isa:expr, $features:tt, $lanes:ty, tile_dots: $($tile_dots:ident)::+,
        input_dots: [
            $int8:ty, $table4:ty, $affine4:ty, $int4:ty, $int5:ty, $affine5:ty, $int6:ty $(,)?
        ]
    ) => {
        mod $module {
            use super::*;
            use codes::*;
            use half::{bf16, f16};
            use $($tile_dots)::+::Dot;
            type L = $lanes;

            instantiate!(@floats $features, f32_weights, f32, F32Codes);
            instantiate!(@floats $features, f16_weights, f16, F16Codes);
            instantiate!(@floats $features, bf16_weights, bf16, Bf16Codes);
            instantiate!(@integers $features, int8, Int8, Int8Codes, $int8);
            instantiate!(@integers $features, table4, Table4, Table4Codes, $table4);
            instantiate!(@integers $features, affine4, Affine4, Affine4Codes, $affine4);
            instantiate!(@integers $features, int5, Int5, Int5Codes, $int5);
            instantiate!(@integers $features, affine5, Affine5, Affine5Codes, $affine5);
            instantiate!(@packed $features, power4, Power4, $table4);
            instantiate!(@packed $features, super_affine4, SuperAffine4, $affine4);
            instantiate!(@packed $features, super_affine5, SuperAffine5, $affine5);
            instantiate!(@packed $features, super_int6, SuperInt6, $int6);
            instantiate!(@packed $features, super_table4, SuperTable4, $table4);
            instantiate!(@integers $features, int4, Int4, Table4Codes, $int4);

            // In the order of `Arithmetic`.
            pub(super) const MATRIX: MatrixKernels = [
                f32_weights::ROW,
                f16_weights::ROW,
                int8::ROW,
                table4::ROW,
                affine4::ROW,
                bf16_weights::ROW,
                int5::ROW,
                affine5::ROW,
                power4::ROW,
                super_affine4::ROW,
                super_affine5::ROW,
                super_int6::ROW,
                super_table4::ROW,
                int4::ROW,
            ];
            instantiate!(@safe $features fn quantize(x: &[f32], q: &mut [i8], s: &mut [Scale], o: &mut [Offset]),
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
            alone: false,
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
    // Rows of the table: the kernels of an arithmetic, in the order of `Shape`.
    (@floats $features:tt, $module:ident, $element:ty, $codes:ty) => {
        mod $module {
            use super::*;
            type Panel = floats::Floats<L, $element>;
            instantiate!(@kernel $features panel, gemm::gemm::<Panel>);
            instantiate!(@kernel $features rows, gemm::gemm_rows::<Panel, $codes>);
            instantiate!(@kernel $features columns, floats::columns_float::<L, $element>);
            instantiate!(@kernel $features inputs, lines::gemv_lines::<L, $codes>);
            instantiate!(@kernel $features all_inputs, lines::gemm_lines::<L, $codes>);
            pub(super) const ROW: [Option<MatrixKernel>; SHAPES] =
                [Some(panel), Some(rows), Some(columns), Some(inputs), Some(all_inputs), None, None];
        }
    };
    (@integers $features:tt, $module:ident, $tile:ident, $codes:ty, $input_dot:ty) => {
        mod $module {
            use super::*;
            instantiate!(@tiles $features, $tile, $input_dot);
            instantiate!(@kernel $features rows, gemm::gemm_rows::<Panel, $codes>);
            instantiate!(@kernel $features inputs, lines::gemv_lines::<L, $codes>);
            instantiate!(@kernel $features all_inputs, lines::gemm_lines::<L, $codes>);
            pub(super) const ROW: [Option<MatrixKernel>; SHAPES] = [
                Some(panel), Some(rows), Some(columns), Some(inputs), Some(all_inputs), Some(codes), Some(all_codes),
            ];
        }
    };
    // The kernels of arithmetics that only orders with packed heads of 16 outputs can hold.
    (@packed $features:tt, $module:ident, $tile:ident, $input_dot:ty) => {
        mod $module {
            use super::*;
            instantiate!(@tiles $features, $tile, $input_dot);
            pub(super) const ROW: [Option<MatrixKernel>; SHAPES] =
                [Some(panel), None, Some(columns), None, None, Some(codes), Some(all_codes)];
        }
    };
    (@tiles $features:tt, $tile:ident, $input_dot:ty) => {
        type D = Dot<tiles::$tile>;
        type Panel = gemm::Integers<D>;
        type H = <Panel as gemm::Panel>::H;
        instantiate!(@kernel $features panel, gemm::gemm::<Panel>);
        instantiate!(@kernel $features columns, gemm::columns_int::<D>);
        instantiate!(@kernel $features codes, input_dot::gemv_inputs::<H, $input_dot>);
        instantiate!(@kernel $features all_codes,
            gemm::gemm_inputs::<Panel, <$input_dot as input_dot::InputDot>::C>);
    };
    (@kernel [$($features:literal)?] $name:ident, $body:expr) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name(call: &Call) {
            // SAFETY: `Kernels::for_isa` hands out the table of this function only on processors with its features, and
            // the caller meets the requirements of `MatrixKernel`.
            unsafe { $body(Proof::assume(), call) }
        }
    };
    (@safe [$($features:literal)?] fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?, |$isa:ident| $body:expr) => {
        $(#[target_feature(enable = $features)])?
        pub(super) fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: `Kernels::for_isa` hands out the table of this function only on processors with its features.
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
            // SAFETY: `Kernels::for_isa` hands out the table of this function only on processors with its features;
            // `Kernels::attend` passes a `cap` of the same table, and its caller promises that `a` and `out` are valid.
            unsafe { attention::attend::<L, $element>(Proof::assume(), a, cap, out) }
        }
    };
}

/// Instantiates the kernels with input dot products in terms of float lanes only.
macro_rules! by_lanes {
    ($name:ident, $module:ident, $isa:expr, $features:tt, $lanes:ty, $($tile_dots:ident)::+) => {
        instantiate!(
            $name, $module, $isa, $features, $lanes, tile_dots: $($tile_dots)::+,
            input_dots: [
                input_dot::ByLanes<L, Int8Codes>, input_dot::ByLanes<L, Table4Codes>, input_dot::ByLanes<L, Affine4Codes>, input_dot::ByLanes<L, Table4Codes>,
                input_dot::ByLanes<L, Int5Codes>, input_dot::ByLanes<L, Affine5Codes>, input_dot::ByLanes<L, Int6Codes>,
            ]
        );
    };
}

by_lanes!(SCALAR, scalar_table, Isa::Scalar, [], crate::simd::scalar::ScalarLanes, tile_dot::scalar);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX2,
    avx2_table,
    Isa::Avx2,
    ["avx2,f16c,popcnt"],
    crate::simd::avx2::Avx2Lanes,
    tile_dots: tile_dot::avx2,
    input_dots: [
        input_dot::avx2::Inputs<tile_dot::Bytes>,
        input_dot::avx2::Inputs<tile_dot::Entries>,
        input_dot::avx2::Inputs<tile_dot::Nibbles>,
        input_dot::avx2::Inputs<tile_dot::SignedFours>,
        input_dot::avx2::Inputs<tile_dot::SignedFives>,
        input_dot::avx2::Inputs<tile_dot::Fives>,
        input_dot::avx2::Inputs<tile_dot::SignedSixes>
    ]
);
#[cfg(target_arch = "x86_64")]
instantiate!(
    AVX512,
    avx512_table,
    Isa::Avx512,
    ["avx512f,avx512bw,avx512vl,avx512vnni,avx2,f16c,popcnt"],
    crate::simd::avx512::Avx512Lanes,
    tile_dots: tile_dot::avx512,
    input_dots: [
        input_dot::avx512::Int8Inputs,
        input_dot::avx512::Table4Inputs,
        input_dot::avx512::Affine4Inputs,
        input_dot::avx512::Int4Inputs,
        input_dot::avx512::FiveInputs<tile_dot::SignedFives>,
        input_dot::avx512::FiveInputs<tile_dot::Fives>,
        input_dot::avx512::UpperInputs<tile_dot::SignedSixes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON,
    neon_table,
    Isa::Neon,
    ["neon"],
    crate::simd::neon::NeonLanes,
    tile_dots: tile_dot::neon::plain,
    input_dots: [
        input_dot::neon::Plain<Int8Codes>,
        input_dot::neon::Plain<Table4Codes>,
        input_dot::neon::Plain<Affine4Codes>,
        input_dot::neon::Plain<Table4Codes>,
        input_dot::ByLanes<L, Int5Codes>,
        input_dot::ByLanes<L, Affine5Codes>,
        input_dot::ByLanes<L, Int6Codes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_DOT,
    neon_dot_table,
    Isa::NeonDot,
    ["neon,dotprod"],
    crate::simd::neon::NeonLanes<crate::simd::neon::DotProd>,
    tile_dots: tile_dot::neon::dot,
    input_dots: [
        input_dot::neon::Dot<Int8Codes, crate::simd::neon::DotProd>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::DotProd>,
        input_dot::neon::Dot<Affine4Codes, crate::simd::neon::DotProd>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::DotProd>,
        input_dot::ByLanes<L, Int5Codes>,
        input_dot::ByLanes<L, Affine5Codes>,
        input_dot::ByLanes<L, Int6Codes>
    ]
);
#[cfg(target_arch = "aarch64")]
instantiate!(
    NEON_I8MM,
    neon_i8mm_table,
    Isa::NeonI8mm,
    ["neon,dotprod,i8mm"],
    crate::simd::neon::NeonLanes<crate::simd::neon::I8mm>,
    tile_dots: tile_dot::neon::matrix,
    input_dots: [
        input_dot::neon::Dot<Int8Codes, crate::simd::neon::I8mm>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::I8mm>,
        input_dot::neon::Dot<Affine4Codes, crate::simd::neon::I8mm>,
        input_dot::neon::Dot<Table4Codes, crate::simd::neon::I8mm>,
        input_dot::ByLanes<L, Int5Codes>,
        input_dot::ByLanes<L, Affine5Codes>,
        input_dot::ByLanes<L, Int6Codes>
    ]
);
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
by_lanes!(SIMD128, simd128_table, Isa::Simd128, ["simd128"], crate::simd::simd128::Simd128Lanes, tile_dot::simd128);
