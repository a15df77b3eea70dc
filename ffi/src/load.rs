//! Loading models: from a path, from a part of an open file, from memory.

use crate::args::{defaults, put, read, slice, wanted};
use crate::message::{boundary, log, log_panics};
use crate::model::{boxed, sllm_model};
use crate::reserve::check_reserve;
use crate::status::{Result, invalid};
use crate::structs::sllm_load_options;
use shadowllm_host::model::{LoadedModel, Loading};
use std::ffi::{CStr, c_char, c_void};

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_load_options_defaults(options: *mut sllm_load_options, struct_size: u32) -> i32 {
    // SAFETY: the caller gives `struct_size` bytes.
    boundary(|| unsafe { defaults(options, struct_size) })
}

/// Loads a model by `open` and writes its handle.
///
/// # Safety
/// The header's rules for structures; `model` is NULL or a place for a handle.
unsafe fn load(
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
    open: impl FnOnce(Loading) -> shadowllm_host::Result<LoadedModel>,
) -> Result<()> {
    log_panics();
    // SAFETY: structures are NULL or as large as their struct_size, by the header's rules.
    let o = unsafe { read(options) }?;
    wanted(model)?;
    check_reserve()?;
    if o.preload > 1 || o.verify > 1 || o.in_memory > 1 {
        return Err(invalid("a load option is out of its range (preload, verify, in_memory: 0 or 1)"));
    }
    let mut progress = |done, all| match o.progress {
        // SAFETY: the header asks the caller for a function that may be called with this argument.
        Some(progress) => unsafe { progress(o.progress_user, done, all) == 0 },
        None => true,
    };
    let loading = Loading {
        preload: o.preload == 1,
        verify: o.verify == 1,
        progress: Some(&mut progress),
        in_memory: o.in_memory == 1,
        isa: None,
    };
    let loaded = open(loading)?;
    log(2, || {
        let (bytes, seconds) = (loaded.file_bytes(), loaded.load_time().as_secs_f64());
        let isa = loaded.model().kernels().isa().name();
        format!("{}: {:.1} MB in {:.3} s, kernels for {isa}", loaded.path().display(), bytes as f64 / 1e6, seconds)
    });
    // SAFETY: not NULL, checked by `wanted`.
    unsafe { put(model, boxed(loaded)) };
    Ok(())
}

/// Maps an image.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open(
    path: *const c_char,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    boundary(|| {
        if path.is_null() {
            return Err(invalid("the path is NULL"));
        }
        // SAFETY: not NULL, checked above; texts end with a NUL and structures are as large as their struct_size, by
        // the header's rules.
        unsafe { load(options, model, |loading| LoadedModel::open_with(&native(CStr::from_ptr(path)), loading)) }
    })
}

/// The path with the same bytes, on systems whose paths are bytes.
#[cfg(unix)]
fn native(path: &CStr) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path.to_bytes()).into()
}

#[cfg(not(unix))]
fn native(path: &CStr) -> std::path::PathBuf {
    path.to_string_lossy().into_owned().into()
}

/// Maps a part of an open file.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open_fd(
    fd: i32,
    offset: u64,
    length: u64,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    boundary(|| {
        if fd < 0 {
            return Err(invalid("the file descriptor is negative"));
        }
        #[cfg(unix)]
        // SAFETY: structures are as large as their struct_size, by the header's rules; `ManuallyDrop` leaves the
        // descriptor, which is the caller's, open.
        unsafe {
            use std::os::fd::FromRawFd;
            let file = std::mem::ManuallyDrop::new(std::fs::File::from_raw_fd(fd));
            let length = (length > 0).then_some(length);
            let name = std::path::Path::new("the open file");
            load(options, model, |loading| LoadedModel::open_part(name, &file, offset, length, loading))
        }
        #[cfg(not(unix))]
        Err(crate::status::Failure::Fixed(
            crate::status::SLLM_STATUS_UNSUPPORTED,
            "files are opened by path on this system",
        ))
    })
}

/// A model over bytes in memory.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_model_open_memory(
    data: *const c_void,
    size: usize,
    options: *const sllm_load_options,
    model: *mut *mut sllm_model,
) -> i32 {
    boundary(|| {
        // SAFETY: the header asks the caller to keep the `size` bytes in place for the model's life; structures are as
        // large as their struct_size.
        unsafe {
            let bytes: &'static [u8] = slice(data.cast(), size)?;
            load(options, model, |loading| LoadedModel::from_static_with("the image in memory", bytes, loading))
        }
    })
}
