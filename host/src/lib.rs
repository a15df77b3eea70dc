//! The host side of shadowllm: import and pack models, map images, run them on threads, read and write text.
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

#[cfg(feature = "tools")]
pub mod cache;
#[cfg(feature = "calibrate")]
pub mod calibrate;
#[cfg(feature = "tools")]
pub mod compare;
#[cfg(feature = "tokenizer")]
pub mod conversation;
pub mod cores;
pub mod error;
#[cfg(feature = "tools")]
pub mod eval;
#[cfg(feature = "tools")]
pub mod fetch;
pub mod generate;
#[cfg(feature = "tools")]
pub mod import;
mod map;
pub mod model;
#[cfg(feature = "tools")]
pub mod output;
#[cfg(feature = "tools")]
pub mod pack;
pub mod pool;
#[cfg(feature = "tools")]
pub mod predictor;
#[cfg(feature = "tools")]
pub mod report;
#[cfg(unix)]
pub mod residency;
#[cfg(feature = "tasks")]
pub mod tasks;
#[cfg(feature = "tokenizer")]
pub mod text;
#[cfg(feature = "tokenizer")]
mod text_bytes;

pub use error::{Error, Result};
