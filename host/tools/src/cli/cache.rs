//! `shadowllm cache`.

use crate::print;
use clap::{Args, Subcommand};
use serde_json::json;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::{Kept, folder, kept};

/// Options of `cache`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the cache.
    List {
        /// Result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove everything from the cache, or the named entries.
    Clear {
        /// Names, as `list` shows them.
        names: Vec<String>,
    },
}

/// Runs the command.
pub fn cache(o: &Options) -> Result<()> {
    match &o.action {
        Action::List { json } => list(*json),
        Action::Clear { names } => clear(names),
    }
}

fn total(all: &[Kept]) -> f64 {
    all.iter().map(|kept| kept.bytes).sum::<u64>() as f64 / 1e6
}

fn list(as_json: bool) -> Result<()> {
    let (folder, all) = (folder()?, kept()?);
    if as_json {
        let rows: Vec<_> = all.iter().map(|kept| json!({"name": kept.name(), "bytes": kept.bytes})).collect();
        return print::json(&json!({"folder": folder.to_string_lossy(), "kept": rows}));
    }
    for kept in &all {
        print::line(format_args!("{:>9.1} MB  {}", kept.bytes as f64 / 1e6, kept.name()))?;
    }
    print::line(format_args!("{:>9.1} MB  in {}", total(&all), folder.display()))
}

fn clear(names: &[String]) -> Result<()> {
    let mut all = kept()?;
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|kept| kept.name() == **name)) {
        return Err(Error::Usage(format!("the cache has no entry {unknown}: see shadowllm cache list")));
    }
    all.retain(|kept| names.is_empty() || names.contains(&kept.name()));
    all.iter().try_for_each(Kept::remove)?;
    print::line(format_args!("{:.1} MB removed", total(&all)))
}
