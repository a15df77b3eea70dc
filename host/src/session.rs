//! A session that owns its model, memory, threads and sampler.

#[cfg(feature = "tokenizer")]
use crate::controls::Controls;
#[cfg(feature = "tokenizer")]
use crate::conversation::{Answering, Conversation, Piece, Reply};
use crate::error::Result;
#[cfg(feature = "tokenizer")]
use crate::generate::{Figures, Stop};
use crate::handle::Model;
use crate::options::Options;
use crate::owned::Owned;
use crate::pace::{Ladder, Pace};
use crate::pool::Pool;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::Dial;
use std::sync::Arc;
use std::time::Duration;

/// A session: the state of one sequence of tokens, and the threads that compute it.
pub struct Session {
    pub(crate) engine: Owned,
    pub(crate) pool: Arc<Pool>,
    pub(crate) sampler: Sampler,
    pub(crate) model: Model,
    pub(crate) options: Options,
    pace: Option<Pace>,
}

impl Model {
    /// A session with its own threads.
    ///
    /// # Errors
    /// When an option is out of range, when the image lacks the tables that the dial needs, or when threads or memory
    /// are not available.
    pub fn session(&self, options: Options) -> Result<Session> {
        let pool = options.pool(self.file())?;
        self.session_on(Arc::new(pool), options)
    }

    /// A session on shared threads; the options' threads and memory budget are ignored.
    ///
    /// # Errors
    /// As [`Model::session`].
    pub fn session_on(&self, pool: Arc<Pool>, options: Options) -> Result<Session> {
        let sampler = Sampler::new(options.sampling)?;
        let mut engine = Owned::new(self.clone(), options.engine(self.file().model()))?;
        engine.with(|session| session.set_dial(&options.dial))?;
        Ok(Session { engine, pool, sampler, model: self.clone(), options, pace: None })
    }
}

impl Session {
    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The engine's session: positions, logits, traffic, totals.
    pub fn engine(&self) -> &shadowllm_core::Session<'_, '_> {
        self.engine.get()
    }

    /// Calls a closure with the engine's session and the threads. The closure must work for every lifetime, so that no
    /// borrow can leave the session.
    pub fn with_engine<R>(&mut self, body: impl for<'s> FnOnce(&mut shadowllm_core::Session<'s, 's>, &Pool) -> R) -> R {
        let pool = &*self.pool;
        self.engine.with(|session| body(session, pool))
    }

    /// Reads tokens and returns the logits after the last, `[vocabulary]`.
    ///
    /// # Errors
    /// As the engine's `prefill`.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        let pool = &*self.pool;
        self.engine.with(|session| session.prefill(pool, tokens).map(drop))?;
        Ok(self.engine.get().logits())
    }

    /// Reads one token, skipping as the dial says, and returns the logits after it, `[vocabulary]`.
    ///
    /// # Errors
    /// As the engine's `decode`.
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        let pool = &*self.pool;
        self.engine.with(|session| session.decode(pool, token).map(drop))?;
        Ok(self.engine.get().logits())
    }

    /// Chooses a token from the current logits.
    ///
    /// # Errors
    /// When nothing was read yet.
    pub fn sample(&mut self) -> Result<u32> {
        let sampler = &mut self.sampler;
        Ok(self.engine.with(|session| session.sample(sampler))?)
    }

    /// Tells the sampler of tokens that it did not choose, for its penalties.
    pub fn accept(&mut self, tokens: &[u32]) {
        tokens.iter().for_each(|id| self.sampler.accept(*id));
    }

    /// The session's state and its sampler's state, from which another session of the same model can continue.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn save(&self) -> Result<Vec<u8>> {
        let size = self.engine.get().state_size();
        let mut state = Vec::new();
        let room = state.try_reserve_exact(size + Sampler::STATE);
        room.map_err(|_| crate::Error::Other(format!("there is no memory for a state of {size} bytes")))?;
        state.resize(size, 0);
        self.engine.get().save(&mut state)?;
        state.extend_from_slice(&self.sampler.save());
        Ok(state)
    }

    /// Restores a state that [`Session::save`] returned: with the same options, the continuation is the one that the
    /// saved session would have had.
    ///
    /// # Errors
    /// When the state is damaged, of another model, or longer than the context; the session is then unchanged.
    pub fn load(&mut self, state: &[u8]) -> Result<()> {
        let cut = shadowllm_core::Error::BadState("it is cut off");
        let at = state.len().checked_sub(Sampler::STATE).ok_or(cut)?;
        let mut sampler = self.sampler.clone();
        sampler.load(&state[at..])?;
        self.engine.with(|session| session.load(&state[..at]))?;
        self.sampler = sampler;
        Ok(())
    }

    /// A session of its own on the same threads, which continues from here as this one would.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn fork(&self) -> Result<Session> {
        let mut fork = self.model.session_on(Arc::clone(&self.pool), self.options.clone())?;
        fork.set_dial(&self.engine.get().dial())?;
        fork.engine.with(|session| session.copy(self.engine.get()))?;
        fork.sampler = self.sampler.clone();
        Ok(fork)
    }

    /// Tokens read so far.
    pub fn position(&self) -> usize {
        self.engine.get().position()
    }

    /// Whether [`Session::rewind`] can go back to a position: models with windows keep only the last positions.
    pub fn reaches(&mut self, position: usize) -> bool {
        self.engine.with(|session| session.reaches(position))
    }

    /// Goes back to an earlier position; the tokens after it are forgotten.
    ///
    /// # Errors
    /// When the position is ahead of the session's, or not in memory any more ([`Session::reaches`]).
    pub fn rewind(&mut self, position: usize) -> Result<()> {
        Ok(self.engine.with(|session| session.rewind(position))?)
    }

    /// Sets what later tokens skip. A pace ends ([`Session::set_pace`]).
    ///
    /// # Errors
    /// When the image lacks the tables that the dial needs, or the session was made without `skipping`; the dial is
    /// then unchanged.
    pub fn set_dial(&mut self, dial: &Dial) -> Result<()> {
        self.engine.with(|session| session.set_dial(dial))?;
        self.pace = None;
        Ok(())
    }

    /// From now on answers keep the time of a token near the target: the first dial of `ladder` is taken that is fast
    /// enough, and another one when times change. Measures times first, which takes some 20 to 40 tokens' time, on a
    /// session that has read nothing.
    ///
    /// # Errors
    /// When the session has read something already or is exact, or a dial of the ladder cannot be set.
    pub fn set_pace(&mut self, mut ladder: Ladder, target: Duration) -> Result<&Pace> {
        let pool = &*self.pool;
        let pace = self.engine.with(|session| -> Result<Pace> {
            ladder.measure(session, pool)?;
            let pace = Pace::new(ladder, target)?;
            session.set_dial(&pace.rung().dial)?;
            Ok(pace)
        })?;
        Ok(self.pace.insert(pace))
    }

    /// How answers keep to a time, if they do ([`Session::set_pace`]).
    pub fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// Begins with a new sampler.
    ///
    /// # Errors
    /// Names the option that is out of range.
    pub fn set_sampling(&mut self, sampling: SamplerOptions) -> Result<()> {
        self.sampler = Sampler::new(sampling)?;
        self.options.sampling = sampling;
        Ok(())
    }

    /// Sets a flag that any thread or signal handler may raise: a running answer then ends with
    /// [`shadowllm_core::Error::Cancelled`], and its text so far is kept.
    pub fn set_cancel(&mut self, flag: Option<&'static std::sync::atomic::AtomicBool>) {
        self.engine.with(|session| session.set_cancel(flag));
    }

    /// Its threads, for other sessions to share.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Bytes of its memory.
    pub fn bytes(&self) -> usize {
        self.engine.bytes()
    }
}

#[cfg(feature = "tokenizer")]
impl Session {
    /// Continues a text, which follows the tokens read before.
    ///
    /// # Errors
    /// When the image has no tokenizer, the text is empty, or it does not fit in the rest of the context.
    pub fn generate(&mut self, prompt: &str) -> Result<Answer<'_>> {
        let (language, control) = (self.model.language()?, self.options.control_tokens);
        let ids = if self.position() == 0 {
            language.plain(prompt, control)?
        } else {
            language.continued(prompt, control)?
        };
        self.generate_ids(&ids)
    }

    /// [`Session::generate`] for a text in tokens. A chat's prompt takes [`Session::answer_ids`].
    ///
    /// # Errors
    /// As [`Session::generate`]; when an id is out of range.
    pub fn generate_ids(&mut self, prompt: &[u32]) -> Result<Answer<'_>> {
        let mut answer = self.answer_ids(prompt)?;
        if let Some(last) = prompt.last() {
            answer.answering = answer.answering.take().map(|answering| answering.continuing(*last));
        }
        Ok(answer)
    }

    /// Answers a prompt in tokens, as a chat template writes it. The answer begins a text of its own: where a tokenizer
    /// puts a space before texts, it is not part of it.
    ///
    /// # Errors
    /// As [`Session::generate_ids`].
    pub fn answer_ids(&mut self, prompt: &[u32]) -> Result<Answer<'_>> {
        let Session { engine, pool, sampler, model, options, pace } = self;
        let text = &model.language()?.text;
        let answering =
            engine.with(|session| Answering::begin(text, session, &**pool, sampler, prompt, held(options)))?;
        let answering = Some(answering);
        Ok(Answer { engine, pool, sampler, pace, answering, conversation: None, failed: false })
    }

    /// Answers a conversation; its last message is removed if it cannot be read.
    pub(crate) fn answer<'a>(&'a mut self, conversation: &'a mut Conversation) -> Result<Answer<'a>> {
        let Session { engine, pool, sampler, model, options, pace } = self;
        let language = model.language()?;
        conversation.control = options.control_tokens;
        conversation.variables.clone_from(&options.variables);
        let answering =
            match engine.with(|session| conversation.begin(language, session, &**pool, sampler, held(options))) {
                Ok(answering) => answering,
                Err(e) => {
                    conversation.messages.pop();
                    return Err(e);
                }
            };
        Ok(Answer {
            engine,
            pool,
            sampler,
            pace,
            answering: Some(answering),
            conversation: Some(conversation),
            failed: false,
        })
    }
}

/// Runs a step, and keeps to the pace.
#[cfg(feature = "tokenizer")]
fn paced<T>(
    pace: &mut Option<Pace>,
    session: &mut shadowllm_core::Session,
    step: impl FnOnce(&mut shadowllm_core::Session) -> Result<T>,
) -> Result<T> {
    let Some(pace) = pace else { return step(session) };
    let (start, position) = (std::time::Instant::now(), session.position());
    let done = step(session)?;
    pace.follow(session, position, start.elapsed())?;
    Ok(done)
}

/// The most tokens of an answer, and its constraints.
#[cfg(feature = "tokenizer")]
fn held(options: &Options) -> (usize, &Controls) {
    (options.max_tokens, &options.controls)
}

/// An answer: an iterator of its pieces. If it is dropped early, the answer ends there.
#[cfg(feature = "tokenizer")]
pub struct Answer<'a> {
    engine: &'a mut Owned,
    pool: &'a Pool,
    sampler: &'a mut Sampler,
    pace: &'a mut Option<Pace>,
    /// `None` after the answer was finished.
    answering: Option<Answering<'a>>,
    /// The conversation that the answer belongs to.
    conversation: Option<&'a mut Conversation>,
    failed: bool,
}

#[cfg(feature = "tokenizer")]
impl Answer<'_> {
    /// The text so far.
    pub fn text(&self) -> &str {
        self.answering.as_ref().map_or("", Answering::text)
    }

    /// Its figures so far.
    pub fn figures(&self) -> Figures {
        self.answering.as_ref().map(Answering::figures).unwrap_or_default()
    }

    /// Why it has ended; `None` while it goes on.
    pub fn stopped(&self) -> Option<Stop> {
        self.answering.as_ref().and_then(Answering::stopped)
    }

    /// Ends the answer here, unless it has ended already, and returns it.
    ///
    /// # Errors
    /// When the tokenizer refuses a token.
    pub fn finish(mut self) -> Result<Reply> {
        self.end()
    }

    /// Generates the answer to its end and returns it.
    ///
    /// # Errors
    /// Errors of the session.
    pub fn complete(mut self) -> Result<Reply> {
        for piece in &mut self {
            piece?;
        }
        self.end()
    }

    fn end(&mut self) -> Result<Reply> {
        let ended = || crate::Error::Other("the answer has been finished already".into());
        let answering = self.answering.take().ok_or_else(ended)?;
        match &mut self.conversation {
            Some(conversation) => conversation.end(answering),
            None => answering.finish(),
        }
    }
}

#[cfg(feature = "tokenizer")]
impl Answer<'_> {
    /// The next piece of text, never an empty one, with its token.
    pub fn piece(&mut self) -> Option<Result<Piece>> {
        let Answer { engine, pool, sampler, pace, answering, failed, .. } = self;
        let answering = answering.as_mut().filter(|_| !*failed)?;
        loop {
            match engine.with(|session| paced(pace, session, |session| answering.next(session, *pool, sampler))) {
                Ok(Some(piece)) if piece.text.is_empty() => {}
                Ok(piece) => return piece.map(Ok),
                Err(e) => {
                    *failed = true;
                    return Some(Err(e));
                }
            }
        }
    }
}

#[cfg(feature = "tokenizer")]
impl Iterator for Answer<'_> {
    type Item = Result<String>;

    /// The text of the next [`Answer::piece`].
    fn next(&mut self) -> Option<Self::Item> {
        self.piece().map(|piece| piece.map(|piece| piece.text))
    }
}

#[cfg(feature = "tokenizer")]
impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // An error of the tokenizer was already returned with the piece.
        let _ = self.end();
    }
}
