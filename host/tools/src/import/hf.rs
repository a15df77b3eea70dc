//! A Hugging Face folder: `config.json`, one or several safetensors files, `tokenizer.json`.

use super::added::{Files, with_tokens};
use super::arrange::{Stock, arrange};
use super::config::Config;
use super::families::{self, Family};
use super::gguf::{self, GgmlType, tokenizer_json};
use super::int4::{Int4, Packer, Scheme, Stored};
use super::names::{self, Kind, Part, Wanted};
use super::placed::{In, all_placed};
use super::sentencepiece;
use super::templates::{named_templates, with_tools};
use super::{Data, Source, SourceTensor, Spec};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use shadowllm_core::image::Role;
use shadowllm_host::map::{map, stands_for};
use shadowllm_host::text::{Template, Text, read};
use shadowllm_host::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

struct Place {
    shard: usize,
    /// The number format, if it can be read.
    kind: Option<GgmlType>,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
    /// The tensors that belong to it, if it holds 4-bit weights.
    words: Option<Box<Words>>,
}

/// The tensors that belong to the words of 4-bit weights.
struct Words {
    /// Shape of the words themselves.
    shape: Vec<usize>,
    scales: Place,
    zeros: Option<Place>,
    order: Option<Place>,
}

/// A Hugging Face folder.
pub struct HfSource {
    folder: PathBuf,
    family: &'static Family,
    spec: Spec,
    shards: Vec<Mmap>,
    places: HashMap<String, Place>,
    /// The prefix of all tensor names except the output matrix's.
    prefix: String,
    /// The prefix of the output matrix's name.
    head: String,
    /// Whether the output matrix is the embedding.
    tied: bool,
    /// How its weights are packed, if they have 4 bits.
    scheme: Option<Scheme>,
}

impl HfSource {
    /// Opens a folder, for texts of at most `context` tokens if given.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn open(folder: &Path, context: Option<usize>) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(Error::file(
                folder,
                "the folder has no config.json: name a Hugging Face model folder (config.json, *.safetensors, \
                 tokenizer.json), a .gguf file or a .sllm image",
            ));
        }
        let config = read(&path)?;
        let (config, family) = parse(&config).map_err(|e| Error::file(&path, e))?;
        let config = config.for_context(context);
        let scheme = Scheme::read(&config).map_err(|e| Error::file(&path, e))?;
        let mut spec = families::describe(family, &config).map_err(|e| Error::file(&path, e))?;
        more_eos(folder, &mut spec)?;
        let tied = config.flag("tie_word_embeddings", family.tied).map_err(|e| Error::file(&path, e))?;
        let mut source = HfSource {
            folder: folder.to_owned(),
            family,
            spec,
            shards: Vec::new(),
            places: HashMap::new(),
            prefix: String::new(),
            head: String::new(),
            tied,
            scheme,
        };
        for path in shard_paths(folder)? {
            source.add_shard(&path)?;
        }
        if let Some(scheme) = scheme {
            source.put_together(scheme).map_err(|e| Error::file(folder, e))?;
        }
        source.find_prefixes();
        let has = |role, layer| source.find(Wanted { role, layer, expert: 0 }).is_some();
        let spec = source.spec.clone().with_tensors(&has);
        let of_layers = format!("{}{}.", source.prefix, family.layers);
        let layer_of = |name: &str| name.strip_prefix(&of_layers)?.split_once('.')?.0.parse().ok();
        let names = source.places.keys().map(|name| (name.as_str(), In::of(name, layer_of(name), &source.prefix)));
        let layers = config.name("num_hidden_layers");
        all_placed(&spec, &|wanted| source.find(wanted), names, layers).map_err(|e| Error::file(folder, e))?;
        source.spec = spec;
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
            let place = Place {
                shard: self.shards.len(),
                kind,
                dtype: info.dtype,
                shape: info.shape.clone(),
                range,
                words: None,
            };
            self.places.insert(name.clone(), place);
        }
        self.shards.push(bytes);
        Ok(())
    }

    /// Combines the tensors of 4-bit weights with those that belong to them, under the names of plain weights.
    fn put_together(&mut self, scheme: Scheme) -> std::result::Result<(), String> {
        let [codes, scales, zeros, order] = scheme.names();
        let stems: Vec<String> = self.places.keys().filter_map(|n| n.strip_suffix(codes).map(str::to_owned)).collect();
        for stem in stems {
            let mut take = |end: &str| self.places.remove(&format!("{stem}{end}"));
            let Some(mut place) = take(codes) else { continue };
            let scales = take(scales).ok_or_else(|| format!("tensor {stem}{codes} has no scales beside it"))?;
            let [zeros, order] = [zeros, order].map(|end| if end.is_empty() { None } else { take(end) });
            take(".weight_shape");
            // Some packers add a bias of zeros to maps that have none.
            let bias = format!("{stem}.bias");
            let bytes = self.places.get(&bias).map(|p| &self.shards[p.shard][p.range.clone()]);
            if bytes.is_some_and(|bytes| bytes.iter().all(|b| *b == 0)) {
                self.places.remove(&bias);
            }
            place.words = Some(Box::new(Words { shape: place.shape.clone(), scales, zeros, order }));
            let stacked = scheme.packer == Packer::Mxfp4;
            let name = if stacked { format!("{stem}{codes}") } else { format!("{stem}.weight") };
            let words = self.words(&place).map_err(|e| format!("tensor {stem}{codes} {e}"))?;
            let (rows, cols) = words.map_or((0, 0), |w| (w.rows(), w.cols()));
            place.shape = match place.shape[..] {
                [experts, rows, ..] if stacked => vec![experts, rows, cols],
                _ => vec![rows, cols],
            };
            self.places.insert(name, place);
        }
        Ok(())
    }

    /// The matrix of a tensor of words.
    fn words(&self, place: &Place) -> std::result::Result<Option<Int4<'_>>, String> {
        let (Some(words), Some(scheme)) = (&place.words, self.scheme) else { return Ok(None) };
        let bytes = |p: &Place| &self.shards[p.shard][p.range.clone()];
        let stored = Stored {
            codes: bytes(place),
            scales: (words.scales.kind, bytes(&words.scales)),
            zeros: words.zeros.as_ref().map(bytes),
            order: words.order.as_ref().map(bytes),
        };
        Int4::new(scheme, &words.shape, stored).map(Some)
    }

    /// Finds the prefixes of names: models that were saved without their head have none, and text models that are part
    /// of a larger model have the name of the part.
    fn find_prefixes(&mut self) {
        let shortest = |role| {
            let own = |name: &&str| !name.is_empty();
            let names = self.family.names.iter().chain(names::STANDARD).filter(|row| row.role == role);
            let names: Vec<&str> = names.map(|row| row.hf).filter(own).collect();
            let before = |place: &String| {
                let rest = names.iter().find_map(|name| place.strip_suffix(name))?;
                (rest.is_empty() || rest.ends_with('.')).then(|| rest.to_owned())
            };
            self.places.keys().filter_map(before).min_by_key(String::len)
        };
        let (prefix, head) = (shortest(Role::Embed), shortest(Role::Output));
        (self.prefix, self.head) = (prefix.unwrap_or_else(|| "model.".into()), head.unwrap_or_default());
    }

    /// Name of the stored tensor that holds this role, and which part of it.
    fn find(&self, wanted: Wanted) -> Option<(String, Part)> {
        let Wanted { role, layer, .. } = wanted;
        let before = match (role, role.in_layers()) {
            (Role::Output | Role::OutputBias, _) => self.head.clone(),
            (_, true) => format!("{}{}.{layer}.", self.prefix, self.family.layers),
            (_, false) => self.prefix.clone(),
        };
        let there = |name: &str| self.places.contains_key(&format!("{before}{name}"));
        let (name, part) = names::find(self.family.names, Kind::Hf, wanted, &there)?;
        Some((before + &name, part))
    }
}

impl HfSource {
    /// The tokenizer of a folder that has only the file of SentencePiece.
    fn sentencepiece(&self) -> Result<Option<String>> {
        let path = self.folder.join("tokenizer.model");
        if !present(&path)? {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let failed = |e: String| Error::file(&path, e);
        let mut metadata = sentencepiece::metadata(&bytes).map_err(failed)?;
        let config = json(&self.folder, "tokenizer_config.json")?;
        if let Some(add) = config.get("add_bos_token").and_then(Value::as_bool) {
            metadata.set("tokenizer.ggml.add_bos_token", gguf::Value::Bool(add));
        }
        let added = added(&self.folder)?;
        let text = tokenizer_json(&metadata).and_then(|text| with_tokens(&text, &added)).map_err(failed)?;
        let read = Text::from_json(&text).map_err(failed)?;
        // A token's number follows from its place, so a gap or another token in its place changes it.
        for token in &added {
            let (content, id) = (token["content"].as_str().unwrap_or_default(), token["id"].as_u64());
            if let Some(got) = read.id(content).filter(|got| Some(u64::from(*got)) != id) {
                let why = format!("token {content} is said to be {} and becomes {got}", token["id"]);
                let files = "added_tokens.json and tokenizer_config.json belong to another tokenizer.model";
                return Err(failed(format!("{why}: {files}, or the folder needs its tokenizer.json")));
            }
        }
        Ok(Some(text))
    }
}

/// The configuration, and its family.
fn parse(text: &str) -> std::result::Result<(Config, &'static Family), String> {
    let mut config = Config::from_json(text)?;
    continues(&config)?;
    let family = config.text("model_type").ok_or_else(|| config.lacks("model_type"))?;
    let family = families::by_name(Kind::Hf, family)?;
    config.rename(family.keys);
    config.fill(family.defaults);
    Ok((config, family))
}

/// Refuses a model that was trained for something else than continuing a text, of the same layers or not.
fn continues(config: &Config) -> std::result::Result<(), String> {
    let names = config.value("architectures").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let other = |name: &&str| {
        name.contains("For") && !["ForCausalLM", "ForConditionalGeneration"].iter().any(|n| name.contains(n))
    };
    match names.into_iter().find(other) {
        Some(name) => {
            Err(format!("is of a {name}, which does not continue texts: a language model (...ForCausalLM) is needed"))
        }
        None => Ok(()),
    }
}

/// A token in `tokenizer_config.json`: a string, or an object with its content.
fn token(config: &Value, key: &str) -> String {
    match config.get(key) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Object(o)) => o.get("content").and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// Whether a file is there. What has its name but cannot be read is an error: without it the model would be another one.
fn present(path: &Path) -> Result<bool> {
    match path.is_file() {
        false if path.symlink_metadata().is_ok() => {
            Err(Error::file(path, "is not a file, nor a link to one that is there: download it again"))
        }
        present => Ok(present),
    }
}

/// The JSON in a file of the folder; null when the file is missing.
fn json(folder: &Path, file: &str) -> Result<Value> {
    let path = folder.join(file);
    if !present(&path)? {
        return Ok(Value::Null);
    }
    let text = read(&path)?;
    if let Some(what) = stands_for(text.as_bytes()) {
        return Err(Error::file(&path, what));
    }
    serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}; download it again")))
}

/// The tokens that are added to the folder's `tokenizer.model`.
fn added(folder: &Path) -> Result<Vec<Value>> {
    let file = |name: &str| json(folder, name);
    let [config, added, special] = ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"].map(file);
    Ok(Files { config: config?, added: added?, special: special? }.tokens())
}

/// The number of a token.
fn number_of(folder: &Path, token: &str) -> Result<Option<Value>> {
    let in_list = |list: &[Value]| list.iter().find(|t| t["content"] == token).map(|t| t["id"].clone());
    let tokenizer = json(folder, "tokenizer.json")?;
    if !tokenizer.is_null() {
        let added = tokenizer.get("added_tokens").and_then(Value::as_array);
        let in_vocab = || tokenizer.get("model")?.get("vocab")?.get(token).cloned();
        return Ok(added.and_then(|list| in_list(list)).or_else(in_vocab));
    }
    let in_model = || {
        let path = folder.join("tokenizer.model");
        // If the file cannot be read, the error is that of reading the tokenizer.
        let metadata = path.is_file().then(|| sentencepiece::metadata(&std::fs::read(&path).ok()?).ok())??;
        metadata.strings("tokenizer.ggml.tokens")?.iter().position(|text| text == token).map(Value::from)
    };
    Ok(in_list(&added(folder)?).or_else(in_model))
}

/// A template in a file of its own.
fn jinja(folder: &Path, file: &str) -> Result<Option<String>> {
    let path = folder.join(file);
    present(&path)?.then(|| read(&path)).transpose()
}

/// All end tokens: `generation_config.json` often names more than `config.json`, and `tokenizer_config.json` the one
/// that ends a turn.
fn ends(folder: &Path) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for file in ["config.json", "generation_config.json"] {
        match json(folder, file)?.get("eos_token_id") {
            Some(Value::Array(list)) => ids.extend(list.iter().cloned()),
            Some(one) => ids.push(one.clone()),
            None => {}
        }
        // Some files have -1 for none.
        if let Some(odd) = ids.iter().find(|id| !id.is_null() && !id.is_i64() && !id.is_u64()) {
            let why = format!("eos_token_id is {odd}, not a token's number: the model would never end an answer");
            return Err(Error::file(&folder.join(file), why));
        }
    }
    let token = token(&json(folder, "tokenizer_config.json")?, "eos_token");
    if !token.is_empty() {
        ids.extend(number_of(folder, &token)?);
    }
    Ok(ids.iter().filter_map(|v| u32::try_from(v.as_u64()?).ok()).collect())
}

/// Adds all end tokens to the description, as far as they fit.
fn more_eos(folder: &Path, spec: &mut Spec) -> Result<()> {
    let c = &mut spec.globals;
    for id in ends(folder)? {
        if c.eos_len < c.eos.len() && !c.eos().contains(&id) {
            c.eos[c.eos_len] = id;
            c.eos_len += 1;
        }
    }
    Ok(())
}

fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    let (single, value) = (folder.join("model.safetensors"), json(folder, "model.safetensors.index.json")?);
    if !value.is_null() {
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
        let shards: Vec<PathBuf> = names.into_iter().map(|n| folder.join(n)).collect();
        // The index may be left over from an earlier version, beside the one file.
        if shards.iter().all(|shard| shard.is_file()) || !single.is_file() {
            return Ok(shards);
        }
    }
    if single.is_file() {
        return Ok(vec![single]);
    }
    Err(Error::file(
        folder,
        "the folder has neither model.safetensors nor model.safetensors.index.json (PyTorch .bin files must be \
         converted to safetensors first)",
    ))
}

impl Source for HfSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        self.expert(role, layer, 0)
    }

    fn expert(&self, role: Role, layer: usize, expert: usize) -> Result<Option<SourceTensor<'_>>> {
        let wanted = Wanted { role, layer, expert };
        if role == Role::Output && self.tied {
            return Ok(None);
        }
        let Some((name, part)) = self.find(wanted) else {
            if role == Role::Output {
                let message = "the model has no output matrix (lm_head), and config.json does not say that it is the \
                               embedding (tie_word_embeddings): is it a model without its head?";
                return Err(Error::file(&self.folder, message));
            }
            return Ok(self.spec.default_tensor(self.family, role));
        };
        let Some(place) = self.places.get(&name) else { return Ok(None) };
        let words = self.words(place).map_err(|e| Error::file(&self.folder, format!("tensor {name} {e}")))?;
        let data = match (words, place.kind) {
            (Some(words), _) => Data::Int4(words),
            (None, Some(kind)) => Data::Bytes { kind, bytes: &self.shards[place.shard][place.range.clone()] },
            (None, None) => {
                let message = format!("tensor {name} is of the type {:?}; F32, F16 and BF16 can be read", place.dtype);
                return Err(Error::file(&self.folder, message));
            }
        };
        let stock = Stock { name, shape: place.shape.clone(), data };
        let tensor = arrange(&self.spec, self.family.hf, (wanted, part), stock);
        tensor.map(Some).map_err(|e| Error::file(&self.folder, e))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        let path = self.folder.join("tokenizer.json");
        if !present(&path)? {
            return self.sentencepiece();
        }
        let text = read(&path)?;
        // Checked here, and not only when the image first reads a text.
        Text::from_json(&text)
            .map_err(|e| Error::file(&path, format!("{e}; download it again, or remove it to pack without text")))?;
        Ok(Some(text))
    }

    fn chat(&self) -> Result<Template> {
        let config = json(&self.folder, "tokenizer_config.json")?;
        // Newer models have a file for it, which takes precedence; models that also read pictures another one.
        let mut template = jinja(&self.folder, "chat_template.jinja")?;
        if let Some(default) = &template {
            let tools = jinja(&self.folder, "additional_chat_templates/tool_use.jinja")?;
            template = Some(with_tools(default, tools.as_deref()));
        }
        for file in ["tokenizer_config.json", "chat_template.json"] {
            if template.is_none() {
                let named = json(&self.folder, file)?.get("chat_template").map(named_templates).transpose();
                template = named.map_err(|e| Error::file(&self.folder.join(file), e))?.flatten();
            }
        }
        Ok(Template {
            source: template.unwrap_or_default(),
            bos_token: token(&config, "bos_token"),
            eos_token: token(&config, "eos_token"),
            end_tokens: ends(&self.folder)?.into_iter().filter(|id| !self.spec.globals.eos().contains(id)).collect(),
        })
    }

    fn types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        let name = |p: &Place| match (&p.words, self.scheme) {
            (Some(_), Some(scheme)) => scheme.name().to_owned(),
            _ => format!("{:?}", p.dtype),
        };
        self.places.values().for_each(|p| *types.entry(name(p)).or_default() += 1);
        types
    }

    fn origin(&self) -> String {
        let name = self.folder.file_name().map_or_else(|| "folder".into(), |n| n.to_string_lossy().into_owned());
        format!("Hugging Face folder {name}, {} safetensors file(s)", self.shards.len())
    }

    fn path(&self) -> &Path {
        &self.folder
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(&self.folder).map_err(|e| Error::io("read", &self.folder, e))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        Ok(files)
    }
}
