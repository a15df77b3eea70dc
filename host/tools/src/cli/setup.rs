//! Code that several commands share: opening a model and running it.

use crate::print;
use clap::Args;
use shadowllm_core::image::Positions;
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{Isa, KvFormat, Model, Session, SessionOptions};
use shadowllm_host::model::{LoadedModel, Loading};
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache;
use shadowllm_tools::cache::Skipping;
use std::path::{Path, PathBuf};

/// Heading of options about the use of the machine.
pub const MACHINE: &str = "Machine";

/// A model and how to run it.
#[derive(Args)]
pub struct ModelOptions {
    /// A packed image (.sllm); a GGUF file or Hugging Face folder is packed into the cache first.
    #[arg(required_unless_present = "named")]
    model: Option<PathBuf>,
    // The option of llama.cpp's programs.
    #[arg(short = 'm', long = "model", id = "named", value_name = "MODEL", conflicts_with = "model", hide = true)]
    named: Option<PathBuf>,
    /// Instruction set to use (scalar, avx2, avx512, neon, neon-dotprod, neon-i8mm); the best by default.
    #[arg(long, value_parser = isa, help_heading = MACHINE)]
    pub isa: Option<Isa>,
    /// Number format of the KV cache: f16, or f32 (the default for f32 images).
    #[arg(long, value_parser = kv_format, help_heading = MACHINE)]
    pub kv: Option<KvFormat>,
    /// The most bytes of weights in memory, such as 900M or 2G; others are read from the file when they are needed.
    #[arg(long, value_parser = size, value_name = "BYTES", help_heading = MACHINE)]
    memory_budget: Option<usize>,
    /// Read the whole image into memory, so that later changes of the file do not matter; on Linux decoding is often
    /// faster then (huge pages).
    #[arg(long, alias = "no-mmap", conflicts_with = "memory_budget", help_heading = MACHINE)]
    in_memory: bool,
    /// Compare the whole image with its checksums before it is used: weights that are damaged are an error then.
    #[arg(long, help_heading = MACHINE)]
    verify: bool,
}

fn size(text: &str) -> std::result::Result<usize, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("a number of bytes, or one followed by K, M or G".into()),
    };
    number.parse().ok().and_then(|n: usize| n.checked_mul(unit)).ok_or_else(|| "a number of bytes".into())
}

fn isa(name: &str) -> std::result::Result<Isa, String> {
    Isa::from_name(name).ok_or_else(|| format!("one of {}", Isa::ALL.map(Isa::name).join(", ")))
}

fn kv_format(name: &str) -> std::result::Result<KvFormat, String> {
    match name {
        "f16" => Ok(KvFormat::F16),
        "f32" => Ok(KvFormat::F32),
        _ => Err("f16 or f32".into()),
    }
}

impl ModelOptions {
    /// The path of the model.
    pub fn path(&self) -> &Path {
        // clap has checked that one of both is given.
        self.model.as_deref().or(self.named.as_deref()).unwrap_or(Path::new(""))
    }

    /// The options about the use of the machine that were given, with their values, as they are written.
    pub fn given(&self) -> Vec<(&'static str, Option<String>)> {
        let flag = |given: bool| given.then_some(None);
        let all = [
            ("isa", self.isa.map(|isa| Some(isa.name().to_owned()))),
            ("kv", self.kv.map(|kv| Some(format!("{kv:?}").to_lowercase()))),
            ("memory-budget", self.memory_budget.map(|bytes| Some(bytes.to_string()))),
            ("in-memory", flag(self.in_memory)),
            ("verify", flag(self.verify)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Opens the model.
    pub fn open(&self) -> Result<LoadedModel> {
        self.open_for(Skipping::Nothing)
    }

    /// Opens the model; a source is packed so that this can be skipped.
    pub fn open_for(&self, skipping: Skipping) -> Result<LoadedModel> {
        let loading = Loading { isa: self.isa, in_memory: self.in_memory, verify: self.verify, ..Loading::default() };
        open_model(self.path(), skipping, loading)
    }

    /// The pool, within the memory budget.
    pub fn within(&self, pool: Pool, model: &LoadedModel) -> Result<Pool> {
        match self.memory_budget {
            None => Ok(pool),
            #[cfg(unix)]
            Some(budget) => pool.within(budget, model),
            #[cfg(not(unix))]
            Some(_) => Err(Error::Usage("--memory-budget is not supported on this system: leave it out".into())),
        }
    }
}

/// Opens an image, packing other things into the cache first.
pub fn open_model(path: &Path, skipping: Skipping, loading: Loading) -> Result<LoadedModel> {
    let bar = progress("packing");
    let note = &mut |note: &str| bar.suspend(|| print::note(note));
    let image = cache::image_for(path, skipping, note, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    LoadedModel::open_with(&image, loading)
}

/// A bar of steps on standard error, with the remaining time; nothing is shown if that is not a terminal.
pub fn steps(what: String) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len}, {eta} to go")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(0).with_style(style).with_message(what)
}

/// A bar of bytes on standard error; nothing is shown if that is not a terminal.
pub fn progress(what: &'static str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(0).with_style(style).with_message(what)
}

/// The given number of threads, or one per core.
pub fn pool(threads: Option<usize>) -> Result<Pool> {
    Pool::new(threads.unwrap_or_else(Pool::cores))
}

/// Refuses more positions than a model can have; `instead` is the advice.
pub fn checked_context(model: &LoadedModel, context: usize, instead: &str) -> Result<usize> {
    let most = model.model().config().most_positions;
    if context > most {
        let (file, more) = (model.path().display(), more_positions(model.model(), context));
        let why = format!("{context} positions are needed, but {file} has {most}: give {instead}{more}");
        return Err(Error::Usage(why));
    }
    Ok(context)
}

/// How a model that is not given learned positions gets this number of them; empty for others.
pub fn more_positions(model: &Model, context: usize) -> String {
    if model.config().positions == Positions::Learned {
        return String::new();
    }
    format!(", or pack its source again with --context {context} if it has LongRoPE and is made for as many")
}

/// Session options for a batch of work over `context` positions; `instead` is the advice if the model has fewer.
pub fn session_options(
    model: &LoadedModel,
    context: usize,
    kv: Option<KvFormat>,
    instead: &str,
) -> Result<SessionOptions> {
    let suitable = SessionOptions::of(model.model()).within(checked_context(model, context, instead)?);
    Ok(SessionOptions { kv: kv.unwrap_or(suitable.kv), ..suitable })
}

/// Goes back to the end of a text, which is read again if the session cannot go back to it.
pub fn go_to(session: &mut Session, pool: &Pool, text: &[u32]) -> Result<()> {
    let depth = text.len();
    // A rewind would also forget the statistics that a policy has taken from the prompt.
    if depth == 0 || !session.reaches(depth) || session.policy() != Policy::Off {
        session.rewind(0)?;
    }
    if session.position() < depth {
        session.prefill(pool, text)?;
    }
    Ok(session.rewind(depth)?)
}
