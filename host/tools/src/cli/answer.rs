//! Answers as commands show them.

use crate::print;
use serde_json::{Value, json};
use shadowllm_core::Executor;
use shadowllm_host::conversation::Reply;
use shadowllm_host::generate::peak_memory;
use shadowllm_host::{Answer, Error, Figures, Result, Session};

/// Reads an answer to its end; with `show`, standard output gets the text as it comes. One that is cancelled ends there.
pub fn whole(mut answer: Answer, show: bool) -> Result<Reply> {
    for piece in &mut answer {
        match piece {
            Err(Error::Engine { source: shadowllm_core::Error::Cancelled, .. }) => break,
            piece if show => print::text(piece?)?,
            piece => drop(piece?),
        }
    }
    answer.finish()
}

/// An answer and what it took, as JSON.
pub fn as_json(reply: &Reply, session: &Session) -> Value {
    let model = session.model().file();
    json!({
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
    })
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
