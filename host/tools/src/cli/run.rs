//! `shadowllm run`: one prompt, or a chat.

use crate::dial::{DialOptions, skips};
use crate::{ModelOptions, pool, print, print_json, session_options};
use clap::Args;
use serde_json::json;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::{Session, SessionOptions};
use shadowllm_host::conversation::Conversation;
use shadowllm_host::generate::{Figures, Stop, generate, peak_memory};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Message, Text, read};
use shadowllm_host::{Error, Result};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Positions of a session when --context does not say.
const CONTEXT: usize = 4096;

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
    #[arg(short, default_value_t = 256)]
    n: usize,
    /// Continue the prompt as plain text, even if the model has a chat template.
    #[arg(long)]
    raw: bool,
    /// What the model is told to be, in a chat.
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
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Only the k likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Only the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Only tokens at least this share as likely as the likeliest.
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    min_p: f32,
    /// Makes recent tokens less likely; 1 is off.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
}

impl Sampling {
    /// The sampler.
    pub fn sampler(&self) -> Result<Sampler> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        Ok(Sampler::new(SamplerOptions {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(clock),
        })?)
    }
}

/// A model with everything a conversation needs.
pub struct Talk<'a, 'm> {
    /// The model.
    pub model: &'a LoadedModel,
    /// Its tokenizer.
    pub text: &'a Text,
    /// Its session.
    pub session: &'a mut Session<'m, 'm>,
    /// The threads.
    pub pool: &'a Pool,
    /// The sampler.
    pub sampler: &'a mut Sampler,
    /// Whether tokens go to standard output as they come.
    pub stream: bool,
}

impl Talk<'_, '_> {
    /// Answers a prompt from scratch or behind what the session has seen.
    pub fn answer(&mut self, prompt: &[u32], n: usize) -> Result<(String, Figures, Stop)> {
        let (text, _, figures, stop) = self.answer_ids(prompt, n)?;
        Ok((text, figures, stop))
    }

    /// [`Talk::answer`] with the answer's token ids.
    pub fn answer_ids(&mut self, prompt: &[u32], n: usize) -> Result<(String, Vec<u32>, Figures, Stop)> {
        let mut ids = Vec::new();
        let mut stream = self.text.stream();
        let mut all = String::new();
        let show = self.stream;
        let mut put = |piece: String| -> Result<()> {
            if show {
                print::text(&piece)?;
            }
            all.push_str(&piece);
            Ok(())
        };
        let (figures, stop) = generate(self.session, self.pool, self.sampler, prompt, n, &mut |token, _| {
            ids.push(token);
            put(stream.push(token)?)?;
            Ok(true)
        })?;
        put(stream.finish()?)?;
        Ok((all, ids, figures, stop))
    }
}

/// Runs the command.
pub fn run(o: &Options) -> Result<()> {
    let prompt = match (&o.prompt, &o.file) {
        (Some(p), _) => Some(p.clone()),
        (None, Some(f)) => Some(read(f)?),
        (None, None) => None,
    };
    let mut sampler = o.sampling.sampler()?;
    let pool = pool(o.threads)?;
    let model = o.model.open()?;
    let pool = o.model.within(pool, &model)?;
    let text = Text::of(&model)?;
    let context = o.context.unwrap_or_else(|| model.model().config().max_positions.min(CONTEXT));
    let options = session_options(&model, context, o.model.kv(&model), "a smaller --context")?;
    let dial = o.dial.one()?;
    let options = SessionOptions { sparsity: skips(&[dial]), ..options };
    let mut memory = model.memory(&options)?;
    let session_bytes = memory.size();
    let mut session = model.session(options, &mut memory)?;
    session.set_dial(&dial)?;
    let mut talk =
        Talk { model: &model, text: &text, session: &mut session, pool: &pool, sampler: &mut sampler, stream: !o.json };
    match prompt {
        Some(prompt) => once(o, &mut talk, &prompt, session_bytes),
        None => chat(o, &mut talk),
    }
}

fn messages(o: &Options, content: &str) -> Vec<Message> {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    o.system.iter().map(|s| message("system", s)).chain([message("user", content)]).collect()
}

fn once(o: &Options, talk: &mut Talk, prompt: &str, session_bytes: usize) -> Result<()> {
    let chat = talk.model.chat()?;
    let ids = talk.text.prompt(&chat, &messages(o, prompt), o.raw, talk.model.model().config().bos)?;
    // What is refused is not shown as if it had been begun.
    talk.session.admit(&ids)?;
    if !o.json && (o.raw || chat.template.is_empty()) {
        print::text(prompt)?;
    }
    let (text, figures, stop) = talk.answer(&ids, o.n)?;
    if o.json {
        return print_json(&json!({
            "text": text,
            "stop": stop,
            "figures": figures,
            "load_seconds": talk.model.load_time().as_secs_f64(),
            "image_bytes": talk.model.file_bytes(),
            "session_bytes": session_bytes,
            "peak_memory_bytes": peak_memory(),
            "threads": shadowllm_core::Executor::width(talk.pool),
            "policy": talk.session.policy().name(),
            "isa": talk.model.model().kernels().isa().name(),
        }));
    }
    print::line("")?;
    print::note(summary(&figures));
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

/// A conversation: each line is a message; the prefix that the session has seen already is not read again.
fn chat(o: &Options, talk: &mut Talk) -> Result<()> {
    let chat = talk.model.chat()?;
    if chat.template.is_empty() {
        return Err(Error::Usage("the model has no chat template, so give it a text to continue with -p or -f".into()));
    }
    let mut lines = Lines::new()?;
    let mut conversation = Conversation::default();
    let bos = talk.model.model().config().bos;
    while let Some(line) = lines.next()? {
        if conversation.messages.is_empty() {
            conversation.messages = messages(o, &line);
        } else {
            conversation.add("user", &line);
        }
        let (ids, same) = conversation.prompt(talk.text, &chat, bos)?;
        talk.session.rewind(same.min(talk.session.position()))?;
        let start = talk.session.position();
        let (answer, figures, stop) = talk.answer(&ids[start..], o.n)?;
        print::line("")?;
        print::note(summary(&figures));
        if stop == Stop::ContextFull {
            print::note("[the context is full: the conversation starts anew]");
            conversation.clear();
            talk.session.rewind(0)?;
            continue;
        }
        conversation.has_read(ids);
        conversation.add("assistant", &answer);
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
