//! Models larger than their memory budget: the same numbers, and no more of the file in memory than the budget.
// Under emulation a model of this size takes many minutes, and the test depends on the system, not on the processor.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use safetensors::Dtype;
use serde_json::json;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Executor, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tests::folder::{Folder, Random, Shape};
use shadowllm_tests::program::Place;
use shadowllm_tests::same_bits;
use shadowllm_tests::sparse::made_up_ids;
use std::path::Path;

const TOKENS: usize = 24;
const BUDGET: usize = 32_000_000;

/// An image of 77 MB.
fn packed(layout: &str) -> Place {
    let place = Place::new();
    place.works(&format!("pack --synthetic smollm2-135m --format q4_0 --layout {layout} -o model.sllm"));
    place
}

/// Bytes of the image that are in memory.
fn resident(model: &LoadedModel) -> usize {
    let start = format!("{:x}-", model.model().image().bytes().as_ptr().addr());
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
    let rss = mapping.skip(1).find_map(|line| line.strip_prefix("Rss:")).expect("the mapping");
    1024 * rss.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap()
}

/// Logits after a prompt and after every further token.
fn read(model: &LoadedModel, exec: &dyn Executor, dial: &Dial, mut each: impl FnMut()) -> Vec<f32> {
    let options = SessionOptions { context: 2 * TOKENS, batch: 8, sparsity: true, ..SessionOptions::default() };
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    session.set_dial(dial).unwrap();
    let ids = made_up_ids(TOKENS, model.model().config().vocab);
    let mut logits = session.prefill(exec, &ids[..TOKENS / 2]).unwrap().to_vec();
    for id in &ids[TOKENS / 2..] {
        logits.extend_from_slice(session.decode(exec, *id).unwrap());
        each();
    }
    logits
}

#[test]
fn the_same_numbers_within_a_budget() {
    for layout in ["dense", "neuron", "input"] {
        let place = packed(layout);
        let open = || LoadedModel::open(&place.path("model.sllm"), None).unwrap();
        let dense = Dial::default();
        let dials = [dense, Dial { policy: Policy::Random, density: 0.3, ..dense }];
        for dial in &dials[..if layout == "input" { 1 } else { 2 }] {
            for threads in [1, 2] {
                let whole = open();
                let expected = read(&whole, &Pool::new(threads).unwrap(), dial, || ());
                assert!(resident(&whole) > BUDGET, "{layout}: the test's model is not too large");
                drop(whole);
                let model = open();
                let pool = Pool::new(threads).unwrap().within(BUDGET, &model).unwrap();
                let mut most = 0;
                let found = read(&model, &pool, dial, || most = most.max(resident(&model)));
                assert!(same_bits(&found, &expected), "{layout}, {dial:?}");
                // If little is read, some file systems also load neighbouring pages.
                let bounded = most <= BUDGET || dial.policy != Policy::Off;
                assert!(bounded, "{layout}, {dial:?}: {most} bytes in memory");
                assert!(most > BUDGET / 4, "{layout}, {dial:?}: only {most} bytes are kept");
            }
        }
    }
}

/// A folder of eight layers of eight experts, 28 MB, of which a token uses two a layer.
fn experts(folder: &Path) {
    let shape = Shape { d: 128, ffn: 256, heads: [4, 2, 32], vocab: 288, layers: 8 };
    let more = json!({ "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2 });
    let mut model = Folder::llama(shape, false, true, &more);
    let mut random = Random(3);
    for layer in 0..shape.layers {
        let (mlp, block) = (format!("model.layers.{layer}.mlp"), format!("model.layers.{layer}.block_sparse_moe"));
        for (map, name) in [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")] {
            let (dims, numbers) = model.tensors.remove(&format!("{mlp}.{map}.weight")).unwrap();
            for expert in 0..8 {
                let numbers = numbers.iter().map(|x| x * (1.0 + 0.1 * expert as f32)).collect();
                model.tensors.insert(format!("{block}.experts.{expert}.{name}.weight"), (dims.clone(), numbers));
            }
        }
        let router = (0..8 * shape.d).map(|_| random.draw()).collect();
        model.tensors.insert(format!("{block}.gate.weight"), (vec![8, shape.d], router));
    }
    model.write(folder, Dtype::F32, 1);
}

#[test]
fn experts_stay_within_a_budget() {
    const ROOM: usize = 14_000_000;
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    experts(&place.path("folder"));
    place.works("pack folder --format f32 --layout dense -o model.sllm");
    let open = || LoadedModel::open(&place.path("model.sllm"), None).unwrap();
    let whole = open();
    let expected = read(&whole, &Pool::new(2).unwrap(), &Dial::default(), || ());
    assert!(resident(&whole) > ROOM, "the test's model is not too large");
    drop(whole);
    let model = open();
    let pool = Pool::new(2).unwrap().within(ROOM, &model).unwrap();
    let mut most = 0;
    let found = read(&model, &pool, &Dial::default(), || most = most.max(resident(&model)));
    assert!(same_bits(&found, &expected));
    assert!(most > ROOM / 4 && most <= ROOM, "{most} bytes in memory");
}

#[test]
fn bad_budgets_are_refused() {
    let place = packed("dense");
    let bench = "bench model.sllm -p 0 -n 4 -r 1 --memory-budget";
    place.fails(2, &format!("{bench} 1M"), &["the memory budget must hold 3 neighbouring layers", "give 2"]);
    for size in ["many", "12X", "-1", "99999999999999999999", "999999999999999999G"] {
        place.fails(2, &format!("{bench}={size}"), &["--memory-budget", "bytes"]);
    }
    place.works(&format!("{bench} 40M"));
}
