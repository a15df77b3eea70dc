//! Errors inside calibration, before they are converted to the host's errors.

use shadowllm_host::Error;
use std::fmt;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a differentiable model could not be made or used.
#[derive(Debug)]
pub enum Failure {
    /// The autograd library refused an operation, or had no memory for it.
    Tensor(candle_core::Error),
    /// Anything else.
    Other(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Tensor(source) => write!(f, "the model's differentiable copy failed: {source}"),
            Failure::Other(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<candle_core::Error> for Failure {
    fn from(source: candle_core::Error) -> Self {
        Failure::Tensor(source)
    }
}

impl From<Error> for Failure {
    fn from(source: Error) -> Self {
        Failure::Other(source)
    }
}

impl From<shadowllm_core::Error> for Failure {
    fn from(source: shadowllm_core::Error) -> Self {
        Failure::Other(source.into())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Tensor(_) => Error::Other(failure.to_string()),
            Failure::Other(source) => source,
        }
    }
}
