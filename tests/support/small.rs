//! Small calibrated images in memory.

use crate::folder::{Folder, Shape};
use crate::sparse::made_up_ids;
use crate::{pack_as, vectors};
use serde_json::json;
use shadowllm_core::sparsity::{Policy, Tap};
use shadowllm_core::{Format, Isa};
use shadowllm_host::model::LoadedModel;
use shadowllm_tools::calibrate::{Options, Progress, Shape as PredictorShape, Target, calibrate};
use shadowllm_tools::pack::Arrangement;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Progress that is not shown.
pub struct Unseen;

impl Progress for Unseen {
    fn expect(&mut self, _: f64) {}
    fn stage(&mut self, _: &str, _: usize, _: f64) {}
    fn done(&mut self, _: usize) {}
}

/// Options of a calibration that is quick on a small model.
pub fn quick(policies: &[Policy], target: Target) -> Options {
    let tap = Tap(Tap::EMBEDDING | Tap::HEADS | Tap::STREAM);
    Options {
        policies: policies.to_vec(),
        window: 24,
        criterion: None,
        shape: PredictorShape { rank: 32, layer_rank: 32, tap, target, rate: 2e-3, steps: 1, seed: 1 },
        budget_windows: 1,
        keep_every: Duration::from_secs(3600),
        threads: 2,
    }
}

/// A small model, packed and calibrated, and the same without its predictor.
pub struct Small {
    /// Family and arrangement.
    pub name: String,
    /// Image as it was packed.
    pub plain: &'static [u8],
    /// Image as calibration left it.
    pub calibrated: &'static [u8],
}

impl Small {
    fn new(folder: &Path, name: &str, format: Format, arrangement: Arrangement) -> Small {
        let temp = tempfile::tempdir().unwrap();
        let (plain, calibrated) = (temp.path().join("plain.sllm"), temp.path().join("calibrated.sllm"));
        pack_as(folder, format, arrangement, &plain);
        let model = LoadedModel::open(&plain, None).unwrap();
        let c = *model.model().config();
        let options = quick(&Options::all_policies(), Target::of(&c));
        calibrate(&model, &made_up_ids(26 * options.window, c.vocab), &options, &calibrated, &mut Unseen).unwrap();
        let read = |path: &Path| &*std::fs::read(path).unwrap().leak();
        Small { name: format!("{name} {format:?} {arrangement:?}"), plain: read(&plain), calibrated: read(&calibrated) }
    }

    /// A reference model.
    ///
    /// # Panics
    /// When it cannot be packed or calibrated.
    pub fn family(name: &str, format: Format, arrangement: Arrangement) -> Small {
        Small::new(&vectors("models").join(name), name, format, arrangement)
    }

    /// Opens one of its images.
    ///
    /// # Panics
    /// When it does not parse.
    pub fn open(&self, calibrated: bool, isa: Option<Isa>) -> LoadedModel {
        let bytes = if calibrated { self.calibrated } else { self.plain };
        LoadedModel::from_static(&self.name, bytes, isa).unwrap()
    }
}

/// Small models of every kind of arrangement, calibrated for all policies: with and without gates, with padding
/// in every dimension.
pub fn small_models() -> &'static [Small] {
    static ONCE: OnceLock<Vec<Small>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let odd = tempfile::tempdir().unwrap();
        let shape = Shape { d: 48, ffn: 100, heads: [6, 3, 20], vocab: 77, layers: 4 };
        Folder::llama(shape, true, true, &json!({})).write(odd.path(), safetensors::Dtype::F32, 1);
        let odd = |format, arrangement| Small::new(odd.path(), "odd", format, arrangement);
        let mixed = Arrangement { neuron_group: 8, attention_by_input: true, ffn_by_input: false };
        vec![
            Small::family("qwen3", Format::Q8_0, Arrangement::NEURON),
            Small::family("qwen3", Format::Q4_0, Arrangement::INPUT),
            Small::family("opt", Format::Q8_0, Arrangement::NEURON),
            Small::family("opt-postnorm-proj", Format::F32, Arrangement::DENSE),
            // Layers of experts and layers of neurons.
            Small::new(&vectors("families").join("qwen2_moe-dense"), "mixed", Format::Q8_0, Arrangement::NEURON),
            odd(Format::F32, mixed),
            odd(Format::Q4_1, Arrangement::INPUT),
            odd(Format::Q8_0, Arrangement { neuron_group: 16, ..Arrangement::DENSE }),
        ]
    })
}
