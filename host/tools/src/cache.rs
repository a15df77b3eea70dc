//! The user's cache folder: downloaded models and images packed on the way.

use crate::import;
use crate::pack::{Arrangement, Formats, Progress, pack};
use crate::predictor::attach;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/shadowllm`, or the platform's usual place; made if it is not there.
///
/// # Errors
/// When there is no home folder or it cannot be written.
pub fn folder() -> Result<PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = env("XDG_CACHE_HOME")
        .or_else(|| env("LOCALAPPDATA"))
        .or_else(|| {
            env("HOME").map(|h| if cfg!(target_os = "macos") { h.join("Library/Caches") } else { h.join(".cache") })
        })
        .ok_or_else(|| Error::Other("no cache folder is known: set XDG_CACHE_HOME or HOME".into()))?;
    let folder = base.join("shadowllm");
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|e| {
        Error::file(&folder, format!("the cache cannot be made: {e}; set XDG_CACHE_HOME to another folder"))
    })?;
    Ok(folder)
}

/// Whether a path is an image, by its first bytes.
pub fn is_image(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 8];
    path.is_file()
        && std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok()
        && magic == shadowllm_core::image::MAGIC
}

/// The image for a model given as image, GGUF file or Hugging Face folder: the latter two are packed into
/// the cache first, once, under a name that changes with their size and date.
///
/// # Errors
/// When the path is none of them, or packing fails.
pub fn image_for(path: &Path, note: &mut dyn FnMut(&str), progress: Progress) -> Result<PathBuf> {
    image_with(path, Arrangement::DENSE, None, note, progress)
}

/// [`image_for`] in an arrangement, and with a predictor where one is given.
///
/// # Errors
/// As [`image_for`]; when the predictor does not fit.
pub fn image_with(
    path: &Path,
    arrangement: Arrangement,
    predictor: Option<&[u8]>,
    note: &mut dyn FnMut(&str),
    progress: Progress,
) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    let gguf = meta.is_file()
        && std::fs::File::open(path).is_ok_and(|mut f| {
            use std::io::Read;
            let mut magic = [0; 4];
            f.read_exact(&mut magic).is_ok() && &magic == b"GGUF"
        });
    if meta.is_file() && !gguf {
        return Ok(path.to_owned());
    }
    let source = import::open(path)?;
    let formats = Formats::like(&*source)?;
    let id = format!("{arrangement:?} {:08x}", predictor.map_or(0, crc32fast::hash));
    let target = folder()?.join(cache_name(path, formats, &id)?);
    // One that was damaged since is packed again.
    if LoadedModel::open(&target, None).is_ok() {
        return Ok(target);
    }
    note(&format!("packing {} into {} (once)", path.display(), target.display()));
    pack(&*source, formats, arrangement, &target, progress)?;
    if let Some(predictor) = predictor {
        attach(&target, predictor, &serde_json::json!("shipped"), &target)?;
    }
    Ok(target)
}

/// Name in the cache: the source's name, the formats and a hash of path, size and date, and of `how` it is packed.
fn cache_name(path: &Path, formats: Formats, how: &str) -> Result<String> {
    let mut hash = crc32fast::Hasher::new();
    hash.update(how.as_bytes());
    let full = std::fs::canonicalize(path).map_err(|e| Error::io("read", path, e))?;
    hash.update(full.as_os_str().as_encoded_bytes());
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(&shadowllm_core::image::VERSION.to_le_bytes());
    let files = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        files
    } else {
        vec![path.to_owned()]
    };
    for file in files {
        let meta = std::fs::metadata(&file).map_err(|e| Error::io("read", &file, e))?;
        let date = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        hash.update(&meta.len().to_le_bytes());
        hash.update(&date.map_or(0, |d| d.as_nanos()).to_le_bytes());
    }
    let stem = path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let (w, o, id) = (formats.weights.name(), formats.output.name(), hash.finalize());
    Ok(format!("{stem}-{w}-{o}-{id:08x}.sllm"))
}
