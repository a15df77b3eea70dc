//! Every error of the engine, with one sentence each, in the order of the operations: parsing an image, making a
//! session, reading tokens, skipping, restoring a state. It is one flat type, so that callers match an error by its
//! name.

use core::fmt;

/// Why an image, a session or a call was refused. Nothing was changed when one of these is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    // Parsing an image.
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
        /// Bytes that the header gives.
        expected: u64,
        /// Bytes that were given.
        found: u64,
    },
    /// The header's checksum does not match its bytes.
    Corrupt,
    /// A field of the header has a value that no image has.
    Malformed(&'static str),
    /// The image lacks a tensor that its architecture needs.
    MissingTensor(&'static str),
    /// A tensor's shape or place does not fit the architecture.
    BadTensor(&'static str),
    /// The model has something that this version of the engine cannot run.
    Unsupported(&'static str),
    /// The image's bytes must start at an address that is a multiple of this.
    Misaligned(usize),

    // Making a session.
    /// The memory given to a session is too small.
    MemoryTooSmall {
        /// Bytes needed (see [`crate::Session::memory_required`]).
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// A session option is out of its range.
    BadOption(&'static str),
    /// The program was built without a kernel that the model needs: for a format and an order, or as the words say.
    MissingKernel(&'static str, &'static str),

    // Reading tokens.
    /// A token id is not in the vocabulary.
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Ids of the model are below this.
        vocab: u32,
    },
    /// No token was given where at least one is needed.
    NoTokens,
    /// The tokens do not fit in the rest of the context.
    ContextFull {
        /// Positions that the call needs.
        needed: usize,
        /// Positions the session was made for.
        context: usize,
    },
    /// The position to rewind to is ahead of the session's.
    BadPosition,
    /// The cache no longer has the keys and values that a token at the position to rewind to would see.
    PositionLost,
    /// The call was cancelled.
    Cancelled,

    // Skipping.
    /// The image lacks the tables of this policy.
    NoPredictor(&'static str),
    /// The image's predictor was made for another model.
    ForeignPredictor,
    /// The image's predictor is damaged.
    BadPredictor(&'static str),
    /// A density is 0 or less, above 1, or not a number.
    BadDensity,
    /// The policy skips inputs, and no matrix of the image is stored by input.
    NotByInput,
    /// The session was made without room for skipping.
    NoSparsity,

    // Restoring a state.
    /// A saved state does not belong to this session.
    BadState(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::OtherVersion { found, known } => write!(
                f,
                "image format version {found}, this build reads version {known}: update shadowllm or pack the model again"
            ),
            Error::Truncated { expected, found } => write!(
                f,
                "the image is cut off: its header promises {expected} bytes, there are {found}; copy or pack it again"
            ),
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
            Error::MissingKernel(what, kind) => {
                write!(f, "the program was built without kernels for {what} {kind}: add them to its Needs")
            }
            Error::TokenOutOfRange { id, vocab } => {
                write!(f, "token id {id} is out of range: the vocabulary has {vocab} entries")
            }
            Error::ContextFull { needed, context } => write!(
                f,
                "{needed} positions do not fit in the context of {context}: shorten the prompt or make the context longer"
            ),
            Error::NoPredictor(policy) => {
                write!(f, "the image is not calibrated for policy {policy}: calibrate it, or choose another policy")
            }
            Error::BadPredictor(what) => write!(f, "the image's predictor is damaged ({what}): calibrate it again"),
            Error::BadState(what) => write!(f, "the saved state cannot be used here: {what}"),
            _ => f.write_str(self.sentence()),
        }
    }
}

impl Error {
    /// The sentence of an error without numbers.
    fn sentence(self) -> &'static str {
        match self {
            Error::NotAnImage => "not a shadowllm image (its first bytes are not the magic number)",
            Error::Corrupt => "the image's header is damaged (checksum mismatch): copy or pack it again",
            Error::BadOption(what) => what,
            Error::NoTokens => "no tokens were given; a model needs at least one to start from",
            Error::BadPosition => "the position to rewind to is ahead of the session's own",
            Error::PositionLost => {
                "the position to rewind to is too far back: the model's layers with a window keep the last positions only \
                 (rewind to 0 and read the tokens again)"
            }
            Error::Cancelled => "cancelled",
            Error::ForeignPredictor => {
                "the image's predictor was made for another model, or for other groups of neurons: calibrate it again"
            }
            Error::BadDensity => "a density must be above 0 and at most 1 (1 reads everything)",
            Error::NotByInput => {
                "the policy skips single inputs, and this image stores none of its matrices by input: pack it by input, \
                 or choose another policy"
            }
            Error::NoSparsity => "the session was made without sparsity: ask for it in its options",
            _ => "refused",
        }
    }
}

impl core::error::Error for Error {}
