//! A real model against PyTorch on the same (dequantized) weights.

use serde_json::Value;
use shadowllm_core::{Format, KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::program::Place;
use shadowllm_tests::{pack_to, smollm2, vectors};
use shadowllm_tools::eval::{perplexity, token_nlls};
use shadowllm_tools::pack::{Arrangement, Formats};
use shadowllm_tools::{import, shipped};

const OPTIONS: SessionOptions =
    SessionOptions { context: 512, batch: 128, logit_rows: 16, ahead: 0, kv: KvFormat::F16, sparsity: false };

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(vectors("smollm2/expected.json")).unwrap()).unwrap()
}

fn packed(format: Format) -> Option<(tempfile::TempDir, LoadedModel)> {
    let source = smollm2()?;
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("smollm2.sllm");
    pack_to(&source, format, &image);
    let model = LoadedModel::open(&image, None).unwrap();
    Some((temp, model))
}

#[test]
fn token_likelihoods_are_pytorchs() {
    let Some((_temp, model)) = packed(Format::F32) else { return };
    let options = SessionOptions { kv: KvFormat::F32, ..OPTIONS };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let pool = Pool::new(2).unwrap();
    for (name, case) in expected()["texts"].as_object().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let wanted: Vec<f64> = serde_json::from_value(case["nll"].clone()).unwrap();
        let got = token_nlls(&mut session, &pool, &ids).unwrap();
        assert_eq!(got.len(), wanted.len(), "{name}");
        // In this order NaN is above all numbers.
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp).unwrap();
        assert!(worst < 1e-4, "{name}: a token's likelihood is off by {worst}");
    }
}

#[test]
fn perplexity_is_pytorchs_and_8_bits_cost_little() {
    let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
    // PyTorch in f32, 40 windows of 512.
    let reference = expected()["perplexity"]["brown-held-out"]["ppl"].as_f64().unwrap();
    for (format, tolerance) in [(Format::F16, 0.002), (Format::Q8_0, 0.01)] {
        let Some((_temp, model)) = packed(format) else { return };
        let ids = Text::of(&model).unwrap().encode(&text, false).unwrap();
        let mut memory = model.memory(&OPTIONS).unwrap();
        let mut session = model.session(OPTIONS, &mut memory).unwrap();
        let pool = Pool::new(Pool::cores()).unwrap();
        let got = perplexity(&mut session, &pool, &ids, 512, 40, &mut |_, _| {}).unwrap();
        assert_eq!((got.tokens, got.windows), (20440, 40));
        let off = (got.perplexity / reference - 1.0).abs();
        assert!(off < tolerance, "{}: {} against {reference}", format.name(), got.perplexity);
    }
}

/// Images packed without options have the layout that is read fastest, those that can skip the predictor that ships; both keep the
/// file's numbers.
#[test]
fn the_layouts_and_the_predictor_that_ships() {
    let Some(file) = smollm2() else { return };
    let source = import::open(&file).unwrap();
    assert_eq!(shipped::of(&*source).map(|s| s.model), Some("SmolLM2-135M-Instruct"));
    assert_eq!(Arrangement::suitable(&*source, Formats::OWN), Arrangement::INPUT);
    assert_eq!(Arrangement::fastest(&*source, Formats::OWN), Arrangement::DENSE);
    let story = import::open(&vectors("brown-opt")).unwrap();
    assert!(shipped::of(&*story).is_none());
    assert_eq!(Arrangement::suitable(&*story, Formats::OWN), Arrangement::NEURON);
    assert_eq!(Arrangement::fastest(&*story, Formats::OWN), Arrangement::NEURON);
    // Lines of single neurons cannot hold blocks whose exponents are stored together.
    assert_eq!(Arrangement::suitable(&*story, Formats::all(Format::Mxfp4)), Arrangement::DENSE);
    let place = Place::new();
    place.copy(&file, "m.gguf");
    let dense = place.works("pack m.gguf -o dense.sllm");
    assert!(dense.out.contains("layout: dense") && dense.out.contains("--layout input"), "{}", dense.out);
    assert!(dense.out.contains("sketch") && !dense.out.contains("rounded") && dense.err.is_empty(), "{}", dense.err);
    let packed = place.works("pack m.gguf -o m.sllm --layout input");
    assert!(
        packed.err.contains("the predictor that ships for SmolLM2") && !packed.out.contains("rounded"),
        "{}{}",
        packed.out,
        packed.err
    );
    // The file's size with the predictor, and the model's own numbers without the sketch, a copy.
    let size = format!("m.sllm: {:.1} MB\n", place.read("m.sllm").len() as f64 / 1e6);
    assert!(packed.out.starts_with(&size) && packed.out.contains("sketch"), "{size}{}", packed.out);
    let inspected: Value = serde_json::from_str(&place.works("inspect m.sllm --json").out).unwrap();
    assert_eq!(inspected["parameters"], 134_515_008 + 32, "those of the model, and rotary frequencies");
    let answer = place.works("run m.sllm Hello -n 4 --greedy --density 0.8 --json");
    let value: Value = serde_json::from_str(&answer.out).unwrap();
    assert_ne!(value["policy"], "off");
    assert!(!answer.err.contains("not calibrated"), "{}", answer.err);
}
