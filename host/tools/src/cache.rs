//! The user's cache folder, with downloaded models and images that were packed automatically.

use crate::import::{self, Source};
use crate::pack::{Arrangement, Formats, Progress, pack};
use crate::predictor::pack_with;
use crate::shipped;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/shadowllm`, or the platform's usual folder; created if missing.
///
/// # Errors
/// When there is no home folder, or it cannot be written.
pub fn folder() -> Result<PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = env("XDG_CACHE_HOME")
        .or_else(|| env("LOCALAPPDATA"))
        .or_else(|| {
            env("HOME").map(|h| if cfg!(target_os = "macos") { h.join("Library/Caches") } else { h.join(".cache") })
        })
        .ok_or_else(|| Error::Other("the cache folder is unknown: set XDG_CACHE_HOME or HOME".into()))?;
    let folder = base.join("shadowllm");
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|e| {
        Error::file(&folder, format!("the cache cannot be made: {e}; set XDG_CACHE_HOME to another folder"))
    })?;
    Ok(folder)
}

/// What of a model is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipping {
    /// Nothing.
    Nothing,
    /// Rows of the output matrix.
    Output,
    /// Parts of the layers, and rows of the output matrix.
    Layers,
}

/// The image for a model given as image, GGUF file or Hugging Face folder: the latter two are first packed into the
/// cache, once, under a name that depends on the sizes and dates of their files. If parts of layers are skipped, the image's layout is the
/// one that allows it, with the predictor that ships for the model, if any; else the layout is the one that is read
/// fastest. If anything is skipped, the output matrix has a sketch where that saves bytes.
///
/// # Errors
/// When the path is none of them, or packing fails.
pub fn image_for(path: &Path, skipping: Skipping, note: &mut dyn FnMut(&str), progress: Progress) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).map_err(|e| import::unreadable(path, e))?;
    if meta.is_file() && !import::begins_with(path, b"GGUF") {
        return Ok(path.to_owned());
    }
    let source = import::open(path)?;
    let arrangement = match skipping {
        Skipping::Layers => Arrangement::suitable(&*source, Formats::OWN),
        _ => Arrangement::DENSE,
    };
    let shipped = if arrangement == Arrangement::INPUT { shipped::of(&*source) } else { None };
    let formats = match skipping {
        Skipping::Nothing => Formats::OWN,
        _ => Formats::OWN.with_sketch(&*source, arrangement),
    };
    packed_in(&folder()?, &*source, path, (formats, arrangement), shipped.map(|s| s.section), note, progress)
}

/// An entry of the cache: a download or an image, with its size in bytes.
pub struct Kept {
    /// File or folder.
    pub path: PathBuf,
    /// Bytes of the file, or of all files in the folder.
    pub bytes: u64,
}

impl Kept {
    /// Its name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn remove(&self) -> Result<()> {
        let removed =
            if self.path.is_dir() { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
        removed.map_err(|e| Error::io("remove", &self.path, e))
    }
}

/// All entries of the cache, by name.
///
/// # Errors
/// As [`folder`].
pub fn kept() -> Result<Vec<Kept>> {
    let folder = folder()?;
    let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
    let mut all: Vec<Kept> = entries.flatten().map(|e| Kept { bytes: bytes_of(&e.path()), path: e.path() }).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Bytes of a file, or of all files in a folder; a file that cannot be read counts as empty.
fn bytes_of(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| bytes_of(&e.path())).sum()
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

/// The image in a cache folder, which is packed if it is missing.
fn packed_in(
    folder: &Path,
    source: &dyn Source,
    path: &Path,
    (formats, arrangement): (Formats, Arrangement),
    predictor: Option<&[u8]>,
    note: &mut dyn FnMut(&str),
    progress: Progress,
) -> Result<PathBuf> {
    let id = format!("{formats:?} {arrangement:?} {:08x}", predictor.map_or(0, crc32fast::hash));
    let target = folder.join(cache_name(path, source, &id)?);
    // An image that was damaged since is packed again.
    if LoadedModel::open(&target, None).is_ok() {
        return Ok(target);
    }
    note(&format!("packing {} into {} (once)", path.display(), target.display()));
    let packed = match predictor {
        None => pack(source, formats, arrangement, &target, progress)?,
        Some(section) => {
            let record = serde_json::json!(shipped::SHIPPED);
            pack_with(source, formats, arrangement, (section, &record), &target, progress)?
        }
    };
    if !packed.has_tokenizer {
        note(&import::no_tokenizer(path));
    }
    Ok(target)
}

/// Name in the cache: the source's name and a hash of its path, of the names, sizes and dates of all files that belong to
/// it, and of `how` it is packed.
fn cache_name(path: &Path, source: &dyn Source, how: &str) -> Result<String> {
    let mut hash = crc32fast::Hasher::new();
    hash.update(how.as_bytes());
    // Behind one path there may be another folder later: the cache of Hugging Face has one for each version.
    for path in [path, source.path()] {
        let full = std::fs::canonicalize(path).map_err(|e| Error::io("read", path, e))?;
        hash.update(full.as_os_str().as_encoded_bytes());
    }
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(&shadowllm_core::image::VERSION.to_le_bytes());
    for file in source.files()? {
        // A broken link is ignored: either nothing needs its file, or the error is reported where the file is read.
        let Ok(meta) = std::fs::metadata(&file) else { continue };
        let date = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
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
            let (path, source) = (source(), import::open(&source()).unwrap());
            packed_in(
                folder.path(),
                &*source,
                &path,
                (Formats::OWN, Arrangement::DENSE),
                predictor,
                &mut |_| {},
                &mut |_, _| {},
            )
        };
        // Packing succeeds and adding the predictor fails, as if the program was stopped in between.
        let error = pack(Some(b"no predictor")).unwrap_err().to_string();
        assert!(error.contains(".sllm") && !error.contains(".shadowllm-"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left over");
        let whole = pack(None).unwrap();
        assert!(LoadedModel::open(&whole, None).is_ok());
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path());
        assert_eq!(entries.collect::<Vec<_>>(), [whole]);
    }

    /// An image of the cache is taken only for the files that it was packed from.
    #[test]
    fn other_files_have_another_name() {
        let place = tempfile::tempdir().unwrap();
        let (cache, snapshot) = (place.path().join("models--a--b"), |name: &str| format!("snapshots/{name}"));
        let write = |name: &str, text: &str| std::fs::write(cache.join(name), text).unwrap();
        std::fs::create_dir_all(cache.join("refs")).unwrap();
        for name in ["old", "new"] {
            std::fs::create_dir_all(cache.join(snapshot(name))).unwrap();
            for file in ["config.json", "model.safetensors"] {
                std::fs::copy(source().join(file), cache.join(snapshot(name)).join(file)).unwrap();
            }
        }
        let name = || cache_name(&cache, &*import::open(&cache).unwrap(), "").unwrap();
        write("refs/main", "old");
        let first = name();
        assert_eq!(name(), first);
        // The rest of a download, and a template that was edited.
        write("snapshots/old/chat_template.jinja", "{{ messages }}");
        let whole = name();
        write("snapshots/old/chat_template.jinja", "{{ messages[0] }}");
        let edited = name();
        // Another version: the same length, so that nothing else changes.
        write("refs/main", "new");
        let other = name();
        let mut all = vec![first, whole, edited, other];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4, "{all:?}");
    }
}
