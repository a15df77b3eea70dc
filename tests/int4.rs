//! Hugging Face folders with 4-bit weights: logits equal those of weights unpacked by the packers' own code
//! (`vectors/int4/make.py`), codes are kept, and unsupported models are refused with a way out.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use shadowllm_core::{Format, KvFormat, Serial};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::{Reading, logits, max_difference, tensor, vectors};
use shadowllm_tools::import;
use shadowllm_tools::pack::{Arrangement, Formats, Kept, Packed, pack};
use std::path::Path;

/// Folders, the names of their maps, the formats that they become, and how much of them is kept.
const FOLDERS: &[(&str, &str, Format, Kept)] = &[
    ("gptq", "GPTQ", Format::Q4_0, Kept::All),
    ("gptq-zeros", "GPTQ", Format::Q4_1, Kept::Codes),
    ("awq", "AWQ", Format::Q4_1, Kept::Codes),
    ("compressed", "int4", Format::Q4_0, Kept::All),
    ("compressed-zeros", "int4", Format::Q4_1, Kept::Codes),
    ("mxfp4", "MXFP4", Format::Mxfp4, Kept::All),
];

/// Packs a folder, and the logits of its image.
fn packed(folder: &Path, formats: Formats, ids: &[u32]) -> Result<(Packed, Vec<f32>), String> {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("model.sllm");
    let source = import::open(folder).map_err(|e| e.to_string())?;
    let packed = pack(&*source, formats, Arrangement::DENSE, &image, &mut |_, _| {}).map_err(|e| e.to_string())?;
    let model = LoadedModel::open(&image, None).unwrap();
    Ok((packed, logits(&model, &Serial, ids, KvFormat::F32, Reading::Decode)))
}

#[test]
fn logits_are_those_of_the_packers_code() {
    for (name, called, format, kept) in FOLDERS {
        let folder = vectors("int4").join(name);
        let expected = folder.join("expected.safetensors");
        let ids: Vec<u32> = tensor(&expected, "input_ids").data.iter().map(|x| *x as u32).collect();
        let wanted = tensor(&expected, "logits").data;
        let (_, floats) = packed(&folder, Formats::all(Format::F32), &ids).unwrap();
        let difference = max_difference(&floats, &wanted);
        assert!(difference < 2e-5, "{name}: {difference}");
        let (own, rounded) = packed(&folder, Formats::OWN, &ids).unwrap();
        let maps = own.became.iter().find(|b| b.from == *called).unwrap();
        assert_eq!((maps.to, maps.kept, maps.rounded_again), (*format, *kept, false), "{name}");
        // Inputs are rounded to 8 bits, which random weights amplify.
        let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>();
        let off = power(&mut rounded.iter().zip(&wanted).map(|(a, b)| a - b)) / power(&mut wanted.iter().copied());
        println!("{name}: {difference} in f32, {off} of the power as it is");
        assert!(off < 0.05, "{name}: {off}");
        // Scales of every 32 weights take a quarter of a bit per weight more, and heads of 16 are padded to blocks.
        let [ours, theirs] = own.per_token;
        assert!(ours * 100 <= theirs * 130, "{name}: {ours} bytes for {theirs}");
    }
}

/// Every weight of the kept blocks equals the folder's, or is within the rounding of its offset.
#[test]
fn blocks_hold_the_weights() {
    for (name, _, format, kept) in FOLDERS {
        let source = import::open(&vectors("int4").join(name)).unwrap();
        let role = shadowllm_core::image::Role::Down;
        let t = source.expert(role, 1, 1).unwrap().unwrap();
        let kind = t.own_kind().unwrap();
        assert_eq!((kind.format(), t.has_exact_blocks()), (Some(*format), *kept == Kept::All), "{name}");
        let mut row = vec![0.0; t.cols];
        for r in 0..t.rows {
            t.row(r, &mut row).unwrap();
            for (index, of) in row.as_chunks::<32>().0.iter().enumerate() {
                let block = t.block(r, index).unwrap();
                let mut held = [0.0f32; 32];
                kind.dequantize(&block[..kind.block_bytes()], &mut held).unwrap();
                let step = of.iter().fold(0f32, |most, x| most.max(x.abs())) / 7.0;
                let most = if *kept == Kept::All { 0.0 } else { 0.02 * step };
                assert!(of.iter().zip(held).all(|(a, b)| (a - b).abs() <= most), "{name}: {of:?} {held:?}");
            }
            assert!(t.block(r, t.cols / 32).is_none() && t.block(t.rows * 9, 0).is_none());
        }
    }
}

/// A tensor's shape and bytes.
type Raw = (Vec<usize>, Vec<u8>);

/// A copy of a folder with its configuration and its tensors changed.
fn changed(
    name: &str,
    to: &Path,
    change: impl Fn(&mut Value),
    tensors: impl Fn(&str, Vec<usize>, &[u8]) -> Option<Raw>,
) {
    let folder = vectors("int4").join(name);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    change(&mut config);
    std::fs::create_dir_all(to).unwrap();
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<(String, Dtype, Raw)> = all
        .iter()
        .filter_map(|(name, view)| {
            Some((name.to_owned(), view.dtype(), tensors(name, view.shape().to_vec(), view.data())?))
        })
        .collect();
    let views = kept
        .iter()
        .map(|(name, dtype, (shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn as_it_is(_: &str, shape: Vec<usize>, data: &[u8]) -> Option<Raw> {
    Some((shape, data.to_vec()))
}

/// What a refused model's user may do.
const INSTEAD: &str = "use the model that it was made from, or a GGUF file of it";

fn refuses(folder: &Path, words: &[&str]) {
    let error = import::open(folder).map(drop).unwrap_err().to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
}

#[test]
fn other_quantizations_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("model");
    let cases: &[(&str, Value, &str)] = &[
        ("gptq", json!({"bits": 8}), "by gptq to 8 bits"),
        ("gptq", json!({"bits": null}), "an unknown number of bits"),
        ("gptq", json!({"group_size": 16}), "in groups of 16"),
        ("gptq", json!({"checkpoint_format": "marlin"}), "by gptq in the format marlin"),
        ("gptq", json!({"quant_method": "bitsandbytes"}), "by bitsandbytes"),
        ("gptq", json!({"quant_method": "fp8"}), "by fp8"),
        ("awq", json!({"version": "gemv"}), "by awq in the version gemv"),
        ("compressed", json!({"format": "float-quantized"}), "in the format float-quantized"),
        ("compressed", json!({"config_groups": {"a": {"weights": {"num_bits": 8}}}}), "to 8 bits"),
        (
            "compressed",
            json!({"config_groups": {"a": {"weights": {"num_bits": 4, "type": "float"}}}}),
            "to float numbers with a scale for each group",
        ),
        ("compressed", json!({"config_groups": {}}), "config_groups has no size"),
    ];
    for (name, change, word) in cases {
        let patch = |c: &mut Value| {
            let how = c["quantization_config"].as_object_mut().unwrap();
            change.as_object().unwrap().iter().for_each(|(k, v)| drop(how.insert(k.clone(), v.clone())));
        };
        changed(name, &folder, patch, as_it_is);
        refuses(&folder, &["config.json: ", word, INSTEAD]);
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("model");
    let scattered = |name: &str, shape: Vec<usize>, data: &[u8]| {
        let mut data = data.to_vec();
        if name.ends_with("layers.1.mlp.down_proj.g_idx") {
            data[..4].copy_from_slice(&1u32.to_le_bytes());
        }
        Some((shape, data))
    };
    changed("gptq", &folder, |_| {}, scattered);
    refuses(&folder, &["layers.1.mlp.down_proj.qweight has its groups in the order of activations (desc_act", INSTEAD]);
    let without = |end: &'static str| {
        move |name: &str, shape, data: &[u8]| (!name.ends_with(end)).then(|| (shape, data.to_vec()))
    };
    changed("awq", &folder, |_| {}, without("layers.0.self_attn.q_proj.scales"));
    refuses(&folder, &["q_proj.qweight has no scales beside it"]);
    let shorter = |name: &str, shape: Vec<usize>, data: &[u8]| match name.ends_with("q_proj.scales") {
        true => Some((vec![1, shape[1]], data[..data.len() / shape[0]].to_vec())),
        false => Some((shape, data.to_vec())),
    };
    changed("gptq", &folder, |_| {}, shorter);
    refuses(&folder, &["q_proj.qweight does not have the words and scales of 64 outputs of 64 inputs in groups of 32"]);
    let infinite = |name: &str, shape: Vec<usize>, data: &[u8]| {
        let mut data = data.to_vec();
        if name.ends_with("q_proj.scales") {
            data[..2].copy_from_slice(&0x7c00u16.to_le_bytes());
        }
        Some((shape, data))
    };
    changed("gptq", &folder, |_| {}, infinite);
    refuses(&folder, &["q_proj.qweight has the scale inf"]);
}

/// Scales for whole rows, of other types, and biases of zeros.
#[test]
fn other_ways_to_say_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("model");
    let ids: Vec<u32> = (3..20).collect();
    let plain = packed(&vectors("int4/gptq"), Formats::OWN, &ids).unwrap().1;
    // The newer format of GPTQ stores zeros unchanged.
    let newer = |c: &mut Value| c["quantization_config"]["checkpoint_format"] = "gptq_v2".into();
    let zeros = |name: &str, shape, data: &[u8]| {
        Some((shape, if name.ends_with("qzeros") { vec![0x88; data.len()] } else { data.to_vec() }))
    };
    changed("gptq", &folder, newer, zeros);
    assert_eq!(packed(&folder, Formats::OWN, &ids).unwrap().1, plain);
    // One group for each row: the scales of the first group are used for all.
    let first = |name: &str, shape: Vec<usize>, data: &[u8]| match name {
        _ if name.ends_with("g_idx") => Some((shape, vec![0; data.len()])),
        _ if name.ends_with("scales") || name.ends_with("qzeros") => {
            Some((vec![1, shape[1]], data[..data.len() / shape[0]].to_vec()))
        }
        _ => Some((shape, data.to_vec())),
    };
    changed("gptq", &folder, |c| c["quantization_config"]["group_size"] = (-1).into(), first);
    let whole = packed(&folder, Formats::OWN, &ids).unwrap();
    let one = |name: &str, shape: Vec<usize>, data: &[u8]| match name.ends_with("scales") {
        true => Some((shape.clone(), data[..data.len() / shape[0]].repeat(shape[0]))),
        false => Some((shape, data.to_vec())),
    };
    changed("gptq", &folder, |_| {}, one);
    assert_eq!(packed(&folder, Formats::OWN, &ids).unwrap().1, whole.1);
}
