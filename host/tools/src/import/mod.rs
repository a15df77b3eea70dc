//! The sources of models: Hugging Face folders, GGUF files, and random numbers.

mod added;
mod arrange;
mod config;
mod families;
pub mod gguf;
mod hf;
mod int4;
mod names;
mod placed;
mod rope;
mod sentencepiece;
mod synthetic;
mod templates;
mod tensor;

pub use families::names as family_names;
pub use gguf::GgufSource;
pub use hf::HfSource;
pub use names::Kind;
pub use synthetic::{SHAPES, SyntheticSource};
pub use tensor::{Data, Reading, SourceTensor};

use families::Family;
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{self, Globals, HeadNorm, Layer, MAX_EOS, Op};
use shadowllm_core::image::roles::Place;
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// A model's description, and tensors that are computed from its configuration.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name of the family ("llama", "opt", ...).
    pub family: String,
    /// The properties that do not belong to a layer.
    pub globals: Globals,
    /// Every layer.
    pub layers: Vec<Layer>,
    /// Tables of inverse rotary frequencies, scaling applied.
    pub ropes: Vec<Vec<f32>>,
    /// The number of rotated numbers in each head; the others have the frequency 0.
    pub rotated: usize,
    /// Factor of the numbers of a query that are rotated.
    pub rotated_factor: f32,
}

impl Default for Spec {
    fn default() -> Self {
        let (family, layers, ropes) = (String::new(), Vec::new(), Vec::new());
        Spec { family, globals: Globals::NONE, layers, ropes, rotated: 0, rotated_factor: 1.0 }
    }
}

impl Spec {
    /// Sets the properties that only the tensors show: biases, and norms of heads.
    pub fn with_tensors(mut self, has: &dyn Fn(Role, usize) -> bool) -> Spec {
        for (layer, blocks) in self.layers.iter_mut().enumerate() {
            for block in blocks.blocks.iter_mut().flatten() {
                match &mut block.op {
                    Op::Attention(a) => {
                        a.biases = [Role::QBias, Role::OBias].map(|role| has(role, layer));
                        if a.head_norm == HeadNorm::None && has(Role::QNorm, layer) {
                            a.head_norm = HeadNorm::PerHead;
                        }
                    }
                    Op::Mlp(m) => m.biases = [Role::UpBias, Role::DownBias].map(|role| has(role, layer)),
                }
            }
        }
        self
    }

    /// The number of experts that have this tensor; 0 if it does not belong to experts.
    fn experts(&self, role: Role, layer: usize) -> usize {
        let Some(layer) = self.layers.get(layer) else { return 0 };
        let place = Place { globals: &self.globals, block: role.block(layer), rotated: 0 };
        role.experts(&place)
    }

    /// The architecture section of an image.
    ///
    /// # Errors
    /// [`shadowllm_core::Error::Malformed`] names the field that is out of range.
    pub fn section(&self) -> std::result::Result<Vec<u8>, shadowllm_core::Error> {
        let mut kinds: Vec<Layer> = Vec::new();
        let kind_of = self.layers.iter().map(|layer| {
            let known = kinds.iter().position(|k| k == layer);
            known.unwrap_or_else(|| {
                kinds.push(*layer);
                kinds.len() - 1
            }) as u8
        });
        let kind_of: Vec<u8> = kind_of.collect();
        let mut bytes = Vec::new();
        arch::write(&self.globals, &kinds, &kind_of, &mut |byte| bytes.push(byte))?;
        Ok(bytes)
    }

    /// Checks that all numbers of the description are in range.
    ///
    /// # Errors
    /// A sentence that names the field.
    fn check(&self) -> std::result::Result<(), String> {
        match self.section() {
            Ok(_) => Ok(()),
            Err(shadowllm_core::Error::Malformed(field)) => {
                Err(format!("no model can have such a shape: {field} is out of range; is the file damaged?"))
            }
            Err(other) => Err(other.to_string()),
        }
    }

    /// Removes tables of rotary frequencies that no layer uses.
    fn drop_unused_tables(&mut self) {
        let attention = self.layers.iter().filter_map(Layer::attention);
        let used: Vec<usize> = attention.filter_map(|a| a.rope).collect();
        let kept: Vec<usize> = (0..self.ropes.len()).filter(|table| used.contains(table)).collect();
        for block in self.layers.iter_mut().flat_map(|layer| layer.blocks.iter_mut()).flatten() {
            if let Op::Attention(a) = &mut block.op {
                a.rope = a.rope.and_then(|table| kept.iter().position(|k| *k == table));
            }
        }
        self.ropes = kept.iter().map(|table| self.ropes[*table].clone()).collect();
        self.globals.ropes = self.ropes.len();
    }

    /// A tensor that files of the family leave out because it is all zeros: the bias of its layer norms.
    fn default_tensor(&self, family: &Family, role: Role) -> Option<SourceTensor<'static>> {
        let name = role.name();
        let zero = !family.norm_bias && name.ends_with("norm.bias");
        let (rows, cols, reading) = (1, self.globals.d_model, Reading::default());
        zero.then(|| SourceTensor { name: name.into(), rows, cols, data: Data::Constant(0.0), reading })
    }
}

/// End tokens in the form of the description, and their number.
fn end_tokens(ids: &[u32]) -> ([u32; MAX_EOS], usize) {
    let (mut eos, len) = ([0; MAX_EOS], ids.len().min(MAX_EOS));
    eos[..len].copy_from_slice(&ids[..len]);
    (eos, len)
}

/// A model to pack.
pub trait Source: Sync {
    /// Its description.
    fn spec(&self) -> &Spec;
    /// A tensor, if the model has it. `layer` is ignored for those outside the layers.
    ///
    /// # Errors
    /// When the model has the tensor but it cannot be read; names the tensor.
    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>>;
    /// The tensor of one expert, for tensors of which every expert has its own ([`Role::experts`]), biases included.
    ///
    /// # Errors
    /// When the model has the tensor but it cannot be read; names the tensor.
    fn expert(&self, _role: Role, _layer: usize, _expert: usize) -> Result<Option<SourceTensor<'_>>> {
        Ok(None)
    }
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// When the model has a tokenizer that cannot be read or rebuilt.
    fn tokenizer(&self) -> Result<Option<String>>;
    /// Chat template and special tokens.
    ///
    /// # Errors
    /// When their files exist but cannot be read.
    fn chat(&self) -> Result<Template>;
    /// The number of tensors of each number format, under the names of the files.
    fn types(&self) -> std::collections::BTreeMap<String, usize> {
        std::collections::BTreeMap::new()
    }
    /// One line about the origin of the model.
    fn origin(&self) -> String;
    /// The file or folder.
    fn path(&self) -> &Path;
    /// The files that it is read from, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(vec![self.path().to_owned()])
    }
}

/// Opens a source of any kind.
///
/// # Errors
/// When it is neither a folder with `config.json` nor a GGUF file.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    open_for(path, None)
}

/// The same, for texts of at most `context` tokens: models with LongRoPE rotate positions in another way for long
/// texts.
///
/// # Errors
/// As [`open`], and when the model does not take texts of this length.
pub fn open_for(path: &Path, context: Option<usize>) -> Result<Box<dyn Source>> {
    let meta = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if meta.is_dir() {
        return Ok(Box::new(HfSource::open(&snapshot(path).unwrap_or_else(|| path.to_owned()), context)?));
    }
    if is_image(path) {
        return Err(Error::file(path, "is packed already: run it as it is, or pack its source"));
    }
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Err(Error::file(path, "is a part of a model: name its folder, which has the config.json"));
    }
    Ok(Box::new(GgufSource::open(path, context)?))
}

/// The error about a path that cannot be read. Of a name as other programs fetch models by (`llama3.2`, `owner/model`, an
/// address), it says that this is none of a file.
pub fn unreadable(path: &Path, source: std::io::Error) -> Error {
    let name = path.to_string_lossy();
    if source.kind() != std::io::ErrorKind::NotFound || !fetched_elsewhere(&name) {
        return Error::io("read", path, source);
    }
    Error::Other(format!(
        "cannot read {name}: there is no such file or folder (check the path). Models are files here and are not fetched \
         by name: download a .gguf, or a Hugging Face folder, and name its path; shadowllm demo fetches one"
    ))
}

/// Whether something that does not exist looks less like a path than like the name of a model.
fn fetched_elsewhere(name: &str) -> bool {
    // A colon at 1 is that of a drive.
    let tagged = name.rfind(':').is_some_and(|at| at > 1);
    let ending = [".gguf", ".sllm"].iter().any(|ending| name.ends_with(ending));
    let rooted = name.starts_with(['.', '/', '\\', '~']);
    let first = name.split('/').next().unwrap_or_default();
    tagged || !(ending || rooted || Path::new(first).exists())
}

/// The newest snapshot in a folder of Hugging Face's cache (`models--owner--name`).
fn snapshot(folder: &Path) -> Option<PathBuf> {
    let main = folder.join("refs/main");
    // A pipe would wait, and a device may have no end.
    let commit = main.is_file().then(|| std::fs::read_to_string(main).ok())??;
    let commit = commit.trim();
    let named = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    let snapshot = folder.join("snapshots").join(commit);
    (named && snapshot.join("config.json").is_file()).then_some(snapshot)
}

/// The message for an image without a tokenizer.
pub fn no_tokenizer(source: &Path) -> String {
    let name = source.display();
    if source.is_dir() {
        return format!(
            "{name} has neither tokenizer.json nor tokenizer.model, so the image cannot read or write text (vocab.json and \
             merges.txt are not read: Python's AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes a \
             tokenizer.json)"
        );
    }
    format!("{name} has no tokenizer, so the image cannot read or write text")
}

/// Whether a path is an image, by its first bytes.
pub fn is_image(path: &Path) -> bool {
    begins_with(path, &shadowllm_core::image::MAGIC)
}

/// Whether a path is a file with these first bytes.
pub fn begins_with(path: &Path, magic: &[u8]) -> bool {
    use std::io::Read;
    let mut found = vec![0; magic.len()];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut found).is_ok() && found == magic)
}
