//! Which parts of a model a token reads.

use crate::arena::Arena;
use crate::error::Error;

/// Sorted lists of indices below a bound, one a layer.
struct Lists<'m> {
    /// [layers, width]; the first `counts[layer]` indices of a layer are its list.
    items: &'m mut [u32],
    counts: &'m mut [u32],
    width: usize,
}

impl<'m> Lists<'m> {
    fn new(arena: &mut Arena<'m>, layers: usize, width: usize) -> Result<Self, Error> {
        Ok(Lists { items: arena.zeros(layers * width)?, counts: arena.zeros(layers)?, width })
    }

    fn get(&self, layer: usize) -> Option<&[u32]> {
        let n = *self.counts.get(layer)? as usize;
        (n < self.width).then(|| &self.items[layer * self.width..layer * self.width + n])
    }

    /// Makes a layer's list: the indices for which `chosen` is true.
    fn fill(&mut self, layer: usize, mut chosen: impl FnMut(usize) -> bool) {
        let row = &mut self.items[layer * self.width..(layer + 1) * self.width];
        let mut n = 0;
        for i in 0..self.width {
            row[n] = i as u32;
            n += usize::from(chosen(i));
        }
        self.counts[layer] = n as u32;
    }

    /// Whether each index of each layer is in its list, layer by layer.
    fn flags(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.counts.len()).flat_map(move |layer| {
            let list = self.get(layer);
            (0..self.width).map(move |i| list.is_none_or(|list| list.binary_search(&(i as u32)).is_ok()))
        })
    }

    /// Makes the lists that [`Lists::flags`] was taken from.
    fn set_flags(&mut self, flags: &mut dyn Iterator<Item = bool>) {
        (0..self.counts.len()).for_each(|layer| self.fill(layer, |_| flags.next().unwrap_or(true)));
    }
}

/// Which heads and groups of neurons each layer reads: all of them, to begin with.
pub struct Units<'m> {
    heads: Lists<'m>,
    neurons: Lists<'m>,
}

impl<'m> Units<'m> {
    /// All heads and groups of neurons of every layer.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub(crate) fn new(arena: &mut Arena<'m>, layers: usize, heads: usize, groups: usize) -> Result<Self, Error> {
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

    /// Makes those heads of a layer active for which `chosen(head)` is true.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn choose_heads(&mut self, layer: usize, chosen: impl FnMut(usize) -> bool) {
        self.heads.fill(layer, chosen);
    }

    /// Makes those groups of neurons of a layer active for which `chosen(group)` is true.
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

    /// Makes the choice that [`Units::flags`] was taken from.
    pub(crate) fn set_flags(&mut self, flags: &mut dyn Iterator<Item = bool>) {
        self.heads.set_flags(flags);
        self.neurons.set_flags(flags);
    }
}
