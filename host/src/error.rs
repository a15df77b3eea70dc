//! Errors of the host: what happened, to which file, and the way out.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A result with the host's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something could not be done. Its `Display` is a sentence for users.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    Io {
        /// The action that failed ("read", "write to").
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The contents of a file are wrong.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the way out.
        message: String,
    },
    /// The engine refused an image, a session or a call.
    Engine {
        /// The image, if known.
        path: Option<PathBuf>,
        /// The engine's error.
        source: shadowllm_core::Error,
    },
    /// An option or its value is wrong.
    Usage(String),
    /// The system has not enough memory or threads.
    Resources(String),
    /// Anything else.
    Other(String),
}

impl Error {
    /// An error about the contents of a file.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), message: message.into() }
    }

    /// An error of the system about reading or writing a file.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}", path.display())?;
                f.write_str(way_out(doing, source.kind()))
            }
            Error::File { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Engine { path, source } => {
                if let Some(path) = path {
                    write!(f, "{}: ", path.display())?;
                }
                write!(f, "{source}{}", command(source))
            }
            Error::Usage(message) | Error::Resources(message) | Error::Other(message) => f.write_str(message),
        }
    }
}

/// The command that helps against an error of the engine.
fn command(source: &shadowllm_core::Error) -> &'static str {
    match source {
        shadowllm_core::Error::NotAnImage => {
            "; of a GGUF file or a Hugging Face folder, the command shadowllm pack makes one: shadowllm pack MODEL.gguf -o \
             MODEL.sllm"
        }
        shadowllm_core::Error::NoPredictor(_) => " (run shadowllm calibrate)",
        shadowllm_core::Error::NotByInput => " (shadowllm pack --layout input)",
        _ => "",
    }
}

/// The way out of an error of the system.
fn way_out(doing: &str, kind: ErrorKind) -> &'static str {
    match (kind, doing) {
        (ErrorKind::NotFound, "write to") => " (make the folder first, or check the path)",
        (ErrorKind::NotFound, _) => " (check the path)",
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => " (free some space, or name another folder)",
        (ErrorKind::FileTooLarge, _) => " (raise the limit on file sizes: ulimit -f, or name another disk)",
        (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem, "write to") => " (name a place you may write to)",
        _ => "",
    }
}

impl std::error::Error for Error {}

impl From<shadowllm_core::Error> for Error {
    fn from(source: shadowllm_core::Error) -> Self {
        Error::Engine { path: None, source }
    }
}
