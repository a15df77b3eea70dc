//! A conversation: its messages, and what of them a session has read.

use crate::error::Result;
use crate::text::{Chat, Message, Text};

/// Messages, and the prompt that the session read last.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// All messages so far.
    pub messages: Vec<Message>,
    read: Vec<u32>,
}

impl Conversation {
    /// Adds a message.
    pub fn add(&mut self, role: &str, content: &str) {
        self.messages.push(Message { role: role.to_owned(), content: content.to_owned() });
    }

    /// The whole prompt's ids, and how many of them a session need not read again: at least the last is left,
    /// whose logits the answer starts from. `bos` is the model's beginning token.
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn prompt(&self, text: &Text, chat: &Chat, bos: Option<u32>) -> Result<(Vec<u32>, usize)> {
        let ids = text.prompt(chat, &self.messages, false, bos)?;
        let same = ids.iter().zip(&self.read).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        Ok((ids, same))
    }

    /// Takes note of the prompt that the session has now read.
    pub fn has_read(&mut self, ids: Vec<u32>) {
        self.read = ids;
    }

    /// The session has read other things since: everything is to be read again.
    pub fn forget_read(&mut self) {
        self.read.clear();
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.read.clear();
    }
}
