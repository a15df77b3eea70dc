//! The structures that cross the boundary, one row each: fields, the first version's end, and the defaults of options.

use core::ffi::{c_char, c_void};
use shadowllm_core::sample::SamplerOptions;
use shadowllm_core::sparsity::Dial;

/// A structure that begins with its size and may grow at its end.
///
/// # Safety
/// The type is `repr(C)`, begins with a `u32` that is its size, and has only fields for which all bytes zero are a value.
pub unsafe trait Struct: Copy {
    /// Size of the first version: callers never pass fewer bytes.
    const FIRST: usize;
    /// Where each field ends, in bytes from the beginning.
    const ENDS: &'static [usize];
    /// Writes the size.
    fn set_size(&mut self, size: u32);
}

/// Options: a structure that callers fill in.
pub trait Options: Struct {
    /// The values of fields that a caller does not know.
    fn defaults() -> Self;
}

/// Name, offset and size of a field.
#[cfg(test)]
pub type Field = (&'static str, usize, usize);

/// A structure, for the comparison with the header: name, sizes of the first version and of this one, fields.
#[cfg(test)]
pub type Layout = (&'static str, usize, usize, &'static [Field]);

/// Defines structures. The fields above the line `---` are the first version's; a new field goes to the end.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident {
        $($field:ident: $type:ty,)*
        ---
        $($later:ident: $later_type:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            #[repr(C)]
            pub struct $name {
                /// Its size in bytes, as the caller knows it.
                pub struct_size: u32,
                $(pub $field: $type,)*
                $(pub $later: $later_type,)*
            }
            // SAFETY: the type is repr(C), its first field is the size, and every field is a number, or a pointer that
            // may be NULL.
            unsafe impl Struct for $name {
                const FIRST: usize = {
                    let ends = [4, $(core::mem::offset_of!($name, $field) + size_of::<$type>(),)*];
                    ends[ends.len() - 1]
                };
                const ENDS: &'static [usize] = &[
                    4,
                    $(core::mem::offset_of!($name, $field) + size_of::<$type>(),)*
                    $(core::mem::offset_of!($name, $later) + size_of::<$later_type>(),)*
                ];
                fn set_size(&mut self, size: u32) {
                    self.struct_size = size;
                }
            }
        )*

        /// All structures of this list.
        #[cfg(test)]
        pub const ALL: &[Layout] = &[$((stringify!($name), $name::FIRST, size_of::<$name>(), &[
            ("struct_size", 0, 4),
            $((stringify!($field), core::mem::offset_of!($name, $field), size_of::<$type>()),)*
            $((stringify!($later), core::mem::offset_of!($name, $later), size_of::<$later_type>()),)*
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

structs! {
    /// Facts about a model.
    sllm_model_info {
        vocab: u32,
        layers: u32,
        width: u32,
        heads: u32,
        kv_heads: u32,
        neurons: u32,
        trained_context: u32,
        bos: i32,
        ---
        has_tokenizer: u32,
        has_chat_template: u32,
        is_calibrated: u32,
        image_bytes: u64,
        bytes_per_token: u64,
        isa: *const c_char,
        most_context: u32,
        reserved: u32,
    }
    /// Options of a session.
    sllm_session_options {
        context: u32,
        ---
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
        exact: u32,
        reserved: u32,
    }
    /// The memory that a session will take.
    sllm_memory {
        reserved: u32,
        session_bytes: u64,
        ---
        kv_bytes: u64,
        image_bytes: u64,
        total_bytes: u64,
    }
    /// The dial: how much is skipped, and by which policy.
    sllm_dial {
        policy: i32,
        density: f32,
        refresh: u32,
        ---
        allocation: i32,
        reserved: u32,
        seed: u64,
        output_window: f32,
        reserved2: u32,
    }
    /// Sums of a session.
    sllm_stats {
        reserved: u32,
        prompt_tokens: u64,
        decoded_tokens: u64,
        prefill_nanoseconds: u64,
        decode_nanoseconds: u64,
        ---
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
    /// Options of a sampler.
    sllm_sampler_options {
        temperature: f32,
        top_k: u32,
        top_p: f32,
        ---
        min_p: f32,
        repetition_penalty: f32,
        seed: u64,
        presence_penalty: f32,
        frequency_penalty: f32,
    }
}

impl Options for sllm_session_options {
    fn defaults() -> Self {
        sllm_session_options {
            struct_size: size_of::<Self>() as u32,
            context: 0,
            batch: 0,
            kv_format: 0,
            dense_only: 0,
            threads: 0,
            cores: 0,
            memory_budget: 0,
            parallel_for: None,
            parallel_for_user: core::ptr::null_mut(),
            clock: None,
            clock_user: core::ptr::null_mut(),
            exact: 0,
            reserved: 0,
        }
    }
}

impl Options for sllm_dial {
    fn defaults() -> Self {
        sllm_dial {
            struct_size: size_of::<Self>() as u32,
            policy: 0,
            density: 1.0,
            refresh: 1,
            allocation: 0,
            reserved: 0,
            seed: 0,
            output_window: Dial::WINDOW,
            reserved2: 0,
        }
    }
}

impl Options for sllm_sampler_options {
    fn defaults() -> Self {
        let o = SamplerOptions::default();
        sllm_sampler_options {
            struct_size: size_of::<Self>() as u32,
            temperature: o.temperature,
            top_k: o.top_k as u32,
            top_p: o.top_p,
            min_p: o.min_p,
            repetition_penalty: o.repetition_penalty,
            seed: o.seed,
            presence_penalty: o.presence_penalty,
            frequency_penalty: o.frequency_penalty,
        }
    }
}

/// Structures of the part with an operating system.
#[cfg(feature = "std")]
pub use hosted::*;
#[cfg(feature = "std")]
pub mod hosted {
    #[cfg(test)]
    use super::Layout;
    use super::{Options, Struct};
    use core::ffi::{c_char, c_void};

    /// Gets the progress of loading.
    pub type sllm_progress_fn =
        Option<unsafe extern "C" fn(user: *mut c_void, done_bytes: u64, total_bytes: u64) -> i32>;
    /// Gets tokens as they come.
    pub type sllm_token_fn = Option<unsafe extern "C" fn(user: *mut c_void, token: *const sllm_token) -> i32>;

    /// A token and what is added to its logit.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct sllm_bias {
        pub token: u32,
        pub bias: f32,
    }

    /// A token and the logarithm of its probability.
    #[derive(Clone, Copy)]
    #[repr(C)]
    pub struct sllm_logprob {
        pub token: u32,
        pub logprob: f32,
    }

    structs! {
        /// Options of loading.
        sllm_load_options {
            preload: u32,
            verify: u32,
            ---
            in_memory: u32,
            progress: sllm_progress_fn,
            progress_user: *mut c_void,
        }
        /// The threads and cores that a session really uses.
        sllm_threads {
            threads: u32,
            ---
            cores: u32,
            is_bound: u32,
            core_mask: u64,
        }
        /// One token of an answer. The library passes it, always whole.
        sllm_token {
            id: u32,
            text: *const c_char,
            text_length: usize,
            bytes: *const u8,
            bytes_length: usize,
            ---
            index: u64,
            tokens_per_second: f64,
            density: f64,
            logprob: f64,
            top: *const sllm_logprob,
            top_count: usize,
            thought: u32,
            reserved: u32,
        }
        /// Options of a generation.
        sllm_generate_options {
            max_tokens: u32,
            ---
            on_token: sllm_token_fn,
            user: *mut c_void,
            control_tokens: u32,
            logprobs: u32,
            stop: *const *const c_char,
            stop_count: usize,
            bias: *const sllm_bias,
            bias_count: usize,
            grammar: *const c_void,
            dry_multiplier: f32,
            dry_base: f32,
            dry_allowed_length: u32,
            dry_last: u32,
        }
        /// The end and the figures of a generation.
        sllm_generation {
            stop: i32,
            prompt_tokens: u64,
            generated_tokens: u64,
            ---
            first_token_seconds: f64,
            prefill_tokens_per_second: f64,
            decode_tokens_per_second: f64,
            stop_string: i32,
            reserved: u32,
            forced_tokens: u64,
        }
    }

    impl Options for sllm_load_options {
        fn defaults() -> Self {
            sllm_load_options {
                struct_size: size_of::<Self>() as u32,
                preload: 0,
                verify: 0,
                in_memory: 0,
                progress: None,
                progress_user: core::ptr::null_mut(),
            }
        }
    }

    impl Options for sllm_generate_options {
        fn defaults() -> Self {
            let dry = shadowllm_host::Dry::default();
            sllm_generate_options {
                struct_size: size_of::<Self>() as u32,
                max_tokens: shadowllm_host::Options::default().max_tokens as u32,
                on_token: None,
                user: core::ptr::null_mut(),
                control_tokens: 0,
                logprobs: 0,
                stop: core::ptr::null(),
                stop_count: 0,
                bias: core::ptr::null(),
                bias_count: 0,
                grammar: core::ptr::null(),
                dry_multiplier: dry.multiplier,
                dry_base: dry.base,
                dry_allowed_length: dry.allowed_length as u32,
                dry_last: dry.last as u32,
            }
        }
    }
}
