//! The files of a GGUF model: one file, or the parts into which it was split.

use super::{Gguf, Tensor};
use memmap2::Mmap;
use shadowllm_core::image::arch::MAX_HEAD_DIM;
use shadowllm_host::map::map;
use shadowllm_host::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The most parts.
const MOST: u64 = 9999;

/// A model's files, the one with the metadata first.
pub struct Parts {
    files: Vec<Part>,
}

/// One file.
struct Part {
    path: PathBuf,
    bytes: Mmap,
    gguf: Gguf,
}

impl Parts {
    /// Opens a file, and the other parts if it is one of several; it may be any of them.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, or the part that is missing.
    pub fn open(path: &Path) -> Result<Parts> {
        let part = open(path)?;
        let gguf = &part.gguf;
        let count = gguf.u64("split.count").unwrap_or(1);
        if count <= 1 {
            return Ok(Parts { files: vec![part] });
        }
        let merge = "join the parts with llama-gguf-split --merge";
        if count > MOST {
            return Err(Error::file(path, format!("split.count {count} is too large; is the file damaged?")));
        }
        let number = gguf.u64("split.no").unwrap_or(0).saturating_add(1);
        let Some(names) = names(path, number, count) else {
            let wanted = format!("its name does not end with -{number:05}-of-{count:05}.gguf, so that the others");
            let message = format!("is part {number} of {count}, and {wanted} cannot be found: {merge}");
            return Err(Error::file(path, message));
        };
        let mut files = Vec::new();
        for (name, number) in names.iter().zip(1..) {
            if !name.is_file() {
                let missing = format!("part {number} of {count} of the model is missing: download it too");
                return Err(Error::file(name, missing));
            }
            files.push(open(name)?);
        }
        let found: usize = files.iter().map(|part| part.gguf.tensor_names().count()).sum();
        let declared = gguf.u64("split.tensors.count").map_or(found, |n| n as usize);
        if found != declared {
            let message =
                format!("the {count} parts have {found} tensors instead of {declared}: do they belong to one model?");
            return Err(Error::file(path, message));
        }
        belong_together(&files)?;
        Ok(Parts { files })
    }

    /// The paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|part| part.path.as_path())
    }

    /// The header with the metadata.
    pub fn head(&self) -> &Gguf {
        &self.files[0].gguf
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|part| part.gguf.has_tensor(name))
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|part| part.gguf.tensor_names())
    }

    /// A tensor and its bytes.
    ///
    /// # Errors
    /// When the tensor is missing or of a type that cannot be read.
    pub fn tensor(&self, name: &str) -> std::result::Result<(Tensor<'_>, &[u8]), String> {
        let part = self.files.iter().find(|part| part.gguf.has_tensor(name)).unwrap_or(&self.files[0]);
        let tensor = part.gguf.tensor(name)?;
        let bytes = part.bytes.get(tensor.range.clone()).unwrap_or_default();
        Ok((tensor, bytes))
    }

    /// All numbers of a tensor with one for each part of a head; `None` when there is no such tensor.
    ///
    /// # Errors
    /// When the tensor is of a type that cannot be read, or has more numbers than any head.
    pub fn numbers(&self, name: &str) -> std::result::Result<Option<Vec<f32>>, String> {
        if !self.has(name) {
            return Ok(None);
        }
        let (tensor, bytes) = self.tensor(name)?;
        let count = tensor.columns() * tensor.rows();
        if count > MAX_HEAD_DIM {
            return Err(format!("tensor {name} has {count} numbers, more than a head can have ({MAX_HEAD_DIM})"));
        }
        let mut numbers = vec![0.0; count];
        tensor.kind.dequantize(bytes, &mut numbers)?;
        Ok(Some(numbers))
    }
}

fn open(path: &Path) -> Result<Part> {
    let bytes = map(path)?;
    let gguf = Gguf::parse(&bytes).map_err(|e| Error::file(path, e))?;
    Ok(Part { path: path.to_owned(), bytes, gguf })
}

/// Checks that every part is the one that its name says, of a model of the same architecture, and that no tensor is in
/// two of them: which one is right is unknown. Parts after the first need not have metadata.
fn belong_together(files: &[Part]) -> Result<()> {
    let (count, arch) = (files.len() as u64, files[0].gguf.str("general.architecture"));
    let mut names = HashSet::new();
    for (part, number) in files.iter().zip(1..) {
        let found = |what: String| {
            let why = format!("is not part {number} of {count} of the model: {what}; download all parts again");
            Err(Error::file(&part.path, why))
        };
        let said = [("split.no", number - 1), ("split.count", count)];
        for (key, wanted) in said {
            if let Some(other) = part.gguf.u64(key).filter(|n| *n != wanted) {
                return found(format!("it has {key} {other}"));
            }
        }
        let own = part.gguf.str("general.architecture");
        if let (Some(arch), Some(own)) = (arch, own)
            && arch != own
        {
            return found(format!("it is of the architecture {own}, and part 1 of {arch}"));
        }
        if let Some(name) = part.gguf.tensor_names().find(|name| !names.insert(*name)) {
            return found(format!("an earlier part has the tensor {name} too"));
        }
    }
    Ok(())
}

/// The names of all parts, from the name of one of them.
fn names(path: &Path, number: u64, count: u64) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-{number:05}-of-{count:05}.gguf"))?;
    Some((1..=count).map(|n| path.with_file_name(format!("{stem}-{n:05}-of-{count:05}.gguf"))).collect())
}
