//! `shadowllm calibrate`.

use crate::print;
use crate::setup::ModelOptions;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use shadowllm_core::image::SectionKind;
use shadowllm_core::sparsity::{Policy, Tap};
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use shadowllm_tools::calibrate::criteria::Criterion;
use shadowllm_tools::calibrate::{self as engine, Progress, Shape, Target};
use shadowllm_tools::output::{Output, refuse_overwrite};
#[cfg(feature = "tasks")]
use shadowllm_tools::tasks::{Task, load};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Options of `calibrate`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to train on, UTF-8; several are read one after the other.
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Image to write: the model's with the predictors. An interrupted calibration goes on when it is started
    /// again with the same options.
    #[arg(short, long)]
    output: PathBuf,
    /// What to calibrate for: static, shadow, per-layer, gate, input; all by default.
    #[arg(long, value_delimiter = ',', value_parser = policy)]
    policies: Vec<Policy>,
    /// Write the predictor alone to a file too, for `pack --predictor`.
    #[arg(long)]
    predictor: Option<PathBuf>,
    /// Folder with task sets (as for `eval --tasks-dir`), whose questions are read besides the text.
    #[cfg(feature = "tasks")]
    #[arg(long)]
    tasks: Option<PathBuf>,
    /// Tokens of text at most.
    #[arg(long, default_value_t = 200_000)]
    tokens: usize,
    /// Tokens per window.
    #[arg(long, default_value_t = 256)]
    window: usize,
    /// Rank of the shadow predictor, a multiple of 32.
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// Rank of each layer's own predictor, a multiple of 32.
    #[arg(long, default_value_t = 64)]
    layer_rank: usize,
    /// What feeds the shadow predictor, together: embedding, heads (layer 0's), stream (after layer 0).
    #[arg(long, value_delimiter = ',', default_value = "stream", value_parser = tap)]
    tap: Vec<u32>,
    /// What it predicts: active (whether a neuron is not zero) or importance; by default what suits the activation.
    #[arg(long, value_parser = target)]
    target: Option<Target>,
    /// How static importance is measured: plainact, fisher, grad_norm, l2_norm; by default plainact, or what comes nearest
    /// to it without gradients where the model's family has none.
    #[arg(long, value_parser = criterion)]
    criterion: Option<Criterion>,
    /// Training steps per window.
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Step size of training.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// Start of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Held-out windows that budgets are searched on; 0 divides every density evenly.
    #[arg(long, default_value_t = 3)]
    budget_windows: usize,
    /// Keep the predictor that the image has, and only divide its budgets anew: after it was packed in another layout.
    #[arg(long)]
    keep: bool,
    /// Seconds between two times that the state is kept, for going on after an interruption.
    #[arg(long, default_value_t = 60)]
    keep_every: u64,
    /// Threads; one per core by default.
    #[arg(short, long)]
    threads: Option<usize>,
    /// Result as JSON.
    #[arg(long)]
    json: bool,
}

fn tap(name: &str) -> std::result::Result<u32, String> {
    match name {
        "embedding" => Ok(Tap::EMBEDDING),
        "heads" => Ok(Tap::HEADS),
        "stream" => Ok(Tap::STREAM),
        _ => Err("embedding, heads or stream".into()),
    }
}

fn policy(name: &str) -> std::result::Result<Policy, String> {
    let all = engine::Options::all_policies();
    let names = || all.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|p| p.name() == name).ok_or_else(|| format!("one of {}", names()))
}

fn target(name: &str) -> std::result::Result<Target, String> {
    match name {
        "active" => Ok(Target::Active),
        "importance" => Ok(Target::Importance),
        _ => Err("active or importance".into()),
    }
}

fn criterion(name: &str) -> std::result::Result<Criterion, String> {
    let found = Criterion::ALL.into_iter().find(|c| c.name() == name);
    found.ok_or_else(|| format!("one of {}", Criterion::ALL.map(Criterion::name).join(", ")))
}

/// One bar, stage after stage.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn stage(&mut self, name: &str, steps: usize) {
        self.0.set_length(steps as u64);
        self.0.reset();
        self.0.set_message(name.to_owned());
    }

    fn done(&mut self, steps: usize) {
        self.0.set_position(steps as u64);
    }
}

/// Runs the command.
pub fn calibrate(o: &Options) -> Result<()> {
    let start = Instant::now();
    refuse(o)?;
    let texts = o.text.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let model = o.model.open()?;
    let ids = tokens(o, &texts, &Text::of(&model)?)?;
    let options = engine_options(o, &model);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    if o.keep {
        engine::rebudget(&model, &ids, &options, &o.output, &mut Bar(bar.clone()))?;
        bar.finish_and_clear();
        save_predictor(o)?;
        return print::line(format_args!("{}: budgets divided anew", o.output.display()));
    }
    let quality = engine::calibrate(&model, &ids, &options, &o.output, &mut Bar(bar.clone()))?;
    bar.finish_and_clear();
    save_predictor(o)?;
    let seconds = start.elapsed().as_secs_f64();
    if o.json {
        let peak = peak_memory();
        return print::json(
            &json!({"tokens": ids.len(), "seconds": seconds, "peak_memory_bytes": peak, "quality": quality}),
        );
    }
    show(&quality)?;
    let peak = peak_memory().map_or(String::new(), |b| format!(", peak memory {:.0} MB", b as f64 / 1e6));
    print::line(format_args!("{}: {} tokens in {seconds:.0} s{peak}", o.output.display(), ids.len()))
}

/// Refuses options that cannot be, and outputs that cannot be written: better before hours of work than after.
fn refuse(o: &Options) -> Result<()> {
    let rank = |n: usize| n > 0 && n.is_multiple_of(32) && n <= 4096;
    if !rank(o.rank) || !rank(o.layer_rank) {
        return Err(Error::Usage("--rank and --layer-rank must be multiples of 32 up to 4096".into()));
    }
    if o.window < 16 || o.threads == Some(0) {
        return Err(Error::Usage("--window must be at least 16, and --threads at least 1".into()));
    }
    if !(o.rate > 0.0 && o.rate.is_finite()) {
        return Err(Error::Usage("--rate must be above 0".into()));
    }
    let inputs = [o.text.clone(), vec![o.model.model.clone()]].concat();
    refuse_overwrite(&o.output, &inputs)?;
    if let Some(path) = &o.predictor {
        refuse_overwrite(path, &inputs)?;
        if *path == o.output {
            return Err(Error::Usage("--predictor and --output name the same file: name another for one".into()));
        }
    }
    for path in o.predictor.iter().chain([&o.output]) {
        Output::create(path)?;
    }
    Ok(())
}

/// The tokens to learn from.
fn tokens(o: &Options, texts: &[String], text: &Text) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for (path, content) in o.text.iter().zip(texts) {
        if content.trim().is_empty() {
            return Err(Error::file(path, "is empty, so there is nothing to learn from: give another --text"));
        }
        ids.extend(beginning(text, content, o.tokens - ids.len().min(o.tokens))?);
    }
    #[cfg(feature = "tasks")]
    if let Some(folder) = &o.tasks {
        for task in Task::ALL {
            for question in load(task, folder, usize::MAX)? {
                let right = &question.choices[question.gold.min(question.choices.len() - 1)];
                ids.extend(text.encode(&format!("{}{}\n\n", right.context, right.continuation), false)?);
            }
        }
    }
    ids.truncate(o.tokens);
    Ok(ids)
}

fn engine_options(o: &Options, model: &LoadedModel) -> engine::Options {
    let config = model.model().config();
    engine::Options {
        policies: if o.policies.is_empty() { engine::Options::all_policies() } else { o.policies.clone() },
        window: o.window.min(config.max_positions),
        criterion: o.criterion,
        shape: Shape {
            rank: o.rank,
            layer_rank: o.layer_rank,
            tap: Tap(o.tap.iter().fold(0, |all, t| all | t)),
            target: o.target.unwrap_or(Target::of(config)),
            rate: o.rate,
            steps: o.steps,
            seed: o.seed,
        },
        budget_windows: o.budget_windows,
        keep_every: Duration::from_secs(o.keep_every),
        threads: o.threads.unwrap_or_else(Pool::cores),
    }
}

/// Prints how good the predictors are.
fn show(quality: &engine::Quality) -> Result<()> {
    let mean = |of: &dyn Fn(&engine::LayerQuality) -> f64| {
        quality.layers.iter().map(of).sum::<f64>() / quality.layers.len() as f64
    };
    print::line(format_args!("importance held by the best-scored neurons, mean of the layers:"))?;
    for (i, scorer) in quality.scorers.iter().enumerate() {
        let shares: Vec<String> = quality
            .captured_at
            .iter()
            .enumerate()
            .map(|(j, at)| format!("{:.3} of the best {:.0} %", mean(&|l| l.captured[i][j]), at * 100.0))
            .collect();
        print::line(format_args!("{scorer:<10} {}; rank agreement {:.3}", shares.join(", "), mean(&|l| l.rank[i])))?;
    }
    Ok(())
}

/// Writes the output's predictor to a file of its own, where one was named.
fn save_predictor(o: &Options) -> Result<()> {
    let Some(path) = &o.predictor else { return Ok(()) };
    let made = LoadedModel::open(&o.output, None)?;
    let mut output = Output::create(path)?;
    let section = made.model().image().section(SectionKind::Predictor);
    output.file().write_all(section).map_err(|e| Error::io("write to", path, e))?;
    output.finish()
}

/// At least the first `n` tokens of a text, if it has that number. (A tokenizer takes a hundred times a text's memory.)
fn beginning(text: &Text, content: &str, n: usize) -> Result<Vec<u32>> {
    let mut bytes = n.saturating_mul(16).max(1);
    loop {
        let part = &content[..content.floor_char_boundary(bytes)];
        let ids = text.encode(part, false)?;
        if ids.len() > n || part.len() == content.len() {
            return Ok(ids);
        }
        bytes = bytes.saturating_mul(2);
    }
}
