//! `shadowllm inspect` of a source: a GGUF file or a Hugging Face folder.

use crate::architecture::{architecture, print_kinds, shown};
use crate::print;
use serde_json::{Value, json};
use shadowllm_core::image::Architecture;
use shadowllm_host::{Error, Result};
use shadowllm_tools::import::{self, Source};
use shadowllm_tools::pack::outlook;
use std::path::Path;

/// Whether a path is a source, and not an image.
pub fn is_source(path: &Path) -> bool {
    path.is_dir() || import::begins_with(path, b"GGUF")
}

/// Shows a source: what it is, what packing would make of it, or why it cannot be packed.
pub fn inspect_source(path: &Path, as_json: bool) -> Result<()> {
    let source = import::open(path)?;
    let value = describe(&*source)?;
    if as_json { print::json(&value) } else { print_table(path, &value) }
}

fn describe(source: &dyn Source) -> Result<Value> {
    let section = source.spec().section().map_err(|e| Error::file(source.path(), e.to_string()))?;
    let arch = Architecture::parse(&section).map_err(|e| Error::file(source.path(), e.to_string()))?;
    let outlook = outlook(source);
    Ok(json!({
        "file": source.path().to_string_lossy(),
        "source": source.origin(),
        "family": source.spec().family,
        "types": source.types(),
        "becomes": outlook.formats,
        "tokenizer": source.tokenizer().is_ok_and(|t| t.is_some()),
        "chat_template": source.chat().is_ok_and(|chat| !chat.is_empty()),
        "refused": outlook.refused,
        "architecture": architecture(&arch),
    }))
}

fn print_table(path: &Path, value: &Value) -> Result<()> {
    print::line(format_args!("{}  not packed yet", path.display()))?;
    let own = value.as_object().into_iter().flatten();
    let own = own.filter(|(key, _)| !["architecture", "file", "refused"].contains(&key.as_str()));
    let globals = value["architecture"].as_object().into_iter().flatten().filter(|(key, _)| *key != "kinds");
    for (key, v) in own.chain(globals) {
        print::line(format_args!("  {key:<14} {}", shown(v)))?;
    }
    print_kinds(&value["architecture"])?;
    let refused = value["refused"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for sentence in refused {
        print::line(format_args!("  refused: {}", print::harmless(sentence, false)))?;
    }
    Ok(())
}
