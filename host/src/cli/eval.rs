//! `shadowllm eval`.

use crate::{ModelOptions, pool, print, print_json, session_options};
use clap::{ArgGroup, Args};
use shadowllm_core::SessionOptions;
use shadowllm_host::eval::perplexity;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// Options of `eval`.
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct Options {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Text to score, UTF-8.
    #[arg(long, group = "what")]
    text: Option<PathBuf>,
    /// Tokens per window; windows do not overlap, every token but a window's first is scored.
    #[arg(long, default_value_t = 512)]
    #[cfg_attr(feature = "tasks", arg(conflicts_with = "tasks"))]
    window: usize,
    /// Windows at most.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    #[cfg_attr(feature = "tasks", arg(conflicts_with = "tasks"))]
    max_windows: usize,
    #[cfg(feature = "tasks")]
    #[command(flatten)]
    tasks: crate::tasks::Options,
    /// Threads; one per core by default.
    #[arg(short, long)]
    pub threads: Option<usize>,
    /// Result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn eval(o: &Options) -> Result<()> {
    #[cfg(feature = "tasks")]
    if let Some(tasks) = &o.tasks.tasks {
        return crate::tasks::tasks(o, &tasks.0, &o.tasks);
    }
    match &o.text {
        Some(text) => eval_text(o, text),
        None => Err(Error::Usage("give a --text to score".into())),
    }
}

fn eval_text(o: &Options, path: &Path) -> Result<()> {
    let text = read(path)?;
    let pool = pool(o.threads)?;
    let model = o.model.open()?;
    let ids = Text::of(&model)?.encode(&text, false)?;
    if ids.len() < 2 {
        return Err(Error::file(path, "the text has fewer than two tokens, so there is nothing to score: give more"));
    }
    let context = o.window.clamp(1, ids.len());
    let options = session_options(&model, context, o.model.kv(&model), "a smaller --window")?;
    let options = SessionOptions { logit_rows: options.batch.min(16), ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let bar = indicatif::ProgressBar::new(0).with_message("windows");
    let result = perplexity(&mut session, &pool, &ids, o.window, o.max_windows, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if o.json {
        return print_json(&serde_json::to_value(result).map_err(|e| Error::Other(e.to_string()))?);
    }
    print::line(format_args!(
        "perplexity {:.4} (mean NLL {:.5}) over {} tokens in {} windows of {}",
        result.perplexity, result.mean_nll, result.tokens, result.windows, o.window
    ))
}
