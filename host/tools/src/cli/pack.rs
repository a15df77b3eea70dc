//! `shadowllm pack`.

use crate::{print, progress};
use clap::Args;
use shadowllm_core::Format;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::is_image;
use shadowllm_tools::import::{self, Source, SyntheticSource};
use shadowllm_tools::output::spare;
use shadowllm_tools::pack::{Arrangement, Formats, Packed, format_names, pack as write};
use shadowllm_tools::predictor::attach;
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
    /// ReLU and kin, else input.
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

/// Packs, showing the progress.
fn write_to(source: &dyn Source, formats: Formats, arrangement: Arrangement, out: &Path) -> Result<Packed> {
    let bar = progress("packing");
    let packed = write(source, formats, arrangement, out, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(packed)
}

/// Packs beside the output and puts the predictor in: one that does not fit leaves nothing behind.
fn with_predictor(
    source: &dyn Source,
    formats: Formats,
    arrangement: Arrangement,
    predictor: &Path,
    out: &Path,
) -> Result<Packed> {
    let section = std::fs::read(predictor).map_err(|e| Error::io("read", predictor, e))?;
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = tempfile::Builder::new().prefix(".shadowllm-").suffix(".tmp").tempfile_in(folder);
    let draft = draft.map_err(|e| Error::io("write to", folder, e))?.into_temp_path();
    let packed = write_to(source, formats, arrangement, &draft)?;
    let record = serde_json::Value::String(format!("from {}", predictor.display()));
    attach(&draft, &section, &record, out).map_err(|e| match e {
        Error::Engine { source, .. } => {
            Error::file(predictor, format!("cannot be put into {}: {source}", out.display()))
        }
        other => other,
    })?;
    Ok(packed)
}

/// Runs the command.
pub fn pack(o: &Options) -> Result<()> {
    let source: Box<dyn Source> = match (&o.synthetic, &o.source) {
        (Some(shape), _) => Box::new(SyntheticSource::new(shape)?),
        (None, Some(path)) => {
            spare(&o.output, &[inputs(path), o.predictor.iter().cloned().collect()].concat())?;
            import::open(path)?
        }
        (None, None) => return Err(Error::Usage("name a source, or --synthetic SHAPE".into())),
    };
    let like = Formats::like(&*source)?;
    let weights = o.format.unwrap_or(like.weights);
    let formats = Formats { weights, output: o.output_format.or(o.format).unwrap_or(like.output) };
    let arrangement = arrangement(o, &*source);
    let packed = match &o.predictor {
        None => write_to(&*source, formats, arrangement, &o.output)?,
        Some(predictor) => with_predictor(&*source, formats, arrangement, predictor, &o.output)?,
    };
    let (w, out) = (formats.weights.name(), formats.output.name());
    let (file, mb) = (o.output.display(), packed.bytes as f64 / 1e6);
    print::line(format_args!("{file}: {mb:.1} MB, weights {w}, embedding and output {out}"))?;
    if packed.carried_over > 0 {
        let millions = packed.carried_over as f64 / 1e6;
        print::line(format_args!("{millions:.1} million weights were taken over without loss"))?;
    }
    Ok(())
}
