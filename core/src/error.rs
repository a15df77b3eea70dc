//! Every way the engine can refuse, one sentence each.

use core::fmt;

/// Why an image, a session or a call was refused. Nothing was changed when one of these comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin with an image's magic number.
    NotAnImage,
    /// The image was written by another version of the packer.
    OtherVersion {
        /// Version in the file.
        found: u32,
        /// The version that this engine reads.
        known: u32,
    },
    /// The bytes end before the image does.
    Truncated {
        /// Bytes the header promises.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The header's checksum does not match its bytes.
    Corrupt,
    /// A field of the header has a value that cannot be.
    Malformed(&'static str),
    /// The image lacks a tensor its configuration asks for.
    MissingTensor(&'static str),
    /// A tensor's shape or place does not fit the configuration.
    BadTensor(&'static str),
    /// The model has something that this version of the engine cannot run.
    Unsupported(&'static str),
    /// The image's bytes must start at an address that is a multiple of this.
    Misaligned(usize),
    /// The memory given to a session is too small.
    MemoryTooSmall {
        /// Bytes needed (see [`crate::Session::memory_required`]).
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// A session option is out of its range.
    BadOption(&'static str),
    /// A token id is not in the vocabulary.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Ids of the model are below this.
        vocab: u32,
    },
    /// No token was given where at least one is needed.
    NoTokens,
    /// The tokens do not fit in what is left of the context.
    ContextFull {
        /// Positions the call needs.
        needed: usize,
        /// Positions the session was made for.
        context: usize,
    },
    /// The position to rewind to is ahead of the session's.
    BadPosition,
    /// What a token at the position to rewind to would see is no longer in the cache.
    PositionLost,
    /// The call was cancelled.
    Cancelled,
    /// The image lacks what this policy needs.
    NoPredictor(&'static str),
    /// The image's predictor was made for another model.
    ForeignPredictor,
    /// The image's predictor is damaged.
    BadPredictor(&'static str),
    /// A density is not above 0 and at most 1.
    BadDensity,
    /// The policy skips inputs, and no matrix of the image is stored by input.
    NotByInput,
    /// The session was made without room for skipping.
    NoSparsity,
    /// The program was built without a kernel that the model needs: of a format and a layout, or what the words name.
    MissingKernel(&'static str, &'static str),
    /// A saved state does not belong to this session.
    BadState(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::NotAnImage => f.write_str("not a shadowllm image (its first bytes are not the magic number)"),
            Error::OtherVersion { found, known } => {
                write!(
                    f,
                    "image format version {found}, this build reads version {known}: update shadowllm or pack the model again"
                )
            }
            Error::Truncated { expected, found } => {
                write!(
                    f,
                    "the image is cut off: its header promises {expected} bytes, there are {found}; copy or pack it again"
                )
            }
            Error::Corrupt => f.write_str("the image's header is damaged (checksum mismatch): copy or pack it again"),
            Error::Malformed(what) => write!(f, "the image's header is malformed: {what}; pack the model again"),
            Error::MissingTensor(what) => write!(f, "the image has no tensor {what}; pack the model again"),
            Error::BadTensor(what) => {
                write!(f, "tensor {what} does not fit the image's configuration; pack the model again")
            }
            Error::Unsupported(what) => write!(f, "this version cannot run models with {what}"),
            Error::Misaligned(n) => write!(f, "the image must start at an address that is a multiple of {n}"),
            Error::MemoryTooSmall { needed, given } => {
                write!(f, "the session needs {needed} bytes of memory, {given} were given")
            }
            Error::BadOption(what) => f.write_str(what),
            Error::TokenOutOfRange { id, vocab } => {
                write!(f, "token id {id} is out of range: the vocabulary has {vocab} entries")
            }
            Error::NoTokens => f.write_str("no tokens were given; a model needs at least one to start from"),
            Error::ContextFull { needed, context } => {
                write!(
                    f,
                    "{needed} positions do not fit in the context of {context}: shorten the prompt or make the context longer"
                )
            }
            Error::PositionLost => f.write_str(
                "the position to rewind to is too far back: the model's layers with a window keep the last positions only \
                 (rewind to 0 and read the tokens again)",
            ),
            Error::BadPosition => f.write_str("the position to rewind to is ahead of the session's own"),
            Error::Cancelled => f.write_str("cancelled"),
            Error::NoPredictor(policy) => {
                write!(f, "the image is not calibrated for policy {policy}: calibrate it, or choose another policy")
            }
            Error::ForeignPredictor => f.write_str(
                "the image's predictor was made for another model, or for other groups of neurons: calibrate it again",
            ),
            Error::BadPredictor(what) => write!(f, "the image's predictor is damaged ({what}): calibrate it again"),
            Error::BadDensity => f.write_str("a density must be above 0 and at most 1 (1 reads everything)"),
            Error::NotByInput => f.write_str(
                "the policy skips single inputs, and this image stores none of its matrices by input: pack it by input, or choose another policy",
            ),
            Error::NoSparsity => f.write_str("the session was made without sparsity: ask for it in its options"),
            Error::MissingKernel(what, kind) => {
                write!(f, "the program was built without kernels for {what} {kind}: add them to its Needs")
            }
            Error::BadState(what) => write!(f, "the saved state cannot be used here: {what}"),
        }
    }
}

impl core::error::Error for Error {}
