//! `shadowllm calibrate`.

use crate::print;
use crate::setup::{MACHINE, ModelOptions};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shadowllm_core::SessionOptions;
use shadowllm_core::image::Config;
use shadowllm_core::image::SectionKind;
use shadowllm_core::sparsity::{Dial, Policy, Tap};
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::Skipping;
use shadowllm_tools::calibrate::criteria::Criterion;
use shadowllm_tools::calibrate::{self as engine, Keep, Progress, Shape, Target};
use shadowllm_tools::decimal::decimal;
use shadowllm_tools::eval::{begin_windows, beginning};
use shadowllm_tools::output::{Output, is_same, refuse_overwrite};
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
    /// Text to train on, UTF-8; several texts are read in order.
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Image to write: the model's with the predictors. An interrupted calibration continues when it is started again
    /// with the same options.
    #[arg(short, long)]
    output: PathBuf,
    /// Policies to calibrate: static, shadow, per-layer, gate, input; all by default.
    #[arg(long, value_delimiter = ',', value_parser = policy)]
    policies: Vec<Policy>,
    /// Also write the predictor alone to a file, for `pack --predictor`.
    #[arg(long)]
    predictor: Option<PathBuf>,
    /// Folder with task sets (as for `eval --tasks-dir`), whose questions are read in addition to the text.
    #[cfg(feature = "tasks")]
    #[arg(long)]
    tasks: Option<PathBuf>,
    #[arg(
        long,
        default_value_t = 200_000,
        help = "The most tokens of text, without those of --tasks; at least 18 windows are needed (4608 tokens)"
    )]
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
    /// Inputs of the shadow predictor, one or more of embedding, heads (layer 0's) and stream (after layer 0).
    #[arg(long, value_delimiter = ',', default_value = "stream", value_parser = tap)]
    tap: Vec<u32>,
    /// What it predicts: active (whether a neuron is not zero) or importance; the default depends on the activation.
    #[arg(long, value_parser = target)]
    target: Option<Target>,
    /// How static importance is measured: plainact, fisher, grad_norm, l2_norm; by default plainact, or its
    /// approximation without gradients if the model's family has none.
    #[arg(long, value_parser = criterion)]
    criterion: Option<Criterion>,
    /// Training steps per window.
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Step size of training.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Held-out windows for the search of budgets; 0 divides every density evenly.
    #[arg(long, default_value_t = 3)]
    budget_windows: usize,
    /// Keep the image's predictors and only search its budgets again, after packing in another layout; `--keep=budgets`
    /// keeps these too and only measures what `auto` costs at each density, for `run --max-loss`.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "predictors", value_name = "WHAT", value_parser = keep)]
    #[arg(conflicts_with_all = ["policies", "rank", "layer_rank", "tap", "target", "criterion", "steps", "rate", "seed"])]
    keep: Option<Keep>,
    /// How often to save the state for continuing after an interruption, in seconds.
    #[arg(long, default_value_t = 60)]
    keep_every: u64,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
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

fn keep(name: &str) -> std::result::Result<Keep, String> {
    match name {
        "predictors" => Ok(Keep::Predictors),
        "budgets" => Ok(Keep::Budgets),
        _ => Err("predictors or budgets".into()),
    }
}

fn criterion(name: &str) -> std::result::Result<Criterion, String> {
    let found = Criterion::ALL.into_iter().find(|c| c.name() == name);
    found.ok_or_else(|| format!("one of {}", Criterion::ALL.map(Criterion::name).join(", ")))
}

/// One bar for all stages, in tenths of their expected seconds.
struct Bar {
    bar: ProgressBar,
    /// The expected seconds of earlier stages.
    before: f64,
    /// The expected seconds of this stage, and its number of steps.
    stage: (f64, usize),
}

impl Bar {
    fn new() -> Bar {
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {percent} % {eta} to go");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar { bar: ProgressBar::new(0).with_style(style), before: 0.0, stage: (0.0, 1) }
    }

    fn show(&self, share: f64) {
        self.bar.set_position((10.0 * (self.before + self.stage.0 * share)) as u64);
    }
}

impl Progress for Bar {
    fn expect(&mut self, seconds: f64) {
        self.bar.set_length((10.0 * seconds).ceil() as u64);
        let minutes = (seconds / 60.0).ceil();
        if minutes >= 2.0 {
            self.bar.suspend(|| {
                print::note(format_args!(
                    "calibration will take about {minutes:.0} minutes; interrupted, it continues when started again"
                ));
            });
        }
    }

    fn stage(&mut self, name: &str, steps: usize, seconds: f64) {
        self.before += self.stage.0;
        self.stage = (seconds * steps as f64, steps.max(1));
        self.bar.set_message(name.to_owned());
        self.show(0.0);
    }

    fn done(&mut self, steps: usize) {
        self.show(steps as f64 / self.stage.1 as f64);
    }
}

/// Refuses numbers out of range and outputs that cannot be written, before hours of work.
fn check(o: &Options) -> Result<()> {
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
    if o.keep.is_some() && o.budget_windows == 0 {
        return Err(Error::Usage("--keep measures on --budget-windows again, so these must be at least 1".into()));
    }
    // What does not go with calibration, whatever else it is good for.
    let unused = |(name, _): &(&str, Option<String>)| ["kv", "memory-budget"].contains(name);
    if let Some((name, _)) = o.model.given().iter().find(|given| unused(given)) {
        return Err(Error::Usage(format!(
            "--{name} has no place here: calibration reads all weights, with the KV cache that suits their format; leave it out"
        )));
    }
    let inputs = [o.text.clone(), vec![o.model.path().to_owned()]].concat();
    refuse_overwrite(&o.output, &inputs)?;
    if let Some(path) = &o.predictor {
        refuse_overwrite(path, &inputs)?;
        if is_same(path, &o.output) {
            return Err(Error::Usage("--predictor and --output name the same file: name another for one".into()));
        }
    }
    o.predictor.iter().chain([&o.output]).try_for_each(|path| Output::create(path).map(drop))
}

/// The tokens for calibration. Each window of `window` tokens begins as a text does when the model is used.
fn tokens(o: &Options, model: &LoadedModel, texts: &[String], window: usize) -> Result<Vec<u32>> {
    let text = Text::of(model)?;
    let mut ids = Vec::new();
    for (path, content) in o.text.iter().zip(texts) {
        if content.trim().is_empty() {
            return Err(Error::file(path, "is empty: give another --text"));
        }
        ids.extend(first_tokens(&text, content, o.tokens - ids.len().min(o.tokens))?);
    }
    ids.truncate(o.tokens);
    #[cfg(feature = "tasks")]
    if let Some(folder) = &o.tasks {
        for task in Task::ALL {
            for question in load(task, folder, usize::MAX)? {
                let right = &question.choices[question.gold.min(question.choices.len() - 1)];
                ids.extend(text.encode(&format!("{}{}\n\n", right.context, right.continuation), false)?);
            }
        }
    }
    begin_windows(&ids, &beginning(&text)?, window)
}

/// The options of calibration.
fn settings(o: &Options, config: &Config) -> engine::Options {
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

/// Warns at once if the image's layout rules out the best policies for such a model.
fn warn_of_layout(o: &Options, model: &LoadedModel) {
    let config = model.model().config();
    let sparse = model.model().image().arch().layer(0).mlp().is_some_and(|m| m.activation.is_sparse());
    let better = match sparse {
        true if config.neuron_group > 1 && !config.ffn_by_input => "neuron",
        false if !Policy::Input.plan().suits(config) => "input",
        _ => return,
    };
    print::note(format_args!(
        "note: {} is stored in a layout that rules out what saves most in such a model: pack its source with --layout \
         {better} first",
        o.model.path().display()
    ));
}

/// Runs the command.
pub fn calibrate(o: &Options) -> Result<()> {
    let start = Instant::now();
    check(o)?;
    let texts = o.text.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let model = o.model.open_for(Skipping::Layers)?;
    let options = settings(o, model.model().config());
    let ids = tokens(o, &model, &texts, options.window)?;
    warn_of_layout(o, &model);
    let mut progress = Bar::new();
    if let Some(keep) = o.keep {
        let tokens = engine::rebudget(&model, &ids, (&options, keep), &o.output, &mut progress)?;
        progress.bar.finish_and_clear();
        save_predictor(o)?;
        return show_kept(o, keep, tokens, start.elapsed().as_secs_f64());
    }
    let quality = engine::calibrate(&model, &ids, &options, &o.output, &mut progress)?;
    progress.bar.finish_and_clear();
    save_predictor(o)?;
    let seconds = start.elapsed().as_secs_f64();
    if o.json {
        return print::json(&json!({
            "tokens": ids.len(), "seconds": seconds, "peak_memory_bytes": peak_memory(), "quality": quality,
            "auto": auto_for_programs(o)?,
        }));
    }
    show(&quality)?;
    let peak = peak_memory().map_or(String::new(), |b| format!(", peak memory {:.0} MB", b as f64 / 1e6));
    print::line(format_args!("{}: {} tokens in {seconds:.0} s{peak}", o.output.display(), ids.len()))?;
    say_what_auto_takes(o)
}

/// Prints what `--keep` measured again, and on how many tokens.
fn show_kept(o: &Options, keep: Keep, tokens: usize, seconds: f64) -> Result<()> {
    let (kept, what) = match keep {
        Keep::Budgets => ("budgets", "costs of policies measured"),
        _ => ("predictors", "budgets searched again"),
    };
    if o.json {
        return print::json(&json!({
            "kept": kept, "tokens": tokens, "seconds": seconds, "peak_memory_bytes": peak_memory(),
            "auto": auto_for_programs(o)?,
        }));
    }
    print::line(format_args!("{}: {what} on {tokens} tokens", o.output.display()))?;
    say_what_auto_takes(o)
}

/// Shows the quality of the predictors.
fn show(quality: &engine::Quality) -> Result<()> {
    print::line("importance held by the best-scored neurons, mean of the layers:")?;
    for (i, scorer) in quality.scorers.iter().enumerate() {
        let share = |(j, at): (usize, &f32)| {
            format!("{:.3} of the best {:.0} %", quality.mean(|l| l.captured[i][j]), at * 100.0)
        };
        let shares: Vec<String> = quality.captured_at.iter().enumerate().map(share).collect();
        let rank = quality.mean(|l| l.rank[i]);
        print::line(format_args!("{scorer:<10} {}; rank agreement {rank:.3}", shares.join(", ")))?;
    }
    Ok(())
}

/// The policy that `auto` stands for in the new image, at some densities; none where no budgets were searched.
fn what_auto_takes(o: &Options) -> Result<Vec<(f32, &'static str)>> {
    if o.budget_windows == 0 {
        return Ok(Vec::new());
    }
    let model = LoadedModel::open(&o.output, None)?;
    let options = SessionOptions { batch: 1, sparsity: true, ..SessionOptions::of(model.model()) }.within(1);
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let mut found = Vec::new();
    for density in [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3] {
        session.set_dial(&Dial { policy: Policy::Auto, density, ..Dial::default() })?;
        found.push((density, session.policy().name()));
    }
    Ok(found)
}

/// What `auto` takes at each density, as JSON.
fn auto_for_programs(o: &Options) -> Result<Value> {
    Ok(what_auto_takes(o)?.iter().map(|(d, p)| json!({"density": decimal(*d), "policy": p})).collect())
}

/// Shows which policies are used from now on, and the next command.
fn say_what_auto_takes(o: &Options) -> Result<()> {
    if o.budget_windows == 0 {
        return Ok(());
    }
    let all: Vec<String> = what_auto_takes(o)?.iter().map(|(d, policy)| format!("{policy} at {d}")).collect();
    print::line(format_args!("policy auto is now {}", all.join(", ")))?;
    let file = o.output.display();
    print::line(format_args!(
        "next: shadowllm run {file} --density 0.8    or what it costs: shadowllm report {file} --text TEXT -o report.html"
    ))
}

/// Writes the output's predictor to a separate file, if one was named.
fn save_predictor(o: &Options) -> Result<()> {
    let Some(path) = &o.predictor else { return Ok(()) };
    let made = LoadedModel::open(&o.output, None)?;
    let mut output = Output::create(path)?;
    let section = made.model().image().section(SectionKind::Predictor);
    output.file().write_all(section).map_err(|e| Error::io("write to", path, e))?;
    output.finish()
}

/// At least the first `n` tokens of a text, if it is long enough. (A tokenizer needs a hundred times the memory of a
/// text.)
fn first_tokens(text: &Text, content: &str, n: usize) -> Result<Vec<u32>> {
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
