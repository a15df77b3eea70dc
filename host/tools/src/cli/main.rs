//! The command `shadowllm`.

mod bandwidth;
mod bench;
#[cfg(feature = "calibrate")]
mod calibrate;
mod demo;
mod dial;
mod eval;
mod inspect;
mod logits;
mod pack;
mod print;
mod report;
mod run;
#[cfg(feature = "tasks")]
mod tasks;

use clap::{Args, Parser, Subcommand};
use shadowllm_core::{Isa, KvFormat, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// On-device LLM inference that does not read what a token does not need.
#[derive(Parser)]
#[command(version, about, after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch a small model, pack it and let it answer a question.
    #[command(after_help = "Example:\n  shadowllm demo -p 'Why is the sky blue?'")]
    Demo(demo::Options),
    /// Pack a Hugging Face folder or a GGUF file into an image.
    #[command(after_help = "Examples:\n  shadowllm pack SmolLM2-135M/ -o smollm2.sllm --format q4_0\n  \
        shadowllm pack model.gguf -o model.sllm\n  shadowllm pack --synthetic tinyllama-1.1b --format q4_0 -o random.sllm")]
    Pack(pack::Options),
    /// Show what an image holds.
    #[command(after_help = "Example:\n  shadowllm inspect smollm2.sllm --json")]
    Inspect(inspect::Options),
    /// Generate text: from a prompt, a file, or in a chat.
    #[command(after_help = "Examples:\n  shadowllm run smollm2.sllm -p 'Name three rivers.' -n 64\n  \
        shadowllm run smollm2.sllm            # chat; an empty line or Ctrl-D ends it\n  \
        shadowllm run model.gguf --raw -p 'Once upon a time' --greedy")]
    Run(run::Options),
    /// Write the logits of given token ids to a safetensors file.
    #[command(
        after_help = "Example:\n  echo '[1, 2, 3]' > ids.json && shadowllm logits smollm2.sllm --ids ids.json -o logits.safetensors"
    )]
    Logits(logits::Options),
    /// Measure the perplexity of a text, or the accuracy on task sets.
    #[command(
        after_help = "Examples:\n  shadowllm eval smollm2.sllm --text book.txt --window 512 --max-windows 40\n  \
        shadowllm eval smollm2.sllm --text book.txt --policy input,gate --density 0.9,0.7,0.5\n  \
        shadowllm eval smollm2.sllm --tasks all --limit 200 --json\n  \
        shadowllm eval smollm2.sllm --tasks piqa,arc_easy --tasks-dir unpacked-wheel"
    )]
    Eval(eval::Options),
    /// Learn from a text what a model's tokens need, and write it into a copy of the image.
    #[cfg(feature = "calibrate")]
    #[command(
        after_help = "Example:\n  shadowllm calibrate smollm2.sllm --text book.txt --tokens 200000 -o smollm2-sparse.sllm"
    )]
    Calibrate(calibrate::Options),
    /// Show on one page what skipping costs and saves, what is used, and how good predictors are.
    #[command(after_help = "Examples:\n  shadowllm report smollm2-sparse.sllm --text book.txt -o report.html\n  \
        shadowllm report smollm2-sparse.sllm --text a.txt --text b.txt --policy input,gate,shadow \
        --density 0.8,0.5 -o report.html --json report.json")]
    Report(report::Options),
    /// Measure prefill and decode speed.
    #[command(after_help = "Example:\n  shadowllm bench smollm2.sllm -p 512 -n 128 -t 1,2 -r 5 --json")]
    Bench(bench::Options),
}

/// A model and how to run it.
#[derive(Args)]
struct ModelOptions {
    /// A packed image (.sllm); a GGUF file or Hugging Face folder is packed into the cache first.
    model: PathBuf,
    /// Instruction set to use (scalar, avx2, avx512, neon, neon-dotprod, neon-i8mm); the best by default.
    #[arg(long, value_parser = isa)]
    isa: Option<Isa>,
    /// Number format of the KV cache: f16, or f32 (the default for f32 images).
    #[arg(long, value_parser = kv_format)]
    kv: Option<KvFormat>,
    /// Bytes of weights in memory at most, as 900M or 2G: others are read from the file when it is their turn.
    #[arg(long, value_parser = size)]
    memory_budget: Option<usize>,
}

fn size(text: &str) -> std::result::Result<usize, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("a number of bytes, or one with K, M or G behind it".into()),
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
    fn open(&self) -> Result<LoadedModel> {
        open_model(&self.model, self.isa)
    }

    /// The pool, within the memory budget.
    fn within(&self, pool: Pool, model: &LoadedModel) -> Result<Pool> {
        match self.memory_budget {
            None => Ok(pool),
            #[cfg(unix)]
            Some(budget) => pool.within(budget, model),
            #[cfg(not(unix))]
            Some(_) => Err(Error::Usage("--memory-budget is not supported on this system: leave it out".into())),
        }
    }

    /// The cache format asked for, or the one that suits the weights.
    fn kv(&self, model: &LoadedModel) -> KvFormat {
        self.kv.unwrap_or(if model.model().is_f32() { KvFormat::F32 } else { KvFormat::F16 })
    }
}

/// Opens an image, packing other things into the cache first.
fn open_model(path: &Path, isa: Option<Isa>) -> Result<LoadedModel> {
    let bar = progress("packing");
    let image = cache::image_for(path, &mut |note| bar.suspend(|| print::note(note)), &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    LoadedModel::open(&image, isa)
}

/// A bar of bytes on standard error; silent where that is no terminal.
fn progress(what: &'static str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(0).with_style(style).with_message(what)
}

/// Threads asked for, or one per core.
fn pool(threads: Option<usize>) -> Result<Pool> {
    Pool::new(threads.unwrap_or_else(Pool::cores))
}

/// Session options for a batch of work over `context` positions; `instead` is what to ask for where the model
/// has not that many.
fn session_options(model: &LoadedModel, context: usize, kv: KvFormat, instead: &str) -> Result<SessionOptions> {
    let (c, batch) = (model.model().config(), SessionOptions::default().batch.min(context.max(1)));
    if c.positions == shadowllm_core::image::Positions::Learned && context > c.max_positions {
        let (file, most) = (model.path().display(), c.max_positions);
        return Err(Error::Usage(format!("{context} positions are asked for and {file} has {most}: give {instead}")));
    }
    Ok(SessionOptions { context, batch, kv, ..SessionOptions::default() })
}

/// Prints a value as JSON.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print::line(format_args!("{value:#}"))
}

/// Lets a write behind the limit on file sizes (`ulimit -f`) fail like one to a full disk, instead of ending
/// the program with a half-written file left.
fn take_file_limits_as_errors() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler; nothing else in the program touches this one.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Lets calibration run one window on each thread: candle's own threads would serve one window at a time.
fn one_window_per_thread() {
    // SAFETY: the first thing the program does; there are no other threads yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
}

fn main() -> ExitCode {
    one_window_per_thread();
    take_file_limits_as_errors();
    let result = match Cli::parse().command {
        Command::Demo(o) => demo::demo(&o),
        Command::Pack(o) => pack::pack(&o),
        Command::Inspect(o) => inspect::inspect(&o),
        Command::Run(o) => run::run(&o),
        Command::Logits(o) => logits::logits(&o),
        Command::Eval(o) => eval::eval(&o),
        #[cfg(feature = "calibrate")]
        Command::Calibrate(o) => calibrate::calibrate(&o),
        Command::Report(o) => report::report(&o),
        Command::Bench(o) => bench::bench(&o),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Who read it (`| head`) has seen enough.
        Err(e) if print::is_closed(&e) => ExitCode::SUCCESS,
        Err(e) => {
            print::note(format_args!("shadowllm: {e}"));
            let usage = matches!(e, Error::Usage(_))
                || matches!(
                    e,
                    Error::Engine {
                        source: shadowllm_core::Error::BadOption(_) | shadowllm_core::Error::BadDensity,
                        ..
                    }
                );
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}
