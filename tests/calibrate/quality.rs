//! The quality of predictors: divergence from the dense model on text that calibration did not use.

use shadowllm_core::sparsity::{Dial, Policy, SLOTS};
use shadowllm_core::{Format, KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::program::Place;
use shadowllm_tests::sparse::{Small, dial};
use shadowllm_tests::vectors;
use shadowllm_tools::calibrate::Options;
use shadowllm_tools::compare::{Outcome, Windows, compare};
use shadowllm_tools::pack::Arrangement;
use std::sync::OnceLock;

const DENSITIES: [f32; 3] = [0.7, 0.5, 0.3];
const POLICIES: [Policy; 6] =
    [Policy::Static, Policy::Random, Policy::Shadow, Policy::PerLayer, Policy::Oracle, Policy::Auto];
/// Policies that are compared on neurons only, and the density in whose place this is done.
const NEURONS_ONLY: [Policy; 3] = [Policy::Static, Policy::Shadow, Policy::Oracle];
const FEW: f32 = 0.25;
/// Bytes of text for calibration.
const LEARNT: usize = 35_000;
const CALIBRATE: &str = "calibrate plain.sllm --text learnt.txt -o calibrated.sllm --policies static,shadow,per-layer \
    --window 96 --rank 32 --layer-rank 32 --steps 2 --budget-windows 1 -t 2";

/// The model that ships with the program, calibrated on a part of a text, on another part.
fn outcomes() -> &'static [Outcome] {
    static ONCE: OnceLock<Vec<Outcome>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let place = Place::new();
        place.copy(&vectors("brown-opt"), "model");
        place.works("pack model -o plain.sllm --format q8_0 --layout neuron");
        let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
        let (learnt, other) = text.split_at(text.floor_char_boundary(LEARNT));
        place.write("learnt.txt", learnt);
        place.works(CALIBRATE);
        let model = LoadedModel::open(&place.path("calibrated.sllm"), None).unwrap();
        let ids = Text::of(&model).unwrap().encode(&other[..other.floor_char_boundary(8000)], false).unwrap();
        let options =
            SessionOptions { context: 96, batch: 96, logit_rows: 16, ahead: 0, kv: KvFormat::F16, sparsity: true };
        let mut memory = model.memory(&options).unwrap();
        let mut session = model.session(options, &mut memory).unwrap();
        let windows = Windows { ids: &ids, window: 96, context: 0, most: 5 };
        let dials = POLICIES.iter().flat_map(|p| DENSITIES.map(|d| dial(*p, d)));
        let dials: Vec<_> = dials.chain(NEURONS_ONLY.map(few_neurons)).collect();
        compare(&mut session, &Pool::new(2).unwrap(), &windows, &dials, &mut |_, _| {}).unwrap()
    })
}

/// All heads, and fewer neurons than are active.
fn few_neurons(policy: Policy) -> Dial {
    let mut fixed = [None; SLOTS];
    fixed[..2].copy_from_slice(&[Some(1.0), Some(0.04)]);
    Dial { fixed, ..dial(policy, FEW) }
}

fn outcome(policy: Policy, density: f32) -> &'static Outcome {
    outcomes().iter().find(|o| o.policy == policy.name() && o.density == density).unwrap()
}

#[test]
fn predictors_are_better_than_means_and_those_than_chance() {
    for density in DENSITIES {
        let kl = |policy| outcome(policy, density).kl;
        // The shadow predictor is far better than static means.
        assert!(kl(Policy::Shadow) < 0.5 * kl(Policy::Static), "{density}: {:#?}", outcomes());
        assert!(kl(Policy::PerLayer) < 0.5 * kl(Policy::Static), "{density}: {:#?}", outcomes());
        assert!(kl(Policy::Static) < kl(Policy::Random), "{density}: {:#?}", outcomes());
        let same = |policy| outcome(policy, density).top1;
        assert!(same(Policy::Shadow) > same(Policy::Static), "{density}: {:#?}", outcomes());
    }
}

/// True magnitudes are better than predicted ones. This holds for neurons: the importance of a head does not follow
/// from the magnitude of its output.
#[test]
fn an_oracle_is_better_than_a_predictor() {
    let [statics, shadow, oracle] = NEURONS_ONLY.map(|p| outcome(p, FEW));
    assert!(oracle.kl < shadow.kl && shadow.kl < statics.kl, "{:#?}", [statics, shadow, oracle]);
    // An oracle does not read neurons that are zero anyway.
    for density in DENSITIES {
        let (oracle, shadow) = (outcome(Policy::Oracle, density), outcome(Policy::Shadow, density));
        assert!(oracle.realised_density < shadow.realised_density, "{density}: {:#?}", outcomes());
    }
}

#[test]
fn no_more_is_read_than_asked_for() {
    for o in outcomes().iter().filter(|o| o.density != FEW) {
        assert!(o.realised_density <= f64::from(o.density) + 0.08, "{o:#?}");
        assert!(o.realised_density > 0.05 && o.tokens == 5 * 95, "{o:#?}");
    }
}

#[test]
fn less_density_costs_more() {
    for policy in POLICIES.into_iter().filter(|p| *p != Policy::Auto) {
        let [a, b, c] = DENSITIES.map(|d| outcome(policy, d));
        assert!(a.kl < b.kl && b.kl < c.kl, "{:#?}", [a, b, c]);
        assert!(a.realised_density > b.realised_density && b.realised_density > c.realised_density);
    }
}

/// Families with a gate and without, grouped heads, post-norm and projections, in other arrangements: on a stream of
/// made-up tokens.
#[test]
fn every_kind_of_model_can_be_calibrated() {
    for (family, arrangement) in [
        ("qwen3", Arrangement { neuron_group: 4, ..Arrangement::DENSE }),
        ("opt-postnorm-proj", Arrangement { attention_by_input: true, ..Arrangement::NEURON }),
        ("llama-gqa-tied-rope3", Arrangement { attention_by_input: false, ..Arrangement::INPUT }),
        ("mistral-swa", Arrangement::DENSE),
        ("llama-relu", Arrangement::INPUT),
        ("qwen2", Arrangement::NEURON),
    ] {
        let small = Small::family(family, Format::Q8_0, arrangement);
        let model = small.open(true, None);
        let predictor = model.model().predictor().unwrap().unwrap();
        for policy in Options::all_policies() {
            assert!(predictor.calibration(policy).is_some(), "{family}: {}", policy.name());
        }
        assert!(predictor.best(0.5).is_some(), "{family}");
    }
}

/// What the image says that policy `auto` costs is what it costs on the text that calibration kept for measuring, and the
/// program reads as little as a loss allows.
#[test]
fn the_image_says_what_skipping_costs() {
    let place = crate::packed("input");
    place.works(&format!("{} -o a.sllm", crate::QUICK));
    let model = LoadedModel::open(&place.path("a.sllm"), None).unwrap();
    let predictor = model.model().predictor().unwrap().unwrap();
    // 26 windows of 24 tokens: two are kept, the first of them is used, and a third of it is context.
    let ids = Text::of(&model).unwrap().encode(&String::from_utf8(place.read("text.txt")).unwrap(), false).unwrap();
    let windows = Windows { ids: &ids[24 * 24..25 * 24], window: 24, context: 8, most: 1 };
    let options =
        SessionOptions { context: 24, batch: 64, logit_rows: 16, ahead: 0, kv: KvFormat::F32, sparsity: true };
    let options = SessionOptions { kv: if model.model().is_f32() { options.kv } else { KvFormat::F16 }, ..options };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let densities = [0.9, 0.5, 0.2];
    let dials: Vec<Dial> = densities.map(|d| dial(Policy::Auto, d)).to_vec();
    let pool = Pool::new(1).unwrap();
    let found = compare(&mut session, &pool, &windows, &dials, &mut |_, _| {}).unwrap();
    for (density, outcome) in densities.into_iter().zip(&found) {
        let loss = outcome.perplexity / outcome.dense_perplexity - 1.0;
        let said = f64::from(predictor.loss(density).unwrap());
        assert!((loss - said).abs() < 1e-4, "density {density}: {said} for {loss}");
    }
    assert_eq!(predictor.loss(1.0), Some(0.0));
    assert_eq!(predictor.density_within(1e6), Some(0.05));
    assert_eq!(predictor.density_within(-1.0), Some(1.0));
    let least = predictor.density_within(0.001).unwrap();
    assert!((0..=20).all(|i| i as f32 / 20.0 < least - 1e-6 || predictor.loss(i as f32 / 20.0).unwrap() <= 0.001));
    let run = |image: &str, more: &str| format!("run {image} --raw -p The -n 4 --greedy {more}");
    let notes = place.works(&run("a.sllm", "--max-loss 100000000%")).err;
    assert!(notes.contains("[density 0.05: "), "{notes}");
    // The rest of the dial counts too.
    let read = |more: &str| {
        let value: serde_json::Value = serde_json::from_str(&place.works(&run("a.sllm", more)).out).unwrap();
        value["figures"]["bytes_per_token"].clone()
    };
    let rest = "--refresh 0 --allocation local --json";
    assert_eq!(read(&format!("--max-loss 100000000% {rest}")), read(&format!("--density 0.05 {rest}")));
    assert_ne!(read(&format!("--max-loss 100000000% {rest}")), read("--max-loss 100000000% --json"));
    place.fails(
        1,
        &run("model.sllm", "--max-loss 1%"),
        &["does not say what skipping costs", "--density", "calibrate"],
    );
    place.fails(2, &run("a.sllm", "--max-loss 1% --density 0.5"), &["--max-loss", "--density"]);
    place.fails(2, &run("a.sllm", "--target 5"), &["--target", "20t/s", "50ms"]);
    place.fails(2, &run("a.sllm", "--target 5t/s --exact"), &["--target", "--exact"]);
    // A time that is always kept, and one that never is.
    let notes = place.works(&run("a.sllm", "--target 100s")).err;
    assert!(notes.contains("[everything is read: "), "{notes}");
    let notes = place.works(&run("model.sllm", "--target 0.001ms")).err;
    assert!(notes.contains("out of reach"), "{notes}");
    let table = place.works("roofline a.sllm -t 1").out;
    assert!(["off", "auto", "predicted", "gate", "of bandwidth"].iter().all(|word| table.contains(word)), "{table}");
    let json: serde_json::Value = serde_json::from_str(&place.works("roofline a.sllm -t 1 --json").out).unwrap();
    assert!(json["tokens"][2]["bytes"].as_u64() > json["tokens"][15]["bytes"].as_u64(), "{json}");
}
