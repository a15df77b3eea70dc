//! Files that models and task sets come in: they are read, packed and run, or refused.

use crate::script::{Script, session};
use crate::{folder, panics_are_findings};
use shadowllm_core::{Cpu, Format, Image, Kernels, Model};
use shadowllm_host::text::Text;
use shadowllm_tools::import::gguf::{Gguf, special_tokens, tokenizer_json};
use shadowllm_tools::import::{self, Source, Spec};
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use shadowllm_tools::tasks::{Task, load};
use std::path::Path;

/// Numbers of a model at most; larger ones are another question.
const LARGEST: usize = 1 << 22;

/// How many numbers a model has, or more.
fn numbers(spec: &Spec) -> usize {
    let mut rows = spec.globals.vocab.saturating_add(spec.globals.max_positions);
    for layer in &spec.layers {
        let attention = layer.attention().map_or(0, |a| (a.heads + a.kv_heads).saturating_mul(a.head_slot()));
        let experts = layer.mlp().and_then(|m| m.router).map_or(1, |r| r.experts.max(1));
        let neurons = layer.mlp().map_or(0, |m| m.width().saturating_mul(experts).saturating_mul(3));
        rows = rows.saturating_add(attention).saturating_add(neurons);
    }
    rows.saturating_mul(spec.globals.d_model.max(spec.globals.d_embed).max(32))
}

/// Packs a source as the script says and runs the image.
fn pack_and_run(source: &dyn Source, mut script: Script) {
    if numbers(source.spec()) > LARGEST {
        return;
    }
    let encoders: Vec<Format> = Format::ALL.into_iter().filter(|f| f.has_encoder()).collect();
    let formats = match script.byte() % 3 {
        0 => Formats::OWN,
        _ => {
            Formats { weights: Some(script.one_of(&encoders)), output: Some(script.one_of(&encoders)), ..Formats::OWN }
        }
    };
    let arrangement = Arrangement {
        neuron_group: script.one_of(&[1, 4, 8, 16, 32]),
        attention_by_input: script.byte() % 2 == 1,
        ffn_by_input: script.byte() % 2 == 1,
    };
    let to = folder().join("model.sllm");
    if pack(source, formats, arrangement, &to, &mut |_, _| {}).is_ok() {
        let bytes = std::fs::read(&to).unwrap();
        let image = Image::parse(&bytes).expect("what was packed can be read");
        session(Model::new(image, Kernels::best(Cpu::detect())), &mut script, &mut || {});
    }
}

/// Eight bytes of script and a GGUF file: its head, its tokenizer, its weights.
pub fn gguf(data: &[u8]) {
    panics_are_findings();
    let Some((script, data)) = data.split_first_chunk::<8>() else { return };
    let path = folder().join("model.gguf");
    std::fs::write(&path, data).unwrap();
    if let Ok(head) = Gguf::parse(data) {
        special_tokens(&head);
        if let Some(text) = tokenizer_json(&head).ok().and_then(|json| Text::from_json(&json).ok()) {
            crate::texts::exercise(&text, "Hello <|im_end|> wörld\n 12");
        }
    }
    if let Ok(source) = import::open(&path) {
        // What they say is another target's question.
        let _ = (source.tokenizer(), source.chat());
        pack_and_run(&*source, Script(script));
    }
}

/// Eight bytes of script, and texts that zeros divide: `config.json`, the head of a safetensors file, and
/// `tokenizer_config.json`. The file's numbers are made up, as many as its head asks for.
pub fn safetensors(data: &[u8]) {
    panics_are_findings();
    let Some((script, data)) = data.split_first_chunk::<8>() else { return };
    let mut parts = data.splitn(3, |byte| *byte == 0).chain([&[][..]; 3]);
    let [config, head, tokenizer] = [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
    let at = |name: &str| folder().join("hf").join(name);
    let write = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    std::fs::create_dir_all(at("")).unwrap();
    write("config.json", config);
    write("tokenizer_config.json", tokenizer);
    let head_of = |head: &[u8]| Some(serde_json::from_slice::<serde_json::Value>(head).ok()?.as_object()?.clone());
    let ends = head_of(head).into_iter().flatten().filter_map(|(_, tensor)| tensor["data_offsets"][1].as_u64());
    let bytes = ends.max().unwrap_or(64).min(4 * LARGEST as u64) as usize;
    let numbers = (0..bytes.div_ceil(4)).flat_map(|i| ((i % 97) as f32 / 97.0 - 0.5).to_le_bytes());
    let mut file = (head.len() as u64).to_le_bytes().to_vec();
    file.extend(head);
    file.extend(numbers.take(bytes));
    write("model.safetensors", &file);
    if let Ok(source) = import::open(&at("")) {
        let _ = (source.tokenizer(), source.chat());
        pack_and_run(&*source, Script(script));
    }
}

/// A task set: a table (Arrow), or requests (gzip and JSON).
pub fn tasks(data: &[u8]) {
    panics_are_findings();
    let task = if data.starts_with(b"\x1f\x8b") { Task::Piqa } else { Task::Copa };
    let path = folder().join(task.file());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, data).unwrap();
    let read = |task: Task, folder: &Path| load(task, folder, usize::MAX);
    std::hint::black_box(read(task, folder()).is_ok());
}
