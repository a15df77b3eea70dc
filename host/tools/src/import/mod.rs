//! Where models come from: a Hugging Face folder, a GGUF file, or random numbers.

pub mod gguf;
mod hf;
mod hf_config;
mod rope;
mod synthetic;

pub use gguf::GgufSource;
pub use hf::HfSource;
pub use synthetic::{SHAPES, SyntheticSource};

use gguf::GgmlType;
use gguf::dequant::{block_bytes, block_len, dequantize};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{self, Attention, Block, Globals, HeadNorm, Layer, MAX_EOS, Mlp, Norm, Norms, Op};
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use std::path::Path;

/// A model's description, with what is computed from its configuration.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name of the family ("llama", "opt", ...).
    pub family: String,
    /// What the model has once.
    pub globals: Globals,
    /// Every layer.
    pub layers: Vec<Layer>,
    /// Tables of inverse rotary frequencies, scaling applied.
    pub ropes: Vec<Vec<f32>>,
}

impl Spec {
    /// Sets what only the tensors tell: biases, and norms of heads.
    pub fn with_tensors(mut self, has: &dyn Fn(Role, usize) -> bool) -> Spec {
        for (layer, blocks) in self.layers.iter_mut().enumerate() {
            for block in blocks.blocks.iter_mut().flatten() {
                match &mut block.op {
                    Op::Attention(a) => {
                        a.biases = [Role::QBias, Role::OBias].map(|role| has(role, layer));
                        if has(Role::QNorm, layer) {
                            a.head_norm = HeadNorm::PerHead;
                        }
                    }
                    Op::Mlp(m) => m.biases = [Role::UpBias, Role::DownBias].map(|role| has(role, layer)),
                }
            }
        }
        self
    }

    /// The architecture section of an image.
    ///
    /// # Errors
    /// [`shadowllm_core::Error::Malformed`] with the field that no model can have.
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

    /// Whether the description can be a model's.
    ///
    /// # Errors
    /// A sentence with the field.
    fn check(self) -> std::result::Result<Spec, String> {
        match self.section() {
            Ok(_) => Ok(self),
            Err(shadowllm_core::Error::Malformed(field)) => {
                Err(format!("no model can have such a shape: {field} is out of range; is the file damaged?"))
            }
            Err(other) => Err(other.to_string()),
        }
    }
}

/// End tokens as the description holds them, and how many.
fn end_tokens(ids: &[u32]) -> ([u32; MAX_EOS], usize) {
    let (mut eos, len) = ([0; MAX_EOS], ids.len().min(MAX_EOS));
    eos[..len].copy_from_slice(&ids[..len]);
    (eos, len)
}

/// A layer of attention and a feed-forward network, each with an input norm.
fn pre_norm(norm: Norm, attention: Attention, mlp: Mlp) -> Layer {
    let norms = Norms { input: Some(norm), ..Norms::default() };
    Layer::of(&[Block { norms, op: Op::Attention(attention) }, Block { norms, op: Op::Mlp(mlp) }])
}

/// A model to pack.
pub trait Source: Sync {
    /// Its description.
    fn spec(&self) -> &Spec;
    /// A tensor, if the model has it. `layer` is ignored for those outside the layers.
    ///
    /// # Errors
    /// When the tensor is there and cannot be read; names it.
    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>>;
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// When there is one that cannot be read or rebuilt.
    fn tokenizer(&self) -> Result<Option<String>>;
    /// Chat template and special tokens.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    fn chat(&self) -> Result<Template>;
    /// One line on where it came from.
    fn origin(&self) -> String;
    /// The file or folder, for messages.
    fn path(&self) -> &Path;
}

/// Opens whatever `path` is.
///
/// # Errors
/// When it is neither a folder with `config.json` nor a GGUF file.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if meta.is_dir() {
        return Ok(Box::new(HfSource::open(path)?));
    }
    if is_image(path) {
        return Err(Error::file(path, "is packed already: run it as it is, or pack what it was packed from"));
    }
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Err(Error::file(path, "is a part of a model: name the folder it lies in, with its config.json"));
    }
    Ok(Box::new(GgufSource::open(path)?))
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

/// A tensor's numbers, row by row.
#[derive(Clone)]
pub struct SourceTensor<'a> {
    /// Name in the source.
    pub name: String,
    /// Outputs (1 for vectors).
    pub rows: usize,
    /// Inputs (the length, for vectors).
    pub cols: usize,
    /// The numbers.
    pub data: Data<'a>,
    /// When set, rows of each head of this many dimensions are in GGUF's interleaved RoPE order and are
    /// read back in Hugging Face's half-split order.
    pub interleaved: Option<usize>,
}

/// Where a tensor's numbers are.
#[derive(Clone)]
pub enum Data<'a> {
    /// In memory, in blocks of `kind`.
    Bytes {
        /// Number format.
        kind: GgmlType,
        /// rows * cols numbers.
        bytes: &'a [u8],
    },
    /// Uniformly random, with this standard deviation.
    Random {
        /// Start of the sequence.
        seed: u64,
        /// Standard deviation.
        deviation: f32,
    },
    /// All the same.
    Constant(f32),
}

impl SourceTensor<'_> {
    /// Row of the data that holds row `row` of the tensor.
    fn data_row(&self, row: usize) -> usize {
        match self.interleaved {
            // Half-split (h, s, j) stands at interleaved (h, j, s).
            Some(dim) => row / dim * dim + row % (dim / 2) * 2 + row % dim / (dim / 2),
            None => row,
        }
    }

    /// Raw blocks of a row.
    fn row_bytes(&self, row: usize) -> Option<(GgmlType, &[u8])> {
        let Data::Bytes { kind, bytes } = &self.data else { return None };
        let len = self.cols / block_len(*kind) * block_bytes(*kind);
        let at = self.data_row(row) * len;
        bytes.get(at..at + len).map(|b| (*kind, b))
    }

    /// Block `index` (of 32) of a row as it is stored, when the data is of `kind`.
    pub fn raw_block(&self, kind: GgmlType, row: usize, index: usize) -> Option<&[u8]> {
        let (found, bytes) = self.row_bytes(row)?;
        let size = block_bytes(kind);
        if found == kind { bytes.get(index * size..(index + 1) * size) } else { None }
    }

    /// A whole row as floats, `[cols]`.
    ///
    /// # Errors
    /// When the data is shorter than the shape says.
    pub fn row(&self, row: usize, out: &mut [f32]) -> std::result::Result<(), String> {
        match &self.data {
            Data::Bytes { .. } => {
                let (kind, bytes) =
                    self.row_bytes(row).ok_or_else(|| format!("tensor {} ends before row {row}", self.name))?;
                dequantize(kind, bytes, out).map_err(|e| format!("tensor {}: {e}", self.name))
            }
            Data::Random { seed, deviation } => {
                synthetic::fill(*seed ^ (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), *deviation, out);
                Ok(())
            }
            Data::Constant(x) => {
                out.fill(*x);
                Ok(())
            }
        }
    }

    /// The tensor as one vector of floats (its rows one after the other).
    ///
    /// # Errors
    /// As [`SourceTensor::row`].
    pub fn vector(&self) -> std::result::Result<Vec<f32>, String> {
        let mut all = vec![0.0; self.rows * self.cols];
        for (row, out) in all.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.row(row, out)?;
        }
        // A bias of rotated heads is in the order of its matrix's rows.
        if self.rows == 1 && self.interleaved.is_some() {
            return Ok((0..all.len()).map(|i| all[self.data_row(i)]).collect());
        }
        Ok(all)
    }
}
