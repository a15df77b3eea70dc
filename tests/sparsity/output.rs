//! The sketch of the output matrix: the rows that are read are exact, the others are estimates, on every instruction set.

use shadowllm_core::format::TILE_ROWS;
use shadowllm_core::image::{Role, Storage};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Executor, Format, Serial, Session, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pace::within;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::Text;
use shadowllm_tests::sparse::{dial, with_session};
use shadowllm_tests::{fixture_ids, on_every_isa, same_bits, smollm2, vectors};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::Path;

/// Everything is read but the output matrix.
fn windowed(window: f32) -> Dial {
    Dial { window, ..dial(Policy::Random, 1.0) }
}

/// Logits of a token under a dial, and the bytes that it read.
fn logits(session: &mut Session, exec: &dyn Executor, ids: &[u32], dial: &Dial) -> (Vec<f32>, usize) {
    session.rewind(0).unwrap();
    session.set_dial(dial).unwrap();
    session.prefill(exec, &ids[..8]).unwrap();
    let logits = session.decode(exec, ids[8]).unwrap().to_vec();
    (logits, session.traffic().weights)
}

#[test]
fn rows_in_the_window_are_exact() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let pool = Pool::new(2).unwrap();
    // Tied and untied output matrices, with a cap and a scale of the logits, with a projection before it.
    for name in ["models/qwen3", "models/qwen2", "models/opt-postnorm-proj", "families/gemma2", "families/granite"] {
        let ids = match name.split_once('/') {
            Some(("models", family)) => fixture_ids(family),
            _ => (3..40).collect(),
        };
        // Quantized inputs and floats: the sketch takes the former, whatever the matrix takes.
        for format in [Format::Q8_0, Format::F16] {
            rows_in_the_window(name, format, &ids, &image, &pool);
        }
    }
}

fn rows_in_the_window(name: &str, format: Format, ids: &[u32], image: &Path, pool: &Pool) {
    let formats = Formats { sketch: true, ..Formats::all(format) };
    let source = import::open(&vectors(name)).unwrap();
    pack(&*source, formats, Arrangement::DENSE, image, &mut |_, _| {}).unwrap();
    let mut first: Option<Vec<Vec<f32>>> = None;
    for (isa, model) in on_every_isa(image) {
        let entry = |role: Role| model.model().image().entries().find(|e| e.role == role);
        let output = entry(Role::Output).or(entry(Role::Embed)).unwrap();
        let (sketch, vocab) = (entry(Role::OutputSketch).unwrap(), model.model().config().vocab);
        let Storage::Tiles(g) = output.storage else { panic!("no matrix") };
        let got = with_session(&model, |session| {
            let (dense, all) = logits(session, &Serial, ids, &Dial::default());
            let (whole, whole_bytes) = logits(session, &Serial, ids, &windowed(f32::INFINITY));
            assert!(same_bits(&whole, &dense) && whole_bytes == all, "{name}, {isa:?}: an infinite window");
            let (estimates, least) = logits(session, &Serial, ids, &windowed(0.0));
            let bytes_of = |panels: usize| all - output.bytes() + sketch.bytes() + panels * g.unit_bytes();
            assert_eq!(least, bytes_of(1), "{name}, {isa:?}: the window of the largest alone");
            assert!(!same_bits(&estimates, &dense) && alike(&estimates, &dense) > 0.9, "{name}, {isa:?}: estimates");
            let mut out = vec![estimates.clone()];
            for window in [0.5, 2.0, 1e9] {
                let (got, bytes) = logits(session, &Serial, ids, &windowed(window));
                let (pooled, _) = logits(session, pool, ids, &windowed(window));
                assert!(same_bits(&got, &pooled), "{name}, {isa:?}: other bits with two threads");
                // Each panel is either exact or as estimated; what is read is what is counted.
                let case = format!("{name}, {isa:?}, window {window}");
                let mut exact = 0;
                for (i, got) in got.chunks(TILE_ROWS).enumerate() {
                    let part = i * TILE_ROWS..i * TILE_ROWS + got.len();
                    let read = same_bits(got, &dense[part.clone()]);
                    exact += usize::from(read);
                    assert!(read || same_bits(got, &estimates[part]), "{case}: panel {i} is neither");
                }
                assert_eq!(bytes, bytes_of(exact), "{case}: {exact} panels");
                assert!(exact >= 1 && (window < 1e9 || exact == vocab.div_ceil(TILE_ROWS)), "{case}");
                out.push(got);
            }
            out
        });
        let first = first.get_or_insert_with(|| got.clone());
        assert!(got.iter().zip(&*first).all(|(a, b)| same_bits(a, b)), "{name}, {isa:?}: other bits");
    }
}

/// The cosine of two vectors.
fn alike(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn windows_out_of_range_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let source = import::open(&vectors("models/qwen3")).unwrap();
    pack(&*source, Formats::all(Format::Q8_0), Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
    let model = LoadedModel::open(&image, None).unwrap();
    with_session(&model, |session| {
        for window in [-1.0, f32::NAN] {
            assert!(matches!(session.set_dial(&windowed(window)), Err(Error::BadOption(_))), "{window}");
        }
    });
}

/// What may be skipped where calibration measured nothing: rows of the output matrix, if a sketch names them.
#[test]
fn without_calibration_only_rows_of_the_output_are_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let source = import::open(&vectors("models/qwen3")).unwrap();
    for (sketch, policy) in [(true, Policy::Output), (false, Policy::Off)] {
        let formats = Formats { sketch, ..Formats::all(Format::Q8_0) };
        pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
        let model = LoadedModel::open(&image, None).unwrap();
        assert_eq!(within(model.model(), None).unwrap(), Some((policy, 1.0)));
        assert_eq!(within(model.model(), Some(0.01)).unwrap(), None);
        assert!(within(model.model(), Some(-0.01)).is_err());
    }
}

/// On a real model: all that is likely is exact, and a sketch is added where it saves bytes.
#[test]
fn likely_tokens_are_exact() {
    let Some(file) = smollm2() else { return };
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let source = import::open(&file).unwrap();
    let formats = Formats::OWN.with_sketch(&*source, Arrangement::DENSE);
    assert!(formats.sketch, "the output matrix has 8 bits and a third of the bytes");
    pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).unwrap();
    let model = LoadedModel::open(&image, None).unwrap();
    let text = std::fs::read_to_string(vectors("brown-heldout.txt")).unwrap();
    let ids = Text::of(&model).unwrap().encode(&text[..1500], false).unwrap();
    let pool = Pool::new(2).unwrap();
    let options = SessionOptions { context: 400, ..SessionOptions::of(model.model()) };
    let run = |dial: &Dial| {
        let options = SessionOptions { sparsity: true, ..options };
        let mut memory = model.memory(&options).unwrap();
        let mut session = model.session(options, &mut memory).unwrap();
        session.set_dial(dial).unwrap();
        session.prefill(&pool, &ids[..16]).unwrap();
        let mut all = Vec::new();
        for id in &ids[16..300] {
            all.push(session.decode(&pool, *id).unwrap().to_vec());
        }
        (all, session.totals().weights)
    };
    let (dense, whole) = run(&Dial::default());
    let (sketched, bytes) = run(&windowed(Dial::WINDOW));
    let saved = 1.0 - bytes as f64 / whole as f64;
    println!("{:.1} % of all bytes are saved", 100.0 * saved);
    assert!(saved > 0.08, "only {saved}");
    for (dense, got) in dense.iter().zip(&sketched) {
        let largest = dense.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (dense, got) in dense.iter().zip(got) {
            assert!(*dense < largest - 3.0 || dense.to_bits() == got.to_bits(), "{dense} of {largest} became {got}");
        }
    }
}
