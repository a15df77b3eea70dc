//! `shadowllm inspect`.

use crate::architecture::{architecture, print_kinds, shown};
use crate::inspect_source::{inspect_source, is_source};
use crate::print;
use clap::Args;
use serde_json::{Value, json};
use shadowllm_core::image::roles::ROLES;
use shadowllm_core::image::{Entry, GLOBAL, Role, SectionKind, Storage};
use shadowllm_host::model::{LoadedModel, Loading};
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use shadowllm_tools::import;
use shadowllm_tools::shipped::calibration;
use std::path::PathBuf;

/// Options of `inspect`.
#[derive(Args)]
pub struct Options {
    /// The image, or a GGUF file or a Hugging Face folder that is not packed yet.
    model: PathBuf,
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
    /// Check the checksum of every section too (reads the whole file).
    #[arg(long)]
    verify: bool,
}

/// Runs the command.
pub fn inspect(o: &Options) -> Result<()> {
    if is_source(&o.model) {
        if o.verify {
            return Err(Error::file(&o.model, "is not packed yet: --verify checks the sections of an image"));
        }
        return inspect_source(&o.model, o.json);
    }
    std::fs::metadata(&o.model).map_err(|e| import::unreadable(&o.model, e))?;
    let model = LoadedModel::open_with(&o.model, Loading { verify: o.verify, ..Loading::default() })?;
    let mut value = describe(&model)?;
    if o.json {
        if o.verify {
            value["verified"] = json!(true);
        }
        return print::json(&value);
    }
    print_table(&model, &value)?;
    if o.verify { print::line("\n  verified: every section has its checksum") } else { Ok(()) }
}

fn describe(model: &LoadedModel) -> Result<Value> {
    let image = model.model().image();
    let provenance: Value = serde_json::from_str(model.text(SectionKind::Provenance)?).unwrap_or(Value::Null);
    let sections: Vec<Value> = SectionKind::ALL
        .into_iter()
        .map(|kind| (kind, image.section_info(kind)))
        .filter(|(_, s)| s.len > 0)
        .map(|(kind, s)| json!({"name": kind.name(), "offset": s.offset, "bytes": s.len}))
        .collect();
    let tensors: Vec<Value> = image
        .entries()
        .map(|e| {
            let (format, order) = match e.storage {
                Storage::Vector { .. } => ("f32", "vector"),
                Storage::Tiles(g) => (g.format.name(), g.order.name()),
            };
            let layer = (e.layer != GLOBAL).then_some(e.layer);
            json!({"role": e.role.name(), "layer": layer, "rows": e.rows, "cols": e.cols, "format": format,
                   "order": order, "offset": e.offset, "bytes": e.bytes()})
        })
        .collect();
    Ok(json!({
        "file": model.path().to_string_lossy(),
        "file_bytes": model.file_bytes(),
        "architecture": architecture(image.arch()),
        "weight_bytes_per_token": model.model().weight_bytes_per_token(),
        "parameters": parameters(model.model()).0,
        "tokenizer": image.section_info(SectionKind::Tokenizer).len > 0,
        "calibrated": image.section_info(SectionKind::Predictor).len > 0,
        "chat_template": !Template::of(model)?.is_empty(),
        "provenance": provenance,
        "sections": sections,
        "tensors": tensors,
    }))
}

/// Numbers in matrices and vectors, and their bytes; without the sketch, which is a copy.
fn parameters(model: &shadowllm_core::Model) -> (usize, usize) {
    let own = model.image().entries().filter(|e| e.role != Role::OutputSketch);
    own.fold((0, 0), |(n, bytes), e| (n + e.rows * e.cols * e.experts.max(1), bytes + e.bytes()))
}

fn print_table(model: &LoadedModel, value: &Value) -> Result<()> {
    print::line(format_args!("{}  {:.1} MB", model.path().display(), model.file_bytes() as f64 / 1e6))?;
    let texts = [&value["provenance"], &value["architecture"]].into_iter().filter_map(Value::as_object).flatten();
    for (key, v) in texts.filter(|(key, _)| *key != "kinds") {
        let text = if key == "calibration" { print::harmless(&calibration(v), false) } else { shown(v) };
        let key = print::harmless(key, false);
        print::line(format_args!("  {key:<14} {text}"))?;
    }
    let (parameters, bytes) = parameters(model.model());
    let bits = 8.0 * bytes as f64 / parameters.max(1) as f64;
    print::line(format_args!("  {:<14} {:.1} million, {bits:.2} bits each", "parameters", parameters as f64 / 1e6))?;
    for key in ["tokenizer", "chat_template", "calibrated"] {
        print::line(format_args!("  {key:<14} {}", if value[key] == true { "yes" } else { "no" }))?;
    }
    print_kinds(&value["architecture"])?;
    let mb = model.model().weight_bytes_per_token() as f64 / 1e6;
    print::line(format_args!("  {:<14} {mb:.1} MB of weights", "per token"))?;
    print::line(format_args!(
        "\n  {:<16} {:>6} {:>8} {:>8}  {:<8} {:<12} {:>12}",
        "tensor", "layers", "rows", "cols", "format", "order", "bytes"
    ))?;
    let image = model.model().image();
    for row in ROLES {
        let entries: Vec<Entry> = image.entries().filter(|e| e.role == row.role).collect();
        let Some(e) = entries.first() else { continue };
        let (format, order) = match e.storage {
            Storage::Vector { .. } => ("f32", "vector"),
            Storage::Tiles(g) => (g.format.name(), g.order.name()),
        };
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        let (count, rows, cols) = (entries.len(), e.rows, e.cols);
        print::line(format_args!(
            "  {:<16} {count:>6} {rows:>8} {cols:>8}  {format:<8} {order:<12} {bytes:>12}",
            row.name
        ))?;
    }
    Ok(())
}
