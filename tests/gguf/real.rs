//! A real file of mixed block types (fetched): taken over as it is, in as many bytes, and as likely as the same numbers in
//! 32-bit floats.

use shadowllm_core::{Format, KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::{skipped, vectors};
use shadowllm_tools::eval::token_nlls;
use shadowllm_tools::fetch::{QWEN_CODER, joined};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, Packed, pack};
use std::path::Path;

/// Tokens that are read.
const TOKENS: usize = 256;

/// Packs the model, and reads the beginning of a text: mean negative log-likelihood of a token.
fn read(file: &Path, formats: Formats) -> (Packed, f64) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let packed = pack(&*import::open(file).unwrap(), formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
    let model = LoadedModel::open(&image, None).unwrap();
    let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
    let ids = &Text::of(&model).unwrap().encode(&text, false).unwrap()[..TOKENS];
    let options = SessionOptions { context: TOKENS, batch: 64, logit_rows: 16, kv: KvFormat::F32, sparsity: false };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let nlls = token_nlls(&mut session, &Pool::new(Pool::cores()).unwrap(), ids).unwrap();
    assert_eq!(nlls.len(), TOKENS - 1);
    (packed, nlls.iter().sum::<f64>() / nlls.len() as f64)
}

#[test]
fn a_q4_k_m_file_is_taken_over_whole() {
    let file = match joined(&QWEN_CODER) {
        Ok(file) => file,
        Err(e) => return skipped(&e.to_string()),
    };
    let (packed, own) = read(&file, Formats::OWN);
    let mut types: Vec<(&str, &str)> = packed.became.iter().map(|b| (b.from, b.to.name())).collect();
    types.sort_unstable();
    assert_eq!(types, [("Q4_K", "q4_k"), ("Q5_0", "q5_0"), ("Q6_K", "q6_k"), ("Q8_0", "q8_0")]);
    assert!(packed.became.iter().all(|b| b.exact) && packed.carried_over == 630_095_872, "{packed:?}");
    let [ours, theirs] = packed.per_token;
    assert!(theirs > 0 && ours * 100 <= theirs * 102, "{ours} bytes a token for {theirs}");
    let (_, floats) = read(&file, Formats::all(Format::F32));
    // Inputs are rounded to 8 bits by block: measured, 0.0006 of 4.7465.
    assert!((own - floats).abs() < 5e-3, "{own} for {floats} of the same numbers");
    assert!((4.0..5.5).contains(&floats), "a model that knows English: {floats}");
}
