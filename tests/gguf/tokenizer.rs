//! Compares the tokenizers built from GGUF files with recorded token ids of the originals.
//!
//! The files are not in the repository: SmolLM2 is fetched as the demo does, LLAMA_CPP_MODELS names the folder `models`
//! of llama.cpp with its ggml-vocab-*.gguf, .inp and .out files (the source distribution of llama-cpp-python has it).
//! Missing files are skipped with a note.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use shadowllm_tools::import::gguf::Gguf;
use shadowllm_tools::import::gguf::{special_tokens, tokenizer_json};
use tokenizers::{NormalizerWrapper, Tokenizer};

/// The path in the environment variable; `None`, with a note on standard error, if it is not set.
fn path(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        shadowllm_tests::skipped(&format!("{variable} is not set"));
    }
    path
}

fn load(path: &Path) -> (Gguf, Tokenizer) {
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let json = tokenizer_json(&gguf).unwrap();
    let tokenizer = Tokenizer::from_str(&json).unwrap();
    (gguf, tokenizer)
}

#[test]
fn smollm2_gives_the_expected_ids() {
    let Some(path) = shadowllm_tests::smollm2() else {
        return;
    };
    let (gguf, tokenizer) = load(&path);
    let expected = include_str!("../vectors/smollm2/expected.json");
    let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
    let texts = expected["texts"].as_object().unwrap();
    for (name, case) in texts {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let encoding = tokenizer.encode(text, true).unwrap();
        let got = encoding.get_ids();
        println!("{name}: {} ids recorded, {} got", ids.len(), got.len());
        // The record ends at the window of 512, even if the text is longer.
        let window = if ids.len() == 512 { got.get(..512).unwrap() } else { got };
        assert_eq!(window, ids, "{name}");
        assert_eq!(tokenizer.decode(got, false).unwrap(), text, "{name}");
    }
    println!("{} texts have the expected ids", texts.len());
    assert!(!texts.is_empty());
    let special = special_tokens(&gguf);
    assert_eq!((special.bos, special.eos), (Some(1), vec![2]));
    assert!(special.chat_template.unwrap().contains("<|im_start|>"));
    let chat = tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n", true).unwrap();
    assert_eq!((chat.get_ids()[0], chat.get_ids().contains(&2)), (1, true));
    assert_eq!(tokenizer.decode(chat.get_ids(), true).unwrap(), "user\nHi\n");
}

/// The texts and the ids of one of llama.cpp's vocabulary files.
fn recorded(gguf: &Path) -> Vec<(String, Vec<u32>)> {
    let inputs = std::fs::read_to_string(gguf.with_extension("gguf.inp")).unwrap();
    let outputs = std::fs::read_to_string(gguf.with_extension("gguf.out")).unwrap();
    let ids = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    let mut inputs: Vec<_> = inputs.split("\n__ggml_vocab_test__\n").map(str::to_string).collect();
    if inputs.last().is_some_and(String::is_empty) {
        inputs.pop();
    }
    let ids: Vec<Vec<u32>> = ids.collect();
    assert_eq!(inputs.len(), ids.len());
    inputs.into_iter().zip(ids).collect()
}

/// The number of texts of this vocabulary file, and of those whose ids are as recorded.
fn compare(path: &Path) -> (usize, usize) {
    let (_, mut tokenizer) = load(path);
    if path.to_string_lossy().ends_with("qwen35.gguf") {
        // llama.cpp's record has texts that are not in NFC, and llama.cpp does not normalize them; Qwen's tokenizer does.
        tokenizer.with_normalizer(None::<NormalizerWrapper>).unwrap();
    }
    let cases = recorded(path);
    let mut same = 0;
    for (text, ids) in &cases {
        let encoding = tokenizer.encode(text.as_str(), false).unwrap();
        if encoding.get_ids() == ids {
            same += 1;
        } else {
            println!("{}: {text:?}\n  got  {:?}\n  want {ids:?}", path.display(), encoding.get_ids());
        }
    }
    (cases.len(), same)
}

#[test]
fn llama_cpp_vocabularies_give_the_recorded_ids() {
    let Some(models) = path("LLAMA_CPP_MODELS") else {
        return;
    };
    let names = [
        "llama-spm",
        "phi-3",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "gpt-2",
        "starcoder",
        "refact",
        "command-r",
        "mpt",
        "falcon",
        "deepseek-llm",
        "deepseek-coder",
    ];
    let mut failed = Vec::new();
    for name in names {
        let (cases, same) = compare(&models.join(format!("ggml-vocab-{name}.gguf")));
        println!("{name}: {same} of {cases} texts have the recorded ids");
        if same != cases {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
