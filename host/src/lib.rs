//! Models on a machine with an operating system: map images, run them on threads, read and write text.
//!
//! ```no_run
//! use shadowllm_core::sample::{Sampler, SamplerOptions};
//! use shadowllm_core::SessionOptions;
//! use shadowllm_host::{generate::generate, model::LoadedModel, pool::Pool, text::Text};
//!
//! # fn main() -> shadowllm_host::Result<()> {
//! let model = LoadedModel::open("model.sllm".as_ref(), None)?;
//! let text = Text::of(&model)?;
//! let options = SessionOptions { context: 512, ..SessionOptions::default() };
//! let mut memory = model.memory(&options)?;
//! let mut session = model.session(options, &mut memory)?;
//! let pool = Pool::new(Pool::cores())?;
//! let mut sampler = Sampler::new(SamplerOptions::default())?;
//! let prompt = text.encode("The capital of France is", true)?;
//! let mut stream = text.stream();
//! generate(&mut session, &pool, &mut sampler, &prompt, 32, &mut |token, _| {
//!     print!("{}", stream.push(token)?);
//!     Ok(true)
//! })?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "tokenizer")]
pub mod conversation;
pub mod cores;
pub mod error;
pub mod generate;
pub mod map;
pub mod model;
pub mod pool;
#[cfg(unix)]
pub mod residency;
#[cfg(feature = "tokenizer")]
pub mod text;
#[cfg(feature = "tokenizer")]
mod text_bytes;

pub use error::{Error, Result};
