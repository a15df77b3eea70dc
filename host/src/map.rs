//! Files in memory, read-only.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps a whole file. An empty file is an error, since nothing that is mapped here may be empty.
///
/// # Errors
/// Names the file.
pub fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if meta.is_dir() {
        return Err(Error::file(path, "is a folder; name a file"));
    }
    if meta.len() == 0 {
        return Err(Error::file(path, "the file is empty; copy or download it again"));
    }
    // SAFETY: the mapping is read-only. As with every mapped file, another process that truncates it while
    // it is in use would make reads fault; files written by this program are replaced by rename, never
    // changed in place.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))
}
