//! Files in memory, read-only.

use crate::error::{Error, Result};
use memmap2::{Mmap, MmapOptions};
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
    part(path, &file, 0, meta.len())
}

/// Maps a part of an open file, all that follows the offset where no length is given.
///
/// # Errors
/// Names the file; when the file is not that long.
pub fn map_part(path: &Path, file: &File, offset: u64, len: Option<u64>) -> Result<Mmap> {
    let all = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let left = all.saturating_sub(offset);
    let len = len.unwrap_or(left);
    if len == 0 || len > left {
        let message = format!("{len} bytes from byte {offset} on are wanted, and it has {all}");
        return Err(Error::file(path, message));
    }
    part(path, file, offset, len)
}

fn part(path: &Path, file: &File, offset: u64, len: u64) -> Result<Mmap> {
    let Ok(len) = usize::try_from(len) else {
        return Err(Error::file(path, format!("its {len} bytes are more than this machine can address")));
    };
    // SAFETY: the mapping is read-only. As with every mapped file, another process that truncates it while
    // it is in use would make reads fault; files written by this program are replaced by rename, never
    // changed in place.
    unsafe { MmapOptions::new().offset(offset).len(len).map(file) }.map_err(|e| Error::io("map", path, e))
}
