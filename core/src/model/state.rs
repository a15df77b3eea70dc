//! Saving what a session has read, and going on from it elsewhere.
//!
//! ```text
//!   0  magic "SLLMSES\0"     8  version, u32        12  model, u32 (a checksum of its checksums)
//!  16  KV format, u32       20  has logits, u32    24  position, u64
//!  32  state of chance, u64 40  vocabulary, u32    44  numbers of statistics, u32
//!  48  bytes in all, u64    56  0, u32             60  CRC-32 of bytes 0..60, u32
//!  64  logits (f32, if there are), statistics (f32), KV cache; little-endian
//! ```
//! The head is checked, and that all of the rest is there; its numbers are not: they can make wrong text, nothing
//! worse.

use super::{KvFormat, Session};
use crate::error::Error;
use crate::image::{SectionKind, crc32};

const MAGIC: [u8; 8] = *b"SLLMSES\0";
const VERSION: u32 = 1;
const HEAD: usize = 64;

fn code(format: KvFormat) -> u32 {
    match format {
        KvFormat::F16 => 1,
        KvFormat::F32 => 2,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Session<'_, '_> {
    /// Tells models apart: a checksum of the checksums of shape, tensors and weights.
    fn fingerprint(&self) -> u32 {
        let of = |kind, crc| crc32(&self.model.image().section_info(kind).crc.to_le_bytes(), crc);
        of(SectionKind::Weights, of(SectionKind::Tensors, of(SectionKind::Architecture, 0)))
    }

    /// Logits and statistics, the numbers of a state.
    fn numbers(&self) -> (&[f32], [&[f32]; 2], u64) {
        let (statistics, random) = self.sparsity.as_ref().map_or(([[].as_slice(); 2], 0), |s| s.told());
        (self.logits(), statistics, random)
    }

    /// Bytes that [`Session::save`] writes.
    pub fn state_size(&self) -> usize {
        let (logits, [heads, neurons], _) = self.numbers();
        HEAD + 4 * (logits.len() + heads.len() + neurons.len()) + self.cache.used_bytes(self.position)
    }

    /// Writes what was read so far (position, KV cache, logits, the prompt's statistics) to the beginning of `out`,
    /// and returns how many bytes that took.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn save(&self, out: &mut [u8]) -> Result<usize, Error> {
        let (needed, given) = (self.state_size(), out.len());
        let out = out.get_mut(..needed).ok_or(Error::MemoryTooSmall { needed, given })?;
        let (logits, [heads, neurons], random) = self.numbers();
        out[..8].copy_from_slice(&MAGIC);
        let mut put =
            |at: usize, value: u64, len: usize| out[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        put(8, VERSION.into(), 4);
        put(12, self.fingerprint().into(), 4);
        put(16, code(self.cache.format()).into(), 4);
        put(20, u64::from(!logits.is_empty()), 4);
        put(24, self.position as u64, 8);
        put(32, random, 8);
        put(40, self.model.config().vocab as u64, 4);
        put(44, (heads.len() + neurons.len()) as u64, 4);
        put(48, needed as u64, 8);
        put(56, 0, 4);
        let crc = crc32(&out[..60], 0);
        out[60..HEAD].copy_from_slice(&crc.to_le_bytes());
        let numbers = logits.iter().chain(heads).chain(neurons);
        for (slot, x) in out[HEAD..].chunks_exact_mut(4).zip(numbers) {
            slot.copy_from_slice(&x.to_le_bytes());
        }
        let at = HEAD + 4 * (logits.len() + heads.len() + neurons.len());
        self.cache.save(self.position, &mut out[at..]);
        Ok(needed)
    }

    /// Takes over a state that [`Session::save`] wrote, of the same model and KV format. What follows is, bit for bit,
    /// what would have followed there, if the dial is the same and refreshed with every token.
    ///
    /// # Errors
    /// [`Error::BadState`], [`Error::ContextFull`], with the session as it was.
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
        if u32_at(state, 12) != self.fingerprint() || u32_at(state, 40) as usize != self.model.config().vocab {
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
        let statistics = u32_at(state, 44) as usize;
        let cache = HEAD.saturating_add(logits.saturating_add(statistics).saturating_mul(4));
        let all = cache.saturating_add(self.cache.used_bytes(position));
        if state.len() < all || u64_at(state, 48) != all as u64 {
            return bad("it is cut off");
        }
        let mut numbers = state[HEAD..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        self.buffers.logits.iter_mut().take(logits).zip(&mut numbers).for_each(|(slot, x)| *slot = x);
        self.take_told(statistics, &mut numbers, u64_at(state, 32));
        self.cache.load(position, &state[cache..]);
        (self.position, self.has_logits) = (position, has_logits);
        Ok(())
    }

    /// [`Session::load`] of what the other session would [`Session::save`], without the copy between.
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
        let (logits, [heads, neurons], random) = from.numbers();
        self.buffers.logits[..logits.len()].copy_from_slice(logits);
        self.take_told(heads.len() + neurons.len(), &mut heads.iter().chain(neurons).copied(), random);
        self.cache.copy(needed, &from.cache);
        (self.position, self.has_logits) = (needed, from.has_logits);
        Ok(())
    }

    /// What earlier tokens told, where there is room for it, and forgotten where the state says nothing of it.
    fn take_told(&mut self, count: usize, numbers: &mut dyn Iterator<Item = f32>, random: u64) {
        let Some(state) = &mut self.sparsity else { return };
        state.forget();
        let ([heads, neurons], _) = state.told();
        if heads.len() + neurons.len() == count {
            state.tell(numbers, random);
        }
    }
}
