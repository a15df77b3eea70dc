//! The engine of shadowllm: everything a device needs to run a decoder language model, and nothing else.
//!
//! `no_std`, no allocation, no files, no threads, no text. The caller brings a packed model (an *image*,
//! see `image/FORMAT.md`), a piece of memory and an [`exec::Executor`]; it gets logits.
//!
//! Layers, each using only those before it: [`format`] (numbers and matrices in bytes) <- [`simd`] (16 float lanes) <-
//! [`kernels`] (products and norms) <- [`ops`] (a layer's steps, cut into tasks) <- [`sparsity`] (what is read for a
//! token) <- [`model`] (sessions and the forward pass). Below them all [`error`], [`arena`], [`active`], [`cpu`],
//! [`exec`], [`claims`], [`random`] and [`views`]; beside them [`image`] and [`sample`].
//!
//! # Same bits everywhere
//! Every floating-point result is defined as a fixed sequence of IEEE-754 single additions and
//! multiplications (no fused multiply-add, one chain per output in the order of the reduction), and integer
//! dot products are exact. So the logits do not depend on the instruction set, on the number of threads, or
//! on whether a token was part of a prefill or decoded alone.
//!
//! # Architecture
#![doc = include_str!("architecture.md")]
//!
//! # On a device
#![doc = include_str!("embedding.md")]
#![no_std]

#[cfg(target_endian = "big")]
compile_error!("shadowllm images are little-endian; big-endian targets are not supported");

pub mod active;
pub mod arena;
#[cfg(target_has_atomic = "ptr")]
pub mod claims;
pub mod cpu;
pub mod error;
pub mod exec;
pub mod format;
pub mod image;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod random;
pub mod sample;
pub mod simd;
pub mod sparsity;
pub mod views;

pub use active::Units;
pub use cpu::{Cpu, Isa};
pub use error::Error;
pub use exec::{Executor, Hooks, Serial};
pub use format::Format;
pub use image::Image;
pub use kernels::Kernels;
pub use model::{Guess, KvFormat, Model, Session, SessionOptions, Totals, Traffic, lookup};
