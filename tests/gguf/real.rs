//! Real files of mixed block types (fetched): their blocks are copied unchanged, in the same number of bytes, and
//! likelihoods are those that PyTorch computes in f32 from the same weights (`vectors/real/expected.py`).

use serde_json::Value;
use shadowllm_core::{Format, KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::{fetched, vectors};
use shadowllm_tools::eval::token_nlls;
use shadowllm_tools::fetch::{self, Joined, joined};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, Kept, Packed, pack};
use std::path::Path;

/// PyTorch's results for a file.
struct Expected {
    ids: Vec<u32>,
    mean_nll: f64,
}

/// The record of a model, stored beside the scripts.
fn recorded(name: &str, model: &Joined) -> Value {
    let all = std::fs::read_to_string(vectors("real").join(name)).unwrap();
    let mut all: Value = serde_json::from_str(&all).unwrap();
    all[model.file].take()
}

fn expected(model: &Joined) -> Expected {
    let this = recorded("expected.json", model);
    let ids = this["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    Expected { ids, mean_nll: this["mean_nll"].as_f64().unwrap() }
}

/// Packs the model, and reads the beginning of a text: mean negative log-likelihood of a token.
fn read(file: &Path, formats: Formats, ids: &[u32]) -> (Packed, f64) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let packed = pack(&*import::open(file).unwrap(), formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
    let model = LoadedModel::open(&image, None).unwrap();
    let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
    assert_eq!(Text::of(&model).unwrap().encode(&text, true).unwrap()[..ids.len()], *ids, "other tokens");
    let options =
        SessionOptions { context: ids.len(), batch: 64, logit_rows: 16, ahead: 0, kv: KvFormat::F32, sparsity: false };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let nlls = token_nlls(&mut session, &Pool::new(Pool::cores()).unwrap(), ids).unwrap();
    assert_eq!(nlls.len(), ids.len() - 1);
    (packed, nlls.iter().sum::<f64>() / nlls.len() as f64)
}

/// Texts have the ids that the tokenizer published by the model's makers gives them (`vectors/real/tokens.py`).
fn has_its_makers_tokens(model: &Joined, file: &Path) {
    let json = import::open(file).unwrap().tokenizer().unwrap().unwrap();
    let text = Text::from_json(&json).unwrap();
    let cases = recorded("tokens.json", model);
    assert!(cases.as_array().unwrap().len() > 10);
    for case in cases.as_array().unwrap() {
        let got = text.encode(case["text"].as_str().unwrap(), false).unwrap();
        assert_eq!(serde_json::json!(got), case["ids"], "{}: {}", model.title, case["text"]);
    }
}

/// All matrices of a file, of these types, keep their numbers in the same number of bytes, and the model's likelihoods
/// stay the same.
fn is_taken_over_whole(model: &Joined, types: &[(&str, &str)]) {
    let Some(file) = fetched(joined(model)) else { return };
    has_its_makers_tokens(model, &file);
    let expected = expected(model);
    assert_eq!(expected.ids.len(), 256);
    let (packed, own) = read(&file, Formats::OWN, &expected.ids);
    let mut found: Vec<(&str, &str)> = packed.became.iter().map(|b| (b.from, b.to.name())).collect();
    found.sort_unstable();
    assert_eq!(found, types);
    let weights: u64 = packed.became.iter().map(|b| b.weights).sum();
    assert!(packed.became.iter().all(|b| b.kept == Kept::All) && packed.carried_over == weights, "{packed:?}");
    let [ours, theirs] = packed.per_token;
    assert!(theirs > 0 && ours * 100 <= theirs * 102, "{ours} bytes a token for {theirs}");
    let (_, floats) = read(&file, Formats::all(Format::F32), &expected.ids);
    println!("{}: {floats} in f32, {own} as it is, for {}; {ours} bytes for {theirs}", model.title, expected.mean_nll);
    assert!((floats - expected.mean_nll).abs() < 5e-4, "{floats} for {}", expected.mean_nll);
    // Inputs are rounded to 8 bits by block.
    assert!((own - expected.mean_nll).abs() < 5e-3, "{own} for {}", expected.mean_nll);
}

const MIXED: [(&str, &str); 4] = [("Q4_K", "q4_k"), ("Q5_0", "q5_0"), ("Q6_K", "q6_k"), ("Q8_0", "q8_0")];

#[test]
fn gemma_3() {
    is_taken_over_whole(&fetch::GEMMA, &MIXED);
}

#[test]
fn qwen_coder() {
    is_taken_over_whole(&fetch::QWEN_CODER, &MIXED);
}

#[test]
#[ignore = "1.1 GB to fetch, 6.2 GB to write"]
fn qwen_coder_large() {
    is_taken_over_whole(&fetch::QWEN_CODER_LARGE, &[("Q4_K", "q4_k"), ("Q6_K", "q6_k")]);
}
