//! Models on a machine with an operating system: files, threads, text.
//!
//! ```no_run
//! use shadowllm_host::{Model, Options};
//!
//! # fn main() -> shadowllm_host::Result<()> {
//! let model = Model::open("model.sllm")?;
//! let mut chat = model.chat(Options { max_tokens: 64, ..Options::default() })?;
//! for piece in chat.ask("Name three rivers.")? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Options`] holds every default. An [`Answer`] also has figures and the reason why it ended; [`Session`] continues
//! plain texts, and works on tokens and logits. Sessions own their memory and threads, so they can be stored and sent
//! to other threads. Programs with their own memory or threads use [`model::LoadedModel`] with the engine's session, or
//! the engine alone ([`engine`]).
//!
//! Modules, lowest first; each uses only those before it: [`error`], [`map`], `signals`, [`cores`], [`model`], [`template`],
//! [`text_guard`], [`text`], [`tool_calls`], [`grammar`], [`residency`], [`pool`], [`pace`], [`stops`], [`dry`],
//! [`controls`], [`options`], [`generate`], [`thinking`], [`conversation`], `handle`, `owned`, `session`, `chat`.

#[cfg(feature = "tokenizer")]
mod chat;
#[cfg(feature = "tokenizer")]
mod clock;
pub mod controls;
#[cfg(feature = "tokenizer")]
pub mod conversation;
pub mod cores;
pub mod dry;
pub mod error;
pub mod generate;
#[cfg_attr(not(feature = "grammar"), path = "no_grammar.rs")]
pub mod grammar;
mod handle;
pub mod map;
pub mod model;
pub mod options;
mod owned;
pub mod pace;
pub mod pool;
#[cfg(unix)]
pub mod residency;
mod session;
mod signals;
pub mod speculate;
pub mod stops;
#[cfg(feature = "tokenizer")]
pub mod template;
#[cfg(feature = "tokenizer")]
pub mod text;
#[cfg(feature = "tokenizer")]
mod text_bytes;
#[cfg(feature = "tokenizer")]
pub mod text_guard;
#[cfg(feature = "tokenizer")]
mod text_marks;
#[cfg(feature = "tokenizer")]
mod text_watch;
#[cfg(feature = "tokenizer")]
pub mod thinking;
#[cfg(feature = "tokenizer")]
pub mod tool_calls;

#[cfg(feature = "tokenizer")]
pub use chat::Chat;
pub use controls::{Controls, Likely};
#[cfg(feature = "tokenizer")]
pub use conversation::Reply;
pub use dry::Dry;
pub use error::{Error, Result};
pub use generate::{Figures, Stop};
pub use grammar::{Grammar, Rules};
pub use handle::Model;
pub use options::Options;
#[cfg(feature = "tokenizer")]
pub use session::Answer;
pub use session::Session;
pub use shadowllm_core as engine;
pub use shadowllm_core::sample::SamplerOptions;
pub use shadowllm_core::sparsity::{Allocation, Dial, Policy};
pub use shadowllm_core::{Isa, KvFormat};
