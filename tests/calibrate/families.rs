//! Families without a differentiable copy calibrate on the engine's own traces.

use shadowllm_core::sparsity::Dial;
use shadowllm_core::{Format, KvFormat, Serial, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::sparse::{Unseen, made_up_ids, quick};
use shadowllm_tests::{pack_as, vectors};
use shadowllm_tools::calibrate::criteria::Criterion;
use shadowllm_tools::calibrate::{Options, Target, calibrate};
use shadowllm_tools::pack::Arrangement;

const LAYOUTS: [Arrangement; 2] = [Arrangement::NEURON, Arrangement::INPUT];

#[test]
fn any_family_calibrates() {
    let temp = tempfile::tempdir().unwrap();
    // Sandwich norms and windows; squared ReLU; parallel blocks; experts; experts with sinks, biases and bounded gates;
    // experts in some layers.
    for family in ["gemma3", "nemotron", "cohere2", "olmoe", "gpt_oss", "qwen2_moe-dense"] {
        for layout in LAYOUTS {
            let (plain, calibrated) = (temp.path().join("plain.sllm"), temp.path().join("calibrated.sllm"));
            pack_as(&vectors("families").join(family), Format::Q8_0, layout, &plain);
            let model = LoadedModel::open(&plain, None).unwrap();
            let c = *model.model().config();
            let options = quick(&Options::all_policies(), Target::of(&c));
            let ids = made_up_ids(26 * options.window, c.vocab);
            calibrate(&model, &ids, &options, &calibrated, &mut Unseen).unwrap();
            decodes(&LoadedModel::open(&calibrated, None).unwrap(), family);
            let by_name = Options { criterion: Some(Criterion::Fisher), ..options };
            let refused = calibrate(&model, &ids, &by_name, &calibrated, &mut Unseen).map(drop);
            // Nemotron has a differentiable copy.
            assert_eq!(refused.is_err(), family != "nemotron", "{family}");
            if let Err(error) = refused {
                let error = error.to_string();
                assert!(error.contains("gradients") && error.contains("--criterion"), "{family}: {error}");
            }
        }
    }
}

/// Under every calibrated policy the model reads less, and different policies read different amounts.
fn decodes(model: &LoadedModel, family: &str) {
    let options = SessionOptions { context: 40, batch: 16, logit_rows: 1, ahead: 0, kv: KvFormat::F32, sparsity: true };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let ids = made_up_ids(20, model.model().config().vocab);
    let predictor = model.model().predictor().unwrap().unwrap();
    let policies = Options::all_policies().into_iter().filter(|p| predictor.calibration(*p).is_some());
    let mut ran = 0;
    for policy in policies {
        let mut read = [0; 2];
        for (read, density) in read.iter_mut().zip([1.0, 0.4]) {
            session.rewind(0).unwrap();
            if session.set_dial(&Dial { policy, density, ..Dial::default() }).is_err() {
                continue;
            }
            session.prefill(&Serial, &ids).unwrap();
            for id in 3..8 {
                assert!(session.decode(&Serial, id).unwrap().iter().all(|x| x.is_finite()), "{family} {policy:?}");
                *read += session.traffic().skippable;
            }
        }
        if read[0] > 0 {
            assert!(read[1] < read[0], "{family} {policy:?}: {read:?}");
            ran += 1;
        }
    }
    assert!(ran > 0, "{family}");
}
