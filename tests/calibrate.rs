//! Calibration, end to end: its effect on new text, interruptions, predictors that are moved between images, and
//! mistakes of users.

// Signals.
#![cfg(unix)]

#[path = "calibrate/families.rs"]
mod families;
#[path = "calibrate/interrupted.rs"]
mod interrupted;
#[path = "calibrate/moved.rs"]
mod moved;
#[path = "calibrate/quality.rs"]
mod quality;
#[path = "calibrate/refused.rs"]
mod refused;

use safetensors::Dtype;
use serde_json::json;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::program::Place;
use shadowllm_tests::vectors;

/// Calibrates the small model quickly; the output options must be added.
const QUICK: &str = "calibrate model.sllm --text text.txt --tokens 624 --window 24 --budget-windows 1 -t 2";

/// A small Llama-like model with the tokenizer of the one that ships with the program.
fn small(layers: usize) -> Place {
    let place = Place::new();
    place.copy(&vectors("brown-opt/tokenizer.json"), "model/tokenizer.json");
    let shape = Shape { d: 64, ffn: 96, heads: [4, 2, 16], vocab: 2048, layers };
    Folder::llama(shape, false, false, &json!({})).write(&place.path("model"), Dtype::F32, 1);
    place.copy(&vectors("brown-heldout.txt"), "text.txt");
    place
}

/// That model packed as `model.sllm`, in this layout.
fn packed(layout: &str) -> Place {
    let place = small(3);
    place.works(&format!("pack model -o model.sllm --format q8_0 --layout {layout}"));
    place
}
