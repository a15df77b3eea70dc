//! Sources of `pack`: Hugging Face folders and GGUF files, complete and damaged.

use super::{edit, folder, gguf, image};
use safetensors::tensor::{Dtype, TensorView};
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::gguf_bytes;
use shadowllm_tests::gguf_file::GgufFile;
use shadowllm_tests::program::Place;
use shadowllm_tools::import::gguf::GgmlType;

const PACK: &str = "pack model -o out.sllm";

/// A place with an older output, which must survive.
fn with_output(place: Place) -> Place {
    place.write("out.sllm", "an earlier image");
    place
}

/// Packing this GGUF file fails.
fn bad_gguf(bytes: &[u8], words: &[&str]) {
    let place = with_output(Place::new());
    place.write("x.gguf", bytes);
    place.fails(1, "pack x.gguf -o out.sllm", words);
    // Used in place of an image, it fails in the same way and leaves nothing in the cache.
    place.write("ids.json", "[1]");
    place.fails(1, "logits x.gguf --ids ids.json -o l.safetensors", words);
}

fn bad_folder(change: impl FnOnce(&Place), words: &[&str]) {
    let place = with_output(folder("llama-mha"));
    change(&place);
    place.fails(1, PACK, words);
    place.write("ids.json", "[1]");
    place.fails(1, "logits model --ids ids.json -o l.safetensors", words);
}

/// Packing a folder with a changed or missing tensor fails.
fn bad_tensor(change: impl FnOnce(&mut Folder), words: &[&str]) {
    let shape = Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 96, layers: 2 };
    let mut model = Folder::llama(shape, false, false, &serde_json::json!({}));
    change(&mut model);
    let place = with_output(Place::new());
    place.write("model/config.json", "");
    model.write(&place.path("model"), Dtype::F32, 1);
    place.fails(1, PACK, words);
}

#[test]
fn nothing_there() {
    let place = with_output(Place::new());
    place.fails(1, "pack nothing -o out.sllm", &["cannot read nothing", "check the path"]);
    place.fails(1, "run nothing -p hi", &["cannot read nothing", "check the path"]);
    place.fails(1, "inspect nothing", &["cannot read nothing", "check the path"]);
    place.fails(1, "bench nothing", &["cannot read nothing", "check the path"]);
}

/// Names as other programs fetch models by, in place of a path.
#[test]
fn names_that_are_not_fetched() {
    let place = with_output(Place::new());
    place.write("here/model.gguf", "");
    let names =
        ["llama3.2", "smollm2:135m", "example.org/foo/bar:Q4_K_M", "owner/name", "https://example.org/model.gguf"];
    for name in names {
        let words = [&format!("cannot read {name}"), "not fetched by name", "shadowllm demo"];
        for command in ["run", "inspect", "pack -o other.sllm"] {
            place.fails(1, &format!("{command} {name}"), &words.map(|w| w as &str));
        }
    }
    for path in ["nothing.gguf", "./nothing", "here/nothing", "/nothing/at/all", "nothing.sllm"] {
        let run = place.run(&format!("run {path} -p hi"));
        assert!(run.err.contains("check the path") && !run.err.contains("by name"), "{path}: {}", run.err);
    }
}

#[test]
fn neither_folder_nor_gguf() {
    let place = with_output(image("opt"));
    place.write("notes.txt", "not a model");
    place.fails(1, "pack notes.txt -o out.sllm", &["notes.txt", "is not a GGUF file"]);
    place.fails(1, "pack model.sllm -o out.sllm", &["model.sllm", "is packed already"]);
    place.fails(1, "pack model/model.safetensors -o out.sllm", &["model/model.safetensors", "name its folder"]);
    place.write("empty", "");
    place.fails(1, "pack empty -o out.sllm", &["empty: the file is empty", "again"]);
}

#[test]
fn a_folder_without_a_configuration() {
    let place = with_output(Place::new());
    place.write("model/readme.md", "");
    place.fails(1, PACK, &["model: the folder has no config.json", "name a Hugging Face model folder", ".gguf"]);
    place.fails(1, "run model -p hi", &["model: the folder has no config.json"]);
}

#[test]
fn a_folder_without_tensors() {
    let gone = |p: &Place| std::fs::remove_file(p.path("model/model.safetensors")).unwrap();
    bad_folder(gone, &["model: ", "neither model.safetensors nor", "converted to safetensors"]);
}

#[test]
fn a_configuration_that_is_not_json() {
    let words = ["model/config.json: is not JSON", "line 1", "download it again"];
    bad_folder(|p| p.write("model/config.json", "{\"model_type\": "), &words);
    bad_folder(|p| p.write("model/config.json", "[]"), &["model/config.json: is not a JSON object"]);
    bad_folder(|p| p.write("model/config.json", b"{\"\xff\": 1}"), &["model/config.json: is not UTF-8", "byte 2"]);
}

#[test]
fn a_configuration_without_a_field() {
    for key in ["model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"] {
        let without = |p: &Place| edit(p, "model/config.json", |c| drop(c.as_object_mut().unwrap().remove(key)));
        bad_folder(without, &[&format!("model/config.json: lacks {key}"), "whole language model"]);
    }
}

#[test]
fn a_configuration_of_another_family() {
    let words = ["model/config.json: model_type bert is not supported", "llama", "opt"];
    bad_folder(|p| edit(p, "model/config.json", |c| c["model_type"] = "bert".into()), &words);
}

#[test]
fn a_configuration_with_values_that_cannot_be() {
    let with =
        |key: &'static str, value: serde_json::Value| move |p: &Place| edit(p, "model/config.json", |c| c[key] = value);
    let bad = |key, value, words: &[&str]| bad_folder(with(key, value), &[&["model/config.json"], words].concat());
    bad("hidden_size", (-1).into(), &["hidden_size is -1", "not a count"]);
    bad("num_attention_heads", 0.into(), &["heads is out of range"]);
    bad("num_key_value_heads", 3.into(), &["kv_heads is out of range"]);
    bad("num_hidden_layers", 5000.into(), &["layers is out of range"]);
    bad("head_dim", 4_000_000_000_000u64.into(), &["head_dim is out of range"]);
    bad("rms_norm_eps", "small".into(), &["rms_norm_eps is \"small\"", "not a number"]);
    bad("use_sliding_window", 1.into(), &["use_sliding_window is 1", "not true or false"]);
    bad("rope_parameters", serde_json::json!({"rope_theta": "1e4"}), &["rope_theta is \"1e4\"", "not a number"]);
    bad("rope_parameters", "yarn".into(), &["RoPE parameters are \"yarn\"", "not an object"]);
    bad("hidden_act", "tanh".into(), &["hidden_act tanh is not supported", "silu"]);
    bad("rope_parameters", serde_json::json!({"rope_type": "dynamic"}), &["type dynamic is not supported", "linear"]);
    let yarn = serde_json::json!({"rope_type": "yarn", "factor": 4});
    bad("rope_parameters", yarn, &["type yarn needs a number original_max_position_embeddings"]);
    bad("eos_token_id", "2".into(), &["eos_token_id is \"2\"", "never end"]);
    bad("eos_token_id", serde_json::json!([2, [3]]), &["eos_token_id is [3]", "never end"]);
    bad(
        "architectures",
        serde_json::json!(["LlamaForSequenceClassification"]),
        &["ForSequenceClassification", "does not continue texts"],
    );
    let gptq = serde_json::json!({"quant_method": "gptq"});
    bad("quantization_config", gptq, &["quantized by gptq", "use the model that it was made from"]);
}

#[test]
fn other_json_files_of_a_folder_that_are_not_json() {
    for file in ["tokenizer_config.json", "generation_config.json", "model.safetensors.index.json"] {
        let words = [&format!("model/{file}: is not JSON"), "line 1"];
        bad_folder(|p| p.write(&format!("model/{file}"), "{"), &words.map(|w| w as &str));
    }
    bad_folder(
        |p| p.write("model/tokenizer.json", "{"),
        &["model/tokenizer.json: the tokenizer cannot be read", "again"],
    );
}

#[test]
fn a_shard_that_is_missing_or_elsewhere() {
    let index = |name: &str| format!("{{\"weight_map\": {{\"a\": \"{name}\"}}}}");
    let write = |text: String| {
        move |p: &Place| {
            std::fs::remove_file(p.path("model/model.safetensors")).unwrap();
            p.write("model/model.safetensors.index.json", text);
        }
    };
    bad_folder(write(index("part-2.safetensors")), &["cannot read model/part-2.safetensors", "check the path"]);
    bad_folder(write(index("../../x")), &["index.json: names a shard outside the folder"]);
    bad_folder(write("{}".into()), &["index.json: has no weight_map"]);
}

#[test]
fn safetensors_that_are_cut_off() {
    let whole = folder("llama-mha").read("model/model.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for cut in [1, 7, 8, header / 2, header, header + 1, whole.len() / 2, whole.len() - 1] {
        let words = ["model/model.safetensors: is not a whole safetensors file", "download it again"];
        bad_folder(|p| p.write("model/model.safetensors", &whole[..cut]), &words);
    }
    bad_folder(|p| p.write("model/model.safetensors", ""), &["model/model.safetensors: the file is empty", "again"]);
}

#[test]
fn safetensors_with_flipped_header_bytes() {
    let whole = folder("llama-mha").read("model/model.safetensors");
    for at in [0, 3, 7, 8, 9] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let words = ["model/model.safetensors: is not a whole safetensors file", "download it again"];
        bad_folder(|p| p.write("model/model.safetensors", bytes), &words);
    }
}

#[test]
fn a_tensor_that_is_missing() {
    let gone = |name: &'static str| move |f: &mut Folder| drop(f.tensors.remove(name).unwrap());
    let words = ["model: ", "no tensor for up of layer 1", "is the download complete?"];
    bad_tensor(gone("model.layers.1.mlp.up_proj.weight"), &words);
    bad_tensor(gone("model.embed_tokens.weight"), &["model: ", "no tensor for embed", "is the download complete?"]);
    bad_tensor(gone("model.norm.weight"), &["model: ", "no tensor for final_norm"]);
}

#[test]
fn a_tensor_of_another_shape() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let turn = |f: &mut Folder| f.tensors.get_mut(name).unwrap().0.reverse();
    let words = ["model: ", name, "shape [64, 32]", "says [32, 64]", "belong to one model?"];
    bad_tensor(turn, &words);
    let flat = |f: &mut Folder| f.tensors.get_mut(name).unwrap().0 = vec![2, 32, 32];
    bad_tensor(flat, &["model: ", name, "[2, 32, 32]"]);
}

#[test]
fn one_bias_of_three_in_one_layer() {
    let name = "model.layers.1.self_attn.q_proj.bias".to_owned();
    bad_tensor(
        |f| drop(f.tensors.insert(name, (vec![64], vec![0.0; 64]))),
        &["model: ", "no tensor for k.bias of layer 1"],
    );
}

#[test]
fn a_tensor_of_integers() {
    let place = with_output(folder("llama-mha"));
    let bytes = vec![0; 320 * 64];
    let view = TensorView::new(Dtype::I8, vec![320, 64], &bytes).unwrap();
    let file = safetensors::serialize([("model.embed_tokens.weight", view)], None).unwrap();
    place.write("model/model.safetensors", file);
    place.fails(1, PACK, &["model: tensor model.embed_tokens.weight is of the type I8", "F32, F16 and BF16"]);
}

#[test]
fn gguf_of_an_unknown_architecture() {
    let mut file = gguf();
    file.set("general.architecture", gguf_bytes::string("general.architecture", "rwkv7"));
    bad_gguf(&file.bytes(), &["x.gguf: architecture rwkv7 is not supported", "llama", "qwen3"]);
    file.entries.remove("general.architecture");
    bad_gguf(&file.bytes(), &["x.gguf: the file lacks general.architecture", "convert it again"]);
}

#[test]
fn gguf_with_a_value_missing_or_impossible() {
    let mut file = gguf();
    let heads = "llama.attention.head_count";
    file.set(heads, gguf_bytes::number(heads, 0));
    bad_gguf(&file.bytes(), &["x.gguf: ", "heads is out of range", "damaged?"]);
    file.entries.remove(heads);
    bad_gguf(&file.bytes(), &["x.gguf: the file lacks llama.attention.head_count", "convert it again"]);
}

/// Values that would be taken for missing ones, or for those of another model.
#[test]
fn gguf_with_a_value_that_is_no_number_or_no_language_models() {
    let float = |x: f32| x.to_le_bytes();
    for (key, kind, bytes, word) in [
        ("llama.rope.freq_base", 6, float(f32::NAN), "llama.rope.freq_base is NaN"),
        ("llama.rope.freq_base", 6, float(f32::INFINITY), "llama.rope.freq_base is inf"),
        ("llama.rope.scaling.factor", 6, float(f32::NAN), "llama.rope.scaling.factor is NaN"),
        ("llama.attention.layer_norm_rms_epsilon", 6, float(f32::NAN), "layer_norm_rms_epsilon is NaN"),
        ("llama.attention.value_length", 4, 8u32.to_le_bytes(), "with values of 8 are not supported"),
    ] {
        let mut file = gguf();
        file.set(key, gguf_bytes::entry(key, kind, &bytes));
        bad_gguf(&file.bytes(), &["x.gguf: ", word]);
    }
    let mut file = gguf();
    let key = "llama.attention.causal";
    file.set(key, gguf_bytes::entry(key, 7, &[0]));
    bad_gguf(&file.bytes(), &["x.gguf: llama.attention.causal is false", "embeddings"]);
}

#[test]
fn gguf_without_a_tensor() {
    let mut file = gguf();
    file.tensors.retain(|t| t.name != "blk.1.attn_v.weight");
    bad_gguf(&file.bytes(), &["x.gguf: ", "no tensor for v of layer 1", "is the download complete?"]);
    file.tensors.retain(|t| t.name != "token_embd.weight");
    bad_gguf(&file.bytes(), &["x.gguf: ", "no tensor token_embd.weight"]);
}

#[test]
fn gguf_with_a_tensor_of_another_shape_or_type() {
    let mut file = gguf();
    let t = file.tensor("blk.0.ffn_down.weight");
    (t.rows, t.cols) = (t.cols, t.rows);
    bad_gguf(&file.bytes(), &["x.gguf: tensor blk.0.ffn_down.weight", "[96, 64]", "says [64, 96]"]);
    let mut bytes = gguf().bytes();
    let name = b"blk.0.ffn_down.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    assert_eq!(bytes[at], 8);
    bytes[at] = 16;
    bad_gguf(&bytes, &["x.gguf: tensor blk.0.ffn_down.weight", "type IQ2_XXS is not supported", "Q4_0"]);
}

#[test]
fn gguf_that_is_cut_off() {
    let bytes = gguf().bytes();
    for cut in [4, 8, 23, 24, 100, 400, bytes.len() / 2, bytes.len() - 1] {
        bad_gguf(&bytes[..cut], &["x.gguf: ", "download", "complete"]);
    }
}

#[test]
fn gguf_with_flipped_header_bytes() {
    for (at, word) in
        [(0, "is not a GGUF file"), (5, "GGUF"), (15, "download is not complete"), (23, "download is not")]
    {
        let mut bytes = gguf().bytes();
        bytes[at] ^= 0x20;
        let place = with_output(Place::new());
        place.write("x.gguf", bytes);
        place.fails(1, "pack x.gguf -o out.sllm", &["x.gguf: ", word]);
    }
}

#[test]
fn gguf_whose_tokenizer_is_unknown() {
    let mut file = gguf();
    file.set("tokenizer.ggml.model", gguf_bytes::string("tokenizer.ggml.model", "bert"));
    bad_gguf(&file.bytes(), &["x.gguf: the file has no tokens", "tokenizer.ggml.tokens is missing"]);
    let texts: Vec<String> = (0..96).map(|i| format!("t{i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    file.set("tokenizer.ggml.tokens", gguf_bytes::strings("tokenizer.ggml.tokens", &texts));
    bad_gguf(&file.bytes(), &["x.gguf: ", "bert", "not supported"]);
}

/// The case that works: the file is packed once into the cache, with a note.
#[test]
fn gguf_in_place_of_a_model_is_packed_once() {
    let place = Place::new();
    place.write("tiny.gguf", gguf().bytes());
    place.write("ids.json", "[1, 2, 3]");
    let command = "logits tiny.gguf --ids ids.json -o l.safetensors";
    let first = place.works(command);
    assert!(first.err.contains("packing tiny.gguf into ") && first.err.contains("(once)"), "{}", first.err);
    let cached = |p: &Place| p.files().into_keys().filter(|f| f.starts_with(p.path("cache"))).collect::<Vec<_>>();
    let images = cached(&place);
    assert_eq!(images.len(), 1, "{images:?}");
    let (written, logits) = (std::fs::metadata(&images[0]).unwrap().modified().unwrap(), place.read("l.safetensors"));
    assert_eq!(place.works(command).err, "");
    assert_eq!(std::fs::metadata(&images[0]).unwrap().modified().unwrap(), written);
    // A cached image that was damaged is packed again.
    std::fs::write(&images[0], &std::fs::read(&images[0]).unwrap()[..5000]).unwrap();
    assert!(place.works(command).err.contains("packing tiny.gguf"));
    assert_eq!((cached(&place), place.read("l.safetensors")), (images, logits));
    // Another file under the same name is packed again.
    let shape = Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 128, layers: 1 };
    place.write("tiny.gguf", GgufFile::llama(shape, GgmlType::Q4_0).bytes());
    assert!(place.works(command).err.contains("packing tiny.gguf"));
    assert_eq!(cached(&place).len(), 2);
}

#[test]
fn a_cache_that_cannot_be_made() {
    let place = Place::new();
    place.write("tiny.gguf", gguf().bytes());
    place.write("ids.json", "[1]");
    place.write("cache", "a file where the folder should be");
    let words = ["cache/shadowllm", "cannot be made", "set XDG_CACHE_HOME"];
    place.fails(1, "logits tiny.gguf --ids ids.json -o l.safetensors", &words);
}

/// A name in a file could move the cursor, or look like a line of the program's own.
#[test]
fn names_do_not_command_the_terminal() {
    let place = Place::new();
    let shape = Shape { vocab: 64, d: 32, ffn: 32, layers: 1, heads: [2, 1, 16] };
    let mut model = GgufFile::llama(shape, GgmlType::Q4_0);
    let name = "x\x1b[2J\n\n  verified: every section has its checksum\u{9b}A";
    model.set("general.name", gguf_bytes::string("general.name", name));
    place.write("x.gguf", model.bytes());
    place.works("pack x.gguf -o x.sllm");
    for inspected in ["inspect x.gguf", "inspect x.sllm"] {
        let out = place.works(inspected).out;
        assert!(out.contains("x\\u{1b}[2J\\n\\n  verified: every"), "{out}");
        assert!(!out.contains(['\x1b', '\u{9b}']) && !out.contains("\n  verified"), "{out}");
    }
    // In an error.
    for (key, value) in [("general.architecture", "ll\x1b[2Jma"), ("tokenizer.ggml.model", "x\x1b[2J")] {
        let mut model = GgufFile::llama(shape, GgmlType::Q4_0);
        model.set(key, gguf_bytes::string(key, value));
        model.set("tokenizer.ggml.tokens", gguf_bytes::strings("tokenizer.ggml.tokens", &["a"; 64]));
        place.write("y.gguf", model.bytes());
        let said = place.run("pack y.gguf -o y.sllm");
        assert!(said.code == Some(1) && !said.err.contains('\x1b'), "{}", said.err);
    }
}
