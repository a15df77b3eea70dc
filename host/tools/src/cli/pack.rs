//! `shadowllm pack`.

use crate::print;
use crate::setup::progress;
use clap::Args;
use shadowllm_core::Format;
use shadowllm_host::{Error, Result};
use shadowllm_tools::import::{self, Source, SyntheticSource, is_image};
use shadowllm_tools::output::refuse_overwrite;
use shadowllm_tools::pack::{self, Arrangement, Formats, Packed, format_names};
use shadowllm_tools::predictor::pack_with;
use std::path::{Path, PathBuf};

/// Options of `pack`.
#[derive(Args)]
pub struct Options {
    /// Hugging Face folder or GGUF file.
    #[arg(required_unless_present = "synthetic")]
    source: Option<PathBuf>,
    /// Image to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Number format of the weights; by default the source's own where it is one of ours, else q8_0.
    #[arg(long, value_parser = format)]
    format: Option<Format>,
    /// Number format of embedding and output matrix; by default that of --format.
    #[arg(long, value_parser = format)]
    output_format: Option<Format>,
    /// What can be skipped: `dense` heads and groups of 32 neurons, `neuron` heads and single neurons, `input`
    /// single inputs of every map, `mixed` single inputs in attention and single neurons, `auto` neuron for
    /// ReLU and related activations, else input.
    #[arg(long, default_value = "dense", value_parser = ["dense", "neuron", "input", "mixed", "auto"])]
    layout: String,
    /// Neurons that are skipped together (1, 4, 8, 16, 32), in place of the layout's own number.
    #[arg(long, value_parser = neuron_group)]
    neuron_group: Option<usize>,
    /// Predictor of this model to put into the image (from `calibrate --predictor`).
    #[arg(long)]
    predictor: Option<PathBuf>,
    /// Random weights of a known shape instead of a source (smollm2-135m, tinyllama-1.1b, llama-2-7b, ...).
    #[arg(long, conflicts_with = "source")]
    synthetic: Option<String>,
}

fn format(name: &str) -> std::result::Result<Format, String> {
    Format::from_name(name).ok_or_else(|| format!("one of {}", format_names()))
}

fn neuron_group(text: &str) -> std::result::Result<usize, String> {
    let group = text.parse().ok().filter(|n| matches!(n, 1 | 4 | 8 | 16 | 32));
    group.ok_or_else(|| "1, 4, 8, 16 or 32".into())
}

fn arrangement(o: &Options, source: &dyn Source) -> Arrangement {
    let named = match o.layout.as_str() {
        "neuron" => Arrangement::NEURON,
        "input" => Arrangement::INPUT,
        "mixed" => Arrangement { attention_by_input: true, ..Arrangement::NEURON },
        "auto" => Arrangement::auto(source.spec()),
        _ => Arrangement::DENSE,
    };
    Arrangement { neuron_group: o.neuron_group.unwrap_or(named.neuron_group), ..named }
}

/// The files of a source; images that lie beside them are none.
fn inputs(source: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(source) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| !is_image(p)).collect(),
        Err(_) => vec![source.to_owned()],
    }
}

/// Packs with a predictor where there is one, showing the progress.
fn write(source: &dyn Source, formats: Formats, arrangement: Arrangement, o: &Options) -> Result<Packed> {
    let bar = progress("packing");
    let show = &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let packed = match &o.predictor {
        None => pack::pack(source, formats, arrangement, &o.output, show),
        Some(path) => {
            let section = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            let record = serde_json::Value::String(format!("from {}", path.display()));
            let packed = pack_with(source, formats, arrangement, (&section, &record), &o.output, show);
            packed.map_err(|e| match e {
                Error::Engine { source, .. } => {
                    Error::file(path, format!("cannot be put into {}: {source}", o.output.display()))
                }
                other => other,
            })
        }
    }?;
    bar.finish_and_clear();
    Ok(packed)
}

/// Runs the command.
pub fn pack(o: &Options) -> Result<()> {
    let source: Box<dyn Source> = match (&o.synthetic, &o.source) {
        (Some(shape), _) => Box::new(SyntheticSource::new(shape)?),
        (None, Some(path)) => {
            refuse_overwrite(&o.output, &[inputs(path), o.predictor.iter().cloned().collect()].concat())?;
            import::open(path)?
        }
        (None, None) => return Err(Error::Usage("name a source, or --synthetic SHAPE".into())),
    };
    let like = Formats::like(&*source)?;
    let weights = o.format.unwrap_or(like.weights);
    let formats = Formats { weights, output: o.output_format.or(o.format).unwrap_or(like.output) };
    let arrangement = arrangement(o, &*source);
    let packed = write(&*source, formats, arrangement, o)?;
    let (w, out) = (formats.weights.name(), formats.output.name());
    let (file, mb) = (o.output.display(), packed.bytes as f64 / 1e6);
    print::line(format_args!("{file}: {mb:.1} MB, weights {w}, embedding and output {out}"))?;
    if packed.carried_over > 0 {
        let millions = packed.carried_over as f64 / 1e6;
        print::line(format_args!("{millions:.1} million weights were taken over without loss"))?;
    }
    Ok(())
}
