//! Gradients of a packed model against PyTorch's: heads, neurons and their importances of the eight
//! reference families; the copy against the engine; the gradients against differences of the loss.

use serde_json::json;
use shadowllm_core::{Format, KvFormat, Serial};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::folder::{Folder, Shape};
use shadowllm_tests::{
    FAMILIES, Reading, Tensor, arrangements, fixture_ids, logits, loss, max_difference, pack_as, pack_to, tensor,
    vectors,
};
use shadowllm_tools::calibrate::autograd::{Differentiable, Trace};
use shadowllm_tools::calibrate::criteria::Criterion;
use shadowllm_tools::calibrate::observed::Observed;
use std::ops::Range;
use std::path::Path;

const SHAPE: Shape = Shape { d: 64, ffn: 96, heads: [4, 2, 16], vocab: 50, layers: 2 };

fn packed(source: &Path, format: Format, image: &Path) -> LoadedModel {
    pack_to(source, format, image);
    LoadedModel::open(image, None).unwrap()
}

fn traced(model: &LoadedModel, ids: &[u32]) -> Trace {
    Differentiable::new(model.model()).unwrap().trace(ids, true).unwrap()
}

fn per_layer(trace: &Trace, f: fn(&Trace, usize) -> Vec<f32>) -> Vec<Vec<f32>> {
    (0..trace.head_output.len()).map(|layer| f(trace, layer)).collect()
}

/// Largest difference as a part of `expected`'s largest number.
fn relative(got: &[f32], expected: &[f32]) -> f32 {
    max_difference(got, expected) / expected.iter().fold(0.0, |m, x| f32::max(m, x.abs()))
}

fn check(family: &str, name: &str, got: &[Vec<f32>], expected: &Tensor) {
    assert_eq!(got.len(), expected.shape[0], "{family}, {name}: layers");
    let layers = expected.data.chunks_exact(expected.data.len() / expected.shape[0]);
    for (layer, (got, expected)) in got.iter().zip(layers).enumerate() {
        let difference = relative(got, expected);
        assert!(difference < 1e-3, "{family}, {name}, layer {layer}: {difference}");
    }
}

#[test]
fn heads_neurons_and_importances_are_pytorchs() {
    let temp = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let folder = vectors("models").join(family);
        let expected = |name| tensor(&folder.join("expected.safetensors"), name);
        let model = packed(&folder, Format::F32, &temp.path().join("model.sllm"));
        let trace = traced(&model, &fixture_ids(family));
        let difference = (trace.loss - expected("loss").data[0]).abs();
        assert!(difference < 1e-5, "{family}: loss differs by {difference}");
        check(family, "head_output", &trace.head_output, &expected("head_output"));
        check(family, "neuron_activation", &trace.neurons, &expected("neuron_activation"));
        check(family, "head_importance", &per_layer(&trace, Trace::head_importance), &expected("head_importance"));
        let neurons = per_layer(&trace, Trace::neuron_importance);
        check(family, "neuron_importance", &neurons, &expected("neuron_importance"));
    }
}

/// Loss of the engine on the same image.
fn engine_loss(model: &LoadedModel, ids: &[u32]) -> f64 {
    loss(&logits(model, &Serial, ids, KvFormat::F32, Reading::Prefill(ids.len())), ids)
}

fn made(folder: &Folder, temp: &Path) -> LoadedModel {
    folder.write(temp, safetensors::Dtype::F32, 1);
    packed(temp, Format::F32, &temp.join("model.sllm"))
}

fn ids(vocab: usize) -> Vec<u32> {
    (0..40).map(|i| (i * i * 7 + 3 * i + 1) % vocab as u32).collect()
}

#[test]
fn padded_shapes_activations_and_windows_are_the_engines() {
    let temp = tempfile::tempdir().unwrap();
    let odd = |d, ffn, heads, vocab| Shape { d, ffn, heads, vocab, layers: 2 };
    let window = json!({"model_type": "mistral", "sliding_window": 5});
    let mut cases = vec![
        (odd(48, 40, [3, 1, 20], 33), json!({})),
        (odd(72, 100, [2, 2, 6], 17), json!({})),
        (odd(33, 31, [1, 1, 34], 5), json!({})),
        // More than one chunk of the vocabulary.
        (Shape { vocab: 4100, ..SHAPE }, json!({})),
        (SHAPE, window),
    ];
    cases.extend(["relu", "relu2", "gelu", "gelu_new"].map(|act| (SHAPE, json!({"hidden_act": act}))));
    for (shape, more) in cases {
        let model = made(&Folder::llama(shape, true, true, &more), temp.path());
        let ids = ids(shape.vocab);
        let difference = f64::from(traced(&model, &ids).loss) - engine_loss(&model, &ids);
        assert!(difference.abs() < 1e-5, "{:?} {more}: {difference}", shape.heads);
    }
}

#[test]
fn every_arrangement_is_read_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let shape = Shape { d: 72, ffn: 100, heads: [4, 2, 20], vocab: 33, layers: 2 };
    Folder::llama(shape, true, true, &json!({})).write(temp.path(), safetensors::Dtype::F32, 1);
    let image = temp.path().join("model.sllm");
    let dense = traced(&packed(temp.path(), Format::F32, &image), &ids(33));
    for arrangement in arrangements() {
        pack_as(temp.path(), Format::F32, arrangement, &image);
        let trace = traced(&LoadedModel::open(&image, None).unwrap(), &ids(33));
        assert!(trace == dense, "{arrangement:?}");
    }
}

#[test]
fn quantized_weights_are_the_engines() {
    let temp = tempfile::tempdir().unwrap();
    let folder = vectors("models").join("qwen3");
    let ids = fixture_ids("qwen3");
    for (format, tolerance) in [(Format::F16, 1e-3), (Format::Q8_0, 0.02), (Format::Q4_1, 0.05)] {
        let model = packed(&folder, format, &temp.path().join("model.sllm"));
        let difference = f64::from(traced(&model, &ids).loss) - engine_loss(&model, &ids);
        // The engine rounds inputs of the matrices too.
        assert!(difference.abs() < tolerance, "{format:?}: {difference}");
    }
}

/// Scales some columns of a matrix of the first layer.
fn scaled(folder: &mut Folder, name: &str, columns: Range<usize>, factor: f32) {
    let (shape, numbers) = folder.tensors.get_mut(&format!("model.layers.0.{name}.weight")).unwrap();
    for row in numbers.chunks_exact_mut(shape[1]) {
        row[columns.clone()].iter_mut().for_each(|x| *x *= factor);
    }
}

/// Slope of the engine's loss when these columns are scaled: the derivative with respect to a mask at 1.
fn slope(folder: impl Fn() -> Folder, name: &str, columns: &Range<usize>, temp: &Path, ids: &[u32]) -> f32 {
    const STEP: f32 = 0.02;
    let at = |factor| {
        let mut folder = folder();
        scaled(&mut folder, name, columns.clone(), factor);
        engine_loss(&made(&folder, temp), ids)
    };
    ((at(1.0 + STEP) - at(1.0 - STEP)) / f64::from(2.0 * STEP)) as f32
}

/// Sum over the tokens of value * gradient for each run of `width` values.
fn masks(values: &[f32], gradients: &[f32], units: usize, width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; units];
    values.iter().zip(gradients).enumerate().for_each(|(i, (v, g))| sums[i / width % units] += v * g);
    sums
}

fn largest(of: &[f32]) -> usize {
    (0..of.len()).max_by(|a, b| of[*a].abs().total_cmp(&of[*b].abs())).unwrap()
}

#[test]
fn gradients_are_the_slopes_of_the_engines_loss() {
    let temp = tempfile::tempdir().unwrap();
    let window = json!({"model_type": "mistral", "sliding_window": 5});
    let acts = ["silu", "relu", "relu2", "gelu", "gelu_new"].map(|act| json!({"hidden_act": act}));
    for more in acts.into_iter().chain([window]) {
        let shape = Shape { ffn: 100, heads: [4, 2, 20], ..SHAPE };
        let folder = || Folder::llama(shape, true, true, &more);
        let ids = ids(shape.vocab);
        let trace = traced(&made(&folder(), temp.path()), &ids);
        let heads = masks(&trace.head_output[0], &trace.head_gradient[0], 4, 20);
        let neurons = masks(&trace.neurons[0], &trace.neuron_gradient[0], 100, 1);
        for (name, of, width) in [("self_attn.o_proj", heads, 20), ("mlp.down_proj", neurons, 1)] {
            let unit = largest(&of);
            let expected = slope(folder, name, &(unit * width..(unit + 1) * width), temp.path(), &ids);
            assert!((of[unit] / expected - 1.0).abs() < 0.02, "{more} {name}: {} is not {expected}", of[unit]);
        }
    }
}

/// Two heads of two dimensions, two neurons, two tokens.
fn small() -> Trace {
    Trace {
        tokens: 2,
        heads: 2,
        head_output: vec![vec![1.0, 2.0, 3.0, 4.0, 0.0, -1.0, 2.0, 0.0]],
        head_gradient: vec![vec![1.0, -1.0, 0.5, 0.5, 2.0, 1.0, 1.0, 3.0]],
        neurons: vec![vec![1.0, -2.0, 3.0, 0.0]],
        neuron_gradient: vec![vec![-1.0, 1.0, 1.0, 5.0]],
        ..Trace::default()
    }
}

#[test]
fn criteria_are_their_definitions() {
    let trace = small();
    assert_eq!(trace.head_importance(0), [1.0, 3.5, 1.0, 2.0]);
    assert_eq!(trace.neuron_importance(0), [1.0, 2.0, 3.0, 0.0]);
    let heads = |criterion| trace.head_criterion(criterion, 0);
    assert_eq!(heads(Criterion::Plainact), [1.0, 2.75]);
    assert_eq!(heads(Criterion::Fisher), [(1.0 + 4.0 + 1.0) / 2.0, (2.25 + 4.0 + 4.0) / 2.0]);
    assert_eq!(heads(Criterion::GradNorm), [7f32.sqrt(), 10.5f32.sqrt()]);
    assert_eq!(heads(Criterion::L2Norm), [6f32.sqrt(), 29f32.sqrt()]);
    let neurons = |criterion| trace.neuron_criterion(criterion, 0);
    assert_eq!(neurons(Criterion::Plainact), [2.0, 1.0]);
    assert_eq!(neurons(Criterion::Fisher), [5.0, 2.0]);
    assert_eq!(neurons(Criterion::GradNorm), [2f32.sqrt(), 26f32.sqrt()]);
    assert_eq!(neurons(Criterion::L2Norm), [10f32.sqrt(), 2.0]);
}

#[test]
fn without_gradients_there_are_only_norms_of_values() {
    let trace = Trace { head_gradient: Vec::new(), neuron_gradient: Vec::new(), ..small() };
    assert!(trace.head_importance(0).is_empty() && trace.neuron_importance(0).is_empty());
    for criterion in Criterion::ALL {
        assert_eq!(trace.head_criterion(criterion, 0).is_empty(), criterion.needs_gradients());
        assert_eq!(trace.neuron_criterion(criterion, 0).is_empty(), criterion.needs_gradients());
        assert!(trace.neuron_criterion(criterion, 7).is_empty(), "there is no such layer");
    }
}

#[test]
fn forward_only_is_the_same_forward() {
    let temp = tempfile::tempdir().unwrap();
    let model = packed(&vectors("models").join("opt"), Format::F32, &temp.path().join("model.sllm"));
    let copy = Differentiable::new(model.model()).unwrap();
    let (forward, both) =
        (copy.trace(&fixture_ids("opt"), false).unwrap(), copy.trace(&fixture_ids("opt"), true).unwrap());
    assert!(forward.head_gradient.is_empty() && forward.neuron_gradient.is_empty());
    let with =
        Trace { head_gradient: both.head_gradient.clone(), neuron_gradient: both.neuron_gradient.clone(), ..forward };
    assert_eq!(with, both);
}

#[test]
fn windows_come_once_each_and_an_error_ends_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let model = packed(&vectors("models").join("qwen2"), Format::F32, &temp.path().join("model.sllm"));
    let copy = Differentiable::new(model.model()).unwrap();
    let ids = fixture_ids("qwen2");
    let windows: Vec<&[u32]> = ids.chunks(8).collect();
    for workers in [0, 1, 2, 9] {
        let mut losses = vec![None; windows.len()];
        copy.trace_each(&windows, true, workers, &mut |i, trace| {
            assert!(losses[i].replace(trace.loss).is_none(), "window {i} came twice");
            Ok(())
        })
        .unwrap();
        for (ids, loss) in windows.iter().zip(losses) {
            assert_eq!(Some(copy.trace(ids, false).unwrap().loss), loss);
        }
        let bad = [windows[0], &[1], windows[1]];
        assert!(copy.trace_each(&bad, false, workers, &mut |_, _| Ok(())).is_err());
    }
}

/// The same without candle's own pool, so that workers are threads.
#[test]
fn windows_come_once_each_from_several_threads() {
    let mut this = std::process::Command::new(std::env::current_exe().unwrap());
    let this =
        this.env("CANDLE_NUM_THREADS", "1").args(["--exact", "windows_come_once_each_and_an_error_ends_the_work"]);
    let output = this.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn bad_windows_are_refused_in_words() {
    let temp = tempfile::tempdir().unwrap();
    let model = packed(&vectors("models").join("opt"), Format::F32, &temp.path().join("model.sllm"));
    let copy = Differentiable::new(model.model()).unwrap();
    let c = copy.config();
    let long = vec![1; c.max_positions + 1];
    for (ids, why) in
        [(&[][..], "two tokens"), (&[3], "two tokens"), (&[0, c.vocab as u32], "token"), (&long, "context")]
    {
        let error = copy.trace(ids, true).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// The engine's own traces equal those of the differentiable copy in every field except the gradients, which the engine
/// does not have.
#[test]
fn the_engines_own_traces_are_the_copys() {
    let temp = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let model = packed(&vectors("models").join(family), Format::F32, &temp.path().join("model.sllm"));
        let (ids, mut seen) = (fixture_ids(family), Vec::new());
        let windows = [&ids[..], &ids[5..20]];
        let mut keep = |trace| {
            seen.push(trace);
            Ok(())
        };
        Observed::new(&model, 2).unwrap().trace_each(&windows, &mut keep).unwrap();
        for (ids, seen) in windows.iter().zip(&seen) {
            let copy = traced(&model, ids);
            assert_eq!((seen.tokens, seen.heads), (copy.tokens, copy.heads));
            let fields =
                |t: &Trace| [&t.attention_input, &t.ffn_input, &t.head_output, &t.neurons, &t.up].map(Clone::clone);
            for (i, (got, expected)) in fields(seen).iter().zip(&fields(&copy)).enumerate() {
                assert_eq!(got.len(), expected.len(), "{family}, field {i}");
                for (layer, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let difference = relative(got, expected);
                    assert!(difference < 1e-4, "{family}, field {i}, layer {layer}: {difference}");
                }
            }
            let neuron = |layer: usize| seen.neuron_importance(layer);
            assert!((0..seen.neurons.len()).all(|l| neuron(l).iter().all(|x| x.is_finite() && *x >= 0.0)));
        }
    }
}
