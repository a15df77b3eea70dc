//! The user's cache folder: downloaded models and images packed on the way.

use crate::import;
use crate::pack::{Arrangement, Formats, Progress, pack};
use crate::predictor::pack_with;
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
    if meta.is_file() && !import::begins_with(path, b"GGUF") {
        return Ok(path.to_owned());
    }
    packed_in(&folder()?, path, arrangement, predictor, note, progress)
}

/// The image in a cache folder, packed where it is not there yet.
fn packed_in(
    folder: &Path,
    path: &Path,
    arrangement: Arrangement,
    predictor: Option<&[u8]>,
    note: &mut dyn FnMut(&str),
    progress: Progress,
) -> Result<PathBuf> {
    let source = import::open(path)?;
    let id = format!("{arrangement:?} {:08x}", predictor.map_or(0, crc32fast::hash));
    let target = folder.join(cache_name(path, &id)?);
    // One that was damaged since is packed again.
    if LoadedModel::open(&target, None).is_ok() {
        return Ok(target);
    }
    note(&format!("packing {} into {} (once)", path.display(), target.display()));
    let packed = match predictor {
        None => pack(&*source, Formats::OWN, arrangement, &target, progress)?,
        Some(section) => {
            let record = serde_json::json!("shipped");
            pack_with(&*source, Formats::OWN, arrangement, (section, &record), &target, progress)?
        }
    };
    if !packed.has_tokenizer {
        note(&import::no_tokenizer(path));
    }
    Ok(target)
}

/// Name in the cache: the source's name and a hash of path, size and date, and of `how` it is packed.
fn cache_name(path: &Path, how: &str) -> Result<String> {
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
        // A link that leads nowhere is to a file without which all works, or whose lack is found elsewhere.
        let Ok(meta) = std::fs::metadata(&file) else { continue };
        let date = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        hash.update(&meta.len().to_le_bytes());
        hash.update(&date.map_or(0, |d| d.as_nanos()).to_le_bytes());
    }
    let stem = path.file_stem().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    Ok(format!("{stem}-{:08x}.sllm", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Hugging Face folder whose weights are those of the tests' smallest model.
    fn source() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/models/opt")
    }

    #[test]
    fn an_image_appears_with_its_predictor_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let pack = |predictor: Option<&[u8]>| {
            packed_in(folder.path(), &source(), Arrangement::DENSE, predictor, &mut |_| {}, &mut |_, _| {})
        };
        // Packing ends well and putting the predictor in does not, as if the program was stopped in between.
        let error = pack(Some(b"no predictor")).unwrap_err().to_string();
        assert!(error.contains(".sllm") && !error.contains(".shadowllm-"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left over");
        let whole = pack(None).unwrap();
        assert!(LoadedModel::open(&whole, None).is_ok());
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path());
        assert_eq!(entries.collect::<Vec<_>>(), [whole]);
    }
}
