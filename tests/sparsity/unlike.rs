//! Layers that differ: a model with narrower layers, and layers without attention or neurons, has the bits of the whole
//! model in which the missing parts are masked. Odd widths, and numbers that a cache cannot hold.

use super::GIVEN;
use serde_json::json;
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{Layer, Op};
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{Format, KvFormat, Serial, Session};
use shadowllm_host::Result;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Template;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::{Reading, arrangements, logits, logits_with, on_every_isa, same_bits, sparse};
use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::import::{self, Data, Source, SourceTensor, Spec};
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::Path;

/// Heads of 20 numbers, two for each key head.
const SHAPE: Shape = Shape { d: 48, ffn: 100, heads: [6, 3, 20], vocab: 77, layers: 4 };
/// Heads and neurons that layers keep: layer 2 has no neurons, layer 3 no attention.
const KEPT: [(usize, usize); 4] = [(6, 100), (4, 64), (2, 0), (0, 32)];

/// A model without the last heads and neurons of some layers.
struct Pruned {
    whole: Box<dyn Source>,
    spec: Spec,
}

impl Pruned {
    fn of(whole: Box<dyn Source>) -> Pruned {
        let mut spec = whole.spec().clone();
        for (layer, (heads, neurons)) in spec.layers.iter_mut().zip(KEPT) {
            let mut blocks: Vec<_> = layer.blocks().copied().collect();
            blocks.retain_mut(|block| match &mut block.op {
                Op::Attention(a) => {
                    (a.heads, a.kv_heads) = (heads, heads / 2);
                    heads > 0
                }
                Op::Mlp(m) => {
                    m.neurons = neurons;
                    neurons > 0
                }
            });
            *layer = Layer::of(&blocks);
        }
        Pruned { whole, spec }
    }
}

impl Source for Pruned {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The first rows and columns of the tensor, as many as the layer keeps.
    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        let Some(mut tensor) = self.whole.tensor(role, layer)? else { return Ok(None) };
        let (heads, neurons) = KEPT[if role.in_layers() { layer } else { 0 }];
        let (rows, cols) = match role {
            Role::Q => (heads * 20, tensor.cols),
            Role::K | Role::V => (heads / 2 * 20, tensor.cols),
            Role::O => (tensor.rows, heads * 20),
            Role::Gate | Role::Up => (neurons, tensor.cols),
            Role::Down => (tensor.rows, neurons),
            _ => return Ok(Some(tensor)),
        };
        let mut row = vec![0.0; tensor.cols];
        let mut bytes = Vec::new();
        for r in 0..rows {
            tensor.row(r, &mut row).unwrap();
            row[..cols].iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        }
        let data = Data::Bytes { kind: GgmlType::F32, bytes: bytes.leak() };
        (tensor.rows, tensor.cols, tensor.data, tensor.reading) = (rows, cols, data, Default::default());
        Ok(Some(tensor))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        self.whole.tokenizer()
    }

    fn chat(&self) -> Result<Template> {
        self.whole.chat()
    }

    fn origin(&self) -> String {
        self.whole.origin()
    }

    fn path(&self) -> &Path {
        self.whole.path()
    }
}

fn mask(session: &mut Session) {
    session.set_dial(&GIVEN).unwrap();
    let group = session.model().config().neuron_group;
    let active = session.units().unwrap();
    for (layer, (heads, neurons)) in KEPT.into_iter().enumerate() {
        active.choose_heads(layer, |h| h < heads);
        active.choose_neurons(layer, |g| g * group < neurons);
    }
}

#[test]
fn layers_that_lack_units_are_layers_in_which_these_are_masked() {
    let temp = tempfile::tempdir().unwrap();
    let [folder, whole, pruned] = ["folder", "whole.sllm", "pruned.sllm"].map(|name| temp.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    Folder::llama(SHAPE, false, true, &json!({})).write(&folder, safetensors::Dtype::F32, 1);
    let ids = sparse::made_up_ids(20, SHAPE.vocab);
    let pool = Pool::new(2).unwrap();
    for arrangement in arrangements() {
        let write = |source: &dyn Source, image: &Path| {
            pack(source, Formats::all(Format::F32), arrangement, image, &mut |_, _| {}).unwrap();
        };
        write(&*import::open(&folder).unwrap(), &whole);
        write(&Pruned::of(import::open(&folder).unwrap()), &pruned);
        let model = LoadedModel::open(&whole, None).unwrap();
        let masked = logits_with(&model, &pool, &ids, KvFormat::F32, Reading::Decode, Some(&mask));
        for (isa, model) in on_every_isa(&pruned) {
            for reading in [Reading::Prefill(20), Reading::Prefill(7), Reading::Decode] {
                let got = logits(&model, &pool, &ids, KvFormat::F32, reading);
                assert!(same_bits(&got, &masked), "{arrangement:?} {isa:?} {reading:?}");
            }
        }
    }
}

/// Widths that are no multiples of 32, in one head and one group of neurons: every policy finds room for its choice.
#[test]
fn odd_widths_have_room_for_every_choice() {
    let temp = tempfile::tempdir().unwrap();
    let [folder, image] = ["folder", "image.sllm"].map(|name| temp.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    let shape = Shape { d: 33, ffn: 32, heads: [1, 1, 32], vocab: 17, layers: 2 };
    Folder::llama(shape, false, true, &json!({})).write(&folder, safetensors::Dtype::F32, 1);
    let ids = sparse::made_up_ids(12, shape.vocab);
    for arrangement in arrangements() {
        let source = import::open(&folder).unwrap();
        pack(&*source, Formats::all(Format::Q8_0), arrangement, &image, &mut |_, _| {}).unwrap();
        let model = LoadedModel::open(&image, None).unwrap();
        for policy in Policy::ALL {
            sparse::with_session(&model, |session| {
                if session.set_dial(&sparse::dial(policy, 0.5)).is_ok() {
                    let trail = sparse::trail(session, &Serial, &ids[..6], &ids[6..]);
                    assert!(trail.concat().iter().all(|x| x.is_finite()), "{arrangement:?} {policy:?}");
                }
            });
        }
    }
}

/// Values beyond the largest f16: a token that reads ahead does not see them, also where they are computed together.
#[test]
fn values_too_large_for_the_cache_stay_with_their_tokens() {
    let temp = tempfile::tempdir().unwrap();
    let [folder, image] = ["folder", "image.sllm"].map(|name| temp.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    let mut model = Folder::llama(SHAPE, false, true, &json!({}));
    for (_, (_, numbers)) in model.tensors.iter_mut().filter(|(name, _)| name.contains("v_proj")) {
        numbers.iter_mut().for_each(|x| *x *= 2e4);
    }
    model.write(&folder, safetensors::Dtype::F32, 1);
    pack(&*import::open(&folder).unwrap(), Formats::all(Format::F32), Arrangement::DENSE, &image, &mut |_, _| {})
        .unwrap();
    let ids = sparse::made_up_ids(20, SHAPE.vocab);
    for (isa, model) in on_every_isa(&image) {
        let read = |reading| logits(&model, &Serial, &ids, KvFormat::F16, reading);
        let one_by_one = read(Reading::Decode);
        assert!(one_by_one.iter().all(|x| x.is_finite()), "{isa:?}");
        assert!(same_bits(&read(Reading::Prefill(20)), &one_by_one), "{isa:?}");
    }
}
