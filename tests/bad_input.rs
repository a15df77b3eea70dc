//! Mistakes on the command line. Every case ends with the exit code that `--help` documents and a sentence that names
//! the file, the mistake and the way out. Nothing looks like a result, nothing panics, no unfinished or temporary file
//! is left, and no earlier output changes (see `Place::fails`).

// Shells, file modes, sockets and signals.
#![cfg(unix)]

#[path = "bad_input/images.rs"]
mod images;
#[path = "bad_input/options.rs"]
mod options;
#[path = "bad_input/outputs.rs"]
mod outputs;
#[path = "bad_input/reports.rs"]
mod reports;
#[path = "bad_input/sources.rs"]
mod sources;
#[path = "bad_input/texts.rs"]
mod texts;

use serde_json::Value;
use shadowllm_core::Format;
use shadowllm_core::image::crc32;
use shadowllm_tests::folder::Shape;
use shadowllm_tests::gguf_file::GgufFile;
use shadowllm_tests::program::Place;
use shadowllm_tests::{pack_to, vectors};
use shadowllm_tools::import::gguf::GgmlType;

/// A small model, as `brown.sllm`: it has a tokenizer, learned positions (256) and a beginning token, but no chat
/// template.
fn brown() -> Place {
    let place = Place::new();
    pack_to(&vectors("brown-opt"), Format::Q4_0, &place.path("brown.sllm"));
    place
}

/// A reference model's folder as `model`.
fn folder(family: &str) -> Place {
    let place = Place::new();
    place.copy(&vectors("models").join(family), "model");
    place
}

/// A reference model packed to `model.sllm`, without a tokenizer; its vocabulary has 320 entries.
fn image(family: &str) -> Place {
    let place = folder(family);
    place.works("pack model -o model.sllm --format q8_0");
    place
}

/// A small GGUF file without a tokenizer.
fn gguf() -> GgufFile {
    GgufFile::llama(Shape { d: 64, ffn: 96, heads: [2, 1, 32], vocab: 96, layers: 2 }, GgmlType::Q8_0)
}

/// Changes a JSON file of a place.
fn edit(place: &Place, file: &str, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&place.read(file)).unwrap();
    change(&mut value);
    place.write(file, value.to_string());
}

/// Corrects the checksum of an image's header.
fn resign(bytes: &mut [u8]) {
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[24..28].fill(0);
    let sum = crc32(&bytes[..head], 0);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
}
