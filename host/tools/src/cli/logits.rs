//! `shadowllm logits`.

use crate::dial::{DialOptions, skips};
use crate::print;
use crate::setup::{MACHINE, ModelOptions, pool, session_options};
use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Session, SessionOptions};
use shadowllm_host::text::read;
use shadowllm_host::{Error, Result};
use shadowllm_tools::output::{Output, refuse_overwrite};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Options of `logits`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// JSON array of token ids.
    #[arg(long)]
    ids: PathBuf,
    /// File to write: tensor `logits`, [tokens, vocab], f32.
    #[arg(short, long)]
    output: PathBuf,
    /// Compute token by token instead of as one prefill; a mask or a policy implies this.
    #[arg(long)]
    decode: bool,
    /// Active heads and neurons: a JSON array with an entry per layer, null for everything, or {"heads": [active
    /// indices], "neurons": [active indices]} (either may be left out). Neurons that are packed in groups can only be
    /// chosen in whole groups; single ones need pack --neuron-group 1.
    #[arg(long, conflicts_with_all = ["policy", "density", "refresh", "allocation", "share", "output_window"])]
    mask: Option<PathBuf>,
    #[command(flatten)]
    dial: DialOptions,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
    threads: Option<usize>,
}

/// Runs the command.
pub fn logits(o: &Options) -> Result<()> {
    let text = read(&o.ids)?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .map_err(|e| Error::file(&o.ids, format!("is not a JSON array of token ids, such as [1, 2, 3]: {e}")))?;
    let inputs = [o.ids.clone(), o.model.path().to_owned()].into_iter().chain(o.mask.clone());
    refuse_overwrite(&o.output, &inputs.collect::<Vec<_>>())?;
    let pool = pool(o.threads)?;
    let model = o.model.open_for(o.dial.skipping())?;
    let pool = o.model.within(pool, &model)?;
    let output = Output::create(&o.output)?;
    let options = session_options(&model, ids.len().max(1), o.model.kv, "fewer --ids")?;
    let dial = match &o.mask {
        Some(_) => Dial { policy: Policy::Given, ..Dial::default() },
        None => o.dial.one_for(&model)?,
    };
    let sparsity = skips(&[dial]);
    let options = SessionOptions { logit_rows: options.batch.min(16), sparsity, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    session.set_dial(&dial)?;
    if let Some(mask) = &o.mask {
        apply(mask, &mut session)?;
    }
    session.admit(&ids).map_err(|e| Error::file(&o.ids, e.to_string()))?;
    let vocab = model.model().config().vocab;
    let mut bytes = Vec::with_capacity(ids.len() * vocab * 4);
    let mut add = |logits: &[f32]| logits.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    if o.decode || sparsity {
        for id in &ids {
            add(session.decode(&pool, *id)?);
        }
    } else {
        session.prefill_each(&pool, &ids, &mut |_, row| add(row))?;
    }
    save(output, o, ids.len(), vocab, &bytes)?;
    print::line(format_args!("{}: logits [{}, {vocab}]", o.output.display(), ids.len()))
}

/// One layer of a mask.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerMask {
    heads: Option<Vec<usize>>,
    neurons: Option<Vec<usize>>,
}

/// Sets the active heads and neurons from the file.
fn apply(path: &Path, session: &mut Session) -> Result<()> {
    let bad = |what: String| Error::file(path, what);
    let mask: Vec<Option<LayerMask>> = serde_json::from_str(&read(path)?).map_err(|e| {
        bad(format!("is not a mask, an array of null or {{\"heads\": [...], \"neurons\": [...]}} per layer: {e}"))
    })?;
    let c = *session.model().config();
    if mask.len() != c.layers {
        return Err(bad(format!(
            "has {} entries, but the model has {} layers: give one for each",
            mask.len(),
            c.layers
        )));
    }
    let Some(active) = session.units() else { return Ok(()) };
    for (layer, mask) in mask.iter().enumerate().filter_map(|(l, m)| Some((l, m.as_ref()?))) {
        for (what, list, n) in [("heads", &mask.heads, c.heads), ("neurons", &mask.neurons, c.ffn)] {
            if let Some(i) = list.iter().flatten().find(|i| **i >= n) {
                return Err(bad(format!("layer {layer} names {what} {i}, but the model has {n}: count from 0")));
            }
        }
        if let Some(heads) = &mask.heads {
            active.choose_heads(layer, |h| heads.contains(&h));
        }
        if let Some(neurons) = &mask.neurons {
            // A group is read if one of its neurons is active, so single neurons can be masked only in groups of one.
            let group = c.neuron_group;
            if let Some(n) = (0..c.ffn).find(|n| neurons.contains(n) != neurons.contains(&(n / group * group))) {
                return Err(bad(format!(
                    "layer {layer} separates neuron {n} from its group of {group}: pack the model with --neuron-group 1"
                )));
            }
            active.choose_neurons(layer, |g| neurons.contains(&(g * group)));
        }
    }
    Ok(())
}

/// Writes the tensor.
fn save(mut output: Output, o: &Options, tokens: usize, vocab: usize, bytes: &[u8]) -> Result<()> {
    let bad = |e: safetensors::SafeTensorError| Error::Other(e.to_string());
    let view = TensorView::new(Dtype::F32, vec![tokens, vocab], bytes).map_err(bad)?;
    let data = safetensors::serialize([("logits", view)], None).map_err(bad)?;
    output.file().write_all(&data).map_err(|e| Error::io("write to", &o.output, e))?;
    output.finish()
}
