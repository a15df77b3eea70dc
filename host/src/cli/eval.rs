//! `shadowllm eval`.

use crate::{ModelOptions, pool, print, print_json, session_options};
use clap::Args;
use shadowllm_core::SessionOptions;
use shadowllm_host::eval::perplexity;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use std::path::PathBuf;

/// Options of `eval`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Text to score, UTF-8.
    #[arg(long)]
    text: PathBuf,
    /// Tokens per window; windows do not overlap, every token but a window's first is scored.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Windows at most.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    max_windows: usize,
    /// Threads; one per core by default.
    #[arg(short, long)]
    threads: Option<usize>,
    /// Result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn eval(o: &Options) -> Result<()> {
    let text = read(&o.text)?;
    let pool = pool(o.threads)?;
    let model = o.model.open()?;
    let ids = Text::of(&model)?.encode(&text, false)?;
    if ids.len() < 2 {
        return Err(Error::file(
            &o.text,
            "the text has fewer than two tokens, so there is nothing to score: give more",
        ));
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
