//! Text and tokens: the tokenizer, streaming detokenisation, chat templates.

use crate::error::{Error, Result};
use crate::model::LoadedModel;
use crate::template::is_cancelled;
use crate::template::render_with;
pub use crate::template::{Message, Template, Variables, render};
use crate::text_bytes::{TokenBytes, complete};
use crate::text_guard::{Parts, admit, guarded};
use crate::text_marks::Marks;
use crate::text_watch::{Tokenizer, continuing, in_time};
use serde_json::Value;
use shadowllm_core::image::SectionKind;
use std::path::Path;
use std::sync::Arc;

/// The text of a file, without the byte-order mark (U+FEFF) of some editors.
///
/// # Errors
/// When the file cannot be read or is not UTF-8; names the file.
pub fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text));
    text.map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::file(
            path,
            format!("is not UTF-8 text (byte {at} is the first that is wrong): convert it, for example with iconv"),
        )
    })
}

/// A model's tokenizer. Its clones share the large tables.
#[derive(Clone)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    bytes: Arc<TokenBytes>,
    /// The largest factor by which normalizing can lengthen a text.
    growth: usize,
    /// Where control tokens stand in texts of people.
    marks: Arc<Marks>,
    /// End tokens besides those of the model's description.
    ends: Vec<u32>,
}

/// An error with a sentence of the tokenizer.
fn refused(sentence: impl std::fmt::Display) -> Error {
    Error::Other(format!("the text cannot be tokenized: {sentence}"))
}

impl Text {
    /// The tokenizer in an image.
    ///
    /// # Errors
    /// When the image has no tokenizer, or it is damaged.
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
    /// When it is damaged, when the tokenizers library does not accept it, or when it can make a text many times as
    /// long.
    pub fn from_json(json: &str) -> std::result::Result<Self, String> {
        let bad = |e: String| format!("the tokenizer cannot be read: {e}");
        let (parts, growth) = Parts::of(json).map_err(bad)?;
        let read = || serde_json::from_str(json).map_err(|e| e.to_string());
        let mut tokenizer: Tokenizer = in_time(json.len(), || guarded(read)).map_err(bad)?;
        // Prompts are never truncated or padded, whatever the file says.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        let bytes = TokenBytes::of(&tokenizer, &parts.decoder);
        let marks = in_time(json.len(), || Marks::of(&tokenizer)).map_err(bad)?;
        let (tokenizer, bytes, marks) = (Arc::new(tokenizer), Arc::new(bytes), Arc::new(marks));
        Ok(Text { tokenizer, bytes, growth, marks, ends: Vec::new() })
    }

    /// Token ids of a text, in which the texts of control tokens become control tokens. `special` adds the tokens that
    /// the tokenizer puts before texts (a beginning token). Tokens that it puts after texts are left out, because texts
    /// are continued.
    ///
    /// # Errors
    /// When the tokenizer refuses the text, or this thread's work is cancelled.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        admit(text, self.growth).map_err(refused)?;
        let cancelled = || if is_cancelled() { Err(shadowllm_core::Error::Cancelled) } else { Ok(()) };
        cancelled()?;
        let call = || self.tokenizer.encode_fast(text, special).map_err(|e| e.to_string());
        let encoding = in_time(text.len(), || guarded(call));
        cancelled()?;
        let encoding = encoding.map_err(refused)?;
        let after = encoding.get_special_tokens_mask().iter().rev().take_while(|mask| **mask == 1).count();
        let ids = encoding.get_ids();
        // For an empty text, all added tokens count as tokens before it.
        let after = if after == ids.len() { 0 } else { after };
        Ok(ids[..ids.len() - after].to_vec())
    }

    /// Token ids of a text that a user has written, in which nothing becomes a control token.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_plain(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let mark = unused_letter(&[text]);
        self.encode_marked(&self.marked(text, mark), mark, special)
    }

    /// [`Text::encode_plain`] for a text that follows other text: a tokenizer that puts a space before texts puts none here.
    #[cfg(feature = "grammar")]
    pub(crate) fn encode_after(&self, text: &str) -> Result<Vec<u32>> {
        continuing(|| self.encode_plain(text, false))
    }

    /// Token ids of a text in which a mark divides the texts that must not become control tokens. No space is put between the
    /// parts.
    fn encode_marked(&self, text: &str, mark: char, special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for (i, part) in text.split(mark).enumerate() {
            let encode = || self.encode(part, special && i == 0);
            ids.append(&mut if i == 0 { encode() } else { continuing(encode) }?);
        }
        Ok(ids)
    }

    /// The text with marks where it must be cut.
    fn marked(&self, text: &str, mark: char) -> String {
        self.marks.set(&self.tokenizer, text, mark)
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if !self.bytes.are_text() {
            return self.decode_all(ids);
        }
        let mut stream = self.stream();
        let mut text = String::new();
        for id in ids {
            text.push_str(&stream.push(*id)?);
        }
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// As the tokenizers library decodes.
    fn decode_all(&self, ids: &[u32]) -> Result<String> {
        let call = || self.tokenizer.decode(ids, true).map_err(|e| e.to_string());
        let decoded = in_time(ids.len(), || guarded(call));
        decoded.map_err(|e| Error::Other(format!("the tokens cannot be decoded: {e}")))
    }

    /// Bytes of one token, perhaps a part of a character; empty for special tokens and for ids out of range. `first`
    /// says that it begins a text, where some tokenizers drop a space.
    pub fn bytes(&self, id: u32, first: bool) -> Vec<u8> {
        self.bytes.bytes(&self.tokenizer, id, first)
    }

    /// Text of one token for users: the name of a control token, and U+FFFD for a part of a character.
    pub fn piece(&self, id: u32) -> String {
        match self.tokenizer.id_to_token(id) {
            Some(name) if self.bytes.is_special(id) => name,
            _ => String::from_utf8_lossy(&self.bytes(id, false)).into_owned(),
        }
    }

    /// Whether a token ends a text although the model's description does not say so.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Ids of the prompt of messages: by the chat template or, without a template or with `raw`, the text of the last
    /// message alone. Messages are text, whatever they look like, unless `control` allows control tokens in them.
    ///
    /// # Errors
    /// When the tokenizer or the template fails, or when the prompt is empty and the model has no beginning token
    /// (`bos`) either.
    pub fn prompt(
        &self,
        template: &Template,
        (messages, variables): (&[Message], &Variables),
        raw: bool,
        bos: Option<u32>,
        control: bool,
    ) -> Result<Vec<u32>> {
        let last = messages.last().map(|m| m.content.as_str()).unwrap_or_default();
        let ids = match (raw || template.source.is_empty(), control) {
            (true, true) => self.encode(last, true)?,
            (true, false) => self.encode_plain(last, true)?,
            (false, true) => self.encode(&render_with(template, messages, variables)?, false)?,
            (false, false) => self.rendered(template, messages, variables)?,
        };
        // With a beginning token, an empty prompt is allowed.
        match bos.filter(|_| ids.is_empty()) {
            Some(bos) => Ok(vec![bos]),
            None if ids.is_empty() => {
                Err(Error::Usage("the prompt is empty and the model has no beginning token; give some text".into()))
            }
            None => Ok(ids),
        }
    }

    /// The template's control tokens become control tokens, those in messages do not: the messages go through the
    /// template with marks inside, at which the prompt is divided before tokenizing.
    fn rendered(&self, template: &Template, messages: &[Message], variables: &Variables) -> Result<Vec<u32>> {
        let values = messages.iter().map(|m| &m.more).chain([variables]);
        let values: Vec<String> = values.map(|map| Value::Object(map.clone()).to_string()).collect();
        let said = messages.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
        let said = said.chain(values.iter().map(String::as_str));
        let mark = unused_letter(&said.chain([template.source.as_str()]).collect::<Vec<_>>());
        let messages: Vec<Message> = messages
            .iter()
            .map(|m| Message {
                role: self.marked(&m.role, mark),
                content: self.marked(&m.content, mark),
                more: self.marked_map(&m.more, mark),
            })
            .collect();
        self.encode_marked(&render_with(template, &messages, &self.marked_map(variables, mark))?, mark, false)
    }

    /// The map with marks in all its texts.
    fn marked_map(&self, map: &Variables, mark: char) -> Variables {
        map.iter().map(|(name, value)| (self.marked(name, mark), self.marked_value(value, mark))).collect()
    }

    fn marked_value(&self, value: &Value, mark: char) -> Value {
        match value {
            Value::String(text) => Value::String(self.marked(text, mark)),
            Value::Array(list) => list.iter().map(|value| self.marked_value(value, mark)).collect(),
            Value::Object(map) => Value::Object(self.marked_map(map, mark)),
            other => other.clone(),
        }
    }

    /// A decoder for single tokens, which begin a text: some tokenizers drop a space there.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { text: self, bytes: Vec::new(), begun: false, ids: Vec::new(), done: 0, prefix: 0 }
    }

    /// A decoder for single tokens that continue a text, whose last token is `last`. After a control token a text begins.
    pub fn stream_after(&self, last: u32) -> TextStream<'_> {
        TextStream { begun: !self.bytes.is_special(last), ids: vec![last], done: 1, ..self.stream() }
    }
}

/// A private-use character that occurs in none of the texts.
fn unused_letter(texts: &[&str]) -> char {
    let mut letters = '\u{e000}'..='\u{f8ff}';
    letters.find(|letter| !texts.iter().any(|text| text.contains(*letter))).unwrap_or('\u{10ffff}')
}

/// The most tokens that are held back: no character has more bytes.
const HELD: usize = 4;

/// Converts tokens to text one by one, as complete UTF-8: text that a later token may still change is held back.
pub struct TextStream<'a> {
    text: &'a Text,
    /// Bytes of an incomplete character.
    bytes: Vec<u8>,
    /// Whether there is text before the next token.
    begun: bool,
    /// All tokens, for tokenizers whose text is not just the tokens' bytes.
    ids: Vec<u32>,
    /// Tokens before this one are only context (spaces depend on the tokens before).
    prefix: usize,
    /// The text of tokens before this one was returned.
    done: usize,
}

impl<'a> TextStream<'a> {
    /// The tokenizer.
    pub fn text(&self) -> &'a Text {
        self.text
    }

    /// Adds a token and returns the text that is now complete, which is often empty.
    ///
    /// # Errors
    /// When the tokenizer refuses the token.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.text.bytes.are_text() {
            self.bytes.extend(self.text.bytes(id, !self.begun));
            self.begun |= !self.text.bytes.is_special(id);
            return Ok(complete(&mut self.bytes, false));
        }
        self.ids.push(id);
        let shown = self.text.decode_all(&self.ids[self.prefix..self.done])?;
        let all = self.text.decode_all(&self.ids[self.prefix..])?;
        // A replacement character at the end may be an incomplete character.
        let held = all.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.done < HELD;
        if all.len() <= shown.len() || held {
            return Ok(String::new());
        }
        let new = all.get(shown.len()..).unwrap_or_default().to_owned();
        (self.prefix, self.done) = (self.done, self.ids.len());
        Ok(new)
    }

    /// The text that is still held back, after the last token.
    ///
    /// # Errors
    /// When the tokenizer refuses the tokens.
    pub fn finish(&mut self) -> Result<String> {
        if self.text.bytes.are_text() {
            return Ok(complete(&mut self.bytes, true));
        }
        let shown = self.text.decode_all(&self.ids[self.prefix..self.done])?;
        let all = self.text.decode_all(&self.ids[self.prefix..])?;
        (self.prefix, self.done) = (self.ids.len(), self.ids.len());
        Ok(all.get(shown.len()..).unwrap_or_default().to_owned())
    }
}

impl Template {
    /// The chat template in an image; an empty one if it has none.
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
}

/// How a model reads and writes: its tokenizer, its chat template and its beginning token.
pub struct Language {
    /// The tokenizer.
    pub text: Text,
    /// The chat template.
    pub template: Template,
    /// The token that every text begins with, if the model has one.
    pub bos: Option<u32>,
    /// All tokens that end a text.
    pub ends: Vec<u32>,
    /// Tokens of the model, and logits.
    pub vocab: usize,
}

impl Language {
    /// The language of a model.
    ///
    /// # Errors
    /// When the image has no tokenizer, or a section of text is damaged.
    pub fn of(model: &LoadedModel) -> Result<Self> {
        let config = model.model().config();
        let (mut text, template) = (Text::of(model)?, Template::of(model)?);
        text.ends.clone_from(&template.end_tokens);
        let ends = config.eos().iter().chain(&text.ends).copied().collect();
        Ok(Language { text, template, bos: config.bos, ends, vocab: config.vocab })
    }

    /// Ids of the prompt of messages ([`Text::prompt`]).
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn prompt(&self, messages: &[Message], control: bool) -> Result<Vec<u32>> {
        self.text.prompt(&self.template, (messages, &Variables::new()), false, self.bos, control)
    }

    /// Ids of a plain text that begins a session.
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn plain(&self, text: &str, control: bool) -> Result<Vec<u32>> {
        let message = Message::new("", text);
        self.text.prompt(&self.template, (&[message], &Variables::new()), true, self.bos, control)
    }

    /// Ids of a text that follows the tokens that a session has read: where the tokenizer puts a space before texts, it
    /// puts none here.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn continued(&self, text: &str, control: bool) -> Result<Vec<u32>> {
        continuing(|| if control { self.text.encode(text, false) } else { self.text.encode_plain(text, false) })
    }
}
