//! A Hugging Face folder: `config.json`, one or several safetensors files, `tokenizer.json`.

use super::gguf::GgmlType;
use super::hf_config;
use super::{Data, Source, SourceTensor, Spec};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use shadowllm_core::image::{Positions, Role};
use shadowllm_host::map::map;
use shadowllm_host::text::{Template, Text, read};
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
    /// Whether the output matrix is the embedding.
    tied: bool,
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
        let tied = json(folder, "config.json")?.get("tie_word_embeddings").and_then(Value::as_bool);
        // The families with learned positions tie by default.
        let tied = tied.unwrap_or(spec.globals.positions == Positions::Learned);
        let (shards, places) = (Vec::new(), HashMap::new());
        let mut source = HfSource { folder: folder.to_owned(), spec, shards, places, prefix: "", tied };
        for path in shard_paths(folder)? {
            source.add_shard(&path)?;
        }
        source.prefix = source.find_prefix();
        let has = |role, layer| source.name(role, layer).is_some_and(|name| source.places.contains_key(&name));
        source.spec = source.spec.clone().with_tensors(&has);
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
                return Err(bad(&format_args!("tensor {name} ends after the file")));
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

    fn name(&self, role: Role, layer: usize) -> Option<String> {
        let name = if self.spec.family == "opt" { opt_name(role) } else { llama_name(role) }?;
        Some(match (role, role.in_layers(), self.spec.family == "opt") {
            (Role::Output, ..) => name.to_owned(),
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
    let c = &mut spec.globals;
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

/// Rows of OPT's learned positions before the first position's.
const OPT_OFFSET: usize = 2;

fn llama_name(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Embed => "embed_tokens.weight",
        Role::FinalNorm => "norm.weight",
        Role::Output => "lm_head.weight",
        Role::AttnNorm => "input_layernorm.weight",
        Role::Q => "self_attn.q_proj.weight",
        Role::QBias => "self_attn.q_proj.bias",
        Role::K => "self_attn.k_proj.weight",
        Role::KBias => "self_attn.k_proj.bias",
        Role::V => "self_attn.v_proj.weight",
        Role::VBias => "self_attn.v_proj.bias",
        Role::O => "self_attn.o_proj.weight",
        Role::OBias => "self_attn.o_proj.bias",
        Role::QNorm => "self_attn.q_norm.weight",
        Role::KNorm => "self_attn.k_norm.weight",
        Role::FfnNorm => "post_attention_layernorm.weight",
        Role::Gate => "mlp.gate_proj.weight",
        Role::GateBias => "mlp.gate_proj.bias",
        Role::Up => "mlp.up_proj.weight",
        Role::UpBias => "mlp.up_proj.bias",
        Role::Down => "mlp.down_proj.weight",
        Role::DownBias => "mlp.down_proj.bias",
        _ => return None,
    })
}

fn opt_name(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Embed => "embed_tokens.weight",
        Role::EmbedPositions => "embed_positions.weight",
        Role::ProjectIn => "project_in.weight",
        Role::ProjectOut => "project_out.weight",
        Role::FinalNorm => "final_layer_norm.weight",
        Role::FinalNormBias => "final_layer_norm.bias",
        Role::Output => "lm_head.weight",
        Role::AttnNorm | Role::AttnStreamNorm => "self_attn_layer_norm.weight",
        Role::AttnNormBias | Role::AttnStreamNormBias => "self_attn_layer_norm.bias",
        Role::Q => "self_attn.q_proj.weight",
        Role::QBias => "self_attn.q_proj.bias",
        Role::K => "self_attn.k_proj.weight",
        Role::KBias => "self_attn.k_proj.bias",
        Role::V => "self_attn.v_proj.weight",
        Role::VBias => "self_attn.v_proj.bias",
        Role::O => "self_attn.out_proj.weight",
        Role::OBias => "self_attn.out_proj.bias",
        Role::FfnNorm | Role::FfnStreamNorm => "final_layer_norm.weight",
        Role::FfnNormBias | Role::FfnStreamNormBias => "final_layer_norm.bias",
        Role::Up => "fc1.weight",
        Role::UpBias => "fc1.bias",
        Role::Down => "fc2.weight",
        Role::DownBias => "fc2.bias",
        _ => return None,
    })
}

impl Source for HfSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        if role == Role::Output && self.tied {
            return Ok(None);
        }
        let Some(name) = self.name(role, layer) else { return Ok(None) };
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
        let mut bytes = &self.shards[place.shard][place.range.clone()];
        let mut rows = rows;
        if role == Role::EmbedPositions {
            // OPT's first position stands in row 2.
            bytes = bytes.get(bytes.len() / rows.max(1) * OPT_OFFSET..).unwrap_or_default();
            rows = rows.saturating_sub(OPT_OFFSET);
        }
        let data = Data::Bytes { kind, bytes };
        Ok(Some(SourceTensor { name, rows, cols, data, interleaved: None }))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        let path = self.folder.join("tokenizer.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = read(&path)?;
        // Refused here, not only when the image is to read a text.
        Text::from_json(&text)
            .map_err(|e| Error::file(&path, format!("{e}; download it again, or take it away to pack without text")))?;
        Ok(Some(text))
    }

    fn chat(&self) -> Result<Template> {
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
        Ok(Template { source: template, bos_token: token("bos_token"), eos_token: token("eos_token") })
    }

    fn origin(&self) -> String {
        let name = self.folder.file_name().map_or_else(|| "folder".into(), |n| n.to_string_lossy().into_owned());
        format!("Hugging Face folder {name}, {} safetensors file(s)", self.shards.len())
    }

    fn path(&self) -> &Path {
        &self.folder
    }
}
