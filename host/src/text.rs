//! Text and tokens: the tokenizer, streaming detokenisation, chat templates.

use crate::error::{Error, Result};
use crate::model::LoadedModel;
use crate::template::is_cancelled;
pub use crate::template::{Message, Template, render};
use crate::text_bytes::{TokenBytes, complete};
use crate::text_guard::{Parts, admit, guarded};
use shadowllm_core::image::SectionKind;
use std::collections::HashMap;
use std::path::Path;
use tokenizers::Tokenizer;

/// The text of a file, without the mark (U+FEFF) that some editors put before it.
///
/// # Errors
/// When it cannot be read or is not UTF-8; names the file.
pub fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text));
    text.map_err(|e| {
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
    /// How many times as long normalizing can make a text.
    growth: usize,
    /// Texts of special tokens, by their first letter.
    special: HashMap<char, Vec<String>>,
    /// End tokens besides those of the model's description.
    ends: Vec<u32>,
}

/// A sentence of the tokenizer's, as an error.
fn refused(sentence: impl std::fmt::Display) -> Error {
    Error::Other(format!("the text cannot be tokenized: {sentence}"))
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
    /// When it is damaged or the tokenizers library does not take it; when it can make a text many times as long.
    pub fn from_json(json: &str) -> std::result::Result<Self, String> {
        let bad = |e: String| format!("the tokenizer cannot be read: {e}");
        let (parts, growth) = Parts::of(json).map_err(bad)?;
        let mut tokenizer: Tokenizer = guarded(|| json.parse().map_err(|e| format!("{e}"))).map_err(bad)?;
        // Whatever the file says: nothing of a prompt is cut or filled up.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        let bytes = TokenBytes::of(&tokenizer, &parts.decoder);
        let mut special: HashMap<char, Vec<String>> = HashMap::new();
        for token in tokenizer.get_added_tokens_decoder().into_values().filter(|token| token.special) {
            let first = token.content.chars().next();
            // A token of one letter cannot be written in two parts.
            if let Some(first) = first.filter(|c| token.content.len() > c.len_utf8()) {
                special.entry(first).or_default().push(token.content);
            }
        }
        Ok(Text { tokenizer, bytes, growth, special, ends: Vec::new() })
    }

    /// Token ids of a text, in which the texts of control tokens are control tokens; `special` adds what the tokenizer
    /// puts before texts (a beginning token). What it puts after them is left out, since texts are continued.
    ///
    /// # Errors
    /// When the tokenizer refuses the text, or this thread's work is cancelled.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        admit(text, self.growth).map_err(refused)?;
        if is_cancelled() {
            return Err(shadowllm_core::Error::Cancelled.into());
        }
        let call = || self.tokenizer.encode_fast(text, special).map_err(|e| e.to_string());
        let encoding = guarded(call).map_err(refused)?;
        let after = encoding.get_special_tokens_mask().iter().rev().take_while(|mask| **mask == 1).count();
        let ids = encoding.get_ids();
        // A text of nothing has all before it.
        let after = if after == ids.len() { 0 } else { after };
        Ok(ids[..ids.len() - after].to_vec())
    }

    /// Token ids of a text in which nothing is a control token: what a person writes.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_plain(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let mark = unused_letter(&[text]);
        self.encode_marked(&self.marked(text, mark), mark, special)
    }

    /// Token ids of a text whose control tokens a mark divides where they are to be none.
    fn encode_marked(&self, text: &str, mark: char, special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for (i, part) in text.split(mark).enumerate() {
            ids.append(&mut self.encode(part, special && i == 0)?);
        }
        Ok(ids)
    }

    /// The text with a mark after the first letter of whatever would be a control token.
    fn marked(&self, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len());
        for (at, letter) in text.char_indices() {
            marked.push(letter);
            // Some normalizers make letters small.
            let begins = |token: &String| {
                text.as_bytes()[at..].get(..token.len()).is_some_and(|t| t.eq_ignore_ascii_case(token.as_bytes()))
            };
            if self.special.get(&letter).is_some_and(|tokens| tokens.iter().any(begins)) {
                marked.push(mark);
            }
        }
        marked
    }

    /// Text of token ids, special tokens left out.
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
        let decoded = guarded(|| self.tokenizer.decode(ids, true).map_err(|e| e.to_string()));
        decoded.map_err(|e| Error::Other(format!("the tokens cannot be decoded: {e}")))
    }

    /// Bytes of one token, perhaps a part of a character; none for special tokens and for ids that are none. `first`
    /// says that it begins a text, where some tokenizers drop a space.
    pub fn bytes(&self, id: u32, first: bool) -> Vec<u8> {
        self.bytes.bytes(&self.tokenizer, id, first)
    }

    /// Text of one token for people: a control token's name, and what is a part of a character as U+FFFD.
    pub fn piece(&self, id: u32) -> String {
        match self.tokenizer.id_to_token(id) {
            Some(name) if self.bytes.is_special(id) => name,
            _ => String::from_utf8_lossy(&self.bytes(id, false)).into_owned(),
        }
    }

    /// Whether a token ends a text, though the model's description does not say so.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Ids of the prompt that messages make: by the chat template, or, where there is none or `raw`, the last one's
    /// text as it is. What messages say is text, whatever it looks like, unless `control` tokens may stand in it.
    ///
    /// # Errors
    /// When the tokenizer or the template refuses; when nothing is to be read and the model (whose configuration
    /// says `bos`) has no beginning token either.
    pub fn prompt(
        &self,
        template: &Template,
        messages: &[Message],
        raw: bool,
        bos: Option<u32>,
        control: bool,
    ) -> Result<Vec<u32>> {
        let last = messages.last().map(|m| m.content.as_str()).unwrap_or_default();
        let ids = match (raw || template.source.is_empty(), control) {
            (true, true) => self.encode(last, true)?,
            (true, false) => self.encode_plain(last, true)?,
            (false, true) => self.encode(&render(template, messages)?, false)?,
            (false, false) => self.rendered(template, messages)?,
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

    /// The template's control tokens are control tokens, those in messages are none: they go through the template with a
    /// mark inside, and the prompt is tokenized in parts there.
    fn rendered(&self, template: &Template, messages: &[Message]) -> Result<Vec<u32>> {
        let said = messages.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
        let mark = unused_letter(&said.chain([template.source.as_str()]).collect::<Vec<_>>());
        let messages: Vec<Message> = messages
            .iter()
            .map(|m| Message { role: self.marked(&m.role, mark), content: self.marked(&m.content, mark) })
            .collect();
        self.encode_marked(&render(template, &messages)?, mark, false)
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { text: self, bytes: Vec::new(), begun: false, ids: Vec::new(), done: 0, prefix: 0 }
    }
}

/// A letter for private use that none of the texts has.
fn unused_letter(texts: &[&str]) -> char {
    let mut letters = '\u{e000}'..='\u{f8ff}';
    letters.find(|letter| !texts.iter().any(|text| text.contains(*letter))).unwrap_or('\u{10ffff}')
}

/// Tokens that are held back at most: no character has more bytes.
const HELD: usize = 4;

/// Turns tokens into text as they come, complete UTF-8 only: what a later token may still change is held
/// back.
pub struct TextStream<'a> {
    text: &'a Text,
    /// Bytes that are no whole character yet.
    bytes: Vec<u8>,
    /// Whether a token was shown.
    begun: bool,
    /// Tokens, where bytes are not all of the text.
    ids: Vec<u32>,
    /// Tokens before this one only give context (spaces depend on what stands before).
    prefix: usize,
    /// Tokens before this one have been shown.
    done: usize,
}

impl<'a> TextStream<'a> {
    /// The tokenizer.
    pub fn text(&self) -> &'a Text {
        self.text
    }

    /// Adds a token and returns the text that is complete now, often empty.
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
        // A replacement character at the end may be the beginning of a longer one.
        let held = all.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.done < HELD;
        if all.len() <= shown.len() || held {
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
        let (mut text, template) = (Text::of(model)?, Template::of(model)?);
        text.ends.clone_from(&template.end_tokens);
        Ok(Language { text, template, bos })
    }

    /// Ids of the prompt that messages make ([`Text::prompt`]).
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn prompt(&self, messages: &[Message], control: bool) -> Result<Vec<u32>> {
        self.text.prompt(&self.template, messages, false, self.bos, control)
    }

    /// Ids of a plain text that begins a session.
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn plain(&self, text: &str, control: bool) -> Result<Vec<u32>> {
        let message = Message { role: String::new(), content: text.to_owned() };
        self.text.prompt(&self.template, &[message], true, self.bos, control)
    }

    /// Ids of a text that follows what a session has read.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn continued(&self, text: &str, control: bool) -> Result<Vec<u32>> {
        if control { self.text.encode(text, false) } else { self.text.encode_plain(text, false) }
    }
}
