//! Structures that cross the boundary, each with its size first.

use crate::status::{Failure, Result, SLLM_STATUS_INVALID_ARGUMENT, SLLM_STATUS_UNSUPPORTED, null};
use core::ffi::{c_char, c_void};

/// A structure with its size first; any bits are a value.
///
/// # Safety
/// `repr(C)`, a `u32` that is its size first, and of plain numbers and pointers only.
pub unsafe trait Struct: Copy {
    /// Writes the size.
    fn set_size(&mut self, size: u32);
}

/// Larger ones cannot be from any version to come.
const LARGEST: usize = 4096;

/// Defines structures and what [`Struct`] wants to know of them.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            #[repr(C)]
            pub struct $name {
                /// Its size in bytes, as the caller knows it.
                pub struct_size: u32,
                $($(#[$field_doc])* pub $field: $type,)*
            }
            // SAFETY: repr(C), the size first; the fields listed below are numbers and pointers.
            unsafe impl Struct for $name {
                fn set_size(&mut self, size: u32) {
                    self.struct_size = size;
                }
            }
        )*

        /// All structures, for the comparison with the header: name, size; name, offset and size of the fields.
        #[cfg(test)]
        #[allow(clippy::type_complexity, reason = "a table for one test")]
        pub const ALL: &[(&str, usize, &[(&str, usize, usize)])] =
            &[$((stringify!($name), size_of::<$name>(), &[
                ("struct_size", 0, 4),
                $((stringify!($field), core::mem::offset_of!($name, $field), size_of::<$type>()),)*
            ]),)*];
    };
}

/// One task of a step.
pub type sllm_task_fn = Option<unsafe extern "C" fn(data: *mut c_void, index: u32)>;
/// The embedder's threads.
pub type sllm_parallel_for_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, tasks: u32, task: sllm_task_fn, data: *mut c_void)>;
/// The embedder's clock.
pub type sllm_clock_fn = Option<unsafe extern "C" fn(user: *mut c_void) -> u64>;
/// How far loading is.
#[cfg(feature = "std")]
pub type sllm_progress_fn = Option<unsafe extern "C" fn(user: *mut c_void, done_bytes: u64, total_bytes: u64) -> i32>;
/// Gets tokens as they come.
#[cfg(feature = "std")]
pub type sllm_token_fn = Option<unsafe extern "C" fn(user: *mut c_void, token: *const sllm_token) -> i32>;

structs! {
    /// What a model is.
    sllm_model_info {
        vocab: u32,
        layers: u32,
        width: u32,
        heads: u32,
        kv_heads: u32,
        neurons: u32,
        trained_context: u32,
        bos: i32,
        has_tokenizer: u32,
        has_chat_template: u32,
        is_calibrated: u32,
        image_bytes: u64,
        bytes_per_token: u64,
        isa: *const c_char,
    }
    /// What a session is made for.
    sllm_session_options {
        context: u32,
        batch: u32,
        kv_format: u32,
        dense_only: u32,
        threads: u32,
        cores: u32,
        memory_budget: u32,
        parallel_for: sllm_parallel_for_fn,
        parallel_for_user: *mut c_void,
        clock: sllm_clock_fn,
        clock_user: *mut c_void,
    }
    /// What a session will take.
    sllm_memory {
        reserved: u32,
        session_bytes: u64,
        kv_bytes: u64,
        image_bytes: u64,
        total_bytes: u64,
    }
    /// What to skip.
    sllm_dial {
        policy: i32,
        density: f32,
        refresh: u32,
        allocation: i32,
        reserved: u32,
        seed: u64,
    }
    /// Sums of a session.
    sllm_stats {
        reserved: u32,
        prompt_tokens: u64,
        decoded_tokens: u64,
        prefill_nanoseconds: u64,
        decode_nanoseconds: u64,
        first_token_nanoseconds: u64,
        weight_bytes: u64,
        predictor_bytes: u64,
        predictor_nanoseconds: u64,
        kv_bytes: u64,
        session_bytes: u64,
        peak_memory_bytes: u64,
        density: f64,
        prefill_tokens_per_second: f64,
        decode_tokens_per_second: f64,
    }
    /// How to choose tokens.
    sllm_sampler_options {
        temperature: f32,
        top_k: u32,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: u64,
    }
}

/// Structures of the part with an operating system.
#[cfg(feature = "std")]
pub use hosted::*;
#[cfg(feature = "std")]
pub mod hosted {
    use super::*;

    structs! {
        /// How to load.
        sllm_load_options {
            preload: u32,
            verify: u32,
            reserved: u32,
            progress: sllm_progress_fn,
            progress_user: *mut c_void,
        }
        /// What was applied of threads and cores.
        sllm_threads {
            threads: u32,
            cores: u32,
            is_bound: u32,
            core_mask: u64,
        }
        /// One token of an answer.
        sllm_token {
            id: u32,
            text: *const c_char,
            text_length: usize,
            bytes: *const u8,
            bytes_length: usize,
            index: u64,
            tokens_per_second: f64,
            density: f64,
        }
        /// How to generate.
        sllm_generate_options {
            max_tokens: u32,
            on_token: sllm_token_fn,
            user: *mut c_void,
        }
        /// What was generated.
        sllm_generation {
            stop: i32,
            prompt_tokens: u64,
            generated_tokens: u64,
            first_token_seconds: f64,
            prefill_tokens_per_second: f64,
            decode_tokens_per_second: f64,
        }
    }
}

/// Size that the structure at `from` says it has, checked.
///
/// # Safety
/// `from` points to as many bytes as its first four say.
unsafe fn size_of_given<T: Struct>(from: *const T) -> Result<usize> {
    // SAFETY: a size comes first.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if size < size_of::<T>() || size > LARGEST {
        let message = "a structure's struct_size is not its size: set it with sizeof";
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, message));
    }
    Ok(size)
}

/// The structure at `from`, or the default for NULL.
///
/// # Safety
/// `from` is NULL, or points to as many bytes as its first four say.
pub unsafe fn read<T: Struct>(from: *const T, default: T) -> Result<T> {
    if from.is_null() {
        return Ok(default);
    }
    // SAFETY: as promised.
    let (size, value) = unsafe { (size_of_given(from)?, from.read_unaligned()) };
    let beyond = size_of::<T>()..size;
    // SAFETY: inside the structure.
    if beyond.into_iter().any(|i| unsafe { *from.cast::<u8>().add(i) } != 0) {
        let message = "a structure sets what this version of the library does not know: use a newer one";
        return Err(Failure::Said(SLLM_STATUS_UNSUPPORTED, message));
    }
    Ok(value)
}

/// Room for a structure that the caller gave, found large enough.
pub struct Out<T> {
    to: *mut T,
    size: usize,
}

impl<T: Struct> Out<T> {
    /// # Safety
    /// `to` is NULL, or points to as many bytes as its first four say, until [`Out::write`].
    pub unsafe fn new(to: *mut T) -> Result<Self> {
        if to.is_null() {
            return Err(null("the structure to fill in is NULL"));
        }
        // SAFETY: as promised.
        Ok(Out { to, size: unsafe { size_of_given(to) }? })
    }

    /// Writes the value, and zeros to fields that this version does not know.
    pub fn write(self, mut value: T) {
        value.set_size(self.size as u32);
        // SAFETY: as promised to `new`: at least as large as `T`.
        unsafe {
            self.to.write_unaligned(value);
            self.to.cast::<u8>().add(size_of::<T>()).write_bytes(0, self.size - size_of::<T>());
        }
    }
}

/// Fills in defaults, into a structure whose size the caller says.
///
/// # Safety
/// `to` is NULL or points to `size` bytes.
pub unsafe fn defaults<T: Struct>(to: *mut T, size: u32, value: T) -> Result<()> {
    if to.is_null() {
        return Err(null("the structure to fill in is NULL"));
    }
    if (size as usize) < size_of::<T>() || size as usize > LARGEST {
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "the size is not the structure's: give its sizeof"));
    }
    Out { to, size: size as usize }.write(value);
    Ok(())
}

/// Writes an output that is a plain value.
///
/// # Safety
/// `to` points to a `T`.
pub unsafe fn put<T>(to: *mut T, value: T) {
    // SAFETY: as promised.
    unsafe { to.write(value) }
}

/// Refuses NULL for an output.
pub fn wanted<T>(to: *const T) -> Result<()> {
    if to.is_null() { Err(null("a pointer to what is to be written is NULL")) } else { Ok(()) }
}

/// `count` numbers from C; NULL is refused unless there are none.
///
/// # Safety
/// `from` is NULL or points to `count` elements that do not change during `'a`.
pub unsafe fn slice<'a, T>(from: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 && !from.is_null() {
        return Ok(&[]);
    }
    if from.is_null() || !from.is_aligned() {
        return Err(null("an array is NULL or not aligned"));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::Said(SLLM_STATUS_INVALID_ARGUMENT, "an array's length cannot be"));
    }
    // SAFETY: not NULL, aligned, of a possible size, and there by the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(from, count) })
}
