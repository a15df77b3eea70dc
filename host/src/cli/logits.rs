//! `shadowllm logits`.

use crate::{ModelOptions, pool, print, session_options};
use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use shadowllm_core::SessionOptions;
use shadowllm_host::output::{Output, spare};
use shadowllm_host::text::read;
use shadowllm_host::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

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
    /// Compute token by token instead of as one prefill.
    #[arg(long)]
    decode: bool,
    /// Threads; one per core by default.
    #[arg(short, long)]
    threads: Option<usize>,
}

/// Runs the command.
pub fn logits(o: &Options) -> Result<()> {
    let text = read(&o.ids)?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .map_err(|e| Error::file(&o.ids, format!("is not a JSON array of token ids, such as [1, 2, 3]: {e}")))?;
    spare(&o.output, &[o.ids.clone(), o.model.model.clone()])?;
    let pool = pool(o.threads)?;
    let model = o.model.open()?;
    let output = Output::create(&o.output)?;
    let options = session_options(&model, ids.len().max(1), o.model.kv(&model), "fewer --ids")?;
    let options = SessionOptions { logit_rows: options.batch.min(16), ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    session.admit(&ids).map_err(|e| Error::file(&o.ids, e.to_string()))?;
    let vocab = model.model().config().vocab;
    let mut bytes = Vec::with_capacity(ids.len() * vocab * 4);
    let mut add = |logits: &[f32]| logits.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    if o.decode {
        for id in &ids {
            add(session.decode(&pool, *id)?);
        }
    } else {
        session.prefill_each(&pool, &ids, &mut |_, row| add(row))?;
    }
    save(output, o, ids.len(), vocab, &bytes)?;
    print::line(format_args!("{}: logits [{}, {vocab}]", o.output.display(), ids.len()))
}

/// Writes the tensor.
fn save(mut output: Output, o: &Options, tokens: usize, vocab: usize, bytes: &[u8]) -> Result<()> {
    let bad = |e: safetensors::SafeTensorError| Error::Other(e.to_string());
    let view = TensorView::new(Dtype::F32, vec![tokens, vocab], bytes).map_err(bad)?;
    let data = safetensors::serialize([("logits", view)], None).map_err(bad)?;
    output.file().write_all(&data).map_err(|e| Error::io("write to", &o.output, e))?;
    output.finish()
}
