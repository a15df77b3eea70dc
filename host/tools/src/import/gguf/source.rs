//! A GGUF file as a model to pack.

use super::config::config;
use super::parts::Parts;
use super::tokenizer::check_tokens;
use super::{Gguf, special_tokens, tokenizer_json};
use crate::import::arrange::{Stock, arrange};
use crate::import::families::{self, Family};
use crate::import::names::{self, Kind, Part, Wanted};
use crate::import::placed::{In, all_placed};
use crate::import::{Data, Source, SourceTensor, Spec};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::MAX_EOS;
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A GGUF file.
pub struct GgufSource {
    path: PathBuf,
    parts: Parts,
    family: &'static Family,
    spec: Spec,
}

impl GgufSource {
    /// Opens a file, for texts of at most `context` tokens if given.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(path: &Path, context: Option<usize>) -> Result<Self> {
        let parts = Parts::open(path)?;
        let (family, spec) = spec(&parts, context).map_err(|e| Error::file(path, e))?;
        Ok(GgufSource { path: path.to_owned(), parts, family, spec })
    }

    /// The parsed header.
    pub fn gguf(&self) -> &Gguf {
        self.parts.head()
    }
}

fn spec(parts: &Parts, context: Option<usize>) -> std::result::Result<(&'static Family, Spec), String> {
    let g = parts.head();
    let arch = g.str("general.architecture");
    let arch = arch.ok_or("the file lacks general.architecture; is it a whole language model? convert it again")?;
    let family = families::by_name(Kind::Gguf, arch)?;
    let vocab = parts.tensor("token_embd.weight").map_err(|e| format!("the token embedding: {e}"))?.0.rows();
    check_tokens(g, vocab)?;
    let config = config(parts, family, vocab)?.for_context(context);
    let spec = families::describe(family, &config)?;
    let find = |wanted| find(parts, family, wanted);
    let spec = spec.with_tensors(&|role, layer| find(Wanted { role, layer, expert: 0 }).is_some());
    let layer_of = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    let names = parts.names().map(|name| (name, In::of(name, layer_of(name), "")));
    all_placed(&spec, &find, names, &format!("{arch}.block_count"))?;
    Ok((family, spec))
}

/// Name of the stored tensor that holds this role, and which part of it.
fn find(parts: &Parts, family: &Family, wanted: Wanted) -> Option<(String, Part)> {
    let Wanted { role, layer, .. } = wanted;
    let before = if role.in_layers() { format!("blk.{layer}.") } else { String::new() };
    let there = |name: &str| parts.has(&format!("{before}{name}"));
    let (name, part) = names::find(family.names, Kind::Gguf, wanted, &there)?;
    Some((before + &name, part))
}

impl Source for GgufSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        self.expert(role, layer, 0)
    }

    fn expert(&self, role: Role, layer: usize, expert: usize) -> Result<Option<SourceTensor<'_>>> {
        let wanted = Wanted { role, layer, expert };
        let Some((name, part)) = find(&self.parts, self.family, wanted) else {
            return Ok(self.spec.default_tensor(self.family, role));
        };
        let (t, bytes) = self.parts.tensor(&name).map_err(|e| Error::file(&self.path, e))?;
        let shape: Vec<usize> = t.dims.iter().rev().copied().collect();
        let stock = Stock { name, shape, data: Data::Bytes { kind: t.kind, bytes } };
        let tensor = arrange(&self.spec, self.family.in_gguf, (wanted, part), stock);
        tensor.map(Some).map_err(|e| Error::file(&self.path, e))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        if self.gguf().str("tokenizer.ggml.model").is_none_or(|m| m == "no_vocab" || m == "none") {
            return Ok(None);
        }
        tokenizer_json(self.gguf()).map(Some).map_err(|e| Error::file(&self.path, e))
    }

    fn chat(&self) -> Result<Template> {
        let special = special_tokens(self.gguf());
        let token = |id: Option<u32>| {
            let tokens = self.gguf().strings("tokenizer.ggml.tokens").unwrap_or_default();
            id.and_then(|id| tokens.get(id as usize)).cloned().unwrap_or_default()
        };
        Ok(Template {
            source: special.chat_template.unwrap_or_default(),
            bos_token: token(special.bos),
            eos_token: token(special.eos.first().copied()),
            end_tokens: special.eos.iter().skip(MAX_EOS).copied().collect(),
        })
    }

    fn types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        for name in self.parts.names() {
            let kind = self.parts.tensor(name).map_or_else(|_| "unsupported".to_owned(), |(t, _)| t.kind.to_string());
            *types.entry(kind).or_default() += 1;
        }
        types
    }

    fn origin(&self) -> String {
        let file = self.path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
        format!("GGUF file {file} ({})", self.gguf().str("general.name").unwrap_or("unnamed"))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(self.parts.paths().map(Path::to_owned).collect())
    }
}
