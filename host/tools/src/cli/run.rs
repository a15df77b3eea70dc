//! `shadowllm run`: one prompt, or a chat.

use crate::dial::DialOptions;
use crate::print;
use crate::setup::{ModelOptions, checked_context, pool};
use clap::Args;
use serde_json::json;
use shadowllm_core::Executor;
use shadowllm_core::sample::Sampler;
use shadowllm_host::conversation::Reply;
use shadowllm_host::generate::peak_memory;
use shadowllm_host::text::{Message, read};
use shadowllm_host::{Answer, Chat, Error, Figures, Model, Result, SamplerOptions, Session, Stop};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Options of `run`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Prompt; without it and -f a chat begins.
    #[arg(short, long, conflicts_with = "file")]
    prompt: Option<String>,
    /// File with the prompt.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Tokens to generate at most.
    #[arg(short, default_value_t = shadowllm_host::Options::default().max_tokens)]
    n: usize,
    /// Continue the prompt as plain text, even if the model has a chat template.
    #[arg(long)]
    raw: bool,
    /// What the model is to be, in a chat.
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    dial: DialOptions,
    #[command(flatten)]
    sampling: Sampling,
    /// Threads; one per core by default.
    #[arg(short, long)]
    threads: Option<usize>,
    /// Positions, prompt and answer together; by default what the model was trained for, 4096 at most.
    #[arg(long)]
    context: Option<usize>,
    /// Text and figures as JSON.
    #[arg(long)]
    json: bool,
}

/// How tokens are chosen.
#[derive(Args)]
pub struct Sampling {
    /// Always the likeliest token.
    #[arg(long)]
    greedy: bool,
    /// Seed of the random choice; from the clock by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Divides the logits; 0 is greedy.
    #[arg(long, default_value_t = SamplerOptions::default().temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// Only the k likeliest tokens; 0 for all.
    #[arg(long, default_value_t = SamplerOptions::default().top_k)]
    top_k: usize,
    /// Only the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = SamplerOptions::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Only tokens at least this share as likely as the likeliest.
    #[arg(long, default_value_t = SamplerOptions::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Makes recent tokens less likely; 1 is off.
    #[arg(long, default_value_t = SamplerOptions::default().repetition_penalty, allow_negative_numbers = true)]
    repetition_penalty: f32,
}

impl Sampling {
    /// The sampler's options, which are in range.
    fn options(&self) -> Result<SamplerOptions> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let options = SamplerOptions {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(clock),
        };
        Sampler::new(options)?;
        Ok(options)
    }
}

/// Reads an answer to its end; with `show`, standard output gets the text as it comes.
pub fn whole(mut answer: Answer, show: bool) -> Result<Reply> {
    for piece in &mut answer {
        let piece = piece?;
        if show {
            print::text(piece)?;
        }
    }
    answer.finish()
}

/// Runs the command.
pub fn run(o: &Options) -> Result<()> {
    let prompt = match (&o.prompt, &o.file) {
        (Some(p), _) => Some(p.clone()),
        (None, Some(f)) => Some(read(f)?),
        (None, None) => None,
    };
    // Cheap refusals first.
    let (sampling, pool) = (o.sampling.options()?, pool(o.threads)?);
    let model = o.model.open()?;
    let pool = o.model.within(pool, &model)?;
    let options = shadowllm_host::Options {
        context: o.context,
        kv: o.model.kv,
        skipping: false,
        dial: o.dial.one()?,
        sampling,
        max_tokens: o.n,
        system: o.system.clone(),
        ..Default::default()
    };
    checked_context(&model, options.engine(model.model()).context, "a smaller --context")?;
    let model = Model::from(model);
    let no_chat = prompt.is_none() && model.language()?.template.is_empty();
    if no_chat {
        return Err(Error::Usage("the model has no chat template, so give it a text to continue with -p or -f".into()));
    }
    let session = model.session_on(Arc::new(pool), options)?;
    match prompt {
        Some(prompt) => once(o, session, &prompt),
        None => chat(o, Chat::new(session)?),
    }
}

fn once(o: &Options, mut session: Session, prompt: &str) -> Result<()> {
    let model = session.model().clone();
    let language = model.language()?;
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let system = o.system.iter().map(|s| message("system", s));
    let messages: Vec<Message> = system.chain([message("user", prompt)]).collect();
    let ids = language.text.prompt(&language.template, &messages, o.raw, language.bos)?;
    // What is refused is not shown as if it had been begun.
    session.engine().admit(&ids)?;
    if !o.json && (o.raw || language.template.is_empty()) {
        print::text(prompt)?;
    }
    let reply = whole(session.generate_ids(&ids)?, !o.json)?;
    if o.json {
        return print::json(&json!({
            "text": reply.text,
            "stop": reply.stop,
            "figures": reply.figures,
            "load_seconds": model.file().load_time().as_secs_f64(),
            "image_bytes": model.file().file_bytes(),
            "session_bytes": session.bytes(),
            "peak_memory_bytes": peak_memory(),
            "threads": session.pool().width(),
            "policy": session.engine().policy().name(),
            "isa": model.file().model().kernels().isa().name(),
        }));
    }
    print::line("")?;
    print::note(summary(&reply.figures));
    Ok(())
}

/// One line of figures.
pub fn summary(f: &Figures) -> String {
    format!(
        "[{} prompt tokens at {:.1} t/s, {} generated at {:.1} t/s, {:.1} MB read per token]",
        f.prompt_tokens,
        f.prompt_tokens_per_second,
        f.generated_tokens,
        f.tokens_per_second,
        f.bytes_per_token as f64 / 1e6
    )
}

/// A conversation: each line is a message.
fn chat(o: &Options, mut chat: Chat) -> Result<()> {
    let mut lines = Lines::new()?;
    while let Some(line) = lines.next()? {
        let reply = whole(chat.ask(&line)?, !o.json)?;
        print::line("")?;
        print::note(summary(&reply.figures));
        if reply.stop == Stop::ContextFull {
            print::note("[the context is full: the conversation starts anew]");
            chat.clear();
        }
    }
    Ok(())
}

/// Lines from an editor at a terminal, else from standard input.
enum Lines {
    Editor(Box<rustyline::DefaultEditor>),
    Plain(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Lines {
    fn new() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Lines::Plain(std::io::stdin().lock().lines()));
        }
        let editor = rustyline::DefaultEditor::new();
        editor.map(|e| Lines::Editor(Box::new(e))).map_err(|e| Error::Other(format!("no line editing: {e}")))
    }

    /// The next line that is not empty; `None` at the end.
    fn next(&mut self) -> Result<Option<String>> {
        let bad = |e: &dyn std::fmt::Display| Error::Other(format!("cannot read standard input: {e}"));
        let line = match self {
            Lines::Plain(lines) => lines.next().transpose().map_err(|e| bad(&e))?,
            Lines::Editor(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // History is a comfort.
                    let _ = editor.add_history_entry(&line);
                    Some(line)
                }
                Err(rustyline::error::ReadlineError::Eof | rustyline::error::ReadlineError::Interrupted) => None,
                Err(e) => return Err(bad(&e)),
            },
        };
        Ok(line.filter(|l| !l.trim().is_empty()))
    }
}
