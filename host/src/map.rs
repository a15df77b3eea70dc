//! Files in memory, read-only.

use crate::error::{Error, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::path::Path;

/// Maps a whole file. An empty file is an error, because no file of a model is empty.
///
/// # Errors
/// Names the file.
pub fn map(path: &Path) -> Result<Mmap> {
    map_file(path).map(|(mapped, _)| mapped)
}

/// Maps a whole file, and returns it too.
///
/// # Errors
/// As [`map`].
pub fn map_file(path: &Path) -> Result<(Mmap, File)> {
    // Checked first, because opening a pipe would wait.
    let meta = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if meta.is_dir() {
        return Err(Error::file(path, "is a folder; name a file"));
    }
    if !meta.is_file() {
        return Err(Error::file(path, "is a pipe, a device or similar; name a file"));
    }
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if meta.len() == 0 {
        return Err(Error::file(path, "the file is empty; copy or download it again"));
    }
    let mapped = part(path, &file, 0, meta.len())?;
    match stands_for(&mapped) {
        Some(what) => Err(Error::file(path, what)),
        None => Ok((mapped, file)),
    }
}

/// A copy of a mapping in its own memory, on huge pages if there are any, which later changes of the file do not affect.
///
/// # Errors
/// [`Error::Resources`] when there is not enough memory.
pub fn copied(path: &Path, mapped: &Mmap) -> Result<Mmap> {
    let none = |_| {
        let mb = mapped.len() >> 20;
        Error::Resources(format!("{} takes {mb} MB of memory, which is not available: map it", path.display()))
    };
    let mut copy = memmap2::MmapMut::map_anon(mapped.len()).map_err(none)?;
    // Pages of 2 MB take a five-hundredth of the translations. A kernel without them says no, which does not matter.
    #[cfg(target_os = "linux")]
    let _ = copy.advise(memmap2::Advice::HugePage);
    copy.copy_from_slice(mapped);
    copy.make_read_only().map_err(none)
}

/// What a file is if it is obviously not a model's; `None` if it may be one.
pub fn stands_for(bytes: &[u8]) -> Option<&'static str> {
    let start: Vec<u8> =
        bytes.iter().take(200).skip_while(|b| b.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect();
    let begins = |text: &str| start.starts_with(text.as_bytes());
    if begins("version https://git-lfs") {
        return Some(
            "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder, or download the file by itself",
        );
    }
    if begins("<!doctype") || begins("<html") || begins("<?xml") {
        return Some("is a web page, not a model: download the file itself, not the page that shows it");
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Some("is a zip archive (PyTorch writes its models so): unpack it, or convert it to safetensors");
    }
    if bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        return Some("is compressed: unpack it first");
    }
    None
}

/// Maps a part of an open file, up to its end if no length is given.
///
/// # Errors
/// Names the file; also when the file is shorter than the part.
pub fn map_part(path: &Path, file: &File, offset: u64, len: Option<u64>) -> Result<Mmap> {
    let all = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let left = all.saturating_sub(offset);
    let len = len.unwrap_or(left);
    if len == 0 || len > left {
        let message = format!("{len} bytes from byte {offset} on were requested, but the file has {all}");
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
