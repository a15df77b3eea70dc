//! Configurations and GGUF headers of any content: an error that is a sentence, or a model; never a panic, and never more
//! memory than a small multiple of the file.

#[path = "families/twins.rs"]
mod twins;

use proptest::prelude::*;
use shadowllm_core::Format;
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::{gguf_bytes, vectors};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

struct Measuring;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// Twice the file in f32 beside its longest lists, and the description of 4096 layers.
const ROOM: usize = 32 << 20;

/// Reads and packs a source, whatever it is; `len` is its length in bytes.
fn survives(source: &Path, image: &Path, len: usize) {
    // What is measured is all threads': one at a time.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let formats = Formats::all(Format::F32);
    let packed = import::open(source).and_then(|s| pack(&*s, formats, Arrangement::DENSE, image, &mut |_, _| {}));
    match packed {
        // Refused or not: what the engine thinks of it is another test's question.
        Ok(_) => drop(LoadedModel::open(image, None)),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() > 20 && text.len() < 3000, "no sentence for people: {text}");
        }
    }
    let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(most < 8 * len + ROOM, "{most} bytes for a file of {len}");
}

/// Families whose configurations have most keys between them.
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
        // Keys that the file lacks, too.
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
