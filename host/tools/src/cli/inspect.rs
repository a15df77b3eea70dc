//! `shadowllm inspect`.

use crate::{print, print_json};
use clap::Args;
use serde_json::{Value, json};
use shadowllm_core::image::{Config, GLOBAL, SectionKind, Storage};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::path::PathBuf;

/// Options of `inspect`.
#[derive(Args)]
pub struct Options {
    /// The image.
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
    let model = LoadedModel::open(&o.model, None)?;
    if o.verify {
        verify(&model)?;
    }
    let value = describe(&model)?;
    if o.json { print_json(&value) } else { print_table(&model, &value) }
}

fn verify(model: &LoadedModel) -> Result<()> {
    let image = model.model().image();
    for kind in SectionKind::ALL {
        if crc32fast::hash(image.section(kind)) != image.section_info(kind).crc {
            let message = format!("section {} is damaged (checksum mismatch): copy or pack it again", kind.name());
            return Err(Error::file(model.path(), message));
        }
    }
    Ok(())
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
            let (format, layout) = match e.storage {
                Storage::Vector { .. } => ("f32", "vector"),
                Storage::Tiles(g) => (g.format.name(), g.order.name()),
            };
            let layer = (e.layer != GLOBAL).then_some(e.layer);
            json!({"kind": e.kind.name(), "layer": layer, "rows": e.rows, "cols": e.cols, "format": format,
                   "layout": layout, "offset": e.offset, "bytes": e.bytes()})
        })
        .collect();
    Ok(json!({
        "file": model.path().to_string_lossy(),
        "file_bytes": model.file_bytes(),
        "config": config(image.config()),
        "weight_bytes_per_token": model.model().weight_bytes_per_token(),
        "chat_template": !model.chat()?.template.is_empty(),
        "provenance": provenance,
        "sections": sections,
        "tensors": tensors,
    }))
}

fn config(c: &Config) -> Value {
    json!({
        "d_model": c.d_model, "d_embed": c.d_embed, "layers": c.layers, "heads": c.heads, "kv_heads": c.kv_heads,
        "head_dim": c.head_dim, "ffn": c.ffn, "gated": c.gated, "activation": c.activation.name(), "vocab": c.vocab,
        "max_positions": c.max_positions, "window": c.window, "window_from": c.window_from,
        "norm": format!("{:?}", c.norm).to_lowercase(), "norm_eps": c.norm_eps, "pre_norm": c.pre_norm,
        "positions": format!("{:?}", c.positions).to_lowercase(), "neuron_group": c.neuron_group,
        "attention_by_input": c.attention_by_input, "ffn_by_input": c.ffn_by_input,
        "bos": c.bos, "eos": c.eos(),
    })
}

fn print_table(model: &LoadedModel, value: &Value) -> Result<()> {
    print::line(format_args!("{}  {:.1} MB", model.path().display(), model.file_bytes() as f64 / 1e6))?;
    for (key, v) in [&value["provenance"], &value["config"]].into_iter().filter_map(Value::as_object).flatten() {
        print::line(format_args!("  {key:<14} {v}"))?;
    }
    let mb = model.model().weight_bytes_per_token() as f64 / 1e6;
    print::line(format_args!("  {:<14} {mb:.1} MB of weights", "per token"))?;
    print::line(format_args!(
        "\n  {:<16} {:>6} {:>8} {:>8}  {:<8} {:<8} {:>12}",
        "tensor", "layers", "rows", "cols", "format", "layout", "bytes"
    ))?;
    let image = model.model().image();
    for e in image.entries().filter(|e| e.layer == GLOBAL || e.layer == 0) {
        let layers = if e.layer == GLOBAL { 1 } else { image.config().layers };
        let (format, layout) = match e.storage {
            Storage::Vector { .. } => ("f32", "vector".to_owned()),
            Storage::Tiles(g) => (g.format.name(), format!("{:?}", g.order).to_lowercase()),
        };
        let bytes = layers * e.bytes();
        print::line(format_args!(
            "  {:<16} {layers:>6} {:>8} {:>8}  {format:<8} {layout:<8} {bytes:>12}",
            e.kind.name(),
            e.rows,
            e.cols
        ))?;
    }
    Ok(())
}
