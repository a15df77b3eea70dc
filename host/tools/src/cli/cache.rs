//! `shadowllm cache`.

use crate::print;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shadowllm_core::image::{Role, SectionKind};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::{Kept, folder, kept};
use shadowllm_tools::import::is_image;

/// Options of `cache`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the cache: size, name, and of an image its layout and source.
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

/// Layout and source of an image: a model has an image for each kind of use. `None` for what is no image.
fn origin(kept: &Kept) -> Option<[String; 2]> {
    let model = Some(&kept.path).filter(|path| is_image(path)).and_then(|path| LoadedModel::open(path, None).ok())?;
    let config = model.model().config();
    let layout = match (config.attention_by_input, config.ffn_by_input, config.neuron_group) {
        // Experts are not stored by input in any layout.
        (true, true, _) | (true, false, 32) => "input",
        (true, false, _) => "mixed",
        (false, _, 32) => "dense",
        (false, ..) => "neuron",
    };
    let sketch = model.model().image().matrix(Role::OutputSketch, 0).map_or("", |_| " with a sketch");
    let provenance: Value = serde_json::from_str(model.text(SectionKind::Provenance).ok()?).ok()?;
    Some([format!("{layout}{sketch}"), provenance["source"].as_str().unwrap_or("unknown").to_owned()])
}

fn list(as_json: bool) -> Result<()> {
    let (folder, all) = (folder()?, kept()?);
    if as_json {
        let row = |kept: &Kept| {
            let [layout, source] = origin(kept).map_or([None, None], |both| both.map(Some));
            json!({"name": kept.name(), "bytes": kept.bytes, "layout": layout, "source": source})
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        return print::json(&json!({"folder": folder.to_string_lossy(), "kept": rows}));
    }
    for kept in &all {
        let what = origin(kept).map_or(String::new(), |[layout, source]| {
            format!("  layout {layout}, from {}", print::harmless(&source, false))
        });
        print::line(format_args!("{:>9.1} MB  {}{what}", kept.bytes as f64 / 1e6, kept.name()))?;
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
