//! Text and tokens: the tokenizer, streaming detokenisation, chat templates.

use crate::error::{Error, Result};
use crate::model::LoadedModel;
use crate::text_bytes::TokenBytes;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use shadowllm_core::image::SectionKind;
use std::path::Path;
use tokenizers::Tokenizer;

/// The text of a file.
///
/// # Errors
/// When it cannot be read or is not UTF-8; names the file.
pub fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::file(
            path,
            format!("is not UTF-8 text (byte {at} is the first that is wrong): convert it, with iconv for one"),
        )
    })
}

/// A model's tokenizer.
pub struct Text {
    tokenizer: Tokenizer,
    bytes: TokenBytes,
}

impl Text {
    /// The tokenizer in an image.
    ///
    /// # Errors
    /// When the image has none or it is damaged.
    pub fn of(model: &LoadedModel) -> Result<Self> {
        let json = model.text(SectionKind::Tokenizer)?;
        if json.is_empty() {
            return Err(Error::file(
                model.path(),
                "the image has no tokenizer, so it cannot read or write text (pack from a source that has one)",
            ));
        }
        Self::from_json(json).map_err(|e| Error::file(model.path(), e))
    }

    /// A tokenizer from `tokenizer.json`'s text.
    ///
    /// # Errors
    /// When the tokenizers library does not take it.
    pub fn from_json(json: &str) -> std::result::Result<Self, String> {
        let mut tokenizer: Tokenizer = json.parse().map_err(|e| format!("the tokenizer cannot be read: {e}"))?;
        // Whatever the file says: nothing of a prompt is cut or filled up.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        let bytes = TokenBytes::of(&tokenizer);
        Ok(Text { tokenizer, bytes })
    }

    /// Token ids of a text; `special` adds what the tokenizer puts around texts (a beginning token).
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, special);
        Ok(encoding.map_err(|e| Error::Other(format!("the text cannot be tokenized: {e}")))?.get_ids().to_vec())
    }

    /// Text of token ids, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| Error::Other(format!("the tokens cannot be decoded: {e}")))
    }

    /// Bytes of one token, perhaps a part of a character; none for special tokens and for ids that are none. `first`
    /// says that it begins a text, where some tokenizers drop a space.
    pub fn bytes(&self, id: u32, first: bool) -> Vec<u8> {
        self.bytes.bytes(&self.tokenizer, id, first)
    }

    /// Ids of the prompt that messages make: by the chat template, or, where there is none or `raw`, the last one's
    /// text as it is.
    ///
    /// # Errors
    /// When the tokenizer or the template refuses; when nothing is to be read and the model (whose configuration
    /// says `bos`) has no beginning token either.
    pub fn prompt(&self, template: &Template, messages: &[Message], raw: bool, bos: Option<u32>) -> Result<Vec<u32>> {
        let last = messages.last().map(|m| m.content.as_str()).unwrap_or_default();
        let ids = if raw || template.source.is_empty() {
            self.encode(last, true)?
        } else {
            self.encode(&render(template, messages)?, false)?
        };
        // A model that begins with a token of its own can start from nothing.
        match bos.filter(|_| ids.is_empty()) {
            Some(bos) => Ok(vec![bos]),
            None if ids.is_empty() => {
                Err(Error::Usage("the prompt is empty and the model has no beginning token; give some text".into()))
            }
            None => Ok(ids),
        }
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { text: self, ids: Vec::new(), done: 0, prefix: 0 }
    }
}

/// Turns tokens into text as they come, complete UTF-8 only: what a later token may still change is held
/// back.
pub struct TextStream<'a> {
    text: &'a Text,
    ids: Vec<u32>,
    /// Tokens before this one only give context (spaces depend on what stands before).
    prefix: usize,
    /// Tokens before this one have been shown.
    done: usize,
}

impl TextStream<'_> {
    /// Adds a token and returns the text that is complete now, often empty.
    ///
    /// # Errors
    /// When the tokenizer refuses the token.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let shown = self.text.decode(&self.ids[self.prefix..self.done])?;
        let all = self.text.decode(&self.ids[self.prefix..])?;
        // A replacement character at the end is the beginning of a longer one.
        if all.len() <= shown.len() || all.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = all.get(shown.len()..).unwrap_or_default().to_owned();
        (self.prefix, self.done) = (self.done, self.ids.len());
        Ok(new)
    }

    /// What is still held back, when no more tokens come.
    ///
    /// # Errors
    /// When the tokenizer refuses the tokens.
    pub fn finish(&mut self) -> Result<String> {
        let shown = self.text.decode(&self.ids[self.prefix..self.done])?;
        let all = self.text.decode(&self.ids[self.prefix..])?;
        (self.prefix, self.done) = (self.ids.len(), self.ids.len());
        Ok(all.get(shown.len()..).unwrap_or_default().to_owned())
    }
}

/// What a chat needs besides the tokenizer, stored in the image as JSON.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Template {
    /// Jinja template, empty when the model has none.
    #[serde(default, rename = "template")]
    pub source: String,
    /// Text of the beginning-of-sequence token.
    #[serde(default)]
    pub bos_token: String,
    /// Text of the end-of-sequence token.
    #[serde(default)]
    pub eos_token: String,
}

impl Template {
    /// The chat template in an image; an empty one where it has none.
    ///
    /// # Errors
    /// When the section is damaged.
    pub fn of(model: &LoadedModel) -> Result<Self> {
        let text = model.text(SectionKind::Chat)?;
        if text.is_empty() {
            return Ok(Template::default());
        }
        serde_json::from_str(text).map_err(|e| Error::file(model.path(), format!("its chat section is damaged: {e}")))
    }

    /// Whether the model has no template, so that it can only continue plain text.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }
}

/// How a model reads and writes: its tokenizer, its chat template and its beginning token.
pub struct Language {
    /// The tokenizer.
    pub text: Text,
    /// The chat template.
    pub template: Template,
    /// The token that every text begins with, where the model has one.
    pub bos: Option<u32>,
}

impl Language {
    /// The language of a model.
    ///
    /// # Errors
    /// When the image has no tokenizer, or one of its texts is damaged.
    pub fn of(model: &LoadedModel) -> Result<Self> {
        let bos = model.model().config().bos;
        Ok(Language { text: Text::of(model)?, template: Template::of(model)?, bos })
    }

    /// Ids of the prompt that messages make ([`Text::prompt`]).
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.text.prompt(&self.template, messages, false, self.bos)
    }

    /// Ids of a plain text that begins a session.
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let message = Message { role: String::new(), content: text.to_owned() };
        self.text.prompt(&self.template, &[message], true, self.bos)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// What was said.
    pub content: String,
}

/// The prompt of a conversation by the model's chat template, up to where the assistant answers.
///
/// # Errors
/// When the model has no template, or the template refuses the messages.
pub fn render(template: &Template, messages: &[Message]) -> Result<String> {
    if template.source.is_empty() {
        return Err(Error::Other("the model has no chat template; use --raw to continue plain text".into()));
    }
    let bad = |e: minijinja::Error| Error::Other(format!("the model's chat template does not take this: {e}"));
    let mut env = Environment::new();
    // What the Hugging Face library sets, so what templates are written for.
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(bad)?);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_template("chat", &template.source).map_err(bad)?;
    let message = |m: &Message| Value::from_pairs([("role", m.role.clone()), ("content", m.content.clone())]);
    let values = context! {
        messages => messages.iter().map(message).collect::<Value>(),
        add_generation_prompt => true,
        bos_token => template.bos_token.as_str(),
        eos_token => template.eos_token.as_str(),
    };
    env.get_template("chat").and_then(|t| t.render(values)).map_err(bad)
}
