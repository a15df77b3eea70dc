//! The state of a conversation: position, KV cache and the buffers of a forward pass, all in memory that the caller
//! gives.

use super::buffers::Buffers;
use super::layers::{self, GlobalWeights, LayerWeights};
use super::totals::{Totals, Traffic};
use super::{KvFormat, Model};
use crate::active::Units;
use crate::arena::Arena;
use crate::error::Error;
use crate::exec::Executor;
use crate::image::Config;
use crate::ops::attention::KvCache;
use crate::sample::{Candidate, Sampler};
use crate::sparsity::{Dial, Kind, Policy, Predictor, Source, State};
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The limits of a session, which decide how much memory it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// The most positions, of prompt and answer together.
    pub context: usize,
    /// Tokens computed together in a prefill.
    pub batch: usize,
    /// Tokens whose logits are kept at once (1, unless all logits of a text are needed).
    pub logit_rows: usize,
    /// The most guessed tokens that are read ahead ([`Session::decode_ahead`]); 0 for none. Fewer than `batch`; each
    /// takes the memory of a row of logits.
    pub ahead: usize,
    /// Number format of the KV cache.
    pub kv: KvFormat,
    /// Whether the session may skip (see [`crate::sparsity`]); it takes memory for the lists.
    pub sparsity: bool,
}

impl SessionOptions {
    /// The longest context that is chosen by default: the caller decides about the memory that a longer one takes.
    pub const CONTEXT: usize = 4096;

    /// The longest context that a session can have.
    pub const MOST_CONTEXT: usize = 1 << 26;

    /// The most tokens that are read ahead in an exact session by default: together with the last token they fill the
    /// largest batch whose passes are nearly as fast as one token's.
    pub const AHEAD: usize = 15;

    /// Defaults for a model: the context that it was trained for, up to [`SessionOptions::CONTEXT`], and a KV cache as
    /// exact as its weights.
    pub fn of(model: &Model) -> Self {
        let context = model.config().max_positions.min(Self::CONTEXT);
        let kv = if model.is_f32() { KvFormat::F32 } else { KvFormat::F16 };
        SessionOptions { kv, ..Self::default() }.within(context)
    }

    /// The same options with another number of positions; the batch is made no larger than the context.
    pub fn within(self, context: usize) -> Self {
        let batch = self.batch.min(context.max(1));
        SessionOptions { context, batch, ahead: self.ahead.min(batch - 1), ..self }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { context: 2048, batch: 128, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: false }
    }
}

/// A callback that gets the inputs of a layer's linear maps while a batch is read: the layer, which input it is, its
/// rows [tokens, width] (heads and neurons padded as in their buffers), and the width.
pub type Observer<'o> = &'o (dyn Fn(usize, Source, &[f32], usize) + Sync);

/// A session. It never allocates, and stays usable after every call, also after one that fails.
pub struct Session<'a, 'm> {
    pub(super) model: Model<'a>,
    pub(super) globals: GlobalWeights<'a>,
    pub(super) layers: &'m [LayerWeights<'a, 'm>],
    pub(super) options: SessionOptions,
    pub(super) position: usize,
    /// The tokens that were read, `[context]`, of which the first `position` are valid.
    pub(super) tokens: &'m mut [u32],
    /// Where other threads can read how far a call is.
    progress: Option<&'m AtomicUsize>,
    pub(super) cache: KvCache<'m>,
    pub(super) buffers: Buffers<'m>,
    pub(super) cancel: Option<&'m AtomicBool>,
    pub(super) observer: Option<Observer<'m>>,
    pub(super) predictor: Option<Predictor<'a>>,
    pub(super) sparsity: Option<State<'m>>,
    pub(super) traffic: Traffic,
    totals: Totals,
    /// Bytes of the matrices of which a policy can skip parts: by heads and neurons, and by inputs.
    skippable: [usize; 2],
    pub(super) candidates: &'m mut [Candidate],
    pub(super) has_logits: bool,
    /// Guessed tokens that were read beyond the position ([`Session::decode_ahead`]).
    pub(super) ahead: usize,
    /// The row of `buffers.logits` that belongs to the position.
    pub(super) row: usize,
}

struct Parts<'a, 'm> {
    layers: &'m [LayerWeights<'a, 'm>],
    tokens: &'m mut [u32],
    cache: KvCache<'m>,
    buffers: Buffers<'m>,
    candidates: &'m mut [Candidate],
    sparsity: Option<State<'m>>,
}

fn carve<'a: 'm, 'm>(
    arena: &mut Arena<'m>,
    model: &Model<'a>,
    o: &SessionOptions,
    predictor: Option<&Predictor>,
) -> Result<Parts<'a, 'm>, Error> {
    let (config, arch) = (model.config(), model.image().arch());
    Ok(Parts {
        layers: layers::resolve(arena, model.image())?,
        tokens: arena.zeros(o.context)?,
        sparsity: if o.sparsity { Some(State::new(arena, model.image(), predictor)?) } else { None },
        cache: KvCache::new(arena, arch, o.kv, o.context, o.batch)?,
        buffers: Buffers::new(arena, model.image(), o)?,
        candidates: arena.zeros(config.vocab)?,
    })
}

impl<'a, 'm> Session<'a, 'm> {
    /// How much memory [`Session::new`] needs for these options.
    ///
    /// # Errors
    /// [`Error::BadOption`] when an option is out of its range; with sparsity what [`Model::predictor`] says;
    /// [`Error::MissingKernel`].
    pub fn memory_required(model: &Model, options: &SessionOptions) -> Result<Layout, Error> {
        let options = checked(model.config(), *options)?;
        let mut arena = Arena::measure();
        let predictor = if options.sparsity { model.predictor()? } else { None };
        model.check_kernels(options.kv, predictor.as_ref())?;
        carve(&mut arena, model, &options, predictor.as_ref())?;
        Layout::from_size_align(arena.needed(), 1).map_err(|_| Error::BadOption("the context is too large"))
    }

    /// A session in `memory`, at position 0.
    ///
    /// # Errors
    /// As [`Session::memory_required`]; [`Error::MemoryTooSmall`].
    pub fn new(model: Model<'a>, options: SessionOptions, memory: &'m mut [MaybeUninit<u8>]) -> Result<Self, Error> {
        let options = checked(model.config(), options)?;
        // Checked first, so that it does not depend on the alignment of the memory whether the session fits.
        let (needed, given) = (Self::memory_required(&model, &options)?.size(), memory.len());
        if given < needed {
            return Err(Error::MemoryTooSmall { needed, given });
        }
        let predictor = if options.sparsity { model.predictor()? } else { None };
        let parts = carve(&mut Arena::new(memory), &model, &options, predictor.as_ref())?;
        Ok(Session {
            globals: GlobalWeights::resolve(model.image())?,
            layers: parts.layers,
            model,
            options,
            position: 0,
            tokens: parts.tokens,
            progress: None,
            cache: parts.cache,
            buffers: parts.buffers,
            cancel: None,
            observer: None,
            predictor,
            sparsity: parts.sparsity,
            traffic: Traffic::default(),
            totals: Totals::default(),
            skippable: [false, true].map(|by_input| model.skippable_bytes(by_input)),
            candidates: parts.candidates,
            has_logits: false,
            ahead: 0,
            row: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model<'a> {
        &self.model
    }

    /// The options.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The number of tokens read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The tokens that were read so far, `[position]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.position]
    }

    /// Positions that the session has room for.
    pub fn context(&self) -> usize {
        self.options.context
    }

    /// Goes back to an earlier position; the tokens after it are forgotten.
    ///
    /// Later results are those of a session that never read these tokens. Policies that learn from the tokens they read
    /// ([`Policy::Prompt`], [`Policy::PromptInput`]) are an exception, unless the session goes back to the start: their
    /// statistics cannot be taken back token by token, so they begin anew with the tokens read after the rewind.
    ///
    /// # Errors
    /// [`Error::BadPosition`] when it is ahead of the session's; [`Error::PositionLost`] when [`Session::reaches`] is
    /// false.
    pub fn rewind(&mut self, position: usize) -> Result<(), Error> {
        if position > self.position {
            return Err(Error::BadPosition);
        }
        if !self.reaches(position) {
            return Err(Error::PositionLost);
        }
        if position == 0 {
            self.cache.clear();
        }
        (self.has_logits, self.ahead) = (false, 0);
        // A forgotten token must not influence choices.
        if let Some(state) = self.sparsity.as_mut().filter(|_| position < self.position || position == 0) {
            state.forget();
        }
        self.position = position;
        self.show_position();
        Ok(())
    }

    /// Whether the session can go back to a position. Layers with a window keep only the last positions (the window and
    /// one batch), so beyond these it can only go back to the start.
    pub fn reaches(&self, position: usize) -> bool {
        position <= self.position && self.cache.reaches(position)
    }

    /// Sets what later decodes skip. Policies that learn from the prompt must be set before the prompt is read.
    ///
    /// # Errors
    /// [`Error::NoSparsity`] when the session was made without sparsity; [`Error::BadDensity`], [`Error::NoPredictor`],
    /// [`Error::NotByInput`]. The dial is then unchanged.
    pub fn set_dial(&mut self, dial: &Dial) -> Result<(), Error> {
        match &mut self.sparsity {
            Some(state) => state.set(dial, None, self.predictor.as_ref()),
            None if dial.policy == Policy::Off => Ok(()),
            None => Err(Error::NoSparsity),
        }
    }

    /// [`Session::set_dial`] with the share to keep of every slot, [layers, slots of the policy], in place of a
    /// density. Calibration uses it to try budgets.
    ///
    /// # Errors
    /// As [`Session::set_dial`]; [`Error::BadOption`] for another number of shares.
    pub fn set_shares(&mut self, dial: &Dial, shares: &[f32]) -> Result<(), Error> {
        match &mut self.sparsity {
            Some(state) => state.set(dial, Some(shares), self.predictor.as_ref()),
            None => Err(Error::NoSparsity),
        }
    }

    /// The dial as it was set; `off` in a session without sparsity.
    pub fn dial(&self) -> Dial {
        self.sparsity.as_ref().map_or(Dial::default(), |s| *s.dial())
    }

    /// The policy in force ([`Policy::Auto`] resolved).
    pub fn policy(&self) -> Policy {
        self.sparsity.as_ref().map_or(Policy::Off, State::policy)
    }

    /// The active heads and neurons; under [`Policy::Given`] the caller fills them. `None` when the session was made
    /// without sparsity.
    pub fn units(&mut self) -> Option<&mut Units<'m>> {
        self.sparsity.as_mut().map(State::units)
    }

    /// The bytes that the last prefill or decode read.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Sums over prefills and decodes.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Sets all sums to zero.
    pub fn reset_totals(&mut self) {
        self.totals = Totals::default();
    }

    /// Sets a flag that any thread may raise. A running prefill or decode then stops before its next layer with
    /// [`Error::Cancelled`], and its last batch does not count.
    pub fn set_cancel(&mut self, flag: Option<&'m AtomicBool>) {
        self.cancel = flag;
    }

    /// The flag that cancels, for other work that is done for this session.
    pub fn cancel(&self) -> Option<&'m AtomicBool> {
        self.cancel
    }

    /// Sets where the position is written after every batch, so that other threads can read how far a call is.
    pub fn set_progress(&mut self, progress: Option<&'m AtomicUsize>) {
        self.progress = progress;
        self.show_position();
    }

    pub(super) fn show_position(&self) {
        if let Some(progress) = self.progress {
            progress.store(self.position, Ordering::Relaxed);
        }
    }

    /// Sets an observer that gets the inputs of all linear maps from the next batch on, except those of experts.
    pub fn set_observer(&mut self, observer: Option<Observer<'m>>) {
        self.observer = observer;
    }

    /// Logits of the last token, `[vocab]`; empty before the first token and after a rewind.
    pub fn logits(&self) -> &[f32] {
        if self.has_logits { &self.buffers.logits[self.logit_row()] } else { &[] }
    }

    /// Where the logits of the position are in their buffer.
    pub(super) fn logit_row(&self) -> Range<usize> {
        let vocab = self.model.config().vocab;
        let start = self.row * vocab.next_multiple_of(16);
        start..start + vocab
    }

    /// Reads tokens densely, and returns the logits of the last one.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::TokenOutOfRange`], [`Error::ContextFull`] with the session unchanged;
    /// [`Error::Cancelled`] with the position after the last whole batch.
    pub fn prefill(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<&[f32], Error> {
        self.begin(tokens, Kind::Prefill)?;
        let (start, before) = (exec.nanoseconds(), self.position);
        let result = self.read(exec, tokens);
        let took = exec.nanoseconds().saturating_sub(start);
        self.totals.prompt_tokens += (self.position - before) as u64;
        self.totals.prefill_nanoseconds += took;
        self.totals.last_prefill_nanoseconds = took;
        result.map(|()| self.logits())
    }

    /// Checks tokens, and begins to count traffic and to choose for this call.
    pub(super) fn begin(&mut self, tokens: &[u32], kind: Kind) -> Result<(), Error> {
        self.admit(tokens)?;
        self.traffic = Traffic::default();
        (self.has_logits, self.ahead, self.row) = (false, 0, 0);
        if let Some(state) = &mut self.sparsity {
            state.begin(kind);
        }
        Ok(())
    }

    /// Reads tokens batch by batch, and computes the last one's logits.
    pub(super) fn read(&mut self, exec: &dyn Executor, tokens: &[u32]) -> Result<(), Error> {
        let mut left = tokens.len();
        for batch in tokens.chunks(self.options.batch) {
            left -= batch.len();
            self.run(exec, batch, usize::from(left == 0))?;
        }
        self.has_logits = true;
        Ok(())
    }

    /// Reads one batch, and computes the logits of its last `rows` tokens.
    pub(super) fn run(&mut self, exec: &dyn Executor, batch: &[u32], rows: usize) -> Result<(), Error> {
        // Recorded before the pass: also a batch that is cancelled overwrites older positions.
        self.cache.has_written(self.position + batch.len());
        self.forward(exec, batch, rows)?;
        let start = self.position;
        self.position += batch.len();
        self.tokens[start..self.position].copy_from_slice(batch);
        self.show_position();
        Ok(())
    }

    /// Reads tokens and calls `each(index, logits)` for every token, in order.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_each(
        &mut self,
        exec: &dyn Executor,
        tokens: &[u32],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.begin(tokens, Kind::Prefill)?;
        let (vocab, mut index) = (self.model.config().vocab, 0);
        for batch in tokens.chunks(self.options.batch) {
            self.run(exec, batch, 0)?;
            let mut row = 0;
            while row < batch.len() {
                let rows = self.options.logit_rows.min(batch.len() - row);
                self.compute_logits(exec, row, rows);
                for logits in self.buffers.logits.chunks(vocab.next_multiple_of(16)).take(rows) {
                    each(index, &logits[..vocab]);
                    index += 1;
                }
                row += rows;
            }
        }
        Ok(())
    }

    /// Reads one token and returns its logits; the dial decides what is skipped ([`Session::set_dial`]). A token that
    /// [`Session::decode_ahead`] has read is not computed again.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn decode(&mut self, exec: &dyn Executor, token: u32) -> Result<&[f32], Error> {
        if self.follows(token) {
            return Ok(self.logits());
        }
        self.begin(&[token], Kind::Decode)?;
        let start = exec.nanoseconds();
        self.read(exec, &[token])?;
        self.count(exec.nanoseconds().saturating_sub(start));
        Ok(self.logits())
    }

    /// Adds a decoded token to the sums.
    pub(super) fn count(&mut self, nanoseconds: u64) {
        let by_input = self.policy().by_input();
        let (totals, traffic) = (&mut self.totals, &self.traffic);
        totals.decoded_tokens += 1;
        totals.decode_nanoseconds += nanoseconds;
        totals.weights += traffic.weights as u64;
        totals.predictor += traffic.predictor as u64;
        totals.predictor_nanoseconds += traffic.predictor_nanoseconds;
        totals.kv += self.model.kv_bytes_per_token(self.options.kv, self.position - 1) as u64;
        totals.skippable_read += traffic.skippable as u64;
        totals.skippable += self.skippable[usize::from(by_input)] as u64;
    }

    /// Chooses a token from the current logits.
    ///
    /// # Errors
    /// [`Error::NoTokens`] when there are no logits yet.
    pub fn sample(&mut self, sampler: &mut Sampler) -> Result<u32, Error> {
        self.sample_adjusted(sampler, &mut |_| {})
    }

    /// [`Session::sample`] after a change of scores ([`Sampler::sample_adjusted`]).
    ///
    /// # Errors
    /// As [`Session::sample`].
    pub fn sample_adjusted(
        &mut self,
        sampler: &mut Sampler,
        adjust: &mut dyn FnMut(&mut [Candidate]),
    ) -> Result<u32, Error> {
        if !self.has_logits {
            return Err(Error::NoTokens);
        }
        let logits = &self.buffers.logits[self.logit_row()];
        sampler.sample_adjusted(logits, self.candidates, adjust)
    }

    /// Checks whether [`Session::prefill`] would accept these tokens.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::TokenOutOfRange`], [`Error::ContextFull`].
    pub fn admit(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab = self.model.config().vocab as u32;
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some(&id) = tokens.iter().find(|&&t| t >= vocab) {
            return Err(Error::TokenOutOfRange { id, vocab });
        }
        let (needed, context) = (self.position.saturating_add(tokens.len()), self.options.context);
        if needed > context { Err(Error::ContextFull { needed, context }) } else { Ok(()) }
    }
}

/// The options, if all are in range.
fn checked(config: &Config, o: SessionOptions) -> Result<SessionOptions, Error> {
    if o.context == 0 || o.context > SessionOptions::MOST_CONTEXT {
        return Err(Error::BadOption("the context must be at least 1 and at most 67108864 positions"));
    }
    if o.context > config.most_positions {
        return Err(Error::BadOption("the context is longer than the positions that the image describes"));
    }
    if o.batch == 0 || o.batch > 1 << 16 {
        return Err(Error::BadOption("the batch must be at least 1 and at most 65536 tokens"));
    }
    if o.logit_rows == 0 || o.logit_rows > o.batch {
        return Err(Error::BadOption("logit rows must be at least 1 and at most the batch"));
    }
    if o.ahead >= o.batch {
        return Err(Error::BadOption("tokens read ahead must be fewer than the batch"));
    }
    Ok(o)
}
