//! Answers as text, and conversations. Nothing here owns a session, so that any owner of a session can use it.

use crate::controls::{Controlled, Controls, Likely};
use crate::dry::BREAKERS;
use crate::error::Result;
use crate::generate::{Figures, Generation, Stop};
use crate::stops::Stops;
use crate::template::cancelled_by;
use crate::text::{Language, Message, Template, Text, TextStream, Variables};
use crate::thinking::Thinking;
use shadowllm_core::sample::Sampler;
use shadowllm_core::{Executor, Session};

/// A piece of complete text.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The token that completed it; `None` for text that was held back until the end.
    pub id: Option<u32>,
    /// The text, empty while a character is incomplete or a stop string may have begun.
    pub text: String,
    /// The likelihood of the token, if [`Controls::logprobs`] is set.
    pub likely: Option<Likely>,
    /// Whether the model thinks here, and does not answer yet.
    pub thought: bool,
}

/// An answer, piece by piece. Like [`Generation`], it gets session, threads and sampler with every step.
pub struct Answering<'t> {
    generation: Generation,
    stream: TextStream<'t>,
    choose: Controlled,
    stops: Stops,
    thinking: Thinking,
    /// Whether the last token belongs to a thought.
    thought: bool,
    text: String,
    thoughts: String,
    answer: String,
    ids: Vec<u32>,
    likely: Vec<Option<Likely>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// The blocks of the text in which the model thought, with the marks around them.
    pub thoughts: String,
    /// The text without those blocks.
    pub answer: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Its figures: tokens, seconds and bytes.
    pub figures: Figures,
    /// Why it ended.
    pub stop: Stop,
    /// The index in [`Controls::stop`] of the stop string that ended it.
    pub stop_string: Option<usize>,
    /// The log-probability of each token, if [`Controls::logprobs`] is set; `None` for one that the grammar forced.
    pub likely: Vec<Option<Likely>>,
}

impl<'t> Answering<'t> {
    /// Reads `prompt`, which follows the tokens that the session has read; at most `most` tokens will be generated,
    /// under the controls.
    ///
    /// # Errors
    /// As [`Controls::check`] and [`Generation::begin`].
    pub fn begin(
        text: &'t Text,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &mut Sampler,
        prompt: &[u32],
        (most, controls): (usize, &Controls),
    ) -> Result<Self> {
        controls.check(session.model().config().vocab)?;
        let (stops, words) = (Stops::new(&controls.stop)?, text.clone());
        let breaks = move |id| BREAKERS.iter().any(|breaker| words.piece(id).contains(breaker));
        let choose = Controlled::new(controls, breaks);
        let generation = Generation::begin(session, exec, sampler, prompt, most)?;
        // Not by the prompt alone: most of it may have been read before.
        let thinking = Thinking::new(text, session.tokens());
        let (stream, text) = (text.stream(), String::new());
        let (thoughts, answer) = (String::new(), String::new());
        let (ids, likely) = (Vec::new(), Vec::new());
        Ok(Answering {
            generation,
            stream,
            choose,
            stops,
            thinking,
            thought: false,
            text,
            thoughts,
            answer,
            ids,
            likely,
        })
    }

    /// The same answer as the continuation of a plain text, whose last token is `last`: a space at its beginning belongs
    /// to it. Otherwise an answer begins a text of its own.
    pub fn continuing(mut self, last: u32) -> Self {
        self.stream = self.stream.text().stream_after(last);
        self
    }

    /// The next piece; `None` after the last one.
    ///
    /// # Errors
    /// As [`Generation::next`]; when the tokenizer refuses a token.
    pub fn next(&mut self, session: &mut Session, exec: &dyn Executor, sampler: &mut Sampler) -> Result<Option<Piece>> {
        let mut id = self.generation.next_by(session, exec, sampler, &mut self.choose)?;
        if id.is_some_and(|id| self.stream.text().is_end(id)) {
            self.generation.end();
            id = None;
        }
        let (text, likely) = match id {
            Some(id) => {
                let likely = self.choose.likely.take();
                self.ids.push(id);
                if self.choose.asks() {
                    self.likely.push(likely.clone());
                }
                let text = self.stream.push(id)?;
                // Text that was held back comes with the tokens after it, and counts as theirs.
                self.thought = self.thinking.push(id);
                (self.stops.push(&text), likely)
            }
            None => (self.rest()?, None),
        };
        if self.stops.found().is_some() {
            self.generation.stop(Stop::StopString);
        }
        self.write(&text);
        Ok((id.is_some() || !text.is_empty()).then_some(Piece { id, text, likely, thought: self.thought }))
    }

    fn write(&mut self, text: &str) {
        self.text.push_str(text);
        if self.thought { &mut self.thoughts } else { &mut self.answer }.push_str(text);
    }

    /// The text that was held back, after the last token.
    fn rest(&mut self) -> Result<String> {
        let text = self.stream.finish()?;
        Ok(self.stops.push(&text) + &self.stops.finish())
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The figures so far.
    pub fn figures(&self) -> Figures {
        self.generation.figures()
    }

    /// Why it has ended; `None` while it goes on.
    pub fn stopped(&self) -> Option<Stop> {
        self.generation.stopped()
    }

    /// Ends the answer here, unless it has ended already, and returns it.
    ///
    /// # Errors
    /// When the tokenizer refuses a token.
    pub fn finish(mut self) -> Result<Reply> {
        self.generation.stop(Stop::Stopped);
        let rest = self.rest()?;
        self.write(&rest);
        let (stop, stop_string) = (self.generation.stopped().unwrap_or(Stop::Stopped), self.stops.found());
        let Answering { text, thoughts, answer, ids, likely, generation, .. } = self;
        Ok(Reply { text, thoughts, answer, ids, figures: generation.figures(), stop, stop_string, likely })
    }
}

/// Messages. Tokens of them that a session has read, in whatever way, are not read again.
///
/// A turn consists of [`Conversation::add`] with the question, [`Conversation::begin`], [`Answering::next`] until it
/// returns `None` or the answer is long enough, and [`Conversation::end`].
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// All messages so far.
    pub messages: Vec<Message>,
    /// Whether the texts of control tokens in messages become control tokens ([`Text::prompt`]).
    pub control: bool,
    /// What the template is given besides the messages.
    pub variables: Variables,
}

impl Conversation {
    /// Adds a message.
    pub fn add(&mut self, role: &str, content: &str) {
        self.messages.push(Message::new(role, content));
    }

    /// Begins to answer the messages: the session goes back to the last token that it can keep, and reads the rest.
    ///
    /// # Errors
    /// As [`Text::prompt`] and [`Answering::begin`]. The messages stay.
    pub fn begin<'t>(
        &mut self,
        language: &'t Language,
        session: &mut Session,
        exec: &dyn Executor,
        sampler: &mut Sampler,
        (most, controls): (usize, &Controls),
    ) -> Result<Answering<'t>> {
        // Checked before the session goes back.
        controls.check(session.model().config().vocab)?;
        let prompt = || self.prompt(&language.text, &language.template, language.bos);
        let ids = cancelled_by(session.cancel(), prompt)?;
        let same = ids.iter().zip(session.tokens()).take_while(|(a, b)| a == b).count();
        // The answer starts from the last token's logits.
        let start = same.min(ids.len() - 1);
        // Layers with a window may not have the positions before it any more.
        let start = if session.reaches(start) { start } else { 0 };
        session.rewind(start)?;
        Answering::begin(&language.text, session, exec, sampler, &ids[start..], (most, controls))
    }

    /// Ends the turn, early or not: the answer becomes a message.
    ///
    /// # Errors
    /// As [`Answering::finish`].
    pub fn end(&mut self, answering: Answering) -> Result<Reply> {
        let reply = answering.finish()?;
        self.add("assistant", &reply.text);
        Ok(reply)
    }

    /// The ids of the whole prompt. `bos` is the model's beginning token.
    ///
    /// # Errors
    /// As [`Text::prompt`].
    pub fn prompt(&self, text: &Text, template: &Template, bos: Option<u32>) -> Result<Vec<u32>> {
        text.prompt(template, (&self.messages, &self.variables), false, bos, self.control)
    }

    /// Removes all messages.
    pub fn clear(&mut self) {
        self.messages.clear();
    }
}
