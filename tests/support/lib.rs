//! Code that tests share: the fixtures, models made during a test, running a model, skipping with a note.

/// The Rust program of the README, compiled so that it stays true. Its other programs are run by `.ci/run`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

#[path = "../reference/mod.rs"]
pub mod reference;

#[path = "../gguf/common/mod.rs"]
pub mod gguf_bytes;

pub mod folder;
pub mod gguf_file;
pub mod program;
#[cfg(feature = "calibrate")]
pub mod small;
pub mod sparse;

use safetensors::SafeTensors;
use shadowllm_core::{Executor, Isa, KvFormat, Session, SessionOptions};
use shadowllm_host::model::{LoadedModel, isas};
use shadowllm_host::{Error, Result};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder under tests/vectors.
pub fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

/// The eight reference families.
pub const FAMILIES: [&str; 8] =
    ["llama-gqa-tied-rope3", "llama-mha", "llama-relu", "mistral-swa", "opt", "opt-postnorm-proj", "qwen2", "qwen3"];

/// A tensor of floats with its shape.
pub struct Tensor {
    /// Shape.
    pub shape: Vec<usize>,
    /// Row-major numbers.
    pub data: Vec<f32>,
}

/// A tensor of a safetensors file, f32 or i32, as floats.
///
/// # Panics
/// When the tensor is missing.
pub fn tensor(file: &Path, name: &str) -> Tensor {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let view = all.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let words = view.data().as_chunks::<4>().0.iter();
    let data = match view.dtype() {
        safetensors::Dtype::I32 => words.map(|b| i32::from_le_bytes(*b) as f32).collect(),
        _ => words.map(|b| f32::from_le_bytes(*b)).collect(),
    };
    Tensor { shape: view.shape().to_vec(), data }
}

/// Token ids of a fixture.
pub fn fixture_ids(family: &str) -> Vec<u32> {
    let expected = vectors("models").join(family).join("expected.safetensors");
    tensor(&expected, "input_ids").data.iter().map(|x| *x as u32).collect()
}

/// Packs a model to `out` in one format, densely.
///
/// # Panics
/// When it cannot.
pub fn pack_to(source: &Path, format: shadowllm_core::Format, out: &Path) {
    pack_as(source, format, Arrangement::DENSE, out);
}

/// Packs a model to `out` in one format and arrangement.
///
/// # Panics
/// When it cannot.
pub fn pack_as(source: &Path, format: shadowllm_core::Format, arrangement: Arrangement, out: &Path) {
    let source = import::open(source).unwrap();
    pack(&*source, Formats::all(format), arrangement, out, &mut |_, _| {}).unwrap();
}

/// Every group size, attention by head and by input, the FFN by input.
pub fn arrangements() -> Vec<Arrangement> {
    let groups = [1, 4, 8, 16, 32].map(|neuron_group| Arrangement { neuron_group, ..Arrangement::DENSE });
    let mixed = [1, 32].map(|neuron_group| Arrangement { neuron_group, attention_by_input: true, ffn_by_input: false });
    let rest = [Arrangement::INPUT, Arrangement { attention_by_input: false, ..Arrangement::INPUT }];
    groups.into_iter().chain(mixed).chain(rest).collect()
}

/// How a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As one prefill in batches of this number of tokens.
    Prefill(usize),
    /// Token by token.
    Decode,
}

/// Logits of all tokens, [tokens * vocab].
///
/// # Panics
/// When the model refuses.
pub fn logits(model: &LoadedModel, exec: &dyn Executor, ids: &[u32], kv: KvFormat, reading: Reading) -> Vec<f32> {
    logits_with(model, exec, ids, kv, reading, None)
}

/// Prepares a session that may skip, before it reads.
pub type Prepare<'a> = &'a dyn Fn(&mut Session);

/// [`logits`] of a session that may skip, if `prepare` is given.
///
/// # Panics
/// When the model refuses.
pub fn logits_with(
    model: &LoadedModel,
    exec: &dyn Executor,
    ids: &[u32],
    kv: KvFormat,
    reading: Reading,
    prepare: Option<Prepare>,
) -> Vec<f32> {
    let batch = if let Reading::Prefill(n) = reading { n } else { 1 };
    let options = SessionOptions {
        context: ids.len(),
        batch,
        logit_rows: batch.min(5),
        ahead: 0,
        kv,
        sparsity: prepare.is_some(),
    };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    if let Some(prepare) = prepare {
        prepare(&mut session);
    }
    let mut all = Vec::new();
    match reading {
        Reading::Prefill(_) => session.prefill_each(exec, ids, &mut |_, row| all.extend_from_slice(row)).unwrap(),
        Reading::Decode => ids.iter().for_each(|id| all.extend_from_slice(session.decode(exec, *id).unwrap())),
    }
    all
}

/// Mean next-token cross-entropy of `logits` [tokens * vocab].
pub fn loss(logits: &[f32], ids: &[u32]) -> f64 {
    let vocab = logits.len() / ids.len();
    let rows = logits.chunks_exact(vocab).zip(&ids[1..]);
    rows.map(|(row, next)| shadowllm_tools::eval::nll(row, *next)).sum::<f64>() / (ids.len() - 1) as f64
}

/// Largest absolute difference. It is NaN, which is neither below a limit nor above one, if a number of the two is NaN or both
/// are the same infinity.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // In this order NaN is above all numbers.
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).max_by(f32::total_cmp).unwrap_or(0.0)
}

/// [`max_difference`] in standard deviations of the expected numbers, so that one limit suits models with logits of any size.
pub fn max_deviation(got: &[f32], expected: &[f32]) -> f32 {
    let mean = |of: &mut dyn Iterator<Item = f64>| of.sum::<f64>() / expected.len() as f64;
    let numbers = || expected.iter().map(|x| f64::from(*x));
    let middle = mean(&mut numbers());
    max_difference(got, expected) / mean(&mut numbers().map(|x| (x - middle).powi(2))).sqrt() as f32
}

/// Whether all bits are the same.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Opens an image once per instruction set of this machine.
pub fn on_every_isa(image: &Path) -> Vec<(Isa, LoadedModel)> {
    isas().into_iter().map(|isa| (isa, LoadedModel::open(image, Some(isa)).unwrap())).collect()
}

/// Writes, past the test harness, which would hide it, that something was not tested.
///
/// # Panics
/// When the variable `SHADOWLLM_NO_SKIPS` is set to something.
pub fn skipped(why: &str) {
    skipped_if(std::env::var_os("SHADOWLLM_NO_SKIPS").is_none_or(|v| v.is_empty()), why);
}

fn skipped_if(allowed: bool, why: &str) {
    assert!(allowed, "SHADOWLLM_NO_SKIPS is set, and this cannot be tested: {why}");
    // Nothing can be done when standard error is closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED, NOT TESTED: {why}");
}

/// A fetched file; `None`, with a note, without a network.
///
/// # Panics
/// When what was fetched is not the expected file, or the cache cannot be written.
pub fn fetched(file: Result<PathBuf>) -> Option<PathBuf> {
    match file {
        Ok(path) => Some(path),
        Err(Error::Other(why)) => {
            skipped(&why);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The real model's GGUF file, fetched once; `None`, with a note, without a network.
///
/// # Panics
/// As [`fetched`].
pub fn smollm2() -> Option<PathBuf> {
    static ONCE: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| fetched(shadowllm_tools::fetch::smollm2())).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_no_small_difference() {
        assert_eq!(max_difference(&[1.0, -3.0, 2.0], &[1.5, -1.0, 2.0]), 2.0);
        assert_eq!(max_difference(&[f32::INFINITY, 1.0], &[0.0, 1.0]), f32::INFINITY);
        assert_eq!(max_deviation(&[1.0, 6.0], &[1.0, 5.0]), 0.5);
        for at in 0..3 {
            let mut got = [1.0; 3];
            got[at] = -f32::NAN;
            assert!(max_difference(&got, &[1.0; 3]).is_nan() && max_difference(&[1.0; 3], &got).is_nan());
        }
    }

    #[test]
    #[should_panic(expected = "cannot be tested: a model")]
    fn skips_can_be_failures() {
        skipped_if(false, "a model");
    }

    #[test]
    #[should_panic(expected = "with another checksum")]
    fn another_file_than_the_expected_one_is_no_skip() {
        fetched(Err(Error::file(Path::new("model.gguf"), "was fetched with another checksum")));
    }
}
