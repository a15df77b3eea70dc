//! Arguments from C: structures of any size since their first version, arrays, texts, and the places of outputs.

use crate::status::{Failure, Result, SLLM_STATUS_INVALID_ARGUMENT, SLLM_STATUS_UNSUPPORTED, invalid};
use crate::structs::{Options, Struct};

/// No structure will ever be larger; a larger struct_size was not set.
const LARGEST: usize = 4096;

/// Accepts a struct_size from the first version's size on.
fn accept<T: Struct>(struct_size: u32) -> Result<usize> {
    let size = struct_size as usize;
    if (T::FIRST..=LARGEST).contains(&size) {
        return Ok(size);
    }
    Err(invalid("a structure's struct_size is smaller than its first version or above 4096: set it with sizeof"))
}

/// Bytes of the fields of `T` that are completely within `size` bytes. A field that `size` cuts is not counted.
fn whole_fields<T: Struct>(size: usize) -> usize {
    T::ENDS.iter().rev().copied().find(|end| *end <= size).unwrap_or(0)
}

/// The structure at `from`, with defaults for fields beyond its struct_size; NULL gives all defaults.
///
/// # Safety
/// `from` is NULL, or points to the number of bytes in its first four.
pub unsafe fn read<T: Options>(from: *const T) -> Result<T> {
    let mut value = T::defaults();
    if from.is_null() {
        return Ok(value);
    }
    // SAFETY: `from` is not NULL, and every structure begins with the four bytes of its size.
    let size = accept::<T>(unsafe { from.cast::<u32>().read_unaligned() })?;
    // SAFETY: the caller gave `size` bytes, and `whole_fields` is at most that and at most the size of `T`.
    unsafe {
        let to = core::ptr::from_mut(&mut value).cast::<u8>();
        to.copy_from_nonoverlapping(from.cast(), whole_fields::<T>(size));
    }
    value.set_size(size_of::<T>() as u32);
    // SAFETY: every `i` is below `size`, and the caller gave `size` bytes.
    if (size_of::<T>()..size).any(|i| unsafe { *from.cast::<u8>().add(i) } != 0) {
        let message = "a structure sets a field that this version of the library does not know: use a newer library";
        return Err(Failure::Fixed(SLLM_STATUS_UNSUPPORTED, message));
    }
    Ok(value)
}

/// The place of a structure that the library fills in; its struct_size was accepted.
pub struct Out<T> {
    to: *mut T,
    size: usize,
}

impl<T: Struct> Out<T> {
    /// # Safety
    /// `to` is NULL, or points to the number of bytes in its first four, until [`Out::write`].
    pub unsafe fn new(to: *mut T) -> Result<Self> {
        if to.is_null() {
            return Err(invalid("the structure to fill in is NULL"));
        }
        // SAFETY: `to` is not NULL, and every structure begins with the four bytes of its size.
        Ok(Out { to, size: accept::<T>(unsafe { to.cast::<u32>().read_unaligned() })? })
    }

    /// Writes the fields that fit, and zeros to fields that this version of the library does not know.
    pub fn write(self, mut value: T) {
        value.set_size(self.size as u32);
        let from = core::ptr::from_ref(&value).cast::<u8>();
        let to = self.to.cast::<u8>();
        // SAFETY: `to` has `self.size` bytes, by the caller's word to `new` or `defaults`; `whole_fields` is at most
        // that and at most the size of `T`, and so is the range of zeros.
        unsafe {
            to.copy_from_nonoverlapping(from, whole_fields::<T>(self.size));
            if let Some(unknown) = self.size.checked_sub(size_of::<T>()) {
                to.add(size_of::<T>()).write_bytes(0, unknown);
            }
        }
    }
}

/// Fills in defaults, up to the size that the caller says.
///
/// # Safety
/// `to` is NULL or points to `struct_size` bytes.
pub unsafe fn defaults<T: Options>(to: *mut T, struct_size: u32) -> Result<()> {
    if to.is_null() {
        return Err(invalid("the structure to fill in is NULL"));
    }
    Out { to, size: accept::<T>(struct_size)? }.write(T::defaults());
    Ok(())
}

/// Writes an output that is a plain value.
///
/// # Safety
/// `to` points to a `T`.
pub unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: `to` points to a `T`, by the caller's word.
    unsafe { to.write(value) }
}

/// Refuses NULL for the place of an output.
pub fn wanted<T>(to: *const T) -> Result<()> {
    if to.is_null() { Err(invalid("a pointer to an output is NULL")) } else { Ok(()) }
}

/// `count` elements from C; NULL is refused, and so is a length that no array can have.
///
/// # Safety
/// `from` is NULL or points to `count` elements that do not change during `'a`.
pub unsafe fn slice<'a, T>(from: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 && !from.is_null() {
        return Ok(&[]);
    }
    if from.is_null() || !from.is_aligned() {
        return Err(invalid("an array is NULL or not aligned"));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::Fixed(SLLM_STATUS_INVALID_ARGUMENT, "an array is longer than the address space"));
    }
    // SAFETY: not NULL, aligned and of a possible size, checked above; the caller gave `count` elements.
    Ok(unsafe { core::slice::from_raw_parts(from, count) })
}

#[cfg(feature = "tokenizer")]
pub use texts::{array_out, text, text_of_length};
#[cfg(feature = "tokenizer")]
mod texts {
    use super::{put, slice};
    use crate::status::{Failure, Result, SLLM_STATUS_BUFFER_TOO_SMALL, SLLM_STATUS_INVALID_UTF8, invalid};
    use std::ffi::{CStr, c_char};

    /// A text from C that ends with a NUL.
    ///
    /// # Safety
    /// `from` is NULL, or a NUL follows it.
    pub unsafe fn text<'a>(from: *const c_char) -> Result<&'a str> {
        // SAFETY: `from` is NULL or a NUL follows it, by this function's own rule, which is that of `text_of_length`
        // for SLLM_NUL_TERMINATED.
        unsafe { text_of_length(from, usize::MAX) }
    }

    /// A text from C of `length` bytes, or up to its NUL for SLLM_NUL_TERMINATED.
    ///
    /// # Safety
    /// `from` is NULL, or points to `length` bytes, or to a NUL-terminated text for SLLM_NUL_TERMINATED.
    pub unsafe fn text_of_length<'a>(from: *const c_char, length: usize) -> Result<&'a str> {
        if from.is_null() {
            return Err(invalid("a text is NULL"));
        }
        // SAFETY: not NULL, and as long as the caller says.
        let bytes = unsafe {
            if length == usize::MAX { CStr::from_ptr(from).to_bytes() } else { slice(from.cast::<u8>(), length)? }
        };
        std::str::from_utf8(bytes).map_err(|e| {
            let message = format!("the text is not UTF-8 from byte {} on", e.valid_up_to());
            Failure::Text(SLLM_STATUS_INVALID_UTF8, message)
        })
    }

    /// Copies a result to a buffer that is large enough, or writes only its length when `to` is NULL and `capacity` 0.
    /// `end` is written after the result and not counted.
    ///
    /// # Safety
    /// `to` is NULL or has room for `capacity` elements; `count` is not NULL.
    pub unsafe fn array_out<T: Copy>(
        from: &[T],
        end: Option<T>,
        (to, capacity): (*mut T, usize),
        count: *mut usize,
    ) -> Result<()> {
        let needed = from.len() + usize::from(end.is_some());
        if to.is_null() && capacity > 0 {
            return Err(invalid("the buffer for the result is NULL"));
        }
        if !to.is_null() {
            if capacity < needed {
                let message = format!("the result takes room for {needed}, and the buffer has room for {capacity}");
                return Err(Failure::Text(SLLM_STATUS_BUFFER_TOO_SMALL, message));
            }
            // SAFETY: `to` has room for `capacity` elements, which is at least `needed`, checked above.
            unsafe {
                to.copy_from_nonoverlapping(from.as_ptr(), from.len());
                if let Some(end) = end {
                    to.add(from.len()).write(end);
                }
            }
        }
        // SAFETY: `count` is not NULL, by the caller's word.
        unsafe { put(count, from.len()) };
        Ok(())
    }
}
