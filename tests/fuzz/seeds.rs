//! What fuzzing begins with: images in every format and order, calibrated ones too, and small files of every kind.
//!
//!     cargo run --release -p shadowllm-tests --example fuzz_seeds -- FOLDER
//!
//! writes FOLDER/bases/*.sllm and FOLDER/corpus/TARGET/*.

#[path = "../families/twins.rs"]
mod twins;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use shadowllm_core::Format;
use shadowllm_tests::folder::{Folder, Random, Shape};
use shadowllm_tests::gguf_file::GgufFile;
use shadowllm_tests::sparse::small_models;
use shadowllm_tests::{FAMILIES, arrangements, gguf_bytes, pack_as, vectors};
use shadowllm_tools::import::{self, gguf::GgmlType};
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("the folder to write to"));
    bases(&folder.join("bases"));
    let corpus = folder.join("corpus");
    for target in ["image", "live", "predictor", "state"] {
        scripts(&Seeds::of(&corpus, target));
    }
    gguf(&Seeds::of(&corpus, "gguf"));
    safetensors(&Seeds::of(&corpus, "safetensors"));
    tokenizers(&Seeds::of(&corpus, "tokenizer"));
    templates(&Seeds::of(&corpus, "template"));
    chats(&Seeds::of(&corpus, "chat"));
    tasks(&Seeds::of(&corpus, "tasks"));
}

/// A folder of a target's seeds.
struct Seeds(PathBuf);

impl Seeds {
    fn of(corpus: &Path, target: &str) -> Seeds {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        Seeds(folder)
    }

    fn add(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }
}

/// Images: every format that can be encoded, every order, every family, blocks of GGUF files, and calibrated ones.
fn bases(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let shape = Shape { d: 48, ffn: 72, heads: [3, 1, 20], vocab: 77, layers: 2 };
    Folder::llama(shape, true, true, &json!({})).write(temp.path(), safetensors::Dtype::F32, 1);
    let mut orders = arrangements().into_iter().cycle();
    for format in Format::ALL.into_iter().filter(|format| format.has_encoder()) {
        let to = folder.join(format!("format-{}.sllm", format.name()));
        pack_as(temp.path(), format, orders.next().unwrap(), &to);
    }
    for (i, arrangement) in arrangements().into_iter().enumerate() {
        pack_as(temp.path(), Format::Q4_0, arrangement, &folder.join(format!("order-{i}.sllm")));
    }
    let models = FAMILIES.iter().map(|family| vectors("models").join(family));
    let families = twins::TWINS.iter().map(|(family, _)| vectors("families").join(family));
    for (i, model) in models.chain(families).enumerate() {
        let name = format!("family-{}.sllm", model.file_name().unwrap().to_string_lossy());
        let arrangement = [Arrangement::NEURON, Arrangement::INPUT, Arrangement::DENSE][i % 3];
        pack_as(&model, [Format::Q8_0, Format::Q4_1][i % 2], arrangement, &folder.join(name));
    }
    let file = temp.path().join("blocks.gguf");
    let kinds = [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q5K, GgmlType::IQ4XS, GgmlType::MXFP4];
    let shape = Shape { d: 256, ffn: 256, heads: [4, 2, 64], vocab: 40, layers: 1 };
    std::fs::write(&file, GgufFile::llama_of(shape, &[GgmlType::Q6K], &kinds).bytes()).unwrap();
    for (name, arrangement) in [("dense", Arrangement::DENSE), ("input", Arrangement::INPUT)] {
        let to = folder.join(format!("blocks-{name}.sllm"));
        pack(&*import::open(&file).unwrap(), Formats::OWN, arrangement, &to, &mut |_, _| {}).unwrap();
    }
    for (i, small) in small_models().iter().enumerate() {
        std::fs::write(folder.join(format!("calibrated-{i}.sllm")), small.calibrated).unwrap();
    }
}

/// Scripts of changes to images: any bytes will do.
fn scripts(seeds: &Seeds) {
    let mut random = Random(3);
    for i in 0..200 {
        let bytes: Vec<u8> = (0..20 + i % 60).map(|_| (random.draw().to_bits() >> 9) as u8).collect();
        seeds.add(&format!("{i}"), &bytes);
    }
}

/// Before a source: how it is packed, and what a session does.
const SCRIPTS: [[u8; 8]; 4] = [[0; 8], [1, 2, 2, 0, 0, 1, 2, 7], [1, 3, 2, 4, 1, 1, 6, 3], [2, 0, 1, 2, 1, 0, 3, 5]];

fn gguf(seeds: &Seeds) {
    let shape = Shape { vocab: 64, d: 32, ffn: 32, layers: 1, heads: [2, 1, 16] };
    let texts: Vec<String> = (0..64).map(|i| if i < 3 { format!("<{i}>") } else { format!("\u{2581}t{i}") }).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let scores: Vec<f32> = (0..64).map(|i| -(i as f32)).collect();
    let kinds = [GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1, GgmlType::Q5_0];
    for (i, (kind, vocabulary)) in kinds.into_iter().zip(["llama", "gpt2", "t5"].into_iter().cycle()).enumerate() {
        let mut file = GgufFile::llama(shape, kind);
        let entries = [
            gguf_bytes::string("tokenizer.ggml.model", vocabulary),
            gguf_bytes::string("tokenizer.ggml.pre", ["default", "llama-bpe", "qwen2"][i % 3]),
            gguf_bytes::strings("tokenizer.ggml.tokens", &texts),
            gguf_bytes::strings("tokenizer.ggml.merges", &["t 1", "t1 2"]),
            gguf_bytes::floats("tokenizer.ggml.scores", &scores),
            gguf_bytes::integers("tokenizer.ggml.token_type", &[1; 64]),
            gguf_bytes::number("tokenizer.ggml.eos_token_id", 2),
            gguf_bytes::string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        ];
        for entry in entries {
            let key = String::from_utf8(entry[8..8 + usize::from(entry[0])].to_vec()).unwrap();
            file.set(&key, entry);
        }
        seeds.add(&format!("llama-{i}"), &[&SCRIPTS[i % 4][..], &file.bytes()].concat());
    }
    for (i, (family, arch)) in twins::TWINS.iter().enumerate().step_by(4) {
        let bytes = twins::twin(&vectors("families").join(family), arch);
        seeds.add(family, &[&SCRIPTS[i % 4][..], &bytes].concat());
    }
}

/// Configurations and heads of weights; the target makes up the weights.
fn safetensors(seeds: &Seeds) {
    let models = FAMILIES.iter().map(|family| vectors("models").join(family));
    let families = twins::TWINS.iter().map(|(family, _)| vectors("families").join(family));
    for (i, folder) in models.chain(families).enumerate() {
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let head = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        let tokenizer = br#"{"eos_token": "</s>", "bos_token": {"content": "<s>"}, "chat_template": "{{ messages }}"}"#;
        let seed = [&SCRIPTS[i % 4], &config[..], &[0], &file[8..8 + head], &[0], tokenizer].concat();
        seeds.add(&folder.file_name().unwrap().to_string_lossy(), &seed);
    }
}

/// One of every model with one of every part.
fn tokenizers(seeds: &Seeds) {
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let mut tokens = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into(), "\u{2581}".into(), "Ġ".into()];
    tokens.extend(letters);
    tokens.extend(["th", "the", "qu", "##s", "\u{2581}t"].map(String::from));
    let ids: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let scores: Vec<Value> = tokens.iter().map(|token| json!([token, -1.5])).collect();
    let models = [
        json!({"type": "BPE", "vocab": ids, "merges": [["t", "h"], ["th", "e"], ["q", "u"]], "unk_token": "<unk>",
               "byte_fallback": true, "fuse_unk": true}),
        json!({"type": "Unigram", "vocab": scores, "unk_id": 0}),
        json!({"type": "WordPiece", "vocab": ids, "unk_token": "<unk>", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100}),
        json!({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}),
    ];
    let normalizers = [
        json!(null),
        json!({"type": "NFKC"}),
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
               {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
               "lowercase": true}),
        json!({"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "0"}),
        json!({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true},
               {"type": "Lowercase"}, {"type": "NFD"}, {"type": "StripAccents"}]}),
    ];
    let before = [
        json!(null),
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": false}, {"type": "Digits", "individual_digits": true}]}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true}),
        json!({"type": "Whitespace"}),
        json!({"type": "Punctuation", "behavior": "MergedWithPrevious"}),
    ];
    let decoders = [
        json!(null),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
               {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
    ];
    let after = [
        json!(null),
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
               "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}),
        json!({"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
    ];
    let added = json!([{"id": 36, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}]);
    for (m, model) in models.iter().enumerate() {
        for i in 0..normalizers.len() {
            let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": normalizers[i], "pre_tokenizer": before[(i + m) % before.len()],
                "post_processor": after[(i + m) % after.len()], "decoder": decoders[(i + 2 * m) % decoders.len()],
                "model": model});
            seeds.add(&format!("{m}-{i}"), format!("{json}\0the quick brown fox's 12345 \u{e9}").as_bytes());
        }
    }
    seeds.add("brown", &std::fs::read(vectors("brown-opt").join("tokenizer.json")).unwrap());
}

fn templates(seeds: &Seeds) {
    let templates = [
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}{{ '[INST] ' ~ m['content'] | trim ~ ' [/INST]' }}{% endfor %}{{ eos_token }}",
        "{%- macro turn(m, i=0) -%}{{ m.role|upper }}: {{ m.content|indent(2) }}{%- endmacro -%}{% set ns = namespace(n=0) %}{% for m in messages %}{{ turn(m, loop.index) }}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n * 2 % 3 }}",
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest|selectattr('role', 'equalto', 'user')|list %}{{ m.content.split(' ')|join('-') }}{{ m|tojson(indent=2) }}{% endfor %}",
        "{% generation %}{{ '%s %03d' % ('a', 7) }}{% endgeneration %}{{ strftime_now('%Y-%m-%d') }}{% if tools is not none and tools is iterable %}{{ tools }}{% endif %}",
        "{% for i in range(3) recursive %}{{ loop.cycle('a', 'b') }}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ [3, 1, 2]|sort|batch(2)|list }}{{ {'a': 1}.items()|list }}{{ 'x'.replace('x', 'yy').startswith('y') }}",
    ];
    for (i, template) in templates.iter().enumerate() {
        seeds.add(&i.to_string(), template.as_bytes());
    }
}

fn chats(seeds: &Seeds) {
    let answers = [
        "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"g\"}",
        "{\"name\": \"f\", \"parameters\": {\"x\": 1}}; {\"name\": \"g\", \"parameters\": \"{}\"}",
        "<|python_tag|>{\"name\": \"f\"}<function=f>{\"x\": 1}</function>",
        "Yes.[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[ARGS]{}",
        "Sure:\n```tool_code\nprint(f(x='a', y=[1, -2.5, None,], z={'k': True}))\n```",
    ];
    let message = json!({"role": "assistant", "content": [{"type": "text", "text": "Hi"}, null], "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1e300, "y": [-1, true]}}}]});
    let tools =
        json!([{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {"type": "object"}}}]);
    for (i, answer) in answers.iter().enumerate() {
        seeds.add(&i.to_string(), format!("{answer}\0{message}\0{tools}").as_bytes());
    }
}

fn tasks(seeds: &Seeds) {
    let texts = |a: &str, b: &str| -> ArrayRef { Arc::new(StringArray::from(vec![a, b])) };
    let columns = vec![
        ("premise", texts("The man fell.", "It rained.")),
        ("question", texts("cause", "effect")),
        ("choice1", texts("He slipped.", "It was wet.")),
        ("choice2", texts("He ran.", "It was dry.")),
        ("label", Arc::new(Int64Array::from(vec![0, 1])) as ArrayRef),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch.slice(0, 1)).unwrap();
    writer.write(&batch.slice(1, 1)).unwrap();
    writer.finish().unwrap();
    seeds.add("table", &writer.into_inner().unwrap());
    let line = |doc: u64, idx: usize, context: &str| {
        json!({"doc_id": doc, "idx": idx, "label": 1, "native_id": 0, "request_type": "loglikelihood",
               "request": {"context": context, "continuation": format!(" answer {idx}")}})
        .to_string()
    };
    let lines = [line(0, 0, "Question: a\nAnswer:"), line(0, 1, "Question: a\nAnswer:"), line(1_000_000, 0, "Answer:")];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines.join("\n").as_bytes()).unwrap();
    seeds.add("requests", &gzip.finish().unwrap());
}
