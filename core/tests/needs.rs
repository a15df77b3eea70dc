//! Tables of kernels for one model alone: the same bits as with all kernels, and an error for what was left out.

use shadowllm_core::format::Order;
use shadowllm_core::kernels::{Activation, Needs};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Cpu, Error, Format, Image, Isa, Kernels, KvFormat, Model, Serial, Session, SessionOptions};

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../host/models/story.sllm"));

const OPTIONS: SessionOptions =
    SessionOptions { context: 32, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };

/// What the shipped model and its predictor need.
const NEEDS: Needs = Needs {
    matrices: &[
        (Format::Q4_0, Order::Rows),
        (Format::Q4_0, Order::Inputs),
        (Format::Q4_0, Order::RowLines),
        (Format::Q4_0, Order::ColumnLines),
        (Format::Q8_0, Order::Rows),
    ],
    kv: &[KvFormat::F16],
    activations: &[Activation::Relu],
    layer_norm: true,
    ..Needs::NOTHING
};

fn model(kernels: &'static Kernels) -> Model<'static> {
    Model::new(Image::parse(&IMAGE.0).expect("the model that ships"), kernels)
}

/// Logits after a prompt and a decoded token, whole and at half density.
fn logits(kernels: &'static Kernels) -> Vec<f32> {
    let model = model(kernels);
    let mut memory = vec![std::mem::MaybeUninit::uninit(); Session::memory_required(&model, &OPTIONS).unwrap().size()];
    let mut session = Session::new(model, OPTIONS, &mut memory).unwrap();
    let mut all = Vec::new();
    for (policy, density) in [(Policy::Off, 1.0), (Policy::Shadow, 0.5)] {
        session.rewind(0).unwrap();
        session.set_dial(&Dial { policy, density, ..Dial::default() }).unwrap();
        all.extend_from_slice(session.prefill(&Serial, &[1, 703, 757, 260, 482, 13]).unwrap());
        all.extend_from_slice(session.decode(&Serial, 397).unwrap());
    }
    all
}

#[test]
fn the_needed_kernels_suffice() {
    static KERNELS: Kernels = Kernels::portable(&NEEDS);
    let scalar = Kernels::for_isa(Cpu::detect(), Isa::Scalar).unwrap();
    assert!(logits(&KERNELS).iter().map(|x| x.to_bits()).eq(logits(scalar).iter().map(|x| x.to_bits())));
}

#[test]
fn omitted_kernels_are_an_error() {
    let refused = |needs: &Needs| {
        let kernels = Box::leak(Box::new(Kernels::portable(needs)));
        let said = Session::memory_required(&model(kernels), &OPTIONS).err();
        assert_eq!(Session::new(model(kernels), OPTIONS, &mut []).err(), said);
        said
    };
    for without in NEEDS.matrices {
        let matrices: Vec<_> = NEEDS.matrices.iter().copied().filter(|m| m != without).collect();
        let said = refused(&Needs { matrices: &matrices, ..NEEDS });
        assert_eq!(said, Some(Error::MissingKernel(without.0.name(), without.1.name())));
    }
    for (needs, said) in [
        (Needs { kv: &[KvFormat::F32], ..NEEDS }, Error::MissingKernel("this format", "of KV caches")),
        (Needs { activations: &[Activation::Silu], ..NEEDS }, Error::MissingKernel("relu", "activation")),
        (Needs { layer_norm: false, ..NEEDS }, Error::MissingKernel("norms", "with bias")),
        (Needs::NOTHING, Error::MissingKernel("q4_0", "rows")),
    ] {
        assert_eq!(refused(&needs), Some(said));
    }
    assert_eq!(
        Error::MissingKernel("q4_0", "rows").to_string(),
        "the program was built without kernels for q4_0 rows: add them to its Needs"
    );
}
