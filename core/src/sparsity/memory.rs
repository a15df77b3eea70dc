//! What choosers remember from token to token; nothing else of [`super::State`] outlives a token.
//!
//! A snapshot is a sequence of 32-bit words. Its first part (statistics) can be used under any dial, the rest (current
//! choices, thresholds, the random state) only under the dial at the time of the snapshot.

use super::observed::Observed;
use super::slot::Slot;
use crate::active::Units;
use crate::arena::Arena;
use crate::error::Error;
use crate::image::{Config, LayerShape};

/// The data of choosers that outlives a token.
pub struct Memory<'m> {
    /// [layers, heads]: sums of the heads' norms over the tokens read.
    pub head_statistics: &'m mut [f32],
    /// [layers, groups]: sums of the importance of groups of neurons over the tokens read.
    pub neuron_statistics: &'m mut [f32],
    /// Histograms of inputs, in images that store maps by input.
    pub observed: Option<Observed<'m>>,
    /// [layers, [`Slot::COUNT`]]: the least scores or magnitudes that are read.
    pub thresholds: &'m mut [f32],
    /// The heads and neurons that are read; a choice may last for several tokens.
    pub units: Units<'m>,
    /// Tokens decoded since the last prefill.
    pub decoded: usize,
    /// State of the random numbers.
    pub random: u64,
}

impl<'m> Memory<'m> {
    /// The memory of a new session: no statistics, everything is read.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn new(arena: &mut Arena<'m>, c: &Config, shape: impl Fn(usize) -> LayerShape) -> Result<Self, Error> {
        let groups = c.neuron_groups();
        let observed = match c.attention_by_input || c.ffn_by_input {
            true => Some(Observed::new(arena, c.layers)?),
            false => None,
        };
        Ok(Memory {
            head_statistics: arena.rows(c.layers, c.heads)?,
            neuron_statistics: arena.rows(c.layers, groups)?,
            observed,
            thresholds: arena.rows(c.layers, Slot::COUNT)?,
            units: Units::new(arena, c.layers, |layer| shape(layer).heads, |layer| shape(layer).groups())?,
            decoded: 0,
            random: 0,
        })
    }

    /// Forgets all tokens: the next choice is made as by a session that has read none.
    pub fn forget(&mut self, seed: u64) {
        self.head_statistics.fill(0.0);
        self.neuron_statistics.fill(0.0);
        if let Some(observed) = &mut self.observed {
            observed.counts.fill(0);
        }
        (self.decoded, self.random) = (0, seed);
    }

    fn counts(&self) -> &[u32] {
        self.observed.as_ref().map_or(&[], |o| o.counts)
    }

    /// Words of a snapshot.
    pub fn snapshot_len(&self) -> usize {
        let statistics = self.head_statistics.len() + self.neuron_statistics.len();
        let flags = self.units.flags().count();
        statistics + self.counts().len() + 3 + self.thresholds.len() + flags.div_ceil(32)
    }

    /// All words: first statistics, then those that only the same dial can use.
    pub fn snapshot(&self) -> impl Iterator<Item = u32> + '_ {
        let statistics = self.head_statistics.iter().chain(&*self.neuron_statistics).map(|x| x.to_bits());
        let scalars = [self.decoded as u32, self.random as u32, (self.random >> 32) as u32];
        let thresholds = self.thresholds.iter().map(|x| x.to_bits());
        statistics.chain(self.counts().iter().copied()).chain(scalars).chain(thresholds).chain(self.flags())
    }

    /// Whether each unit is active, 32 a word.
    fn flags(&self) -> impl Iterator<Item = u32> + '_ {
        let mut flags = self.units.flags().peekable();
        core::iter::from_fn(move || {
            flags.peek()?;
            Some(flags.by_ref().take(32).enumerate().fold(0, |word, (i, flag)| word | u32::from(flag) << i))
        })
    }

    /// Restores a snapshot of the same model. Under another dial than the snapshot's (`same_dial` false) only its
    /// statistics are restored, and the next choice is a new one.
    pub fn restore(&mut self, words: &mut dyn Iterator<Item = u32>, same_dial: bool, seed: u64) {
        let statistics = self.head_statistics.iter_mut().chain(self.neuron_statistics.iter_mut());
        statistics.zip(&mut *words).for_each(|(x, word)| *x = f32::from_bits(word));
        if let Some(observed) = &mut self.observed {
            observed.counts.iter_mut().zip(&mut *words).for_each(|(count, word)| *count = word);
        }
        if !same_dial {
            (self.decoded, self.random) = (0, seed);
            return;
        }
        let mut next = || words.next().unwrap_or(0);
        self.decoded = next() as usize;
        self.random = u64::from(next()) | u64::from(next()) << 32;
        self.thresholds.iter_mut().for_each(|x| *x = f32::from_bits(next()));
        let mut flags = words.flat_map(|word| (0..32).map(move |i| word >> i & 1 == 1));
        self.units.set_flags(&mut flags);
    }
}
