//! Statuses: the codes, and why a call failed. A panic is caught here and becomes a failure.

use core::ffi::c_char;
use shadowllm_core::Error;

/// Defines the codes in one place: constants, names and sentences.
macro_rules! codes {
    ($($name:ident = $number:literal, $sentence:literal;)*) => {
        $(#[doc = $sentence] pub const $name: i32 = $number;)*

        /// Every code with its name and sentence, each ending with a NUL.
        pub const CODES: &[(i32, &str, &str)] =
            &[$(($number, concat!(stringify!($name), "\0"), concat!($sentence, "\0")),)*];
    };
}

codes! {
    SLLM_STATUS_OK = 0, "done";
    SLLM_STATUS_INVALID_ARGUMENT = 1, "an argument is NULL, or an option is out of its range";
    SLLM_STATUS_INVALID_HANDLE = 2, "the pointer is not to an object of this kind, or the object was freed";
    SLLM_STATUS_BUSY = 3, "the object is in use by another call; one call at a time";
    SLLM_STATUS_OUT_OF_MEMORY = 4, "the system does not have enough memory";
    SLLM_STATUS_BUFFER_TOO_SMALL = 5, "the buffer is too small";
    SLLM_STATUS_IO = 6, "a file cannot be read";
    SLLM_STATUS_BAD_IMAGE = 7, "this is not an image, or it is damaged, cut off or of a newer format";
    SLLM_STATUS_UNSUPPORTED = 8, "this model or this build of the library cannot do this";
    SLLM_STATUS_TOKEN_OUT_OF_RANGE = 9, "a token id is not in the vocabulary";
    SLLM_STATUS_CONTEXT_FULL = 10, "the tokens do not fit into the rest of the context";
    SLLM_STATUS_CANCELLED = 11, "cancelled";
    SLLM_STATUS_INVALID_UTF8 = 12, "a text is not UTF-8";
    SLLM_STATUS_NO_LOGITS = 13, "no token was read yet, or none since the last rewind: prefill or decode first";
    SLLM_STATUS_BAD_STATE = 14, "the saved state is damaged, or of another model or KV format";
    SLLM_STATUS_INTERNAL = 15, "an error inside the library; free the objects that the call used";
}

/// Why a call failed.
pub enum Failure {
    /// The engine refused.
    Engine(Error),
    /// A code and a fixed message.
    Fixed(i32, &'static str),
    /// A code and a message with details.
    #[cfg(feature = "std")]
    Text(i32, String),
}

/// What the functions of this crate return.
pub type Result<T> = core::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Engine(e)
    }
}

#[cfg(feature = "std")]
impl From<shadowllm_host::Error> for Failure {
    fn from(e: shadowllm_host::Error) -> Self {
        use shadowllm_host::Error as Host;
        let code = match &e {
            Host::Io { .. } => SLLM_STATUS_IO,
            Host::File { .. } => SLLM_STATUS_BAD_IMAGE,
            Host::Engine { source, .. } => code_of(source),
            Host::Resources(_) => SLLM_STATUS_OUT_OF_MEMORY,
            _ => SLLM_STATUS_INVALID_ARGUMENT,
        };
        Failure::Text(code, e.to_string())
    }
}

impl Failure {
    pub fn code(&self) -> i32 {
        match self {
            Failure::Engine(e) => code_of(e),
            Failure::Fixed(code, _) => *code,
            #[cfg(feature = "std")]
            Failure::Text(code, _) => *code,
        }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Failure::Engine(e) => write!(f, "{e}"),
            Failure::Fixed(_, text) => f.write_str(text),
            #[cfg(feature = "std")]
            Failure::Text(_, text) => f.write_str(text),
        }
    }
}

fn code_of(e: &Error) -> i32 {
    match e {
        Error::BadOption(_)
        | Error::BadPosition
        | Error::PositionLost
        | Error::BadDensity
        | Error::NoTokens
        | Error::Misaligned(_) => SLLM_STATUS_INVALID_ARGUMENT,
        Error::MemoryTooSmall { .. } => SLLM_STATUS_BUFFER_TOO_SMALL,
        Error::TokenOutOfRange { .. } => SLLM_STATUS_TOKEN_OUT_OF_RANGE,
        Error::ContextFull { .. } => SLLM_STATUS_CONTEXT_FULL,
        Error::Cancelled => SLLM_STATUS_CANCELLED,
        Error::NoPredictor(_) | Error::NotByInput | Error::NoSparsity | Error::MissingKernel(..) => {
            SLLM_STATUS_UNSUPPORTED
        }
        Error::BadState(_) => SLLM_STATUS_BAD_STATE,
        _ => SLLM_STATUS_BAD_IMAGE,
    }
}

/// An argument that C must not pass.
pub const fn invalid(message: &'static str) -> Failure {
    Failure::Fixed(SLLM_STATUS_INVALID_ARGUMENT, message)
}

/// Runs `body`; a panic inside it becomes an internal failure.
#[cfg(feature = "std")]
pub fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic");
        Err(Failure::Text(SLLM_STATUS_INTERNAL, format!("an error inside the library, please report it: {text}")))
    })
}

/// Runs `body`; without std a panic ends the program.
#[cfg(not(feature = "std"))]
pub fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    body()
}

/// The code's name.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_status_name(status: i32) -> *const c_char {
    let found = CODES.iter().find(|(number, ..)| *number == status);
    found.map_or("unknown\0", |(_, name, _)| name).as_ptr().cast()
}

/// A general sentence about the code.
#[unsafe(no_mangle)]
pub extern "C" fn sllm_status_message(status: i32) -> *const c_char {
    let found = CODES.iter().find(|(number, ..)| *number == status);
    found.map_or("not a status of this library\0", |(_, _, sentence)| sentence).as_ptr().cast()
}
