//! Configurations and GGUF headers of any content: an error that is a sentence, or a model; never a panic, and never more
//! memory than a small multiple of the file.

#[path = "families/twins.rs"]
mod twins;

use proptest::prelude::*;
use shadowllm_core::Format;
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::folder::Shape;
use shadowllm_tests::gguf_file::{GgufFile, GgufTensor};
use shadowllm_tests::{gguf_bytes, vectors};
use shadowllm_tools::import;
use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

struct Measuring;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator, whose guarantees hold.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller meets the requirements of this method, which are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller meets the requirements of this method, which are those of the system's allocator.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// Room for twice the file in f32, its longest lists, and the description of 4096 layers.
const ROOM: usize = 32 << 20;

/// The most memory that is held in a call, in bytes.
fn measured(call: impl FnOnce()) -> usize {
    // Memory is measured over all threads, so only one source is read at a time.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    call();
    MOST.load(Ordering::Relaxed).saturating_sub(before)
}

/// Reads and packs a source, whatever it is; `len` is its length in bytes.
fn survives(source: &Path, image: &Path, len: usize) {
    let formats = Formats::all(Format::F32);
    let most = measured(|| {
        let packed = import::open(source).and_then(|s| pack(&*s, formats, Arrangement::DENSE, image, &mut |_, _| {}));
        match packed {
            // Whether the engine accepts the image is tested elsewhere; here it must only not panic.
            Ok(_) => drop(LoadedModel::open(image, None)),
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() > 20 && text.len() < 3000, "no sentence for people: {text}");
            }
        }
    });
    assert!(most < 8 * len + ROOM, "{most} bytes for {} of {len}", source.display());
}

/// Arrays of bytes, which may be most of a file, take their length and no more; long lists where a list is for layers are
/// refused before they become JSON.
#[test]
fn long_arrays_take_no_more_than_they_are() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("model.gguf");
    // Little enough for other tests of this program, whose memory is measured at the same time.
    let bytes = vec![1; 4 << 20];
    for (key, kind) in [("unknown", 0), ("unknown", 1), ("unknown", 7), ("llama.attention.head_count", 0)] {
        let mut model = with_a_tokenizer();
        model.set(key, gguf_bytes::array(key, kind, bytes.len() as u64, &bytes));
        std::fs::write(&file, model.bytes()).unwrap();
        let most = measured(|| {
            let opened = import::open(&file).map(drop);
            assert_eq!(opened.is_ok(), key == "unknown", "{key}");
            assert!(opened.err().is_none_or(|e| e.to_string().contains("one for each of at most 4096 layers")));
        });
        assert!(most < 3 * bytes.len(), "{key} of type {kind}: {most} bytes for {}", bytes.len());
    }
}

/// Small files that would become many times as large: divisors as JSON, and tokens that can be cut at every letter.
#[test]
fn files_that_stand_for_much_more() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("model.gguf");
    let refused = |model: &GgufFile, words: &str| {
        let bytes = model.bytes();
        std::fs::write(&file, &bytes).unwrap();
        let most = measured(|| {
            let said = import::open(&file).and_then(|source| source.tokenizer()).err().map(|e| e.to_string());
            assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{said:?}");
        });
        assert!(most < 16 * bytes.len() + (16 << 20), "{words}: {most} bytes for {}", bytes.len());
    };
    let mut model = with_a_tokenizer();
    let (rows, cols) = (1, 1 << 21);
    let name = "rope_freqs.weight".to_owned();
    model.tensors.push(GgufTensor { name, rows, cols, kind: GgmlType::Q4_0, bytes: vec![0; cols / 32 * 18] });
    refused(&model, "rope_freqs.weight has 2097152 numbers");
    // All parts of a text of letters that differ.
    let text: Vec<char> = ('\u{4e00}'..).take(100).collect();
    let texts: Vec<String> =
        (0..100).flat_map(|i| (i + 1..=100).map(move |j| (i, j))).map(|(i, j)| text[i..j].iter().collect()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut model =
        GgufFile::llama(Shape { vocab: texts.len(), d: 32, ffn: 32, layers: 1, heads: [2, 1, 16] }, GgmlType::Q4_0);
    let entries = [
        ("model", gguf_bytes::string("tokenizer.ggml.model", "llama")),
        ("tokens", gguf_bytes::strings("tokenizer.ggml.tokens", &texts)),
        ("scores", gguf_bytes::floats("tokenizer.ggml.scores", &vec![0.0; texts.len()])),
    ];
    entries.into_iter().for_each(|(name, entry)| model.set(&format!("tokenizer.ggml.{name}"), entry));
    refused(&model, "the 5050 tokens (tokenizer.ggml.tokens) have more than 16 merges each");
    let merges = vec!["a b"; 16 * 64 + 1];
    let mut model = with_a_tokenizer();
    model.set("tokenizer.ggml.model", gguf_bytes::string("tokenizer.ggml.model", "gpt2"));
    model.set("tokenizer.ggml.merges", gguf_bytes::strings("tokenizer.ggml.merges", &merges));
    refused(&model, "the 64 tokens (tokenizer.ggml.tokens) have more than 16 merges each");
}

/// Families whose configurations together have most of the keys.
const FAMILIES: [(&str, &str); 6] = [
    ("arcee-yarn", "arcee"),
    ("gemma3", "gemma3"),
    ("gpt2", "gpt2"),
    ("granitemoe", "granitemoe"),
    ("phi4-mini", "phi3"),
    ("qwen2_moe", "qwen2moe"),
];

/// Values of every type that GGUF has, small and large.
fn hostile_values(key: &str) -> Vec<Vec<u8>> {
    let mut all = vec![gguf_bytes::string(key, ""), gguf_bytes::string(key, "yarn"), gguf_bytes::truth(key, true)];
    all.extend([0, 1, 2, 3, 7, 1 << 16, 1 << 26, u32::MAX].map(|n| gguf_bytes::number(key, n)));
    all.extend([u64::MAX, 1 << 40].map(|n| gguf_bytes::entry(key, 10, &n.to_le_bytes())));
    all.push(gguf_bytes::entry(key, 5, &(-1i32).to_le_bytes()));
    all.extend([0.0, -1.0, 1e-30, 1e30, f32::NAN, f32::INFINITY].map(|x| gguf_bytes::entry(key, 6, &x.to_le_bytes())));
    all.extend([vec![], vec![1, 2, 3], vec![2; 5000]].map(|list: Vec<i32>| gguf_bytes::integers(key, &list)));
    all.push(gguf_bytes::floats(key, &[f32::NAN; 3]));
    all.push(gguf_bytes::strings(key, &["full_attention", "x", "sliding_attention"]));
    all.push(gguf_bytes::array(key, 7, 3, &[1, 0, 1]));
    all
}

#[test]
fn every_value_of_a_gguf_header() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    let mut tried = HashSet::new();
    for (name, arch) in FAMILIES {
        let folder = vectors("families").join(name);
        let mut keys: Vec<String> = Vec::new();
        twins::changed_twin(&folder, arch, |entries| {
            let key = |e: &Vec<u8>| String::from_utf8(e[8..8 + usize::from(e[0])].to_vec()).unwrap();
            keys = entries.iter().map(key).collect();
        });
        // Also keys that the file lacks.
        for more in
            ["attention.sliding_window_pattern", "rope.scaling.type", "rope.freq_base_swa", "attention.key_length"]
        {
            keys.push(format!("{arch}.{more}"));
        }
        keys.extend(["general.alignment", "split.count", "split.no"].map(String::from));
        for key in keys.into_iter().filter(|key| tried.insert(key.replace(arch, ""))) {
            for value in hostile_values(&key) {
                let bytes = twins::changed_twin(&folder, arch, |entries| {
                    entries.retain(|e| e[8..8 + usize::from(e[0])] != *key.as_bytes());
                    entries.push(value);
                });
                std::fs::write(&file, &bytes).unwrap();
                survives(&file, &image, bytes.len());
            }
        }
    }
}

#[test]
fn every_value_of_a_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, image) = (temp.path().join("model"), temp.path().join("model.sllm"));
    std::fs::create_dir(&folder).unwrap();
    let values = serde_json::json!([
        null, true, "", "yarn", -1, 0, 1, 3, 67108864, 18446744073709551615u64, 1e-30, 1e30, [], {}, [1, 0, 1], [null],
        ["full_attention", "x", "sliding_attention"], {"rope_type": "longrope"}, {"rope_type": "yarn", "factor": 0},
        {"rope_type": "llama3", "factor": 1e300, "low_freq_factor": 0, "high_freq_factor": 0,
         "original_max_position_embeddings": 0},
        {"full_attention": {"rope_type": "yarn", "factor": -1, "original_max_position_embeddings": 0}}, {"a": {"b": []}}
    ]);
    let mut tried = HashSet::new();
    for (name, _) in FAMILIES {
        let original = vectors("families").join(name);
        std::fs::copy(original.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
        let len = std::fs::metadata(original.join("model.safetensors")).unwrap().len() as usize;
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(original.join("config.json")).unwrap()).unwrap();
        let mut keys: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
        keys.extend(["text_config", "rope_scaling", "partial_rotary_factor", "quantization_config", "layer_types"]);
        for key in keys.into_iter().filter(|key| tried.insert((*key).to_owned())) {
            for value in values.as_array().unwrap() {
                let mut changed = config.clone();
                changed[key] = value.clone();
                std::fs::write(folder.join("config.json"), changed.to_string()).unwrap();
                survives(&folder, &image, len);
            }
        }
    }
}

/// A small model with a tokenizer.
fn with_a_tokenizer() -> GgufFile {
    let shape = Shape { vocab: 64, d: 32, ffn: 32, layers: 1, heads: [2, 1, 16] };
    let mut file = GgufFile::llama(shape, GgmlType::Q4_0);
    let texts: Vec<String> = (0..64).map(|i| if i < 3 { format!("<{i}>") } else { format!("\u{2581}t{i}") }).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let scores: Vec<f32> = (0..64).map(|i| -(i as f32)).collect();
    let entries = [
        ("model", gguf_bytes::string("tokenizer.ggml.model", "llama")),
        ("tokens", gguf_bytes::strings("tokenizer.ggml.tokens", &texts)),
        ("scores", gguf_bytes::floats("tokenizer.ggml.scores", &scores)),
        ("token_type", gguf_bytes::integers("tokenizer.ggml.token_type", &[1; 64])),
        ("eos_token_id", gguf_bytes::number("tokenizer.ggml.eos_token_id", 2)),
    ];
    for (name, entry) in entries {
        file.set(&format!("tokenizer.ggml.{name}"), entry);
    }
    file
}

/// What the import says of a changed file; nothing if it is taken.
fn said(change: impl FnOnce(&mut GgufFile)) -> String {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("model.gguf");
    let mut model = with_a_tokenizer();
    change(&mut model);
    std::fs::write(&file, model.bytes()).unwrap();
    let image = temp.path().join("model.sllm");
    let formats = Formats::all(Format::F32);
    let packed = import::open(&file).and_then(|s| pack(&*s, formats, Arrangement::DENSE, &image, &mut |_, _| {}));
    packed.err().map_or_else(String::new, |e| e.to_string())
}

/// Numbers of tokens, layers and special tokens that do not belong together would make another model, or one that never ends
/// an answer.
#[test]
fn parts_of_a_gguf_that_do_not_belong_together() {
    let cases: [(&str, Vec<u8>, &[&str]); 5] = [
        ("llama.block_count", 2u32.to_le_bytes().to_vec(), &["layer 1", "is the download complete?"]),
        ("llama.block_count", 0u32.to_le_bytes().to_vec(), &["layers is out of range"]),
        ("tokenizer.ggml.eos_token_id", 64u32.to_le_bytes().to_vec(), &["is 64", "none of the file's 64 tokens"]),
        ("tokenizer.ggml.bos_token_id", 900u32.to_le_bytes().to_vec(), &["is 900", "none of the file's 64 tokens"]),
        ("tokenizer.ggml.eot_token_id", 64u32.to_le_bytes().to_vec(), &["is 64", "none of the file's 64 tokens"]),
    ];
    for (key, value, words) in cases {
        let said = said(|file| file.set(key, gguf_bytes::entry(key, 4, &value)));
        let key = if key.starts_with("llama") { "" } else { key };
        assert!(said.contains(key) && words.iter().all(|word| said.contains(word)), "{key}: {said}");
    }
    // The tensors of one layer more than the file says.
    let surplus = said(|file| {
        for i in 0..file.tensors.len() {
            let Some(name) = file.tensors[i].name.strip_prefix("blk.0.").map(|name| format!("blk.1.{name}")) else {
                continue;
            };
            let GgufTensor { rows, cols, kind, ref bytes, .. } = file.tensors[i];
            let more = GgufTensor { name, rows, cols, kind, bytes: bytes.clone() };
            file.tensors.push(more);
        }
    });
    assert!(
        surplus.contains("tensor blk.1.") && surplus.contains("none of the 1 layers (llama.block_count)"),
        "{surplus}"
    );
    for (count, more) in [(63, -1.0), (65, 1.0)] {
        let texts: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let said = said(|file| {
            let lists = [
                ("tokens", gguf_bytes::strings("tokenizer.ggml.tokens", &texts)),
                ("scores", gguf_bytes::floats("tokenizer.ggml.scores", &vec![more; count])),
                ("token_type", gguf_bytes::integers("tokenizer.ggml.token_type", &vec![1; count])),
            ];
            lists.into_iter().for_each(|(name, list)| file.set(&format!("tokenizer.ggml.{name}"), list));
        });
        let words = format!("tokenizer.ggml.tokens has {count} tokens, and the embedding has 64 rows");
        assert!(said.contains(&words), "{said}");
    }
}

/// The largest number and negative ones say that there is no such token; as in llama.cpp, the vocabulary's default is taken.
#[test]
fn a_special_token_that_is_none() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("model.gguf");
    let key = "tokenizer.ggml.eos_token_id";
    for (kind, value) in [(4, u32::MAX), (5, u32::MAX)] {
        let mut model = with_a_tokenizer();
        model.set(key, gguf_bytes::entry(key, kind, &value.to_le_bytes()));
        std::fs::write(&file, model.bytes()).unwrap();
        assert_eq!(import::open(&file).unwrap().spec().globals.eos(), [2]);
    }
}

/// A value of another type than its key's would be taken for a missing one: a model without its template, for example.
#[test]
fn values_of_another_type_than_their_key() {
    let number = |key: &str| gguf_bytes::number(key, 7);
    let list = |key: &str| gguf_bytes::integers(key, &[1, 2]);
    let text = |key: &str| gguf_bytes::string(key, "2");
    let of_texts = |key: &str| gguf_bytes::strings(key, &["a", "b"]);
    let of_truths = |key: &str| gguf_bytes::array(key, 7, 2, &[1, 0]);
    type Entry<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    let cases: [(&str, Entry, &str); 13] = [
        ("tokenizer.chat_template", &number, "is an integer, not a text"),
        ("tokenizer.chat_template", &of_texts, "is an array of texts, not a text"),
        ("tokenizer.chat_template", &|key| gguf_bytes::truth(key, true), "is true or false, not a text"),
        ("tokenizer.ggml.eos_token_id", &text, "is a text, not an integer"),
        ("tokenizer.ggml.eos_token_id", &list, "is an array of numbers, not an integer"),
        (
            "tokenizer.ggml.eos_token_id",
            &|key| gguf_bytes::entry(key, 6, &2f32.to_le_bytes()),
            "is a number, not an integer",
        ),
        ("tokenizer.ggml.tokens", &list, "is an array of numbers, not an array of texts"),
        ("tokenizer.ggml.scores", &of_texts, "is an array of texts, not an array of numbers"),
        ("tokenizer.ggml.token_type", &of_truths, "is an array of something else, not an array of numbers"),
        ("tokenizer.ggml.add_bos_token", &number, "is an integer, not true or false"),
        ("tokenizer.ggml.model", &number, "is an integer, not a text"),
        ("llama.rope.scaling.factor", &text, "is a text, not a number"),
        ("general.architecture", &number, "is an integer, not a text"),
    ];
    for (key, entry, words) in cases {
        let said = said(|file| file.set(key, entry(key)));
        assert!(said.contains(&format!("{key} {words}")), "{key}: {said}");
    }
    assert_eq!(said(|_| {}), "");
}

/// Places and widths of all numbers in a GGUF header, including those of values, but only the first ones of long
/// arrays.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    found: Vec<(usize, usize)>,
}

impl Fields<'_> {
    fn number(&mut self, width: usize) -> usize {
        self.found.push((self.at, width));
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&self.bytes[self.at..self.at + width]);
        self.at += width;
        u64::from_le_bytes(wide) as usize
    }

    fn text(&mut self) {
        self.at += self.number(8);
    }

    fn value(&mut self, kind: usize) {
        match kind {
            0 | 1 | 7 => _ = self.number(1),
            2 | 3 => _ = self.number(2),
            4..=6 => _ = self.number(4),
            8 => self.text(),
            9 => {
                let (kind, count) = (self.number(4), self.number(8));
                for i in 0..count {
                    let before = self.found.len();
                    self.value(kind);
                    if i > 2 {
                        self.found.truncate(before);
                    }
                }
            }
            _ => _ = self.number(8),
        }
    }

    fn of(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut fields = Fields { bytes, at: 0, found: Vec::new() };
        fields.number(4);
        fields.number(4);
        let (tensors, entries) = (fields.number(8), fields.number(8));
        for _ in 0..entries {
            fields.text();
            let kind = fields.number(4);
            fields.value(kind);
        }
        for _ in 0..tensors {
            fields.text();
            let rank = fields.number(4);
            (0..rank).for_each(|_| _ = fields.number(8));
            fields.number(4);
            fields.number(8);
        }
        fields.found
    }
}

/// Replaces every number of a header, from the magic number to the last tensor's offset, one at a time.
#[test]
fn every_number_of_a_gguf_header() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    let whole = with_a_tokenizer().bytes();
    std::fs::write(&file, &whole).unwrap();
    let formats = Formats::all(Format::F32);
    pack(&*import::open(&file).unwrap(), formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
    let fields = Fields::of(&whole);
    assert!(fields.len() > 100, "{}", fields.len());
    for (at, width) in fields {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&whole[at..at + width]);
        let own = u64::from_le_bytes(wide);
        let near = [own.wrapping_add(1), own.wrapping_sub(1), own.wrapping_mul(2), own ^ 0x80];
        for value in near.into_iter().chain([0, 1 << 31, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX]) {
            let mut bytes = whole.clone();
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            std::fs::write(&file, &bytes).unwrap();
            survives(&file, &image, bytes.len());
        }
    }
}

/// The same for the keys of a tokenizer.
#[test]
fn every_value_of_a_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    let keys =
        ["model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id", "eot_token_id"];
    let more =
        ["unknown_token_id", "add_bos_token", "add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap"];
    for kind in ["llama", "t5", "gpt2"] {
        for key in keys.iter().chain(&more) {
            let key = format!("tokenizer.ggml.{key}");
            for value in hostile_values(&key) {
                let mut model = with_a_tokenizer();
                model.set("tokenizer.ggml.model", gguf_bytes::string("tokenizer.ggml.model", kind));
                model.set(&key, value);
                let bytes = model.bytes();
                std::fs::write(&file, &bytes).unwrap();
                println!("{kind} {key}");
                survives(&file, &image, bytes.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gguf_header_with_other_bytes(changes in prop::collection::vec((0usize..4000, any::<u8>()), 1..6), which in 0usize..6) {
        let temp = tempfile::tempdir().unwrap();
        let (file, image) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
        let (name, arch) = FAMILIES[which];
        let mut bytes = twins::twin(&vectors("families").join(name), arch);
        for (at, value) in changes {
            bytes[at] = value;
        }
        std::fs::write(&file, &bytes).unwrap();
        survives(&file, &image, bytes.len());
    }
}
