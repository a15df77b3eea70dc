//! Saving the state of a session, and restoring it in another one.
//!
//! ```text
//!   0  magic "SLLMSES\0"     8  version, u32        12  model, u32 (a checksum of its checksums)
//!  16  KV format, u32       20  has logits, u32    24  position, u64
//!  32  dial, u32 (a checksum; 0 without sparsity)  36  vocabulary, u32
//!  40  words of memory, u64 (0 without sparsity)   48  bytes in all, u64
//!  56  0, u32               60  CRC-32 of bytes 0..60, u32
//!  64  logits (f32, where it has logits), memory (u32), the tokens read (u32), KV cache; little-endian
//! ```
//! "Memory" is everything that choosers remember from token to token (the snapshot of `sparsity/memory.rs`). The head
//! is checked, and the length that it gives. The numbers after it are not checked: wrong ones give wrong text, and
//! nothing worse.

use super::{KvFormat, Session};
use crate::error::Error;
use crate::image::head::{u32_at, u64_at};
use crate::image::{SectionKind, crc32};

const MAGIC: [u8; 8] = *b"SLLMSES\0";
const VERSION: u32 = 4;
const HEAD: usize = 64;

fn code(format: KvFormat) -> u32 {
    match format {
        KvFormat::F16 => 1,
        KvFormat::F32 => 2,
    }
}

impl Session<'_, '_> {
    /// A number that differs between models: a checksum of the checksums of architecture, tensors and weights.
    fn fingerprint(&self) -> u32 {
        let of = |kind, crc| crc32(&self.model.image().section_info(kind).crc.to_le_bytes(), crc);
        of(SectionKind::Weights, of(SectionKind::Tensors, of(SectionKind::Architecture, 0)))
    }

    /// The number of words of choosers' memory, and the dial's checksum.
    fn memory_words(&self) -> (usize, u32) {
        self.sparsity.as_ref().map_or((0, 0), |s| (s.memory().snapshot_len(), s.dial_checksum()))
    }

    /// Bytes that [`Session::save`] writes.
    pub fn state_size(&self) -> usize {
        HEAD + 4 * (self.logits().len() + self.memory_words().0 + self.position) + self.cache.used_bytes(self.position)
    }

    /// Writes the state (tokens, KV cache, logits, choosers' memory) to the beginning of `out`, and returns its length
    /// in bytes.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn save(&self, out: &mut [u8]) -> Result<usize, Error> {
        let (needed, given) = (self.state_size(), out.len());
        let out = out.get_mut(..needed).ok_or(Error::MemoryTooSmall { needed, given })?;
        let (logits, (words, dial)) = (self.logits(), self.memory_words());
        out[..8].copy_from_slice(&MAGIC);
        let mut put =
            |at: usize, value: u64, len: usize| out[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        put(8, VERSION.into(), 4);
        put(12, self.fingerprint().into(), 4);
        put(16, code(self.cache.format()).into(), 4);
        put(20, u64::from(!logits.is_empty()), 4);
        put(24, self.position as u64, 8);
        put(32, dial.into(), 4);
        put(36, self.model.config().vocab as u64, 4);
        put(40, words as u64, 8);
        put(48, needed as u64, 8);
        put(56, 0, 4);
        let crc = crc32(&out[..60], 0);
        out[60..HEAD].copy_from_slice(&crc.to_le_bytes());
        let memory = self.sparsity.iter().flat_map(|s| s.memory().snapshot());
        let (numbers, cache) = out[HEAD..].split_at_mut(4 * (logits.len() + words + self.position));
        let all = logits.iter().map(|x| x.to_bits()).chain(memory).chain(self.tokens().iter().copied());
        for (bytes, word) in numbers.chunks_exact_mut(4).zip(all) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.cache.save(self.position, cache);
        Ok(needed)
    }

    /// Restores a state that [`Session::save`] wrote, of the same model and KV format. Under the same dial, later
    /// results are bit for bit those of the saved session. Under another dial, heads and neurons are chosen anew from
    /// the statistics in the state. A session without sparsity ignores choosers' memory; after a state without it,
    /// choosing starts as in a new session.
    ///
    /// # Errors
    /// [`Error::BadState`], [`Error::ContextFull`], with the session unchanged.
    pub fn load(&mut self, state: &[u8]) -> Result<(), Error> {
        let bad = |what| Err(Error::BadState(what));
        if state.len() < HEAD || state[..8] != MAGIC {
            return bad("it is not a saved session");
        }
        if u32_at(state, 60) != crc32(&state[..60], 0) {
            return bad("its head is damaged (checksum mismatch)");
        }
        if u32_at(state, 8) != VERSION {
            return bad("it was saved by another version");
        }
        if u32_at(state, 12) != self.fingerprint() || u32_at(state, 36) as usize != self.model.config().vocab {
            return bad("it is of another model");
        }
        if u32_at(state, 16) != code(self.cache.format()) {
            return bad("its KV cache has another number format");
        }
        let (position, context) = (u64_at(state, 24), self.options.context);
        if position > context as u64 {
            return Err(Error::ContextFull { needed: position as usize, context });
        }
        let (position, has_logits) = (position as usize, u32_at(state, 20) == 1);
        let logits = if has_logits { self.model.config().vocab } else { 0 };
        let words = usize::try_from(u64_at(state, 40)).unwrap_or(usize::MAX);
        let cache = HEAD.saturating_add(logits.saturating_add(words).saturating_add(position).saturating_mul(4));
        let all = cache.saturating_add(self.cache.used_bytes(position));
        if state.len() < all || u64_at(state, 48) != all as u64 {
            return bad("it is cut off");
        }
        let (numbers, tokens) = state[HEAD..cache].split_at(4 * (logits + words));
        let mut numbers = numbers.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let slots = self.buffers.logits.iter_mut().take(logits);
        slots.zip(&mut numbers).for_each(|(slot, word)| *slot = f32::from_bits(word));
        self.restore_memory(words, &mut numbers, u32_at(state, 32));
        self.cache.load(position, &state[cache..]);
        for (slot, id) in self.tokens.iter_mut().zip(tokens.as_chunks::<4>().0) {
            *slot = u32::from_le_bytes(*id);
        }
        (self.position, self.has_logits, self.ahead, self.row) = (position, has_logits, 0, 0);
        self.show_position();
        Ok(())
    }

    /// The same as [`Session::save`] of the other session and [`Session::load`] here, without a copy between them.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn copy(&mut self, from: &Session) -> Result<(), Error> {
        if self.fingerprint() != from.fingerprint() {
            return Err(Error::BadState("it is of another model"));
        }
        if self.cache.format() != from.cache.format() {
            return Err(Error::BadState("its KV cache has another number format"));
        }
        let (needed, context) = (from.position, self.options.context);
        if needed > context {
            return Err(Error::ContextFull { needed, context });
        }
        let (logits, (words, dial)) = (from.logits(), from.memory_words());
        self.buffers.logits[..logits.len()].copy_from_slice(logits);
        let mut memory = from.sparsity.iter().flat_map(|s| s.memory().snapshot());
        self.restore_memory(words, &mut memory, dial);
        self.cache.copy(needed, &from.cache);
        self.tokens[..needed].copy_from_slice(from.tokens());
        (self.position, self.has_logits, self.ahead, self.row) = (needed, from.has_logits, 0, 0);
        self.show_position();
        Ok(())
    }

    /// Restores choosers' memory, or forgets it if the words do not fit this session.
    fn restore_memory(&mut self, count: usize, words: &mut dyn Iterator<Item = u32>, dial_checksum: u32) {
        let Some(state) = &mut self.sparsity else { return };
        if state.memory().snapshot_len() == count {
            state.restore(words, dial_checksum);
        } else {
            state.forget();
        }
    }
}
