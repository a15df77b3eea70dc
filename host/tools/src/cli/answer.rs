//! Answers as commands show them.

use crate::controls::likelihoods;
use crate::live::Live;
use crate::print;
use serde_json::{Value, json};
use shadowllm_core::Executor;
use shadowllm_host::conversation::Reply;
use shadowllm_host::generate::peak_memory;
use shadowllm_host::tool_calls::parse;
use shadowllm_host::{Answer, Error, Figures, Result, Session};

/// What is written to standard output during an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Nothing.
    Nothing,
    /// Everything, because the answer continues a text.
    Text,
    /// Everything except the spaces at the beginning.
    Answer,
}

/// Generates an answer to its end; a cancelled answer ends there.
pub fn whole(mut answer: Answer, show: Show) -> Result<Reply> {
    let mut begun = show == Show::Text;
    let (mut dim, mut live) = (print::Dim::default(), Live::new(show != Show::Nothing));
    while let Some(piece) = answer.piece() {
        let piece = match piece {
            Err(Error::Engine { source: shadowllm_core::Error::Cancelled, .. }) => break,
            piece => piece?,
        };
        let text = if begun { &piece.text } else { piece.text.trim_start() };
        begun |= !text.is_empty();
        if show != Show::Nothing {
            live.before(text)?;
            dim.text(text, piece.thought)?;
            live.show(&answer.figures())?;
        }
    }
    drop(live);
    dim.end()?;
    answer.finish()
}

/// An answer with its figures, as JSON.
pub fn as_json(reply: &Reply, session: &Session) -> Value {
    let model = session.model().file();
    let mut value = json!({
        "text": reply.text,
        "stop": reply.stop,
        "figures": reply.figures,
        "load_seconds": model.load_time().as_secs_f64(),
        "image_bytes": model.file_bytes(),
        "session_bytes": session.bytes(),
        "peak_memory_bytes": peak_memory(),
        "threads": session.pool().width(),
        "policy": session.engine().policy().name(),
        "isa": model.model().kernels().isa().name(),
    });
    let controls = &session.options().controls;
    if !reply.thoughts.is_empty() {
        value["thoughts"] = json!(reply.thoughts);
        value["answer"] = json!(reply.answer);
    }
    if let Some(stop) = reply.stop_string.and_then(|i| controls.stop.get(i)) {
        value["stop_string"] = json!(stop);
    }
    if let (Some(_), Ok(language)) = (controls.logprobs, session.model().language()) {
        value["logprobs"] = likelihoods(reply, &language.text).into();
    }
    if session.options().variables.contains_key("tools") {
        let parsed = parse(&reply.text);
        value["tool_calls"] = json!(parsed.calls);
    }
    value
}

/// One line of figures.
pub fn summary(f: &Figures) -> String {
    let forced = match f.forced_tokens {
        0 => String::new(),
        n => format!(
            " ({:.0} % forced by the grammar, {} passes)",
            100.0 * n as f64 / f.generated_tokens as f64,
            f.passes
        ),
    };
    let guessed = if f.guessed_tokens > 0 { format!(" ({} guessed)", f.guessed_tokens) } else { String::new() };
    let grammar = match f.grammar_seconds {
        0.0 => String::new(),
        seconds => format!(", the grammar took {:.1} % of the time", 100.0 * seconds / (seconds + f.pass_seconds)),
    };
    format!(
        "[{} prompt tokens at {:.1} t/s, {} generated{forced} at {:.1} t/s{guessed}, {:.1} MB read per token{grammar}]",
        f.prompt_tokens,
        f.prompt_tokens_per_second,
        f.generated_tokens,
        f.tokens_per_second,
        f.bytes_per_token as f64 / 1e6
    )
}
