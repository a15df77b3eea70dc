//! A chat: a conversation with a session of its own.

use crate::conversation::Conversation;
use crate::error::{Error, Result};
use crate::handle::Model;
use crate::options::Options;
use crate::session::{Answer, Session};
use crate::text::Message;
use shadowllm_core::sample::SamplerOptions;
use shadowllm_core::sparsity::Dial;

/// A conversation. What the session has read of it is not read again.
pub struct Chat {
    session: Session,
    conversation: Conversation,
}

impl Model {
    /// A chat on a session of its own.
    ///
    /// # Errors
    /// As [`Model::session`] and [`Chat::new`].
    pub fn chat(&self, options: Options) -> Result<Chat> {
        Chat::new(self.session(options)?)
    }
}

impl Chat {
    /// A chat that begins; of what the session has read, nothing that the messages begin with is read again.
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

    /// Asks, and returns the answer as an iterator of its pieces, once the question is read. An answer that is dropped
    /// early is kept as far as it went.
    ///
    /// # Errors
    /// When the messages are longer than the context, or the template refuses them: the question is then not kept, and
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

    /// Begins anew, with the options' system message.
    pub fn clear(&mut self) {
        self.conversation.clear();
        if let Some(system) = self.session.options().system.clone() {
            self.add("system", &system);
        }
    }

    /// Says what the model is to be, and begins anew.
    pub fn set_system(&mut self, system: Option<String>) {
        self.session.options.system = system;
        self.clear();
    }

    /// Says what later tokens skip; nothing is read again for it.
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

    /// The session, to be changed. What it has read of the messages afterwards is not read again.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
