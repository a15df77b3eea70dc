//! A Hugging Face folder: `config.json`, one or several safetensors files, `tokenizer.json`.

use super::gguf::GgmlType;
use super::hf_config;
use super::{Chat, Data, Source, SourceTensor, Spec};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use shadowllm_core::image::{Kind, Positions};
use shadowllm_host::map::map;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

struct Place {
    shard: usize,
    /// The number format, where it is one that can be read.
    kind: Option<GgmlType>,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A Hugging Face folder.
pub struct HfSource {
    folder: PathBuf,
    spec: Spec,
    shards: Vec<Mmap>,
    places: HashMap<String, Place>,
    prefix: &'static str,
}

impl HfSource {
    /// Opens a folder.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = folder.join("config.json");
        if !config.is_file() {
            return Err(Error::file(
                folder,
                "the folder has no config.json: name a Hugging Face model folder (config.json, *.safetensors, \
                 tokenizer.json), a .gguf file or a .sllm image",
            ));
        }
        let text = read(&config)?;
        let mut spec = hf_config::parse(&text).map_err(|e| Error::file(&config, e))?;
        more_eos(folder, &mut spec)?;
        let mut source =
            HfSource { folder: folder.to_owned(), spec, shards: Vec::new(), places: HashMap::new(), prefix: "" };
        for path in shard_paths(folder)? {
            source.add_shard(&path)?;
        }
        source.prefix = source.find_prefix();
        Ok(source)
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let bytes = map(path)?;
        let bad = |e: &dyn std::fmt::Display| {
            Error::file(path, format!("is not a whole safetensors file: {e}; download it again"))
        };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(&e))?;
        for (name, info) in metadata.tensors() {
            let kind = match info.dtype {
                Dtype::F32 => Some(GgmlType::F32),
                Dtype::F16 => Some(GgmlType::F16),
                Dtype::BF16 => Some(GgmlType::BF16),
                _ => None,
            };
            let start = header + 8 + info.data_offsets.0;
            let range = start..header + 8 + info.data_offsets.1;
            if range.end > bytes.len() {
                return Err(bad(&format_args!("tensor {name} ends behind the file")));
            }
            let place = Place { shard: self.shards.len(), kind, dtype: info.dtype, shape: info.shape.clone(), range };
            self.places.insert(name.clone(), place);
        }
        self.shards.push(bytes);
        Ok(())
    }

    /// Models saved without their head have no `model.` in front.
    fn find_prefix(&self) -> &'static str {
        let probe = if self.spec.family == "opt" { "decoder.embed_tokens.weight" } else { "embed_tokens.weight" };
        if self.places.contains_key(probe) { "" } else { "model." }
    }

    fn name(&self, kind: Kind, layer: usize) -> Option<String> {
        let name = if self.spec.family == "opt" { opt_name(kind) } else { llama_name(kind) }?;
        Some(match (kind, kind.in_layers(), self.spec.family == "opt") {
            (Kind::Output, ..) => name.to_owned(),
            (_, true, true) => format!("{}decoder.layers.{layer}.{name}", self.prefix),
            (_, true, false) => format!("{}layers.{layer}.{name}", self.prefix),
            (_, false, true) => format!("{}decoder.{name}", self.prefix),
            (_, false, false) => format!("{}{name}", self.prefix),
        })
    }
}

/// The JSON in a file of the folder; null when there is none.
fn json(folder: &Path, file: &str) -> Result<Value> {
    let path = folder.join(file);
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&read(&path)?).map_err(|e| Error::file(&path, format!("is not JSON: {e}; download it again")))
}

/// `generation_config.json` often names more end tokens than `config.json`.
fn more_eos(folder: &Path, spec: &mut Spec) -> Result<()> {
    let ids = match json(folder, "generation_config.json")?.get("eos_token_id") {
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let c = &mut spec.config;
    for id in ids.iter().filter_map(|v| u32::try_from(v.as_u64()?).ok()) {
        if c.eos_len < c.eos.len() && !c.eos().contains(&id) {
            c.eos[c.eos_len] = id;
            c.eos_len += 1;
        }
    }
    Ok(())
}

fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if let Ok(text) = std::fs::read_to_string(&index) {
        let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(&index, format!("is not JSON: {e}")))?;
        let map = value
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| Error::file(&index, "has no weight_map"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.iter().any(|n| n.contains(['/', '\\'])) {
            return Err(Error::file(&index, "names a shard outside the folder"));
        }
        return Ok(names.into_iter().map(|n| folder.join(n)).collect());
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    Err(Error::file(
        folder,
        "the folder has neither model.safetensors nor model.safetensors.index.json (PyTorch .bin files must be \
         converted to safetensors first)",
    ))
}

fn llama_name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Embed => "embed_tokens.weight",
        Kind::FinalNorm => "norm.weight",
        Kind::Output => "lm_head.weight",
        Kind::AttnNorm => "input_layernorm.weight",
        Kind::Q => "self_attn.q_proj.weight",
        Kind::QBias => "self_attn.q_proj.bias",
        Kind::K => "self_attn.k_proj.weight",
        Kind::KBias => "self_attn.k_proj.bias",
        Kind::V => "self_attn.v_proj.weight",
        Kind::VBias => "self_attn.v_proj.bias",
        Kind::O => "self_attn.o_proj.weight",
        Kind::OBias => "self_attn.o_proj.bias",
        Kind::QNorm => "self_attn.q_norm.weight",
        Kind::KNorm => "self_attn.k_norm.weight",
        Kind::FfnNorm => "post_attention_layernorm.weight",
        Kind::Gate => "mlp.gate_proj.weight",
        Kind::GateBias => "mlp.gate_proj.bias",
        Kind::Up => "mlp.up_proj.weight",
        Kind::UpBias => "mlp.up_proj.bias",
        Kind::Down => "mlp.down_proj.weight",
        Kind::DownBias => "mlp.down_proj.bias",
        _ => return None,
    })
}

fn opt_name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Embed => "embed_tokens.weight",
        Kind::EmbedPositions => "embed_positions.weight",
        Kind::ProjectIn => "project_in.weight",
        Kind::ProjectOut => "project_out.weight",
        Kind::FinalNorm => "final_layer_norm.weight",
        Kind::FinalNormBias => "final_layer_norm.bias",
        Kind::Output => "lm_head.weight",
        Kind::AttnNorm => "self_attn_layer_norm.weight",
        Kind::AttnNormBias => "self_attn_layer_norm.bias",
        Kind::Q => "self_attn.q_proj.weight",
        Kind::QBias => "self_attn.q_proj.bias",
        Kind::K => "self_attn.k_proj.weight",
        Kind::KBias => "self_attn.k_proj.bias",
        Kind::V => "self_attn.v_proj.weight",
        Kind::VBias => "self_attn.v_proj.bias",
        Kind::O => "self_attn.out_proj.weight",
        Kind::OBias => "self_attn.out_proj.bias",
        Kind::FfnNorm => "final_layer_norm.weight",
        Kind::FfnNormBias => "final_layer_norm.bias",
        Kind::Up => "fc1.weight",
        Kind::UpBias => "fc1.bias",
        Kind::Down => "fc2.weight",
        Kind::DownBias => "fc2.bias",
        _ => return None,
    })
}

impl Source for HfSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, kind: Kind, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        let tied = json(&self.folder, "config.json")?.get("tie_word_embeddings").and_then(Value::as_bool);
        if kind == Kind::Output && tied.unwrap_or(self.spec.config.positions == Positions::Learned) {
            return Ok(None);
        }
        let Some(name) = self.name(kind, layer) else { return Ok(None) };
        let Some(place) = self.places.get(&name) else { return Ok(None) };
        let (rows, cols) = match place.shape[..] {
            [n] => (1, n),
            [rows, cols] => (rows, cols),
            _ => return Err(Error::file(&self.folder, format!("tensor {name} has shape {:?}", place.shape))),
        };
        let kind = place.kind.ok_or_else(|| {
            let message = format!("tensor {name} is of the type {:?}; F32, F16 and BF16 can be read", place.dtype);
            Error::file(&self.folder, message)
        })?;
        let data = Data::Bytes { kind, bytes: &self.shards[place.shard][place.range.clone()] };
        Ok(Some(SourceTensor { name, rows, cols, data, interleaved: None }))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        let path = self.folder.join("tokenizer.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = read(&path)?;
        // Noticed here, not when the image is asked for text.
        Text::from_json(&text)
            .map_err(|e| Error::file(&path, format!("{e}; download it again, or take it away to pack without text")))?;
        Ok(Some(text))
    }

    fn chat(&self) -> Result<Chat> {
        let config = json(&self.folder, "tokenizer_config.json")?;
        // A token is a string, or an object with its content.
        let token = |key: &str| match config.get(key) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Object(o)) => o.get("content").and_then(Value::as_str).unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        // One template, or a list of named ones; newer models have it in a file of its own.
        let template = match config.get("chat_template") {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Array(list)) => {
                let named = |name: &str| list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name));
                let entry = named("default").or(list.first());
                entry.and_then(|t| t.get("template")?.as_str()).unwrap_or_default().to_owned()
            }
            _ => std::fs::read_to_string(self.folder.join("chat_template.jinja")).unwrap_or_default(),
        };
        Ok(Chat { template, bos_token: token("bos_token"), eos_token: token("eos_token") })
    }

    fn origin(&self) -> String {
        let name = self.folder.file_name().map_or_else(|| "folder".into(), |n| n.to_string_lossy().into_owned());
        format!("Hugging Face folder {name}, {} safetensors file(s)", self.shards.len())
    }

    fn path(&self) -> &Path {
        &self.folder
    }
}
