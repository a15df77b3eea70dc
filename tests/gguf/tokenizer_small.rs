//! Builds tokenizers from small GGUF files made here.

mod common;

use std::str::FromStr;

use common::{file, floats, integers, number, string, strings, truth};
use shadowllm_tools::import::gguf::Gguf;
use shadowllm_tools::import::gguf::{Special, special_tokens, tokenizer_json};
use tokenizers::Tokenizer;

fn gguf(entries: &[Vec<u8>]) -> Gguf {
    Gguf::parse(&file(entries, &[], 0)).unwrap()
}

fn tokenizer(entries: &[Vec<u8>]) -> Tokenizer {
    Tokenizer::from_str(&tokenizer_json(&gguf(entries)).unwrap()).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

/// A byte-level vocabulary with a BOS token, and with these entries.
fn bytes(more: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut entries = vec![
        string("tokenizer.ggml.model", "gpt2"),
        strings("tokenizer.ggml.tokens", &["<bos>", "a", "b", "Ġ", "ab", "<x>", "1", "<|eot_id|>", ""]),
        integers("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 4, 1, 3, 1]),
        strings("tokenizer.ggml.merges", &["a b"]),
    ];
    entries.extend_from_slice(more);
    entries
}

/// A SentencePiece vocabulary with these entries.
fn pieces(more: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let byte_tokens: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec!["<unk>", "<s>", "</s>"];
    tokens.extend(byte_tokens.iter().map(String::as_str));
    tokens.extend(["▁", "a", "b", "▁a", "ab", "▁ab"]);
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1; 6]);
    let mut scores = vec![0.0; 259];
    scores.extend([-9.0, -9.0, -9.0, -2.0, -1.0, -3.0]);
    let mut entries = vec![
        string("tokenizer.ggml.model", "llama"),
        strings("tokenizer.ggml.tokens", &tokens),
        integers("tokenizer.ggml.token_type", &types),
        floats("tokenizer.ggml.scores", &scores),
    ];
    entries.extend_from_slice(more);
    entries
}

#[test]
fn every_known_pre_tokenizer_loads() {
    let names = "default gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert jina-es jina-de jina-v2-es jina-v2-de exaone4 jais \
        trillion granite-docling mpt olmo smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 llama3 \
        llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe chatglm-bpe glm4 glm5 \
        qwen2 qwen35 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 gpt-4o llama4 kanana2 \
        talkie minimax-m2 deepseek-v3 hunyuan-dense joyai-llm hy_v4 tekken minicpm5 bailingmoe bailingmoe2 llada-moe \
        seed-coder exaone-moe deepseek-llm deepseek-coder falcon";
    for name in names.split(' ') {
        let tokenizer = tokenizer(&bytes(&[string("tokenizer.ggml.pre", name)]));
        assert_eq!(ids(&tokenizer, "ab<x>1"), [4, 5, 6], "{name}");
    }
}

#[test]
fn damaged_tokenizers_are_refused_by_name() {
    let error = |entries: &[Vec<u8>]| tokenizer_json(&gguf(entries)).unwrap_err();
    let model = |name| string("tokenizer.ggml.model", name);
    let tokens = |texts: &[&str]| strings("tokenizer.ggml.tokens", texts);
    let pre = bytes(&[string("tokenizer.ggml.pre", "kimi-k2")]);
    assert_eq!(error(&pre), "the pre-tokenizer \"kimi-k2\" (tokenizer.ggml.pre) is not known");
    assert!(error(&[]).contains("tokenizer.ggml.model is missing"));
    assert!(error(&[model("gpt2")]).contains("tokenizer.ggml.tokens is missing"));
    assert!(error(&[model("bert"), tokens(&["a"])]).starts_with("the tokenizer model \"bert\" (WordPiece) is not"));
    assert!(error(&[model("gpt2"), tokens(&["a"])]).contains("tokenizer.ggml.merges is missing"));
    assert!(error(&[model("llama"), tokens(&["a"])]).contains("tokenizer.ggml.scores is missing"));
    assert_eq!(error(&[model("gpt2"), tokens(&["a", "b", "a"])]), "tokens 0 and 2 are both \"a\"");
    let short = [model("gpt2"), tokens(&["a", "b"]), integers("tokenizer.ggml.token_type", &[1])];
    assert_eq!(error(&short), "tokenizer.ggml.token_type has 1 entries for 2 tokens");
    for merge in ["ab", "a c", "b a", " ", "", "é"] {
        let entries = [model("gpt2"), tokens(&["a", "b", "ab"]), strings("tokenizer.ggml.merges", &[merge])];
        assert!(error(&entries).starts_with(&format!("the merge \"{merge}\" does not")));
    }
    let no_bos = bytes(&[truth("tokenizer.ggml.add_bos_token", true)]);
    assert!(error(&no_bos).contains("tokenizer.ggml.bos_token_id is missing"));
}

#[test]
fn bos_is_added_as_the_file_or_its_kind_requires() {
    let bos = number("tokenizer.ggml.bos_token_id", 0);
    let pre = |name| string("tokenizer.ggml.pre", name);
    let add = |add| truth("tokenizer.ggml.add_bos_token", add);
    assert_eq!(ids(&tokenizer(&bytes(std::slice::from_ref(&bos))), "a"), [1]);
    assert_eq!(ids(&tokenizer(&bytes(&[bos.clone(), add(true)])), "a"), [0, 1]);
    assert_eq!(ids(&tokenizer(&bytes(&[bos.clone(), pre("llama-bpe")])), "a"), [0, 1]);
    assert_eq!(ids(&tokenizer(&bytes(&[pre("llama-bpe")])), "a"), [1]);
    assert_eq!(ids(&tokenizer(&bytes(&[bos, pre("llama-bpe"), add(false)])), "a"), [1]);
    assert_eq!(ids(&tokenizer(&pieces(&[])), "a"), [1, 262]);
    assert_eq!(ids(&tokenizer(&pieces(&[add(false)])), "a"), [262]);
}

#[test]
fn sentencepiece_merges_follow_the_scores_and_the_rest_falls_back_to_bytes() {
    let with_prefix = tokenizer(&pieces(&[]));
    // "ab" has the best score, so that "▁ab" can only be made of "▁" and "ab".
    assert_eq!(ids(&with_prefix, "ab"), [1, 264]);
    assert_eq!(ids(&with_prefix, "b ab"), [1, 259, 261, 264]);
    assert_eq!(ids(&with_prefix, "é"), [1, 259, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(ids(&with_prefix, "</s>a"), [1, 2, 262]);
    assert_eq!(ids(&with_prefix, ""), [1]);
    for text in ["ab", "b ab", " a", "é日", "a  b\n"] {
        assert_eq!(with_prefix.decode(&ids(&with_prefix, text), true).unwrap(), text);
    }
    let without = tokenizer(&pieces(&[truth("tokenizer.ggml.add_space_prefix", false)]));
    assert_eq!(ids(&without, "ab ab"), [1, 263, 264]);
    assert_eq!(without.decode(&ids(&without, " ab"), true).unwrap(), " ab");
}

#[test]
fn special_tokens_are_read() {
    let entries = bytes(&[
        number("tokenizer.ggml.bos_token_id", 0),
        number("tokenizer.ggml.eos_token_id", 5),
        number("tokenizer.ggml.eom_token_id", 5),
        string("tokenizer.chat_template", "{{ messages }}"),
    ]);
    let chat_template = Some("{{ messages }}".to_string());
    let expected = Special { bos: Some(0), eos: vec![5, 7], chat_template };
    assert_eq!(special_tokens(&gguf(&entries)), expected);
    let tools = string("tokenizer.chat_template.tool_use", "{{ tools }}");
    let template = special_tokens(&gguf(&[entries, vec![tools]].concat())).chat_template.unwrap();
    assert!(template.contains("if tools is not none") && template.contains("{{ tools }}"), "{template}");
    let entries = bytes(&[number("tokenizer.ggml.eos_token_id", 99), number("tokenizer.ggml.eot_token_id", 6)]);
    assert_eq!(special_tokens(&gguf(&entries)), Special { bos: None, eos: vec![6], chat_template: None });
    let defaults = Special { bos: Some(1), eos: vec![2], chat_template: None };
    assert_eq!(special_tokens(&gguf(&pieces(&[]))), defaults);
    assert_eq!(special_tokens(&gguf(&[])), Special::default());
}
