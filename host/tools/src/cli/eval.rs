//! `shadowllm eval`.

use crate::dial::{DialOptions, skips};
use crate::print;
use crate::setup::{MACHINE, ModelOptions, pool, session_options, steps};
#[cfg(feature = "tasks")]
use crate::tasks::Setting;
use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use shadowllm_core::SessionOptions;
use shadowllm_core::sparsity::Dial;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use shadowllm_tools::compare::{Outcome, Windows, compare, with_dense};
use shadowllm_tools::eval::{begin_windows, beginning, perplexity};
use shadowllm_tools::exercises::write;
use shadowllm_tools::report::short;
use std::path::{Path, PathBuf};

/// Options of `eval`.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to score, UTF-8.
    #[arg(long, group = "what")]
    text: Option<PathBuf>,
    /// Let the model do this number of exercises of each of two kinds that the program makes up: copying lists of words, and
    /// counting in steps; only answers without any error count. Several policies and densities are compared.
    #[arg(long, group = "what", value_name = "COUNT")]
    exercises: Option<usize>,
    /// Tokens per window; windows do not overlap, and every token except a window's first is scored.
    #[arg(long, default_value_t = 512)]
    #[cfg_attr(feature = "tasks", arg(conflicts_with_all = ["tasks", "exercises"]))]
    #[cfg_attr(not(feature = "tasks"), arg(conflicts_with = "exercises"))]
    window: usize,
    /// The most windows.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    #[cfg_attr(feature = "tasks", arg(conflicts_with_all = ["tasks", "exercises"]))]
    #[cfg_attr(not(feature = "tasks"), arg(conflicts_with = "exercises"))]
    max_windows: usize,
    /// With a policy: the first tokens of a window that are read densely; the rest is decoded under the policy and scored.
    /// Half a window by default.
    #[arg(long)]
    #[cfg_attr(feature = "tasks", arg(conflicts_with_all = ["tasks", "exercises"]))]
    #[cfg_attr(not(feature = "tasks"), arg(conflicts_with = "exercises"))]
    dense_prefix: Option<usize>,
    #[command(flatten)]
    dial: DialOptions,
    #[cfg(feature = "tasks")]
    #[command(flatten)]
    tasks: crate::tasks::Options,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
    threads: Option<usize>,
    /// Result as JSON.
    #[arg(long)]
    json: bool,
    /// Result as CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// Runs the command.
pub fn eval(o: &Options) -> Result<()> {
    #[cfg(feature = "tasks")]
    if let Some(tasks) = &o.tasks.tasks {
        let setting = Setting { model: &o.model, dial: &o.dial, threads: o.threads, json: o.json, csv: o.csv };
        return crate::tasks::tasks(&setting, &tasks.0, &o.tasks);
    }
    match (&o.text, o.exercises) {
        (Some(text), _) => eval_text(o, text),
        (None, Some(count)) => exercises(o, count),
        (None, None) => Err(Error::Usage("give a --text to score".into())),
    }
}

fn eval_text(o: &Options, path: &Path) -> Result<()> {
    let text = read(path)?;
    let pool = pool(o.threads)?;
    let model = o.model.open_for(o.dial.skipping())?;
    let pool = o.model.within(pool, &model)?;
    let tokenizer = Text::of(&model)?;
    let ids = tokenizer.encode(&text, false)?;
    if ids.len() < 2 {
        return Err(Error::file(path, "the text has fewer than two tokens, so there is nothing to score: give more"));
    }
    let before = beginning(&tokenizer)?;
    let ids = begin_windows(&ids, &before, o.window)?;
    let dials = o.dial.all_for(&model)?;
    if skips(&dials) || o.dense_prefix.is_some() {
        return compare_policies(o, &pool, &model, (&ids, !before.is_empty()), &dials);
    }
    let context = o.window.clamp(1, ids.len());
    let options = session_options(&model, context, o.model.kv, "a smaller --window")?;
    let options = SessionOptions { logit_rows: options.batch.min(16), ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let bar = steps("windows".into());
    let result = perplexity(&mut session, &pool, &ids, o.window, o.max_windows, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if o.json || o.csv {
        let mut value = serde_json::to_value(result).map_err(|e| Error::Other(e.to_string()))?;
        value["beginning"] = json!(before);
        value["model"] = json!(model.path().to_string_lossy());
        value["text"] = json!(path.to_string_lossy());
        value["version"] = json!(env!("CARGO_PKG_VERSION"));
        return if o.csv { print::csv(&[value]) } else { print::json(&value) };
    }
    let begun = if before.is_empty() { "" } else { ", each after the tokenizer's beginning token" };
    print::line(format_args!(
        "perplexity {:.4} (mean NLL {:.5}) over {} tokens in {} windows of {}{begun}",
        result.perplexity, result.mean_nll, result.tokens, result.windows, result.window
    ))
}

/// Positions that exercises and their answers need.
const CONTEXT: usize = 512;

/// Exercises under every dial, and densely.
fn exercises(o: &Options, count: usize) -> Result<()> {
    let pool = pool(o.threads)?;
    let model = o.model.open_for(o.dial.skipping())?;
    let (pool, text) = (o.model.within(pool, &model)?, Text::of(&model)?);
    let dials = o.dial.all_for(&model)?;
    let options = session_options(&model, CONTEXT, o.model.kv, "another model")?;
    let options = SessionOptions { sparsity: true, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    // A dial that the model cannot serve is refused before the first exercise.
    for dial in &dials {
        session.set_dial(dial)?;
    }
    let dials = with_dense(&dials);
    let bar = steps("exercises".into());
    bar.set_length((dials.len() * count * 2) as u64);
    let rows = write(&mut session, &pool, &text, count, &dials, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    if o.json || o.csv {
        return print_data(o, &model, &rows, json!({}));
    }
    print::line(format_args!(
        "{:<14} {:>7} {:>9} {:>8} {:>9} {:>9}",
        "policy", "density", "copies", "counts", "± mean", "MB/token"
    ))?;
    for r in &rows {
        let name = if r.policy == "off" { "dense" } else { r.policy };
        let [copies, counts, error] = [r.copies, r.counts, r.stderr].map(|x| format!("{:.1}%", 100.0 * x));
        let mb = r.bytes_per_token / 1e6;
        print::line(format_args!("{name:<14} {:>7.2} {copies:>9} {counts:>8} {error:>9} {mb:>9.1}", r.density))?;
    }
    print::line(format_args!(
        "\nshares of {count} exercises of each kind whose whole answer is right; ±: standard error of the mean of both"
    ))
}

/// Explains the table's columns.
const LEGEND: &str = "
target, realised: density, the share of the skippable bytes; of all: of all bytes of weights
KL: divergence from the dense model's next token in nats, ± its standard error; top-1: share of likeliest tokens that are the dense model's
MB/token: weights, the predictor's included; predictor, time: its share of the bytes and of the time";

/// Measures policies at densities, and prints them as a table, JSON or CSV; windows of `ids` may be `begun` by a token of the
/// tokenizer.
fn compare_policies(
    o: &Options,
    pool: &Pool,
    model: &LoadedModel,
    (ids, begun): (&[u32], bool),
    dials: &[Dial],
) -> Result<()> {
    let options = session_options(model, o.window.clamp(1, ids.len()), o.model.kv, "a smaller --window")?;
    let options = SessionOptions { logit_rows: options.batch.min(16), sparsity: true, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    for dial in dials {
        session.set_dial(dial)?;
    }
    let dials = with_dense(dials);
    let context = o.dense_prefix.unwrap_or(o.window / 2);
    let windows = Windows { ids, window: o.window, context, most: o.max_windows };
    let bar = steps("windows x policies".into());
    let rows = compare(&mut session, pool, &windows, &dials, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if o.json || o.csv {
        let text = o.text.as_ref().map(|path| path.to_string_lossy());
        return print_data(o, model, &rows, json!({"text": text, "window": o.window, "dense_prefix": context}));
    }
    if begun {
        print::line(format_args!("every window begins with the tokenizer's beginning token"))?;
    }
    print_table(&rows, context)
}

/// The rows as CSV, or as JSON with the fields of `record` and what was run.
fn print_data<T: serde::Serialize>(o: &Options, model: &LoadedModel, rows: &[T], mut record: Value) -> Result<()> {
    let rows = serde_json::to_value(rows).map_err(|e| Error::Other(e.to_string()))?;
    if o.csv {
        return print::csv(rows.as_array().map_or(&[], Vec::as_slice));
    }
    record["model"] = json!(model.path().to_string_lossy());
    record["version"] = json!(env!("CARGO_PKG_VERSION"));
    record["isa"] = json!(model.model().kernels().isa().name());
    record["rows"] = rows;
    print::json(&record)
}

/// The rows for people, and what the columns mean.
fn print_table(rows: &[Outcome], context: usize) -> Result<()> {
    let first = rows.first();
    let (tokens, dense) = first.map_or((0, 0.0), |r| (r.tokens, r.dense_perplexity));
    print::line(format_args!(
        "{tokens} tokens scored, after {context} read densely in each window; dense perplexity {dense:.3}\n"
    ))?;
    print::line(format_args!(
        "{:<18} {:>7} {:>8} {:>10} {:>8} {:>8} {:>6} {:>8} {:>9} {:>9} {:>6} {:>7}",
        "policy",
        "target",
        "realised",
        "perplexity",
        "KL",
        "± KL",
        "top-1",
        "of all",
        "MB/token",
        "predictor",
        "time",
        "t/s"
    ))?;
    for r in rows {
        let name = if r.policy == "off" {
            "dense".to_owned()
        } else if r.policy == r.used {
            r.policy.to_owned()
        } else {
            format!("{} ({})", r.policy, r.used)
        };
        print::line(format_args!(
            "{name:<18} {:>7.3} {:>8.3} {:>10.3} {:>8} {:>8} {:>6.3} {:>7.1}% {:>9.2} {:>8.1}% {:>5.1}% {:>7.1}",
            r.density,
            r.realised_density,
            r.perplexity,
            short(r.kl),
            short(r.kl_error),
            r.top1,
            100.0 * r.share,
            r.bytes_per_token / 1e6,
            100.0 * r.predictor_bytes_per_token / r.bytes_per_token,
            100.0 * r.predictor_time,
            r.tokens_per_second
        ))?;
    }
    print::line(LEGEND)
}
