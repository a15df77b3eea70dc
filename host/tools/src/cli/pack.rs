//! `shadowllm pack`.

use crate::print;
use crate::setup::progress;
use clap::Args;
use shadowllm_core::Format;
use shadowllm_host::{Error, Result};
use shadowllm_tools::import::{self, Source, SyntheticSource, is_image};
use shadowllm_tools::output::refuse_overwrite;
use shadowllm_tools::pack::{self, Arrangement, Formats, Kept, Packed, format_names};
use shadowllm_tools::predictor::pack_with;
use shadowllm_tools::shipped;
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
    // Its help lists the formats.
    #[arg(long, value_parser = format, help = "Number format that the weights are rounded to", long_help = formats_help())]
    format: Option<Format>,
    /// Number format of embedding and output matrix; by default that of --format.
    #[arg(long, value_parser = format)]
    output_format: Option<Format>,
    // Its help is a table.
    #[arg(
        long,
        default_value = "auto",
        value_parser = ["auto", "dense", "neuron", "input", "mixed"],
        help = "What can be skipped: heads and groups of 32 neurons (dense), single neurons, single inputs",
        long_help = "What can be skipped:\n  auto    neuron for ReLU and related activations, if it keeps the file's own \
            numbers;\n          else dense\n  dense   heads and groups of 32 neurons: read whole, it is the fastest\n  \
            neuron  heads and single neurons\n  input   single inputs of every map: for --density on models with a gated \
            FFN (most).\n          It saves bytes, but hardly any time\n  mixed   single inputs in attention, single neurons"
    )]
    layout: String,
    /// Neurons that are skipped together (1, 4, 8, 16, 32), in place of the layout's own number.
    #[arg(long, value_parser = neuron_group)]
    neuron_group: Option<usize>,
    /// Whether to add a sketch of the output matrix, a 4-bit copy. A session that skips reads it first, and of the matrix
    /// then only the rows of likely tokens. auto: where it saves bytes.
    #[arg(long, default_value = "auto", value_parser = ["auto", "yes", "no"])]
    sketch: String,
    /// Longest text that the image is for, in tokens; by default the model's. A model with LongRoPE rotates positions
    /// in another way beyond its trained context.
    #[arg(long, conflicts_with = "synthetic")]
    context: Option<usize>,
    /// Predictor of this model to add to the image (from `calibrate --predictor`); one that ships with shadowllm is
    /// found automatically.
    #[arg(long)]
    predictor: Option<PathBuf>,
    /// Random weights of a known shape instead of a source (smollm2-135m, tinyllama-1.1b, llama-2-7b, ...).
    #[arg(long, conflicts_with = "source")]
    synthetic: Option<String>,
}

fn formats_help() -> String {
    format!(
        "Number format that the weights are rounded to:\n  {}\nBy default each matrix keeps the source's own numbers \
         (q8_0 where no format holds them). Others, such as the K-quants of GGUF files, can be kept but not made.",
        format_names()
    )
}

fn format(name: &str) -> std::result::Result<Format, String> {
    match Format::from_name(name) {
        Some(format) if format.has_encoder() => Ok(format),
        Some(_) => Err("is kept from files that have it, if --format is left out".into()),
        None => Err(format!("one of {}", format_names())),
    }
}

fn neuron_group(text: &str) -> std::result::Result<usize, String> {
    let group = text.parse().ok().filter(|n| matches!(n, 1 | 4 | 8 | 16 | 32));
    group.ok_or_else(|| "1, 4, 8, 16 or 32".into())
}

fn arrangement(o: &Options, source: &dyn Source, formats: Formats) -> Arrangement {
    let named = match o.layout.as_str() {
        "neuron" => Arrangement::NEURON,
        "input" => Arrangement::INPUT,
        "mixed" => Arrangement { attention_by_input: true, ..Arrangement::NEURON },
        "auto" if o.neuron_group.is_some() => Arrangement::NEURON,
        "auto" => Arrangement::fastest(source, formats),
        _ => Arrangement::DENSE,
    };
    Arrangement { neuron_group: o.neuron_group.unwrap_or(named.neuron_group), ..named }
}

/// The files of a source, without images in the same folder.
fn inputs(source: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(source) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| !is_image(p)).collect(),
        Err(_) => vec![source.to_owned()],
    }
}

/// Packs with a predictor, if there is one, and shows progress.
fn write(source: &dyn Source, formats: Formats, arrangement: Arrangement, o: &Options) -> Result<Packed> {
    let bar = progress("packing");
    let show = &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let shipped = if arrangement == Arrangement::INPUT { shipped::of(source) } else { None };
    let packed = match (&o.predictor, shipped) {
        (None, None) => pack::pack(source, formats, arrangement, &o.output, show),
        (None, Some(shipped)) => {
            print::note(format_args!("with the predictor that ships for {}", shipped.model));
            pack_with(source, formats, arrangement, (shipped.section, &shipped::SHIPPED.into()), &o.output, show)
        }
        (Some(path), _) => {
            let section = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            let record = serde_json::Value::String(format!("from {}", path.display()));
            let packed = pack_with(source, formats, arrangement, (&section, &record), &o.output, show);
            packed.map_err(|e| match e {
                Error::Engine { source, .. } => {
                    Error::file(path, format!("cannot be added to {}: {source}", o.output.display()))
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
            import::open_for(path, o.context)?
        }
        (None, None) => return Err(Error::Usage("name a source, or --synthetic SHAPE".into())),
    };
    let formats = Formats { weights: o.format, output: o.output_format.or(o.format), sketch: o.sketch == "yes" };
    let arrangement = arrangement(o, &*source, formats);
    let formats = if o.sketch == "auto" { formats.with_sketch(&*source, arrangement) } else { formats };
    let packed = write(&*source, formats, arrangement, o)?;
    if let (false, Some(path)) = (packed.has_tokenizer, &o.source) {
        print::note(import::no_tokenizer(path));
    }
    say(o, &packed, arrangement)
}

/// An arrangement in words, with what can be skipped.
fn arranged(arrangement: Arrangement) -> String {
    let group = arrangement.neuron_group;
    let neurons = if group == 1 { "single neurons".into() } else { format!("groups of {group} neurons") };
    match (arrangement.attention_by_input, arrangement.ffn_by_input) {
        (true, true) => "input (what can be skipped is single inputs of every map)".into(),
        (true, false) => format!("mixed (what can be skipped is single inputs in attention, and {neurons})"),
        _ => format!("{} (what can be skipped is heads and {neurons})", if group == 32 { "dense" } else { "neuron" }),
    }
}

/// Millions.
fn millions(n: u64) -> f64 {
    n as f64 / 1e6
}

/// Shows what was written, how the source's numbers were converted, and the cost.
fn say(o: &Options, packed: &Packed, arrangement: Arrangement) -> Result<()> {
    // With a predictor, the file is larger than what was packed.
    let bytes = std::fs::metadata(&o.output).map_or(packed.bytes, |meta| meta.len());
    print::line(format_args!("{}: {:.1} MB", o.output.display(), millions(bytes)))?;
    for b in &packed.became {
        let how = match b.kept {
            Kept::All => "the same numbers",
            Kept::Codes => "the same codes, scales rounded to 16 bits",
            Kept::Nothing => "rounded",
        };
        let (from, to, n, weights) = (b.from, b.to.name(), b.matrices, millions(b.weights));
        print::line(format_args!("  {from:<8} -> {to:<8} {n:>5} matrices, {weights:>8.1} million weights: {how}"))?;
    }
    if packed.carried_over > 0 {
        let weights = millions(packed.carried_over);
        print::line(format_args!("{weights:.1} million weights were kept without loss"))?;
    }
    let [image, source] = packed.per_token.map(millions);
    let ratio = image / source.max(f64::MIN_POSITIVE);
    print::line(format_args!("{image:.1} MB of matrices per token, {ratio:.3} times the source's {source:.1} MB"))?;
    let other = match arrangement {
        Arrangement::DENSE if o.layout == "auto" => {
            "; --layout input lets --density skip single inputs of gated models"
        }
        Arrangement::DENSE => "",
        _ => "; where nothing is skipped, --layout dense can be faster",
    };
    print::line(format_args!("layout: {}{other}", arranged(arrangement)))?;
    if packed.sketch > 0 {
        let sketch = millions(packed.sketch);
        print::line(format_args!("sketch of the output matrix: {sketch:.1} MB, read only where something is skipped"))?;
    }
    let again: Vec<&str> = packed.became.iter().filter(|b| b.rounded_again).map(|b| b.from).collect();
    if !again.is_empty() {
        let way = match o.format.or(o.output_format) {
            Some(_) => "leave --format out to keep the file's own numbers",
            None if arrangement != Arrangement::DENSE => "--layout dense keeps more of the file's own numbers",
            None => "no format here holds them",
        };
        print::note(format_args!(
            "note: {} weights were rounded a second time, which costs quality: {way}",
            again.join(", ")
        ));
    }
    Ok(())
}
