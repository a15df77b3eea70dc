//! A chat: a conversation together with its session.

use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::handle::Model;
use crate::options::Options;
use crate::session::{Answer, Session};
use crate::text::Message;
use shadowllm_core::sample::SamplerOptions;
use shadowllm_core::sparsity::Dial;

/// First bytes of a saved chat.
const SAVED: &[u8] = b"shadowllm chat 1\n";

/// A conversation. Tokens of it that the session has read are not read again.
pub struct Chat {
    session: Session,
    conversation: Conversation,
}

impl Model {
    /// A chat on a new session.
    ///
    /// # Errors
    /// As [`Model::session`] and [`Chat::new`].
    pub fn chat(&self, options: Options) -> Result<Chat> {
        Chat::new(self.session(options)?)
    }
}

impl Chat {
    /// A new chat on a session. If the messages begin with tokens that the session has read, these are not read again.
    ///
    /// # Errors
    /// When the model has no chat template.
    pub fn new(session: Session) -> Result<Self> {
        if session.model().language()?.template.is_empty() {
            return Err(Error::Usage("the model has no chat template: give it a text to continue instead".into()));
        }
        let mut chat = Chat { session, conversation: Conversation::default() };
        chat.clear();
        Ok(chat)
    }

    /// Reads a question, and returns the answer as an iterator of its pieces. An answer that is dropped early is kept
    /// up to that point.
    ///
    /// # Errors
    /// When the messages are longer than the context, or the template refuses them: the question is then removed, and
    /// [`Chat::clear`] makes room.
    pub fn ask(&mut self, question: &str) -> Result<Answer<'_>> {
        self.add("user", question);
        self.session.answer(&mut self.conversation)
    }

    /// Adds a message that is read with the next question.
    pub fn add(&mut self, role: &str, content: &str) {
        self.conversation.add(role, content);
    }

    /// All messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.conversation.messages
    }

    /// The messages and the state of the session, from which [`Chat::load`] continues.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut saved = SAVED.to_vec();
        let messages: Vec<_> = self.messages().iter().map(Message::to_json).collect();
        saved.extend(serde_json::Value::from(messages).to_string().bytes());
        saved.push(b'\n');
        saved.extend(self.session.save()?);
        Ok(saved)
    }

    /// Continues a chat that [`Chat::save`] saved: with the same options it goes on as that one would have.
    ///
    /// # Errors
    /// When it is no saved chat, or its session is of another model or longer than the context; the chat is then
    /// unchanged.
    pub fn load(&mut self, saved: &[u8]) -> Result<()> {
        let bad = |why: &str| Error::Usage(format!("this is no saved chat: {why}"));
        let rest = saved.strip_prefix(SAVED).ok_or_else(|| bad("it begins differently"))?;
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| bad("it is cut off"))?;
        let list: Vec<serde_json::Value> =
            serde_json::from_slice(&rest[..end]).map_err(|_| bad("its messages are damaged"))?;
        let messages: Result<Vec<Message>> = list.iter().map(|m| Message::from_json(&m.to_string())).collect();
        let messages = messages?;
        self.session.load(&rest[end + 1..])?;
        self.conversation.messages = messages;
        Ok(())
    }

    /// Removes all messages except the options' system message.
    pub fn clear(&mut self) {
        self.conversation.clear();
        if let Some(system) = self.session.options().system.clone() {
            self.add("system", &system);
        }
    }

    /// Sets the system message, and removes all other messages.
    pub fn set_system(&mut self, system: Option<String>) {
        self.session.options.system = system;
        self.clear();
    }

    /// Sets what later tokens skip; nothing is read again.
    ///
    /// # Errors
    /// As [`Session::set_dial`].
    pub fn set_dial(&mut self, dial: &Dial) -> Result<()> {
        self.session.set_dial(dial)
    }

    /// Begins with a new sampler.
    ///
    /// # Errors
    /// As [`Session::set_sampling`].
    pub fn set_sampling(&mut self, sampling: SamplerOptions) -> Result<()> {
        self.session.set_sampling(sampling)
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, for changes. Afterwards, too, tokens of the messages that it has read are not read again.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
