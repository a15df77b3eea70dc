//! `shadowllm tokenize`.

use crate::print;
use crate::print::standard_input;
use crate::setup::ModelOptions;
use clap::Args;
use serde_json::json;
use shadowllm_host::text::{Language, Message, read};
use shadowllm_host::{Error, Result};
use std::path::{Path, PathBuf};

/// Options of `tokenize`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// The text.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// The text, as an option.
    #[arg(short, long, conflicts_with = "text", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the text; - is standard input.
    #[arg(short, long, conflicts_with_all = ["text", "prompt"], allow_hyphen_values = true)]
    file: Option<PathBuf>,
    /// The text as a question in the model's chat template, as `run` gives it to the model.
    #[arg(long)]
    chat: bool,
    /// Leave out the beginning token, if the model expects one.
    #[arg(long, conflicts_with = "chat")]
    no_special: bool,
    /// Treat the texts of control tokens ("<|im_end|>") as control tokens, not as text.
    #[arg(long)]
    control_tokens: bool,
    /// A line for each token: its id, and its text as JSON.
    #[arg(long, conflicts_with = "json")]
    pieces: bool,
    /// Ids and texts as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command: token ids as a JSON array, as `logits --ids` reads them.
pub fn tokenize(o: &Options) -> Result<()> {
    let text = match (o.text.as_ref().or(o.prompt.as_ref()), &o.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) if file == Path::new("-") => standard_input()?,
        (None, Some(file)) => read(file)?,
        (None, None) => return Err(Error::Usage("give a text to tokenize, as an argument or with -f FILE".into())),
    };
    let model = o.model.open()?;
    let language = Language::of(&model)?;
    let ids = ids(o, &language, text)?;
    let piece = |id: &u32| language.text.piece(*id);
    if o.json {
        return print::json(&json!({"ids": ids, "pieces": ids.iter().map(piece).collect::<Vec<_>>()}));
    }
    if o.pieces {
        return ids.iter().try_for_each(|id| print::line(format_args!("{id:>7}  {}", json!(piece(id)))));
    }
    print::line(json!(ids))
}

fn ids(o: &Options, language: &Language, text: String) -> Result<Vec<u32>> {
    if o.chat && language.template.is_empty() {
        return Err(Error::Usage("the model has no chat template: leave --chat out".into()));
    }
    match (o.chat, o.no_special) {
        (true, _) => language.prompt(&[Message::new("user", text)], o.control_tokens),
        (false, true) => language.continued(&text, o.control_tokens),
        (false, false) => language.plain(&text, o.control_tokens),
    }
}
