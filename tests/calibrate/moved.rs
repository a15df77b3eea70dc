//! The same calibration twice, calibrations for some policies only, and predictors that are added to other images.

use super::{QUICK, packed, small};
use shadowllm_core::Image;
use shadowllm_core::image::SectionKind;
use shadowllm_tests::program::Place;

const RUN: &str = "-p hello -n 4 --greedy --density 0.5 --json --policy";

/// Runs an image under a policy, and returns the policy that was used.
fn used(place: &Place, image: &str, policy: &str) -> String {
    let run = place.works(&format!("run {image} {RUN} {policy}"));
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert!(value["figures"]["generated_tokens"].as_u64().unwrap() > 0);
    value["policy"].as_str().unwrap().to_owned()
}

fn section(bytes: &[u8]) -> Vec<u8> {
    Image::parse(bytes).unwrap().section(SectionKind::Predictor).to_vec()
}

#[test]
fn twice_the_same() {
    let place = packed("input");
    place.works(&format!("{QUICK} -o a.sllm --predictor a.predictor"));
    place.works(&format!("{QUICK} -o b.sllm"));
    assert!(place.read("a.sllm") == place.read("b.sllm"), "two calibrations differ");
    assert!(place.read("a.predictor") == section(&place.read("a.sllm")));
    // The number of threads makes no difference, except in the record of the options.
    place.works(&format!("{} -o c.sllm", QUICK.replace("-t 2", "-t 1")));
    assert!(section(&place.read("c.sllm")) == section(&place.read("a.sllm")), "threads make a difference");
    place.works(&format!("{QUICK} -o d.sllm --seed 2"));
    assert!(section(&place.read("d.sllm")) != section(&place.read("a.sllm")), "the seed makes none");
    // An image that is calibrated already is calibrated again.
    place.works(&format!("{} -o e.sllm", QUICK.replace("model.sllm", "d.sllm")));
    assert!(section(&place.read("e.sllm")) == section(&place.read("a.sllm")), "an earlier predictor shows");
}

#[test]
fn all_policies_at_once_and_each_alone() {
    let place = packed("input");
    let all = ["static", "shadow", "per-layer", "gate", "input"];
    place.works(&format!("{QUICK} -o all.sllm"));
    all.iter().for_each(|policy| assert_eq!(used(&place, "all.sllm", policy), *policy));
    assert_ne!(used(&place, "all.sllm", "auto"), "auto");
    for policy in all {
        place.works(&format!("{QUICK} -o one.sllm --policies {policy}"));
        assert_eq!(used(&place, "one.sllm", policy), policy);
        assert_eq!(used(&place, "one.sllm", "auto"), policy);
        for other in all.into_iter().filter(|p| *p != policy) {
            let words = ["not calibrated for policy", other, "shadowllm calibrate"];
            place.fails(1, &format!("run one.sllm {RUN} {other}"), &words);
        }
    }
}

#[test]
fn a_predictor_moves_to_other_formats_of_its_model() {
    let place = packed("neuron");
    place.works(&format!("{QUICK} -o out.sllm --predictor p --policies static,shadow"));
    for format in ["f32", "q4_0", "q4_1"] {
        place.works(&format!("pack model -o moved.sllm --format {format} --layout neuron --predictor p"));
        for policy in ["static", "shadow", "auto"] {
            used(&place, "moved.sllm", policy);
        }
    }
    // The order of attention's matrices does not matter to the predictor.
    place.works("pack model -o moved.sllm --layout mixed --predictor p");
    used(&place, "moved.sllm", "shadow");
    let said = place.works("inspect moved.sllm").out;
    assert!(said.lines().any(|line| line.split_whitespace().eq(["calibration", "from", "p"])), "{said}");
}

#[test]
fn a_predictor_of_something_else_is_refused() {
    let place = packed("neuron");
    place.works(&format!("{QUICK} -o out.sllm --predictor p --policies static,shadow"));
    let foreign = ["p: cannot be added to", "another model", "calibrate"];
    let refused = |place: &Place, arguments: &str, words: &[&str]| {
        place.write("moved.sllm", "what was there before");
        place.fails(1, &format!("pack model -o moved.sllm {arguments}"), words);
    };
    // Other groups of neurons, another model.
    refused(&place, "--layout dense --predictor p", &foreign);
    let other = small(4);
    other.write("p", place.read("p"));
    refused(&other, "--layout neuron --predictor p", &foreign);
    place.write("half", &place.read("p")[..1000]);
    refused(&place, "--layout neuron --predictor half", &["half: cannot be added to", "damaged", "calibrate"]);
    place.write("text", "no predictor");
    refused(&place, "--layout neuron --predictor text", &["text: cannot be added to", "damaged", "calibrate"]);
    place.write("empty", "");
    refused(&place, "--layout neuron --predictor empty", &["empty: cannot be added to", "damaged", "calibrate"]);
    refused(&place, "--layout neuron --predictor nothing", &["cannot read nothing", "check the path"]);
}

#[test]
fn budgets_searched_again() {
    let place = packed("input");
    let keep =
        |image: &str| format!("calibrate {image} --text text.txt --tokens 96 --window 24 --budget-windows 1 --keep");
    place.fails(1, &format!("{} -o out.sllm", keep("model.sllm")), &["has no predictor to keep", "without --keep"]);
    place.works(&format!("{QUICK} -o a.sllm --predictor a.predictor"));
    let short = keep("a.sllm").replace("--tokens 96", "--tokens 20");
    place.fails(
        2,
        &format!("{short} -o out.sllm"),
        &["the text has 20 tokens", "a window has 24", "a smaller --window"],
    );
    place.works(&format!("{} -o b.sllm --predictor b.predictor", keep("a.sllm")));
    place.works(&format!("{} -o c.sllm", keep("b.sllm")));
    // With budgets kept, policies are the same, and so is what they cost.
    place.works(&format!("{}=budgets -o d.sllm", keep("b.sllm")));
    assert!(place.read("b.predictor") == section(&place.read("d.sllm")));
    place.fails(2, &format!("{}=nothing -o e.sllm", keep("b.sllm")), &["predictors or budgets"]);
    let out = place.works(&format!("{} -o f.sllm --json", keep("a.sllm"))).out;
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(out["kept"] == "predictors" && out["tokens"] == 24 && out["auto"][0]["policy"].is_string(), "{out}");
    assert_eq!(out["auto"][0]["density"], 0.9);
    // The image says on how many tokens: one window, of the four that were given.
    let said = |image: &str, words: &str| {
        let said = place.works(&format!("inspect {image}")).out;
        assert!(said.lines().any(|line| line.trim().starts_with("calibration") && line.ends_with(words)), "{said}");
    };
    said("b.sllm", ", budgets measured again on 24 tokens");
    said("d.sllm", ", budgets measured again on 24 tokens, costs measured again on 24 tokens");
    // Only budgets and their consequences change, and with the same text they are the same.
    assert!(place.read("b.predictor") == section(&place.read("c.sllm")));
    assert_eq!(place.read("a.predictor").len(), place.read("b.predictor").len());
    for policy in ["shadow", "per-layer", "input", "prompt-input", "auto"] {
        used(&place, "b.sllm", policy);
    }
}
