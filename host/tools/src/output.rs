//! Files to write: they appear under their name when they are whole, or not at all.

use shadowllm_host::{Error, Result};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempPath};

/// A file under a temporary name beside its own; dropped before it is finished, it is gone.
pub struct Output {
    path: PathBuf,
    file: NamedTempFile,
}

impl Output {
    /// Begins a file that will replace `path`.
    ///
    /// # Errors
    /// When `path` is a folder or a device, or its folder cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(Error::file(path, "is a folder; name a file to write")),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::file(path, "is a device or the like, which is not replaced; name a file to write"));
            }
            _ => {}
        }
        let folder = folder(path);
        // Opened like any new file, so that it is as readable as one.
        let open = |p: &Path| OpenOptions::new().write(true).create_new(true).open(p);
        let file = temporary().make_in(folder, open);
        let file = file.map_err(|e| Error::io("write to", folder, e))?;
        Ok(Output { path: path.to_owned(), file })
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Gives the file its name; what had that name before is replaced.
    ///
    /// # Errors
    /// When the disk is full or the name cannot be given; what had it before is then untouched.
    pub fn finish(self) -> Result<()> {
        self.file.as_file().sync_all().map_err(|e| Error::io("write to", &self.path, e))?;
        self.file.persist(&self.path).map(drop).map_err(|e| Error::io("write to", &self.path, e.error))
    }
}

/// A name for a draft beside `path`; the file is removed when this is dropped.
///
/// # Errors
/// When the folder cannot be written.
pub fn draft(path: &Path) -> Result<TempPath> {
    let folder = folder(path);
    let draft = temporary().tempfile_in(folder).map_err(|e| Error::io("write to", folder, e))?;
    Ok(draft.into_temp_path())
}

/// Temporary names are hidden and say what they are.
fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".shadowllm-").suffix(".tmp");
    builder
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses an output that would replace one of the files it is made from.
///
/// # Errors
/// [`Error::Usage`] naming the file.
pub fn refuse_overwrite(output: &Path, inputs: &[PathBuf]) -> Result<()> {
    let Ok(output) = std::fs::canonicalize(output) else { return Ok(()) };
    match inputs.iter().find(|i| std::fs::canonicalize(i).is_ok_and(|i| i == output)) {
        Some(input) => Err(Error::Usage(format!(
            "the output would replace {}, which it is made from: name another",
            input.display()
        ))),
        None => Ok(()),
    }
}
