//! `shadowllm eval`.

use crate::{ModelOptions, pool, print, print_json, session_options};
use clap::Args;
use shadowllm_core::SessionOptions;
use shadowllm_host::eval::perplexity;
use shadowllm_host::text::Text;
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
    let text = std::fs::read_to_string(&o.text).map_err(|e| Error::io("read", &o.text, e))?;
    let model = o.model.open()?;
    let ids = Text::of(&model)?.encode(&text, false)?;
    let pool = pool(o.threads)?;
    let options = session_options(&model, o.window.clamp(1, ids.len().max(1)), o.model.kv(&model));
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
