//! The architecture of a model, as data that `forward` walks through, so that a family is a description and not a
//! branch in code. `FORMAT.md` beside this file is the specification of its bytes.
//!
//! ```text
//!   x = embedding * embed_scale (+ position)
//!   for every layer, for every block of its kind:
//!       x = stream(x + output(operation(input(x))))        each norm optional
//!   logits = cap(output matrix * final(x) * logit_scale)
//! ```
//! A *kind* is a layer's list of blocks; every layer names its kind. In a parallel kind all blocks read the `x` that the
//! layer began with. Llama has an input norm in each block, OPT-350m a stream norm, Gemma 2 input and output norms,
//! OLMo 2 output norms.

mod attention;
mod globals;
mod layer;
mod mlp;
mod norms;
mod rules;
mod section;

pub use attention::{Attention, HeadNorm};
pub use globals::{Globals, Positions};
pub use layer::{Block, Layer, Op};
pub use mlp::{Mlp, Router, Scoring};
pub use norms::{Norm, Norming, Norms};
pub use section::{Architecture, write};

/// The most end-of-sequence tokens.
pub const MAX_EOS: usize = 8;
/// The most layers.
pub const MAX_LAYERS: usize = 4096;
/// The most kinds of layers.
pub const MAX_KINDS: usize = 8;
/// The most blocks of a layer.
pub const MAX_BLOCKS: usize = 4;
/// The most tables of rotary frequencies.
pub const MAX_ROPES: usize = 4;
/// The largest width of a head.
pub const MAX_HEAD_DIM: usize = 1024;
