//! Mistakes around calibrating and skipping: each has an exit code and a way out.

use super::{QUICK, packed};
use shadowllm_tests::program::Place;

/// The small model, not calibrated, and token ids for it.
fn place() -> Place {
    let place = packed("neuron");
    place.write("ids.json", "[1, 2, 3]");
    place
}

#[test]
fn texts() {
    let place = place();
    let calibrate = |text: &str| format!("calibrate model.sllm --text {text} -o out.sllm");
    place.write("empty.txt", "");
    place.fails(1, &calibrate("empty.txt"), &["empty.txt: is empty", "another --text"]);
    place.write("blank.txt", " \n\t\n");
    place.fails(1, &calibrate("text.txt --text blank.txt"), &["blank.txt: is empty", "another --text"]);
    place.write("short.txt", "A text that is too short.");
    place.fails(2, &calibrate("short.txt"), &["the text has ", "needs ", "give more --text"]);
    place.fails(2, &calibrate("text.txt --tokens 100"), &["the text has 100 tokens", "--text"]);
    place.fails(1, &calibrate("nothing"), &["cannot read nothing", "check the path"]);
    place.write("latin.txt", b"caf\xe9");
    place.fails(1, &calibrate("latin.txt"), &["latin.txt: is not UTF-8", "iconv"]);
}

#[test]
fn options_of_calibrate() {
    let place = place();
    let wrong = |more: &str, words: &[&str]| place.fails(2, &format!("{QUICK} -o out.sllm {more}"), words);
    wrong("--rank 33", &["--rank", "multiples of 32"]);
    wrong("--layer-rank 0", &["--layer-rank", "multiples of 32"]);
    wrong("--rate 0", &["--rate must be above 0"]);
    wrong("--rate nan", &["--rate must be above 0"]);
    wrong("--policies guess", &["'guess'", "static", "input"]);
    wrong("--policies random", &["'random'", "static", "input"]);
    wrong("--tap soup", &["'soup'", "embedding, heads or stream"]);
    wrong("--target soup", &["'soup'", "active or importance"]);
    wrong("--criterion soup", &["'soup'", "plainact"]);
    for same in ["out.sllm", "./out.sllm", "model/../out.sllm"] {
        wrong(&format!("--predictor {same}"), &["the same file", "name another"]);
    }
    wrong("--predictor model.sllm", &["would replace model.sllm", "name another"]);
    place.fails(2, &QUICK.replace("--window 24", "--window 8 -o out.sllm"), &["--window must be at least 16"]);
    wrong("--kv f32", &["--kv has no place", "leave it out"]);
    wrong("--memory-budget 1G", &["--memory-budget has no place", "leave it out"]);
    place.fails(2, &QUICK.replace("-t 2", "-t 0 -o out.sllm"), &["threads"]);
    place.fails(2, &format!("{QUICK} -o model.sllm"), &["would replace model.sllm", "name another"]);
    // What is kept is not made by these.
    for option in ["--policies static", "--rank 64", "--layer-rank 32", "--tap heads", "--target active", "--steps 2"]
        .into_iter()
        .chain(["--criterion fisher", "--rate 0.1", "--seed 2"])
    {
        wrong(&format!("--keep {option}"), &["--keep", option.split(' ').next().unwrap(), "cannot be used with"]);
    }
    let nothing = QUICK.replace("--budget-windows 1", "--budget-windows 0 -o out.sllm");
    place.fails(2, &format!("{nothing} --keep=budgets"), &["--budget-windows", "at least 1"]);
    // Before any work.
    place.fails(1, &format!("{QUICK} -o no/out.sllm"), &["cannot write to no", "make the folder first"]);
    place.fails(1, &format!("{QUICK} -o out.sllm --predictor no/p"), &["cannot write to no", "make the folder first"]);
}

#[test]
fn a_model_of_one_layer() {
    let place = super::small(1);
    place.works("pack model -o model.sllm");
    place.fails(2, &format!("{QUICK} -o out.sllm"), &["only one layer", "never skipped"]);
}

const RUN: &str = "run model.sllm -p hello -n 2";

#[test]
fn densities() {
    let place = place();
    for density in ["0", "1.5", "-1", "nan", "inf"] {
        let words = ["--density", "above 0 and at most 1"];
        place.fails(2, &format!("{RUN} --policy random --density {density}"), &words);
        place.fails(2, &format!("{RUN} --density {density}"), &words);
        place.fails(2, &format!("eval model.sllm --text text.txt --policy off,random --density 0.5,{density}"), &words);
        place.fails(2, &format!("logits model.sllm --ids ids.json -o l --policy random --density {density}"), &words);
        place.fails(2, &format!("bench model.sllm -p 1 -n 1 --policy random --density {density}"), &words);
    }
    place.fails(2, &format!("{RUN} --density much"), &["'much'", "--density", "0.8 or 80%"]);
    let read = |density: &str| {
        let run = place.works(&format!("{RUN} --greedy --policy random --density {density} --json"));
        serde_json::from_str::<serde_json::Value>(&run.out).unwrap()["figures"]["bytes_per_token"].clone()
    };
    assert!(read("60%") == read("0.6") && read("60%") != read("1"));
    place.fails(2, &format!("{RUN} --max-loss 1"), &["1 is 100%", "write 1%"]);
}

#[test]
fn policies_that_the_image_cannot_serve() {
    let place = place();
    for policy in ["static", "shadow", "per-layer", "gate", "auto"] {
        let words = ["not calibrated for policy", policy, "run shadowllm calibrate", "another policy"];
        place.fails(1, &format!("{RUN} --policy {policy} --density 0.5"), &words);
    }
    // A density alone takes a policy that needs no calibration.
    let run = place.works(&format!("{RUN} --density 0.5"));
    assert!(run.err.contains("not calibrated: policy prompt is used"), "{}", run.err);
    for policy in ["input", "input-top"] {
        let words = ["skips single inputs", "--layout input"];
        place.fails(1, &format!("{RUN} --policy {policy} --density 0.5"), &words);
    }
}

#[test]
fn dials() {
    let place = place();
    place.fails(2, &format!("{RUN} --policy clever"), &["'clever'", "off, static, random", "auto"]);
    // The policy for lists of a caller cannot be chosen on the command line.
    place.fails(2, &format!("{RUN} --policy given"), &["'given'", "off, static, random"]);
    place.fails(2, &format!("{RUN} --policy random,oracle"), &["one --policy and one --density", "eval"]);
    place.fails(2, &format!("{RUN} --policy random --density 0.5,0.7"), &["one --policy and one --density", "eval"]);
    place.fails(2, &format!("{RUN} --policy random --share knees=1"), &["--share knees", "heads, neurons"]);
    place.fails(2, &format!("{RUN} --policy random --share q=1"), &["--share q", "random", "heads, neurons"]);
    place.fails(2, &format!("{RUN} --policy input-top --share heads=1"), &["--share heads", "q, k, v, o, gate"]);
    place.fails(2, &format!("{RUN} --policy random --share heads"), &["'heads'", "neurons=0.5"]);
    place.fails(2, &format!("{RUN} --policy random --share heads=2"), &["--share heads=2", "at most 1"]);
    place.fails(2, &format!("{RUN} --policy random --share heads=nan"), &["--share heads=NaN", "at most 1"]);
    place.fails(2, &format!("{RUN} --policy random --allocation fair"), &["'fair'", "global, local or hybrid"]);
    place.fails(2, &format!("{RUN} --policy random --refresh -1"), &["'-1'"]);
}

/// Masks that `logits` refuses.
fn bad_mask(place: &Place, mask: &str, words: &[&str]) {
    place.write("mask.json", mask);
    place.write("l.safetensors", "earlier logits");
    let all = [&["mask.json: "], words].concat();
    place.fails(1, "logits model.sllm --ids ids.json --mask mask.json -o l.safetensors", &all);
}

#[test]
fn masks() {
    let place = place();
    for mask in ["", "none", "{}", "[1]", "[{\"ears\": [1]}]", "[{\"heads\": [-1]}, null, null]", "[{\"heads\": 1}]"] {
        bad_mask(&place, mask, &["is not a mask", "\"heads\"", "\"neurons\""]);
    }
    bad_mask(&place, "[null, null]", &["has 2 entries", "3 layers", "give one for each"]);
    bad_mask(&place, "[null, null, null, null]", &["has 4 entries", "3 layers"]);
    bad_mask(&place, "[null, {\"heads\": [0, 4]}, null]", &["layer 1 names heads 4", "has 4", "count from 0"]);
    bad_mask(&place, "[null, null, {\"neurons\": [96]}]", &["layer 2 names neurons 96", "has 96", "count from 0"]);
    place.fails(1, "logits model.sllm --ids ids.json --mask nothing -o l", &["cannot read nothing", "check the path"]);
    let replaced = "logits model.sllm --ids ids.json --mask mask.json -o mask.json";
    place.fails(2, replaced, &["would replace mask.json", "name another"]);
    // Valid masks.
    for mask in ["[null, null, null]", "[{}, {\"heads\": []}, {\"heads\": [3, 1], \"neurons\": [95, 0]}]"] {
        place.write("mask.json", mask);
        place.works("logits model.sllm --ids ids.json --mask mask.json -o l.safetensors");
    }
}

#[test]
fn masks_that_part_a_group() {
    let place = packed("dense");
    place.write("ids.json", "[1, 2, 3]");
    bad_mask(&place, "[null, {\"neurons\": [0, 1]}, null]", &["layer 1", "group of 32", "--neuron-group 1"]);
    let whole: Vec<usize> = (32..64).collect();
    place.write("mask.json", format!("[null, {{\"neurons\": {whole:?}}}, null]"));
    place.works("logits model.sllm --ids ids.json --mask mask.json -o l.safetensors");
}
