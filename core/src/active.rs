//! The parts of a model that are read for a token.

use crate::arena::Arena;
use crate::error::Error;
use core::ops::Range;

/// Sorted lists of indices below a bound, one for each layer.
struct Lists<'m> {
    /// The items of all layers, in order; the first `counts[layer]` items of a layer are its list.
    items: &'m mut [u32],
    counts: &'m mut [u32],
    /// Where each layer's items begin, and where the last layer's end.
    starts: &'m [u32],
}

impl<'m> Lists<'m> {
    /// `bound(layer)` is the number of indices of a layer.
    fn new(arena: &mut Arena<'m>, layers: usize, bound: impl Fn(usize) -> usize) -> Result<Self, Error> {
        let mut all: usize = 0;
        let starts = arena.fill(layers + 1, |layer| {
            let start = all;
            all = all.saturating_add(if layer < layers { bound(layer) } else { 0 });
            Ok(start as u32)
        })?;
        let all = (0..layers).map(bound).fold(0, usize::saturating_add);
        Ok(Lists { items: arena.zeros(all)?, counts: arena.zeros(layers)?, starts })
    }

    fn part(&self, layer: usize) -> Range<usize> {
        self.starts[layer] as usize..self.starts[layer + 1] as usize
    }

    fn get(&self, layer: usize) -> Option<&[u32]> {
        let n = *self.counts.get(layer)? as usize;
        let all = &self.items[self.part(layer)];
        (n < all.len()).then(|| &all[..n])
    }

    /// Makes a layer's list: the indices for which `chosen` is true.
    fn fill(&mut self, layer: usize, mut chosen: impl FnMut(usize) -> bool) {
        let part = self.part(layer);
        let row = &mut self.items[part];
        let mut n = 0;
        for i in 0..row.len() {
            row[n] = i as u32;
            n += usize::from(chosen(i));
        }
        self.counts[layer] = n as u32;
    }

    /// Whether each index of each layer is in its list, layer by layer.
    fn flags(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.counts.len()).flat_map(move |layer| {
            let list = self.get(layer);
            (0..self.part(layer).len()).map(move |i| list.is_none_or(|list| list.binary_search(&(i as u32)).is_ok()))
        })
    }

    /// Sets the lists to those that [`Lists::flags`] described.
    fn set_flags(&mut self, flags: &mut dyn Iterator<Item = bool>) {
        (0..self.counts.len()).for_each(|layer| self.fill(layer, |_| flags.next().unwrap_or(true)));
    }
}

/// The heads and groups of neurons that are read in each layer; in the beginning all of them.
pub struct Units<'m> {
    heads: Lists<'m>,
    neurons: Lists<'m>,
}

impl<'m> Units<'m> {
    /// All heads and groups of neurons of every layer; `heads(layer)` and `groups(layer)` are their numbers.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub(crate) fn new(
        arena: &mut Arena<'m>,
        layers: usize,
        heads: impl Fn(usize) -> usize,
        groups: impl Fn(usize) -> usize,
    ) -> Result<Self, Error> {
        let mut units = Units { heads: Lists::new(arena, layers, heads)?, neurons: Lists::new(arena, layers, groups)? };
        if !arena.measures() {
            units.set_all();
        }
        Ok(units)
    }

    /// Query heads of a layer in order, `None` for all.
    pub fn heads(&self, layer: usize) -> Option<&[u32]> {
        self.heads.get(layer)
    }

    /// Groups of neurons of a layer in order, `None` for all.
    pub fn neurons(&self, layer: usize) -> Option<&[u32]> {
        self.neurons.get(layer)
    }

    /// Makes everything active.
    pub fn set_all(&mut self) {
        for layer in 0..self.heads.counts.len() {
            self.choose_heads(layer, |_| true);
            self.choose_neurons(layer, |_| true);
        }
    }

    /// Makes the heads of a layer active for which `chosen(head)` is true, and no others.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn choose_heads(&mut self, layer: usize, chosen: impl FnMut(usize) -> bool) {
        self.heads.fill(layer, chosen);
    }

    /// Makes the groups of neurons of a layer active for which `chosen(group)` is true, and no others.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn choose_neurons(&mut self, layer: usize, chosen: impl FnMut(usize) -> bool) {
        self.neurons.fill(layer, chosen);
    }

    /// Whether each unit is active: all heads, then all groups of neurons, layer by layer.
    pub(crate) fn flags(&self) -> impl Iterator<Item = bool> + '_ {
        self.heads.flags().chain(self.neurons.flags())
    }

    /// Sets the choice to the one that [`Units::flags`] described.
    pub(crate) fn set_flags(&mut self, flags: &mut dyn Iterator<Item = bool>) {
        self.heads.set_flags(flags);
        self.neurons.set_flags(flags);
    }
}
