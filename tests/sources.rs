//! Different files of the same model: split, nested, renamed, in older and newer styles; and values that must not be
//! missing.

#[path = "families/twins.rs"]
mod twins;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use shadowllm_core::image::roles::ROLES;
use shadowllm_core::{Format, KvFormat, Serial, Session, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::{Language, Template, Text, TextStream};
use shadowllm_tests::program::Place as Program;
use shadowllm_tests::{Reading, gguf_bytes, logits, max_difference, pack_to, same_bits, tensor, vectors};
use shadowllm_tools::eval::{begin_windows, beginning};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::{Path, PathBuf};

/// A place for models.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of a folder with another configuration and other names of tensors; tensors without a new name are left
    /// out.
    fn folder(
        &self,
        original: &str,
        change: impl FnOnce(&mut Value),
        rename: impl Fn(&str) -> Option<String>,
    ) -> PathBuf {
        let (original, folder) = (vectors(original), self.path("model"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = serde_json::from_str(&read(&original.join("config.json"))).unwrap();
        change(&mut config);
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let bytes = std::fs::read(original.join("model.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let views = all.iter().filter_map(|(name, t)| {
            Some((rename(name)?, TensorView::new(t.dtype(), t.shape().to_vec(), t.data()).unwrap()))
        });
        std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        folder
    }

    /// Logits of a source, or the error.
    fn logits(&self, source: &Path) -> Result<Vec<f32>, String> {
        let image = self.path("image.sllm");
        let formats = Formats::all(Format::F32);
        let source = import::open(source).map_err(|e| e.to_string())?;
        pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).map_err(|e| e.to_string())?;
        let model = LoadedModel::open(&image, None).map_err(|e| e.to_string())?;
        let ids: Vec<u32> = (3..43).collect();
        Ok(logits(&model, &Serial, &ids, KvFormat::F32, Reading::Prefill(40)))
    }

    /// Checks that the source is refused, with these words in the message.
    fn refuses(&self, source: &Path, words: &[&str]) {
        let error = self.logits(source).expect_err("it is taken");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn same(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// A GGUF file of a family with more entries, and without those of these keys.
fn gguf(place: &Place, name: &str, (family, arch): (&str, &str), without: &[&str], with: Vec<Vec<u8>>) -> PathBuf {
    let bytes = twins::changed_twin(&vectors("families").join(family), arch, |entries| {
        entries.retain(|e| !without.iter().any(|key| e[8..8 + usize::from(e[0])] == *key.as_bytes()));
        entries.extend(with);
    });
    std::fs::write(place.path(name), bytes).unwrap();
    place.path(name)
}

const ARCEE: (&str, &str) = ("arcee", "arcee");

#[test]
fn linear_scaling_in_three_spellings() {
    let place = Place::new();
    let float = |key: &str, x: f32| gguf_bytes::entry(key, 6, &x.to_le_bytes());
    let (kind, factor) = ("arcee.rope.scaling.type", "arcee.rope.scaling.factor");
    let said = vec![gguf_bytes::string(kind, "linear"), float(factor, 4.0)];
    let said = place.logits(&gguf(&place, "said.gguf", ARCEE, &[], said)).unwrap();
    let untyped = place.logits(&gguf(&place, "untyped.gguf", ARCEE, &[], vec![float(factor, 4.0)])).unwrap();
    let old = vec![float("arcee.rope.scale_linear", 4.0)];
    let old = place.logits(&gguf(&place, "old.gguf", ARCEE, &[], old)).unwrap();
    assert!(same_bits(&said, &untyped) && same_bits(&said, &old));
    let plain = place.logits(&gguf(&place, "plain.gguf", ARCEE, &[], vec![])).unwrap();
    assert!(max_difference(&said, &plain) > 0.1);
    let none = vec![gguf_bytes::string(kind, "none"), float(factor, 4.0)];
    assert!(same_bits(&place.logits(&gguf(&place, "none.gguf", ARCEE, &[], none)).unwrap(), &plain));
    let other = vec![gguf_bytes::string(kind, "dynamic"), float(factor, 4.0)];
    place
        .refuses(&gguf(&place, "x.gguf", ARCEE, &[], other), &["scaling of type \"dynamic\" is not supported", "yarn"]);
}

#[test]
fn divisors_are_llama_3s_scaling() {
    let place = Place::new();
    let llama3 = json!({"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let scaled = place.folder("families/arcee", |c| c["rope_parameters"] = llama3, same);
    let (file, wanted) = (gguf(&place, "x.gguf", ARCEE, &[], vec![]), place.logits(&scaled).unwrap());
    // The divisors as the converter computes them, in f32.
    let divisor = |i: i32| {
        let wave = 2.0 * std::f32::consts::PI * 10000f32.powf(2.0 * i as f32 / 16.0);
        match wave {
            w if w < 16.0 => 1.0,
            w if w > 64.0 => 8.0,
            w => 1.0 / ((1.0 - (64.0 / w - 1.0) / 3.0) / 8.0 + (64.0 / w - 1.0) / 3.0),
        }
    };
    let bytes = twins::changed_twin(&vectors("families/arcee"), "arcee", |_| {});
    let divisors: Vec<u8> = (0..8).flat_map(|i| divisor(i).to_le_bytes()).collect();
    std::fs::write(&file, with_tensor(bytes, "rope_freqs.weight", 8, &divisors)).unwrap();
    let got = place.logits(&file).unwrap();
    assert!(max_difference(&got, &wanted) < 2e-5, "{}", max_difference(&got, &wanted));
    let bytes = twins::changed_twin(&vectors("families/arcee"), "arcee", |_| {});
    for count in [2, 16] {
        let divisors = vec![1f32.to_le_bytes(); count].concat();
        std::fs::write(&file, with_tensor(bytes.clone(), "rope_freqs.weight", count as u64, &divisors)).unwrap();
        place.refuses(&file, &[&format!("rope_freqs.weight has {count} entries, 8 are needed")]);
    }
}

/// A GGUF file with one more tensor of floats, as the first one.
fn with_tensor(file: Vec<u8>, name: &str, len: u64, numbers: &[u8]) -> Vec<u8> {
    // The header ends where the first tensor's description begins; all offsets move by the size of the new tensor.
    let at = file.windows(8).position(|w| w == b"blk.0.at").unwrap() - 8;
    let count = u64::from_le_bytes(file[8..16].try_into().unwrap());
    let room = numbers.len().next_multiple_of(32);
    let (mut pos, mut described) = (at, gguf_bytes::tensor(name, &[len], 0, 0));
    for _ in 0..count {
        let name_len = u64::from_le_bytes(file[pos..pos + 8].try_into().unwrap()) as usize;
        let rank = u32::from_le_bytes(file[pos + 8 + name_len..][..4].try_into().unwrap()) as usize;
        let end = pos + 8 + name_len + 4 + 8 * rank + 4;
        let offset = u64::from_le_bytes(file[end..end + 8].try_into().unwrap()) + room as u64;
        described.extend(&file[pos..end]);
        described.extend(offset.to_le_bytes());
        pos = end + 8;
    }
    let mut out = file[..8].to_vec();
    out.extend((count + 1).to_le_bytes());
    out.extend(&file[16..at]);
    out.extend(described);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(numbers);
    out.resize(out.len() + room - numbers.len(), 0);
    out.extend(&file[pos.next_multiple_of(32)..]);
    out
}

#[test]
fn arrays_for_each_layer() {
    let place = Place::new();
    let plain = place.logits(&gguf(&place, "plain.gguf", ARCEE, &[], vec![])).unwrap();
    for (key, n) in [("arcee.feed_forward_length", 160), ("arcee.attention.head_count_kv", 2)] {
        let file = gguf(&place, "x.gguf", ARCEE, &[key], vec![gguf_bytes::integers(key, &[n; 3])]);
        assert!(same_bits(&place.logits(&file).unwrap(), &plain), "{key}");
        let file = gguf(&place, "x.gguf", ARCEE, &[key], vec![gguf_bytes::integers(key, &[n, n, 1])]);
        place.refuses(&file, &[key, "differs between layers", "not supported"]);
    }
    let key = "arcee.block_count";
    let file = gguf(&place, "x.gguf", ARCEE, &[key], vec![gguf_bytes::integers(key, &[3, 3])]);
    place.refuses(&file, &[key, "is [3,3], not a count", "for each layer is not supported"]);
}

#[test]
fn a_gguf_file_in_parts() {
    let place = Place::new();
    let whole = std::fs::read(gguf(&place, "whole.gguf", ARCEE, &[], vec![])).unwrap();
    let expected = place.logits(&place.path("whole.gguf")).unwrap();
    // The second part has the tensors of the last layer, and no metadata but its number.
    let split = |no: u32, told: u32| {
        vec![
            gguf_bytes::entry("split.no", 2, &(no as u16).to_le_bytes()),
            gguf_bytes::entry("split.count", 2, &2u16.to_le_bytes()),
            gguf_bytes::entry("split.tensors.count", 5, &told.to_le_bytes()),
        ]
    };
    let count = u64::from_le_bytes(whole[8..16].try_into().unwrap()) as u32;
    let part = |no: u32, told: u32| twins::part(&vectors("families/arcee"), "arcee", split(no, told), no == 1);
    let (first, second) = (place.path("m-00001-of-00002.gguf"), place.path("m-00002-of-00002.gguf"));
    std::fs::write(&first, part(0, count)).unwrap();
    place.refuses(&first, &["m-00002-of-00002.gguf", "part 2 of 2", "is missing", "download it too"]);
    std::fs::write(&second, part(1, count)).unwrap();
    for file in [&first, &second] {
        assert!(same_bits(&place.logits(file).unwrap(), &expected), "{}", file.display());
    }
    // A part of another model, a part in the place of another, and tensors that are in two parts.
    let foreign = [split(1, count), vec![gguf_bytes::string("general.architecture", "qwen2")]].concat();
    std::fs::write(&second, twins::part(&vectors("families/arcee"), "arcee", foreign, true)).unwrap();
    place.refuses(&first, &["m-00002-of-00002.gguf", "not part 2 of 2", "architecture qwen2, and part 1 of arcee"]);
    std::fs::write(&second, twins::part(&vectors("families/arcee"), "arcee", split(0, count), true)).unwrap();
    place.refuses(&first, &["m-00002-of-00002.gguf", "not part 2 of 2", "split.no 0"]);
    let last = u64::from_le_bytes(part(1, count)[8..16].try_into().unwrap()) as u32;
    std::fs::write(&first, part(0, 2 * (count - last))).unwrap();
    let doubled = twins::part(&vectors("families/arcee"), "arcee", split(1, count), false);
    std::fs::write(&second, doubled).unwrap();
    place.refuses(&first, &["m-00002-of-00002.gguf", "an earlier part has the tensor"]);
    std::fs::write(&second, part(1, count)).unwrap();
    std::fs::write(&first, part(0, count + 1)).unwrap();
    place.refuses(&first, &["the 2 parts have", "do they belong to one model?"]);
    let renamed = place.path("renamed.gguf");
    std::fs::copy(&first, &renamed).unwrap();
    place.refuses(&renamed, &["is part 1 of 2", "-00001-of-00002.gguf", "llama-gguf-split --merge"]);
}

#[test]
fn a_missing_output_matrix() {
    let place = Place::new();
    let headless = |name: &str| (name != "lm_head.weight").then(|| name.to_owned());
    let words = ["no output matrix (lm_head)", "tie_word_embeddings"];
    place.refuses(&place.folder("families/arcee", |_| {}, headless), &words);
    // Without the key, Llama's output matrix is not the embedding.
    let silent = |c: &mut Value| drop(c.as_object_mut().unwrap().remove("tie_word_embeddings"));
    place.refuses(&place.folder("families/arcee", silent, headless), &words);
    let tied = place.folder("families/arcee", |c| c["tie_word_embeddings"] = true.into(), headless);
    let with_head = place.logits(&vectors("families/arcee")).unwrap();
    assert!(max_difference(&place.logits(&tied).unwrap(), &with_head) > 0.1);
    // Gemma's is.
    let silent = place.folder("families/gemma", silent, same);
    assert!(same_bits(&place.logits(&silent).unwrap(), &place.logits(&vectors("families/gemma")).unwrap()));
}

#[test]
fn the_text_model_of_a_larger_one() {
    let place = Place::new();
    let wrap = |kind: &'static str, text: &'static str| {
        move |c: &mut Value| {
            c["model_type"] = text.into();
            *c = json!({"model_type": kind, "text_config": c, "vision_config": {"hidden_size": 7}});
        }
    };
    // The prefixes of the text part in Mistral's and Qwen's models.
    let mistral = |name: &str| Some(format!("language_model.{name}"));
    let folder = place.folder("families/ministral", wrap("mistral3", "ministral"), mistral);
    let plain = place.logits(&vectors("families/ministral")).unwrap();
    assert!(same_bits(&place.logits(&folder).unwrap(), &plain));
    let qwen = |name: &str| Some(name.replacen("model.", "model.language_model.", 1));
    let folder = place.folder("models/qwen3", wrap("qwen3_vl", "qwen3_vl_text"), qwen);
    assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors("models/qwen3")).unwrap()));
    let folder = place.folder("families/gemma3", wrap("gemma3", "gemma3_text"), qwen);
    assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors("families/gemma3")).unwrap()));
}

/// The first configurations of Gemma 3 leave out what transformers has by default.
#[test]
fn a_configuration_of_gemma_3_that_names_only_what_differs() {
    let place = Place::new();
    let change = |c: &mut Value| {
        let keys = ["hidden_size", "intermediate_size", "sliding_window"];
        let text: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), c[*key].clone())).collect();
        *c = json!({"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text});
        c["text_config"]["rope_scaling"] = json!({"factor": 8.0, "rope_type": "linear"});
        // The sixth layer is the first without a window; opening reads no weights.
        c["text_config"]["num_hidden_layers"] = 6.into();
    };
    let source = import::open(&place.folder("families/gemma3", change, same)).unwrap();
    let (globals, layers) = (&source.spec().globals, &source.spec().layers);
    assert_eq!((globals.vocab, globals.max_positions, globals.bos), (262_208, 131_072, Some(2)));
    assert_eq!(globals.eos(), [1, 106]);
    let a = layers[0].attention().unwrap();
    assert_eq!((a.heads, a.kv_heads, a.head_dim, a.window), (8, 4, 256, 16));
    // Frequencies with and without scaling, for both kinds of layers.
    assert_eq!((source.spec().ropes[0][0], source.spec().ropes[1][0]), (0.125, 1.0));
}

/// EXAONE 3.5 is Llama under GPT-2's names.
#[test]
fn exaone_is_llama_by_other_names() {
    let place = Place::new();
    let names = [
        ("model.embed_tokens", "transformer.wte"),
        ("model.norm", "transformer.ln_f"),
        ("model.layers.", "transformer.h."),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("self_attn.o_proj", "attn.attention.out_proj"),
        ("self_attn.", "attn.attention."),
        ("mlp.gate_proj", "mlp.c_fc_0"),
        ("mlp.up_proj", "mlp.c_fc_1"),
        ("mlp.down_proj", "mlp.c_proj"),
    ];
    let rename = |name: &str| Some(names.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new)));
    let change = |c: &mut Value| {
        let keys = [
            ("num_hidden_layers", "num_layers"),
            ("rms_norm_eps", "layer_norm_epsilon"),
            ("hidden_act", "activation_function"),
        ];
        let map = c.as_object_mut().unwrap();
        keys.iter().for_each(|(old, new)| drop(map.remove(*old).map(|value| map.insert((*new).into(), value))));
        map.insert("model_type".into(), "exaone".into());
    };
    let folder = place.folder("models/llama-mha", change, rename);
    assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors("models/llama-mha")).unwrap()));
}

/// MiniCPM's factors are Granite's, computed from other values.
#[test]
fn minicpm_is_granite_by_other_factors() {
    let place = Place::new();
    let change = |c: &mut Value| {
        let (e, r) = (c["embedding_multiplier"].clone(), c["residual_multiplier"].as_f64().unwrap());
        let layers = c["num_hidden_layers"].as_f64().unwrap();
        c["dim_model_base"] = (c["hidden_size"].as_f64().unwrap() / c["logits_scaling"].as_f64().unwrap()).into();
        (c["scale_emb"], c["scale_depth"]) = (e, (r * layers.sqrt()).into());
        for key in ["embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"] {
            c.as_object_mut().unwrap().remove(key);
        }
        c["model_type"] = "minicpm".into();
    };
    let got = place.logits(&place.folder("families/granite", change, same)).unwrap();
    // MiniCPM's attention has the usual scale.
    let scale = |c: &mut Value| c["attention_multiplier"] = 0.25.into();
    let expected = place.logits(&place.folder("families/granite", scale, same)).unwrap();
    assert!(max_difference(&got, &expected) < 1e-6, "{}", max_difference(&got, &expected));
}

#[test]
fn ministral_3_ends_where_queries_would_be_scaled() {
    let place = Place::new();
    let change = |c: &mut Value| {
        c["model_type"] = "ministral3".into();
        c["sliding_window"] = Value::Null;
        c.as_object_mut().unwrap().remove("layer_types");
        c["rope_parameters"] = json!({"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 64, "llama_4_scaling_beta": 0.1});
    };
    let folder = place.folder("families/ministral", change, same);
    let source = import::open(&folder).unwrap();
    assert_eq!((source.spec().globals.max_positions, source.spec().globals.bounded), (64, true));
    // Equal factors of both kinds leave the scores alone.
    let a = *source.spec().layers[0].attention().unwrap();
    assert_eq!((a.scale, a.window), (0.25, 0));
    place.logits(&folder).unwrap();
    // The same in GGUF, with and without scaled frequencies.
    let float = |key: &str, x: f32| gguf_bytes::entry(&format!("mistral3.{key}"), 6, &x.to_le_bytes());
    let beta = || float("attention.temperature_scale", 0.1);
    let yarn = vec![
        gguf_bytes::string("mistral3.rope.scaling.type", "yarn"),
        float("rope.scaling.factor", 4.0),
        gguf_bytes::number("mistral3.rope.scaling.original_context_length", 64),
    ];
    let bounds = |entries: Vec<Vec<u8>>| {
        let file = gguf(&place, "x.gguf", ("ministral", "mistral3"), &[], entries);
        let globals = import::open(&file).unwrap().spec().globals;
        (globals.max_positions, globals.bounded)
    };
    assert_eq!(bounds([yarn.clone(), vec![beta()]].concat()), (64, true));
    assert_eq!(bounds(yarn), (256, false));
    assert_eq!(bounds(vec![beta()]), (256, true));
    let other = vec![gguf_bytes::entry("arcee.attention.temperature_scale", 6, &0.1f32.to_le_bytes())];
    let words = ["arcee.attention.temperature_scale 0.1", "is not supported"];
    place.refuses(&gguf(&place, "x.gguf", ARCEE, &[], other), &words);
}

#[test]
fn rotation_in_the_older_style() {
    let place = Place::new();
    for (family, key) in [("families/arcee-yarn", "type"), ("families/phi4-mini", "rope_type")] {
        let change = |c: &mut Value| {
            let mut rope = c.as_object_mut().unwrap().remove("rope_parameters").unwrap();
            let map = rope.as_object_mut().unwrap();
            c["rope_theta"] = map.remove("rope_theta").unwrap();
            let kind = map.remove("rope_type").unwrap();
            map.insert(key.into(), kind);
            map.remove("partial_rotary_factor");
            c["rope_scaling"] = rope;
            let dtype = c["dtype"].take();
            c["torch_dtype"] = dtype;
        };
        let folder = place.folder(family, change, same);
        assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors(family)).unwrap()), "{family}");
    }
    let change = |c: &mut Value| {
        let map = c.as_object_mut().unwrap();
        ["rope_parameters", "layer_types", "_sliding_window_pattern"].iter().for_each(|key| drop(map.remove(*key)));
        map.insert("rope_theta".into(), json!(1e6));
        map.insert("rope_local_base_freq".into(), json!(1e4));
        map.insert("sliding_window_pattern".into(), json!(3));
    };
    let folder = place.folder("families/gemma3", change, same);
    assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors("families/gemma3")).unwrap()));
}

/// Scaling that is said beside the rotation counts, and none is taken for no scaling.
#[test]
fn scaling_in_two_places_or_of_no_kind() {
    let place = Place::new();
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let alone = |c: &mut Value| {
        c.as_object_mut().unwrap().remove("rope_parameters");
        c["rope_scaling"] = yarn.clone();
    };
    let alone = place.logits(&place.folder("families/arcee", alone, same)).unwrap();
    let beside = |c: &mut Value| c["rope_scaling"] = yarn.clone();
    assert!(same_bits(&place.logits(&place.folder("families/arcee", beside, same)).unwrap(), &alone));
    assert!(max_difference(&place.logits(&vectors("families/arcee")).unwrap(), &alone) > 0.1);
    let other = |c: &mut Value| {
        c["rope_parameters"]["rope_theta"] = 5e5.into();
        c["rope_scaling"] = yarn.clone();
    };
    let words = ["rope_parameters has rope_theta 500000.0, and rope_scaling beside it has not"];
    place.refuses(&place.folder("families/arcee", other, same), &words);
    for key in ["rope_parameters", "rope_scaling"] {
        let untyped = |c: &mut Value| c[key] = json!({"factor": 4.0});
        let words = ["the RoPE parameters have factor and no rope_type (default, linear"];
        place.refuses(&place.folder("families/arcee", untyped, same), &words);
    }
}

#[test]
fn end_tokens_of_all_files() {
    let place = Place::new();
    let folder = place.folder("families/arcee", |_| {}, same);
    let write = |file: &str, value: Value| std::fs::write(folder.join(file), value.to_string()).unwrap();
    write("generation_config.json", json!({"eos_token_id": [2, 9]}));
    write("tokenizer_config.json", json!({"eos_token": {"content": "<|im_end|>"}}));
    write(
        "tokenizer.json",
        json!({"added_tokens": [{"id": 7, "content": "<|im_end|>"}], "model": {"vocab": {"b": 8}}}),
    );
    let eos = || import::open(&folder).unwrap().spec().globals.eos().to_vec();
    assert_eq!(eos(), [2, 9, 7]);
    write("tokenizer_config.json", json!({"eos_token": "b"}));
    assert_eq!(eos(), [2, 9, 8]);
    write("tokenizer_config.json", json!({"eos_token": "nowhere"}));
    assert_eq!(eos(), [2, 9]);
}

/// `config.json` is read when a folder is opened, and not again for each tensor.
#[test]
fn tensors_do_not_read_the_configuration_again() {
    let place = Place::new();
    let folder = place.folder("families/arcee", |_| {}, same);
    let source = import::open(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "not JSON").unwrap();
    for layer in 0..source.spec().globals.layers {
        for row in ROLES {
            source.tensor(row.role, layer).unwrap_or_else(|e| panic!("{} of layer {layer}: {e}", row.name));
        }
    }
    assert!(import::open(&folder).is_err(), "the changed configuration was not read");
}

#[cfg(unix)]
#[test]
fn a_folder_of_the_cache_of_hugging_face() {
    let place = Place::new();
    let cache = place.path("models--owner--name");
    let snapshot = cache.join("snapshots/0123abcd");
    for folder in [&cache.join("blobs"), &cache.join("refs"), &snapshot] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(vectors("families/arcee").join(file), cache.join("blobs").join(file)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(file), snapshot.join(file)).unwrap();
    }
    std::fs::write(cache.join("refs/main"), "0123abcd").unwrap();
    let plain = place.logits(&vectors("families/arcee")).unwrap();
    for folder in [&cache, &snapshot] {
        assert!(same_bits(&place.logits(folder).unwrap(), &plain));
    }
    std::fs::write(cache.join("refs/main"), "../../elsewhere").unwrap();
    place.refuses(&cache, &["has no config.json"]);
}

/// A pipe would be waited for, for ever. In place of a reference it is as good as none; in place of a file that says what
/// the model is, it is an error.
#[cfg(unix)]
#[test]
fn pipes_are_no_part_of_a_folder() {
    let place = Place::new();
    let folder = place.folder("families/arcee", |_| {}, same);
    std::fs::create_dir(folder.join("refs")).unwrap();
    let pipe = |name| assert!(std::process::Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
    pipe("refs/main");
    assert!(same_bits(&place.logits(&folder).unwrap(), &place.logits(&vectors("families/arcee")).unwrap()));
    let index = "model.safetensors.index.json";
    for name in [index, "generation_config.json", "tokenizer.json"] {
        pipe(name);
        place.refuses(&folder, &[name, "is not a file"]);
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    // An index that is no text is an error, and not the same as none.
    std::fs::write(folder.join(index), [255, 254]).unwrap();
    place.refuses(&folder, &[index, "is not UTF-8 text"]);
}

#[test]
fn unknown_tensors_and_settings_are_named() {
    let place = Place::new();
    let extra = |name: &str| Some(name.replace("self_attn.q_proj.weight", "self_attn.q_proj.weight_scale"));
    let words = ["self_attn.q_proj.weight_scale has no place", "family arcee"];
    place.refuses(&place.folder("families/arcee", |_| {}, extra), &words);
    // Beside the layers, where tensors of other parts may be.
    let more = |into: &'static str| move |name: &str| Some(name.replace("model.layers.2.input_layernorm.weight", into));
    let words = ["tensor model.norm.bias has no place", "family arcee has no such tensor beside the layers"];
    place.refuses(&place.folder("families/arcee", |_| {}, more("model.norm.bias")), &words);
    let words = ["tensor model.embed_norm.weight has no place", "beside the layers"];
    place.refuses(&place.folder("families/arcee", |_| {}, more("model.embed_norm.weight")), &words);
    for part in ["model.visual.norm.weight", "vision_tower.norm.weight", "mtp.norm.weight"] {
        let folder = place.folder("families/arcee", |_| {}, more(part));
        assert!(import::open(&folder).is_ok(), "{part}");
    }
    let bytes = twins::changed_twin(&vectors("families/arcee"), "arcee", |_| {});
    for name in ["output_norm.bias", "token_embd_norm.weight"] {
        std::fs::write(place.path("x.gguf"), with_tensor(bytes.clone(), name, 64, &[0; 256])).unwrap();
        place.refuses(&place.path("x.gguf"), &[&format!("tensor {name} has no place"), "beside the layers"]);
    }
    // Layers that the configuration does not count.
    let fewer = |c: &mut Value| c["num_hidden_layers"] = 2.into();
    let words = ["tensor model.layers.2.", "none of the 2 layers (num_hidden_layers)"];
    place.refuses(&place.folder("families/arcee", fewer, same), &words);
    let gate = |c: &mut Value| c["model_type"] = "nemotron".into();
    place.refuses(&place.folder("families/seed_oss", gate, same), &["gate_proj.weight has no place", "nemotron"]);
    let other = |c: &mut Value| c["layer_types"] = json!(["conv", "full_attention", "full_attention"]);
    place.refuses(&place.folder("families/ministral", other, same), &["layer_types has", "conv", "full_attention and"]);
    let experts = |c: &mut Value| c["num_local_experts"] = 4.into();
    place.refuses(&place.folder("families/arcee", experts, same), &["num_local_experts 4", "arcee are not supported"]);
    let sigmoid = vec![gguf_bytes::number("qwen3moe.expert_gating_func", 2)];
    let file = gguf(&place, "x.gguf", ("qwen3_moe", "qwen3moe"), &[], sigmoid);
    place.refuses(&file, &["qwen3moe.expert_gating_func 2 is not supported"]);
    let norms = |c: &mut Value| c["qk_layernorm"] = true.into();
    place.refuses(&place.folder("families/stablelm", norms, same), &["qk_layernorm true is not supported"]);
}

/// Positions of LongRoPE end where its other divisors would begin.
#[test]
fn longrope_ends_at_the_trained_context() {
    let spec = import::open(&vectors("families/phi4-mini")).unwrap().spec().clone();
    assert_eq!((spec.globals.max_positions, spec.rotated, spec.ropes[0].len()), (64, 12, 8));
    assert_eq!(spec.ropes[0][6..], [0.0, 0.0]);
    let expected = tensor(&vectors("families/phi4-mini/expected.safetensors"), "input_ids");
    assert!(expected.data.len() <= 64);
    // A longer session is refused, wherever it is asked for.
    let place = Program::new();
    place.works(&format!("pack {} -o short.sllm --format f32", vectors("families/phi4-mini").display()));
    let model = LoadedModel::open(&place.path("short.sllm"), None).unwrap();
    let options = SessionOptions::of(model.model());
    let memory = |context| Session::memory_required(model.model(), &options.within(context));
    assert!(memory(64).is_ok() && matches!(memory(65), Err(shadowllm_core::Error::BadOption(_))));
    place.write("ids.json", json!(vec![7; 65]).to_string());
    let words = ["65 positions are needed", "short.sllm has 64", "pack its source again with --context 65"];
    place.fails(2, "logits short.sllm --ids ids.json -o l.safetensors", &words);
    place.fails(2, "run short.sllm -p hi --context 65", &words);
    let long = format!("pack {} -o long.sllm --context 65", vectors("families/phi4-mini").display());
    place.works(&long);
    place.works("logits long.sllm --ids ids.json -o l.safetensors");
}

/// With a longer context, positions are rotated by the other divisors, as in transformers for longer texts.
#[test]
fn longrope_for_longer_texts() {
    let place = Place::new();
    let expected = vectors("families/phi4-mini/long.safetensors");
    let ids: Vec<u32> = tensor(&expected, "input_ids").data.iter().map(|x| *x as u32).collect();
    let wanted = tensor(&expected, "logits").data;
    let file = place.path("twin.gguf");
    std::fs::write(&file, twins::twin(&vectors("families/phi4-mini"), "phi3")).unwrap();
    for path in [&vectors("families/phi4-mini"), &file] {
        let (source, image) = (import::open_for(path, Some(ids.len())).unwrap(), place.path("long.sllm"));
        assert_eq!(source.spec().globals.max_positions, ids.len());
        let formats = Formats::all(Format::F32);
        pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
        let model = LoadedModel::open(&image, None).unwrap();
        let got = logits(&model, &Serial, &ids, KvFormat::F32, Reading::Prefill(ids.len()));
        let difference = max_difference(&got[got.len() - wanted.len()..], &wanted);
        assert!(difference < 2e-5, "{}: {difference}", path.display());
        let short = import::open_for(path, Some(64)).unwrap();
        assert_eq!(short.spec().ropes, import::open(path).unwrap().spec().ropes);
        for (context, most) in [(0, 64), (257, 256)] {
            let error = import::open_for(path, Some(context)).map(drop).unwrap_err().to_string();
            assert!(
                error.contains(&format!("a context of {context} tokens")) && error.contains(&most.to_string()),
                "{error}"
            );
        }
    }
}

/// If the tokenizer adds a beginning token, every window of a perplexity begins with one.
#[test]
fn windows_begin_as_the_tokenizer_asks() {
    let begun = begin_windows(&[1, 2, 3, 4, 5, 6, 7, 8], &[99], 4).unwrap();
    assert_eq!(begun, [99, 1, 2, 3, 99, 4, 5, 6, 99, 7, 8]);
    assert_eq!(begin_windows(&[1, 2, 3], &[], 2).unwrap(), [1, 2, 3]);
    assert!(begin_windows(&[1, 2, 3], &[99], 1).is_err());
    let place = Program::new();
    place.copy(&vectors("brown-opt"), "model");
    place.begin_texts();
    pack_to(&place.path("model"), Format::F32, &place.path("brown.sllm"));
    let model = LoadedModel::open(&place.path("brown.sllm"), None).unwrap();
    let bos = model.model().config().bos.unwrap();
    assert_eq!(beginning(&Text::of(&model).unwrap()).unwrap(), [bos]);
    place.write("text.txt", "The jury said that it was to be done, and so it was done by the county.");
    let got: Value = serde_json::from_str(&place.works("eval brown.sllm --text text.txt --json").out).unwrap();
    assert_eq!(got["beginning"], json!([bos]));
    assert!(place.works("eval brown.sllm --text text.txt").out.contains("after the tokenizer's beginning token"));
    // The scored tokens are those of the text, each given the beginning token and the tokens before it.
    let ids =
        Text::of(&model).unwrap().encode(&std::fs::read_to_string(place.path("text.txt")).unwrap(), false).unwrap();
    assert_eq!(got["tokens"], json!(ids.len()));
    let all = [vec![bos], ids].concat();
    let rows = logits(&model, &Serial, &all, KvFormat::F32, Reading::Prefill(all.len()));
    let difference = got["mean_nll"].as_f64().unwrap() - shadowllm_tests::loss(&rows, &all);
    assert!(difference.abs() < 1e-6, "{difference}");
}

#[test]
fn sources_are_inspected_before_they_are_packed() {
    let place = Program::new();
    place.write("x.gguf", twins::twin(&vectors("families/qwen3_moe"), "qwen3moe"));
    place.copy(&vectors("families/gemma3"), "model");
    let json = |command: &str| serde_json::from_str::<Value>(&place.works(command).out).unwrap();
    let file = json("inspect x.gguf --json");
    assert_eq!((&file["family"], &file["types"]["F32"]), (&json!("qwen3_moe"), &json!(39)));
    assert_eq!(file["becomes"], json!({"f32": 89}));
    assert_eq!(file["architecture"]["kinds"][0]["blocks"][1]["experts"], 8);
    assert_eq!((&file["refused"], &file["tokenizer"]), (&json!([]), &json!(false)));
    let folder = json("inspect model --json");
    assert_eq!((&folder["family"], &folder["types"]), (&json!("gemma3_text"), &json!({"BF16": 41})));
    assert_eq!(folder["architecture"]["kinds"].as_array().unwrap().len(), 2);
    let shown = place.works("inspect model").out;
    for word in ["model  not packed yet", "family", "gemma3_text", "BF16", "layers 0-1", "window 16", "layers 2"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // If a tensor is missing, the rest is still shown.
    let bytes = std::fs::read(place.path("model/model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let kept = all.iter().filter(|(name, _)| *name != "model.layers.1.mlp.up_proj.weight");
    std::fs::write(place.path("model/model.safetensors"), safetensors::serialize(kept, None).unwrap()).unwrap();
    assert!(place.works("inspect model").out.contains("no tensor for up of layer 1"));
    place.write(
        "y.gguf",
        twins::changed_twin(&vectors("families/arcee"), "arcee", |entries| {
            entries[0] = gguf_bytes::string("general.architecture", "rwkv7");
        }),
    );
    place.fails(1, "inspect y.gguf", &["y.gguf: architecture rwkv7 is not supported", "qwen3moe"]);
}

/// `tokenizer.model` alone, of both kinds, with and without a space before texts: the ids of SentencePiece itself.
#[test]
fn tokens_are_sentencepieces() {
    let expected: Value = serde_json::from_str(&read(&vectors("sentencepiece/expected.json"))).unwrap();
    for (name, cases) in expected.as_object().unwrap() {
        let place = Place::new();
        let folder = place.folder("families/arcee", |_| {}, same);
        std::fs::copy(vectors("sentencepiece").join(format!("{name}.model")), folder.join("tokenizer.model")).unwrap();
        let json = import::open(&folder).unwrap().tokenizer().unwrap().unwrap();
        let text = Text::from_json(&json).unwrap();
        for case in cases.as_array().unwrap() {
            let got = text.encode(case["text"].as_str().unwrap(), false).unwrap();
            assert_eq!(json!(got), case["ids"], "{name}: {case}");
        }
        // An answer that continues a text begins with its space.
        let ids = text.encode("the in", false).unwrap();
        let at = (1..ids.len()).find(|at| text.piece(ids[*at]).starts_with([' ', '▁'])).unwrap();
        let show = |mut stream: TextStream| {
            let pieces: String = ids[at..].iter().map(|id| stream.push(*id).unwrap()).collect();
            pieces + &stream.finish().unwrap()
        };
        assert_eq!(show(text.stream_after(ids[at - 1])), " in", "{name}");
        // Neither does a text that continues another one get a space.
        let language = Language { text, template: Template::default(), bos: None, ends: Vec::new(), vocab: 0 };
        for control in [true, false] {
            let ids = language.continued("the in", control).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| language.text.bytes(*id, false)).collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), "the in", "{name}");
        }
        // A beginning token is added if the folder says so.
        for add in [true, false] {
            std::fs::write(folder.join("tokenizer_config.json"), json!({"add_bos_token": add}).to_string()).unwrap();
            let json = import::open(&folder).unwrap().tokenizer().unwrap().unwrap();
            let before = beginning(&Text::from_json(&json).unwrap()).unwrap();
            assert_eq!(before, if add { vec![1] } else { vec![] }, "{name}");
        }
        // A file that is cut off gives an error or fewer tokens, never a panic.
        let whole = std::fs::read(folder.join("tokenizer.model")).unwrap();
        for cut in (0..whole.len()).step_by(97) {
            std::fs::write(folder.join("tokenizer.model"), &whole[..cut]).unwrap();
            if let Err(error) = import::open(&folder).unwrap().tokenizer() {
                assert!(error.to_string().contains("tokenizer.model: "), "{error}");
            }
        }
    }
}

/// A folder with `tokenizer.model` alone may add tokens to it in two files.
#[test]
fn tokens_that_are_added_to_sentencepieces() {
    let place = Place::new();
    let folder = place.folder("families/arcee", |_| {}, same);
    std::fs::copy(vectors("sentencepiece/bpe.model"), folder.join("tokenizer.model")).unwrap();
    let plain = Text::from_json(&import::open(&folder).unwrap().tokenizer().unwrap().unwrap()).unwrap();
    let first = (0..).find(|id| plain.piece(*id).is_empty()).unwrap();
    let write = |file: &str, value: Value| std::fs::write(folder.join(file), value.to_string()).unwrap();
    write("added_tokens.json", json!({"<|im_start|>": first, "<|im_end|>": first + 1, "<tool>": first + 2}));
    write(
        "tokenizer_config.json",
        json!({"eos_token": "<|im_end|>", "add_bos_token": false, "additional_special_tokens": ["<|im_start|>"],
               "added_tokens_decoder": {(first + 1).to_string(): {"content": "<|im_end|>", "special": true}}}),
    );
    let source = import::open(&folder).unwrap();
    assert!(source.spec().globals.eos().contains(&(first + 1)));
    let json = source.tokenizer().unwrap().unwrap();
    let text = Text::from_json(&json).unwrap();
    let ids = text.encode("<|im_start|>a<tool><|im_end|>", false).unwrap();
    assert_eq!((ids[0], &ids[ids.len() - 2..]), (first, &[first + 2, first + 1][..]));
    // Special tokens are no text.
    assert_eq!(text.decode(&ids).unwrap().trim(), "a<tool>");
    write("added_tokens.json", json!({"<|im_start|>": first, "<tool>": first + 7}));
    let error = import::open(&folder).unwrap().tokenizer().unwrap_err().to_string();
    assert!(error.contains(&format!("token <tool> is said to be {} and becomes {}", first + 7, first + 2)), "{error}");
}

/// The README names the families and the types of GGUF that can be read.
#[test]
fn the_readme_names_all_families_and_types() {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    for (kind, key) in [(import::Kind::Hf, "`model_type`"), (import::Kind::Gguf, "`general.architecture`")] {
        let mut names = import::family_names(kind);
        names.sort_unstable();
        let list = format!("{key}: {}.", names.join(", "));
        assert!(readme.contains(&list), "the README lacks: {list}");
    }
    let types: Vec<&str> = import::gguf::GgmlType::all().map(import::gguf::GgmlType::name).collect();
    let (last, others) = types.split_last().unwrap();
    let list = format!("Weights are {} or {last}.", others.join(", "));
    assert!(readme.contains(&list), "the README lacks: {list}");
}
