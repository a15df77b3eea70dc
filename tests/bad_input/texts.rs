//! Prompts, texts and token ids.

use super::{brown, edit, folder, image};
use safetensors::tensor::Dtype;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::template::render_with;
use shadowllm_host::text::{Message, Template, Variables};
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::program::{Place, finish};
use shadowllm_tests::vectors;
use std::process::Stdio;

/// A place where `model.sllm` has this tokenizer and the vocabulary of a reference model.
fn with_tokenizer(change: impl FnOnce(&Place)) -> Place {
    let place = folder("opt");
    place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
    change(&place);
    place.works("pack model -o model.sllm");
    place
}

#[test]
fn a_text_that_is_not_utf8() {
    let place = brown();
    place.write("latin.txt", b"caf\xe9 au lait");
    let words = ["latin.txt: is not UTF-8", "byte 3", "iconv"];
    place.fails(1, "run brown.sllm -f latin.txt", &words);
    place.fails(1, "eval brown.sllm --text latin.txt", &words);
    place.fails(1, "logits brown.sllm --ids latin.txt -o l.safetensors", &words);
}

#[test]
fn a_missing_text() {
    let place = brown();
    place.fails(1, "run brown.sllm -f nothing", &["cannot read nothing", "check the path"]);
    place.fails(1, "eval brown.sllm --text nothing", &["cannot read nothing", "check the path"]);
    place.fails(1, "logits brown.sllm --ids nothing -o l.safetensors", &["cannot read nothing", "check the path"]);
    std::fs::create_dir(place.path("folder")).unwrap();
    place.fails(1, "run brown.sllm -f folder", &["cannot read folder", "directory"]);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let place = brown();
    place.write("long.txt", "one two three ".repeat(200));
    let words = ["positions do not fit in the context of 256, and the model has 256: shorten the prompt"];
    place.fails(1, "run brown.sllm -f long.txt", &words);
    place.fails(1, "run brown.sllm -f long.txt --json", &words);
    place.fails(1, "run brown.sllm -p hello --context 1", &["3 positions do not fit in the context of 1", "shorten"]);
}

#[test]
fn a_context_that_fills_up_ends_the_text() {
    let place = brown();
    let run = place.works("run brown.sllm -p hello --context 6 --greedy --json");
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((value["stop"].as_str(), value["figures"]["prompt_tokens"].as_u64()), (Some("context_full"), Some(3)));
}

#[test]
fn an_empty_prompt_begins_with_the_beginning_token() {
    let run = brown().works("run brown.sllm --prompt= -n 4 --greedy");
    assert!(run.out.trim().len() > 1 && run.err.contains("[1 prompt tokens"), "{}{}", run.out, run.err);
}

#[test]
fn an_empty_prompt_without_a_beginning_token() {
    let place = with_tokenizer(|p| edit(p, "model/config.json", |c| c["bos_token_id"] = ().into()));
    place.fails(2, "run model.sllm --prompt= -n 4", &["the prompt is empty", "no beginning token", "give some text"]);
}

#[test]
fn no_tokens_to_generate() {
    let run = brown().works("run brown.sllm -p hello -n 0");
    assert_eq!(run.out, "hello\n");
    assert!(run.err.contains(" 0 generated at 0.0 t/s"), "{}", run.err);
    let run = brown().works("run brown.sllm -p hello -n 0 --json");
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((value["text"].as_str(), value["stop"].as_str()), (Some(""), Some("length")));
    let rate = value["figures"]["prompt_tokens_per_second"].as_f64().unwrap();
    assert!(rate > 0.0 && rate < 1e7, "{rate} prompt tokens per second");
}

#[test]
fn a_tokenizer_of_another_model() {
    let place = with_tokenizer(|_| {});
    let words = ["token id", "out of range", "vocabulary has 320 entries"];
    place.fails(1, "run model.sllm -p committee", &words);
}

#[test]
fn a_chat_without_a_template() {
    let place = brown();
    place.fails(2, "run brown.sllm", &["no chat template", "-p or -f"]);
}

#[test]
fn a_template_that_does_not_work() {
    for (template, word) in [("{% if %}", "syntax error"), ("{{ raise_exception('no') }}", "no")] {
        let config = serde_json::json!({ "chat_template": template }).to_string();
        let place = with_tokenizer(|p| p.write("model/tokenizer_config.json", config));
        place.fails(1, "run model.sllm -p hi", &["chat template does not take this", word]);
        assert_eq!(place.works("run model.sllm -p ! --raw -n 0").out, "!\n");
    }
}

/// Of several templates, one is for conversations with tools.
#[test]
fn a_template_for_tools() {
    let text = "{{ messages[0].content }}";
    let named = serde_json::json!([{"name": "default", "template": text},
        {"name": "tool_use", "template": format!("\n{text}{{{{ tools|length }}}}  \n")}]);
    let map = serde_json::json!({"tool_use": named[1]["template"], "default": text});
    for templates in [named, map] {
        let config = serde_json::json!({ "chat_template": templates }).to_string();
        let place = with_tokenizer(|p| p.write("model/tokenizer_config.json", config));
        let model = LoadedModel::open(&place.path("model.sllm"), None).unwrap();
        let template = Template::of(&model).unwrap();
        let tools = |json: &str| [("tools".to_owned(), serde_json::from_str(json).unwrap())].into_iter().collect();
        let prompt = |variables: &Variables| render_with(&template, &[Message::new("user", "hi")], variables).unwrap();
        assert_eq!((prompt(&Variables::new()), prompt(&tools("[1, 2]"))), ("hi".into(), "\nhi2  ".into()));
        place.write("tools.json", "[{}, {}]");
        assert!(!place.works("run model.sllm -p ! -n 0 --tools tools.json").err.contains("does not read"));
        let run = place.works("run model.sllm -p ! -n 0 --template-var mood=1");
        assert!(run.err.contains("does not read mood"), "{}", run.err);
    }
    let place = folder("opt");
    place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
    for odd in ["5", "true", "[\"a\"]", "[{\"name\": \"default\"}]", "{\"default\": null}"] {
        place.write("model/tokenizer_config.json", format!("{{\"chat_template\": {odd}}}"));
        place.fails(1, "pack model -o model.sllm", &["tokenizer_config.json", "chat_template is not a text"]);
    }
}

/// A download that has left a link without its file is not a model without a template.
#[test]
fn a_link_to_nothing() {
    for file in ["chat_template.jinja", "tokenizer_config.json", "generation_config.json"] {
        let place = folder("opt");
        place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
        std::os::unix::fs::symlink("nowhere", place.path("model").join(file)).unwrap();
        place.fails(1, "pack model -o model.sllm", &[file, "not a file, nor a link", "download it again"]);
    }
}

#[test]
fn a_conversation_that_is_not_utf8() {
    let config = serde_json::json!({ "chat_template": "{{ messages[0]['content'] }}" }).to_string();
    let place = with_tokenizer(|p| p.write("model/tokenizer_config.json", config));
    place.write("talk", b"\xff\xfe\n");
    let mut command = place.command("run model.sllm");
    command.stdin(Stdio::from(std::fs::File::open(place.path("talk")).unwrap()));
    place.refuses(1, command, &["cannot read standard input", "UTF-8"]);
}

#[test]
fn a_text_with_nothing_to_score() {
    let place = brown();
    place.write("text.txt", "");
    let words = ["text.txt: ", "fewer than two tokens", "give more"];
    place.fails(1, "eval brown.sllm --text text.txt", &words);
    place.write("text.txt", "a");
    place.fails(1, "eval brown.sllm --text text.txt --json", &words);
    place.write("text.txt", "a b");
    let value = place.works("eval brown.sllm --text text.txt --json").out;
    let value: serde_json::Value = serde_json::from_str(&value).unwrap();
    let [tokens, window] = ["tokens", "window"].map(|key| value[key].as_u64().unwrap());
    assert_eq!(window, tokens + 1);
    let said = place.works("eval brown.sllm --text text.txt").out;
    assert!(said.starts_with("perplexity ") && said.contains(&format!("in 1 windows of {window}")), "{said}");
}

/// A model whose numbers exceed single precision has no perplexity, and under a policy no divergence from such numbers.
#[test]
fn logits_that_are_not_finite_are_not_scored() {
    let place = Place::new();
    let shape = Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 2048, layers: 1 };
    let mut model = Folder::llama(shape, false, true, &serde_json::json!({}));
    model.tensors.get_mut("model.norm.weight").unwrap().1.fill(f32::MAX);
    std::fs::create_dir(place.path("model")).unwrap();
    model.write(&place.path("model"), Dtype::F32, 1);
    place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
    place.works("pack model -o model.sllm --layout dense");
    place.write("text.txt", "The jury said that it was to be done.");
    for more in ["", " --json", " --window 8 --policy random --density 0.5", " --window 8 --dense-prefix 0 --csv"] {
        place.fails(1, &format!("eval model.sllm --text text.txt{more}"), &["are not finite", "undamaged source"]);
    }
}

const LOGITS: &str = "logits model.sllm --ids ids.json -o l.safetensors";

/// Token ids that `logits` refuses, as one prefill and token by token.
fn bad_ids(ids: &str, words: &[&str]) {
    let place = image("opt");
    place.write("ids.json", ids);
    place.write("l.safetensors", "earlier logits");
    place.fails(1, LOGITS, &[&["ids.json: "], words].concat());
    place.fails(1, &format!("{LOGITS} --decode"), &[&["ids.json: "], words].concat());
}

#[test]
fn ids_that_are_not_json() {
    let words = ["not a JSON array of token ids", "[1, 2, 3]"];
    for text in ["", "1 2 3", "[1, 2", "{\"ids\": [1]}", "[1.5]", "[-1]", "[4294967296]", "[\"a\"]"] {
        bad_ids(text, &words);
    }
}

#[test]
fn ids_out_of_range() {
    bad_ids("[1, 320]", &["token id 320 is out of range", "vocabulary has 320 entries"]);
    bad_ids("[4294967295]", &["token id 4294967295 is out of range"]);
}

#[test]
fn no_ids() {
    bad_ids("[]", &["no tokens were given", "at least one"]);
}

#[test]
fn more_ids_than_the_model_has_positions() {
    let place = image("opt");
    place.write("ids.json", format!("{:?}", [1; 257]));
    place.fails(2, LOGITS, &["257 positions are needed", "model.sllm has 256", "fewer --ids"]);
    place.write("ids.json", format!("{:?}", [1; 256]));
    place.works(LOGITS);
}

#[cfg(target_os = "linux")]
#[test]
fn arguments_that_are_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let place = brown();
    let mut command = place.command("run brown.sllm -n 1 -p");
    command.arg(std::ffi::OsStr::from_bytes(b"\xff"));
    place.refuses(2, command, &["invalid UTF-8"]);
    // File names may be anything.
    let name = std::ffi::OsStr::from_bytes(b"\xff.sllm");
    std::fs::rename(place.path("brown.sllm"), place.path("").join(name)).unwrap();
    for arguments in ["inspect", "inspect --json", "bench -p 1 -n 1 -r 1 --json", "run -p hello -n 1 --json"] {
        let mut command = place.command(arguments);
        command.arg(name);
        assert_eq!(finish(command).code, Some(0), "{arguments}");
    }
}
