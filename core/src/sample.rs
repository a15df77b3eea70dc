//! Choosing the next token from logits, without allocation.

use crate::arena::Plain;
use crate::error::Error;
use crate::image::crc32;
use crate::random;
use heapless::HistoryBuf;

/// The number of last tokens to which penalties apply.
const RECENT: usize = 64;
/// First bytes of a saved state.
const MAGIC: &[u8; 8] = b"SLLMSMP\0";

/// A token and its score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Logit, then probability.
    pub score: f32,
}

impl Plain for Candidate {}

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// 0 takes the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the likeliest token's probability; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of the last 64 tokens (arXiv 1909.05858); 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that are among the last 64, once; 0 for none.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens as often as they are among the last 64; 0 for none.
    pub frequency_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

/// A sampler with its random state and the last tokens: the same seed, tokens and logits give the same tokens on every
/// machine.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    state: u64,
    recent: HistoryBuf<u32, RECENT>,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// [`Error::BadOption`] names the option that is out of range.
    pub fn new(options: SamplerOptions) -> Result<Self, Error> {
        let checks = [
            (options.temperature >= 0.0 && options.temperature.is_finite(), "temperature must be 0 or more"),
            (options.top_p > 0.0 && options.top_p <= 1.0, "top-p must be above 0 and at most 1"),
            ((0.0..1.0).contains(&options.min_p), "min-p must be at least 0 and below 1"),
            (
                options.repetition_penalty > 0.0 && options.repetition_penalty.is_finite(),
                "the repetition penalty must be above 0 (1 is none)",
            ),
            (options.presence_penalty.is_finite(), "the presence penalty must be a number (0 is none)"),
            (options.frequency_penalty.is_finite(), "the frequency penalty must be a number (0 is none)"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, message)) => Err(Error::BadOption(message)),
            None => Ok(Sampler { options, state: options.seed, recent: HistoryBuf::new() }),
        }
    }

    /// Bytes of a saved state.
    pub const STATE: usize = 24 + 4 * RECENT;

    /// The random state and the last tokens, without the options: magic, random state (u64), number of tokens (u32),
    /// CRC-32 of all the rest, tokens from the oldest on (u32), little-endian.
    pub fn save(&self) -> [u8; Self::STATE] {
        let mut out = [0; Self::STATE];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.state.to_le_bytes());
        out[16..20].copy_from_slice(&(self.recent.len() as u32).to_le_bytes());
        for (bytes, id) in out[24..].as_chunks_mut::<4>().0.iter_mut().zip(self.recent.oldest_ordered()) {
            *bytes = id.to_le_bytes();
        }
        let crc = crc32(&out, 0);
        out[20..24].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Restores a state that [`Sampler::save`] made: with the same options, the next tokens are those that the saved
    /// sampler would have chosen.
    ///
    /// # Errors
    /// [`Error::BadState`], with the sampler unchanged.
    pub fn load(&mut self, state: &[u8]) -> Result<(), Error> {
        let state: &[u8; Self::STATE] =
            state.get(..Self::STATE).and_then(|s| s.try_into().ok()).ok_or(Error::BadState("it is cut off"))?;
        let mut cleared = *state;
        cleared[20..24].fill(0);
        let word = |at: usize| u32::from_le_bytes([state[at], state[at + 1], state[at + 2], state[at + 3]]);
        let count = word(16) as usize;
        if state[..8] != *MAGIC || crc32(&cleared, 0) != word(20) || count > RECENT {
            return Err(Error::BadState("it is not a sampler's, or damaged"));
        }
        self.state = u64::from(word(8)) | u64::from(word(12)) << 32;
        self.recent = HistoryBuf::new();
        (0..count).for_each(|i| self.recent.write(word(24 + 4 * i)));
        Ok(())
    }

    /// Remembers a token of the prompt or of the answer, for penalties.
    pub fn accept(&mut self, id: u32) {
        self.recent.write(id);
    }

    /// Chooses a token; `scratch` needs as many candidates as there are logits.
    ///
    /// # Errors
    /// [`Error::NoTokens`] without logits, [`Error::MemoryTooSmall`] when `scratch` is too short.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut [Candidate]) -> Result<u32, Error> {
        self.sample_adjusted(logits, scratch, &mut |_| {})
    }

    /// [`Sampler::sample`] after a change of scores. `adjust` gets a candidate for each token, in the order of ids, with its
    /// logit as score; minus infinity rules one out.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn sample_adjusted(
        &mut self,
        logits: &[f32],
        scratch: &mut [Candidate],
        adjust: &mut dyn FnMut(&mut [Candidate]),
    ) -> Result<u32, Error> {
        if logits.is_empty() {
            return Err(Error::NoTokens);
        }
        let (needed, given) = (logits.len(), scratch.len());
        let list = scratch.get_mut(..needed).ok_or(Error::MemoryTooSmall { needed, given })?;
        for (i, (slot, logit)) in list.iter_mut().zip(logits).enumerate() {
            // A NaN is never chosen.
            let score = if logit.is_nan() { f32::NEG_INFINITY } else { *logit };
            *slot = Candidate { id: i as u32, score };
        }
        adjust(list);
        self.penalize(list);
        if self.options.temperature == 0.0 {
            return Ok(likeliest(list));
        }
        let kept = self.keep(list);
        Ok(self.draw(&list[..kept]))
    }

    fn penalize(&self, list: &mut [Candidate]) {
        let SamplerOptions { repetition_penalty: penalty, presence_penalty, frequency_penalty, .. } = self.options;
        if penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
            return;
        }
        let recent = self.recent.as_slice();
        for (i, id) in recent.iter().enumerate() {
            // The penalty applies once per distinct token.
            if recent[..i].contains(id) {
                continue;
            }
            if let Some(c) = list.get_mut(*id as usize) {
                let times = recent[i..].iter().filter(|other| *other == id).count() as f32;
                c.score = if c.score > 0.0 { c.score / penalty } else { c.score * penalty };
                c.score -= presence_penalty + frequency_penalty * times;
            }
        }
    }

    /// Moves the kept candidates to the front, likeliest first, with unnormalised probabilities as scores, and returns
    /// their number.
    fn keep(&self, list: &mut [Candidate]) -> usize {
        let o = &self.options;
        let by_score = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id));
        let mut kept = if o.top_k == 0 { list.len() } else { o.top_k.min(list.len()) };
        if kept < list.len() {
            list.select_nth_unstable_by(kept, by_score);
        }
        list[..kept].sort_unstable_by(by_score);
        let top = list[0].score;
        for c in &mut list[..kept] {
            // Equal scores may both be infinite, and their difference NaN.
            let d = if c.score == top { 0.0 } else { c.score - top };
            c.score = libm::expf(d / o.temperature);
        }
        if o.min_p > 0.0 {
            kept = list[..kept].iter().take_while(|c| c.score >= o.min_p).count();
        }
        if o.top_p < 1.0 {
            let enough = o.top_p * list[..kept].iter().map(|c| c.score).sum::<f32>();
            let mut sum = 0.0;
            let before = list[..kept].iter().take_while(|c| {
                let more = sum < enough;
                sum += c.score;
                more
            });
            kept = before.count();
        }
        kept.max(1)
    }

    fn draw(&mut self, kept: &[Candidate]) -> u32 {
        let total: f32 = kept.iter().map(|c| c.score).sum();
        let mut left = random::uniform(&mut self.state) * total;
        for c in kept {
            left -= c.score;
            if left < 0.0 {
                return c.id;
            }
        }
        kept[0].id
    }
}

/// Id of the largest score, the first among equals.
fn likeliest(list: &[Candidate]) -> u32 {
    list.iter().fold(list[0], |best, c| if c.score > best.score { *c } else { best }).id
}
