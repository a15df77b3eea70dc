//! The section's bytes: read, checked and written.

use super::norms::{Norm, Norming};
use super::{Block, Globals, Layer, MAX_BLOCKS, MAX_KINDS};
use crate::error::Error;
use crate::image::roles::{Place, Role, Scope};
use crate::image::words::{Codec, Words};

/// Words of the section's first part, the globals.
const GLOBAL_WORDS: usize = 32;
/// Words of a kind before its blocks.
const KIND_WORDS: usize = 4;
/// Words of a block.
const BLOCK_WORDS: usize = 32;

/// The description of a model, in the image's bytes.
#[derive(Clone, Copy)]
pub struct Architecture<'a> {
    globals: Globals,
    /// [kinds], each of [`KIND_WORDS`] and [`MAX_BLOCKS`] blocks.
    kinds: &'a [u8],
    /// The kind of every layer, `[layers]`.
    kind_of: &'a [u8],
}

/// Bytes of one kind with all its blocks.
const KIND_LEN: usize = 4 * (KIND_WORDS + MAX_BLOCKS * BLOCK_WORDS);

impl<'a> Architecture<'a> {
    /// Reads and checks the section.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the field that is wrong.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Error> {
        let short = Error::Malformed("the architecture is too short");
        let (head, rest) = raw.split_at_checked(4 * GLOBAL_WORDS).ok_or(short)?;
        let mut words = Words::read(head);
        let mut globals = Globals::NONE;
        let mut kinds = 0;
        globals.words(&mut words);
        words.count(&mut kinds);
        words.flag(&mut globals.bounded);
        words.end()?;
        globals.check()?;
        if kinds == 0 || kinds > MAX_KINDS {
            return Err(Error::Malformed("kinds of layers"));
        }
        let (kinds, kind_of) = rest.split_at_checked(kinds * KIND_LEN).ok_or(short)?;
        let kind_of = kind_of.get(..globals.layers).ok_or(short)?;
        let this = Architecture { globals, kinds, kind_of };
        for raw in kinds.chunks_exact(KIND_LEN) {
            read_layer(raw)?.check(&globals)?;
        }
        for table in 0..globals.ropes {
            let mut widths =
                this.kinds().filter_map(|l| l.attention().filter(|a| a.rope == Some(table)).map(|a| a.head_dim));
            let first = widths.next();
            if first.is_none() || widths.any(|w| Some(w) != first) {
                return Err(Error::Malformed("rope (a table for no heads, or for heads of two widths)"));
            }
        }
        match kind_of.iter().any(|k| *k as usize >= kinds.len() / KIND_LEN) {
            true => Err(Error::Malformed("a layer's kind")),
            false => Ok(this),
        }
    }

    /// The properties of the model that do not belong to a layer.
    pub fn globals(&self) -> &Globals {
        &self.globals
    }

    /// Kinds of layers.
    pub fn kinds(&self) -> impl Iterator<Item = Layer> + 'a {
        self.kinds.chunks_exact(KIND_LEN).filter_map(|raw| read_layer(raw).ok())
    }

    /// Number of a layer's kind.
    pub fn kind_of(&self, layer: usize) -> Option<usize> {
        self.kind_of.get(layer).map(|k| usize::from(*k))
    }

    /// The blocks of a layer; none when there is no such layer.
    pub fn layer(&self, layer: usize) -> Layer {
        let raw = self.kind_of(layer).and_then(|k| self.kinds.get(k * KIND_LEN..(k + 1) * KIND_LEN));
        raw.and_then(|raw| read_layer(raw).ok()).unwrap_or_default()
    }
}

impl Architecture<'_> {
    /// The part of the model that has a tensor; `None` when the layer has no such block. `table` is the number of the
    /// table of rotary frequencies, for a tensor of such a table.
    pub fn place<'l>(&'l self, role: Role, layer: &'l Layer, table: usize) -> Option<Place<'l>> {
        let place = Place { globals: &self.globals, block: None, rotated: 0 };
        match role.row().scope {
            Scope::Model => Some(place),
            Scope::Rope => {
                let heads = |layer: Layer| layer.attention().filter(|a| a.rope == Some(table)).map(|a| a.head_dim);
                self.kinds().find_map(heads).map(|rotated| Place { rotated, ..place })
            }
            Scope::Attention | Scope::Mlp => role.block(layer).map(|block| Place { block: Some(block), ..place }),
        }
    }

    /// Whether any norm (of a block, or before the output matrix) is of this kind.
    pub fn has_norm(&self, kind: Norming) -> bool {
        let is = |norm: &Option<Norm>| norm.is_some_and(|n| n.kind == kind);
        for layer in self.kinds() {
            for block in layer.blocks() {
                let norms = &block.norms;
                if is(&norms.input) || is(&norms.output) || is(&norms.stream) {
                    return true;
                }
            }
        }
        is(&self.globals.final_norm)
    }

    /// Positions that a token can attend to in a layer, its own included; `usize::MAX` for all.
    pub fn window(&self, layer: usize) -> usize {
        match self.layer(layer).attention().map_or(0, |a| a.window) {
            0 => usize::MAX,
            window => window,
        }
    }
}

/// Writes the section word by word to `put`.
///
/// # Errors
/// [`Error::Malformed`] for a description that [`Architecture::parse`] would refuse.
pub fn write(globals: &Globals, kinds: &[Layer], kind_of: &[u8], put: &mut dyn FnMut(u8)) -> Result<(), Error> {
    globals.check()?;
    if kind_of.len() != globals.layers || kind_of.iter().any(|k| *k as usize >= kinds.len()) {
        return Err(Error::Malformed("a layer's kind"));
    }
    if kinds.is_empty() || kinds.len() > MAX_KINDS {
        return Err(Error::Malformed("kinds of layers"));
    }
    let mut words = Words::write(put);
    let (mut globals, mut count) = (*globals, kinds.len());
    globals.words(&mut words);
    words.count(&mut count);
    words.flag(&mut globals.bounded);
    words.pad(GLOBAL_WORDS);
    for layer in kinds {
        let mut layer = *layer;
        layer.check(&globals)?;
        words.restart();
        let mut blocks = layer.blocks().count();
        words.count(&mut blocks);
        words.flag(&mut layer.parallel);
        words.pad(KIND_WORDS);
        for i in 0..MAX_BLOCKS {
            words.restart();
            if let Some(mut block) = layer.blocks[i] {
                block.words(&mut words);
            }
            words.pad(BLOCK_WORDS);
        }
    }
    kind_of.iter().for_each(|k| words.byte(*k));
    Ok(())
}

fn read_layer(raw: &[u8]) -> Result<Layer, Error> {
    let bad = Error::Malformed("blocks of a layer");
    let (head, rest) = raw.split_at_checked(4 * KIND_WORDS).ok_or(bad)?;
    let (mut layer, mut blocks) = (Layer::default(), 0);
    let mut words = Words::read(head);
    words.count(&mut blocks);
    words.flag(&mut layer.parallel);
    words.end()?;
    if blocks == 0 || blocks > MAX_BLOCKS {
        return Err(bad);
    }
    for (slot, raw) in layer.blocks.iter_mut().zip(rest.chunks_exact(4 * BLOCK_WORDS)).take(blocks) {
        let mut words = Words::read(raw);
        let mut block = Block::NONE;
        block.words(&mut words);
        words.end()?;
        *slot = Some(block);
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::super::{Attention, Globals, Mlp, Norm, Norming, Norms, Op, Positions};
    use super::*;

    /// A section of one layer, and its length.
    fn section() -> ([u8; 1024], usize) {
        let globals = Globals {
            d_model: 32,
            d_embed: 32,
            layers: 1,
            vocab: 8,
            max_positions: 16,
            positions: Positions::Learned,
            final_norm: Some(Norm { kind: Norming::Rms, eps: 1e-5 }),
            ..Globals::NONE
        };
        let norms = Norms { input: globals.final_norm, ..Norms::default() };
        let attention = Attention { heads: 2, kv_heads: 1, head_dim: 16, scale: 0.25, ..Attention::NONE };
        let mlp = Mlp { neurons: 64, group: 1, ..Mlp::NONE };
        let blocks = [Op::Attention(attention), Op::Mlp(mlp)].map(|op| Block { norms, op });
        let (mut bytes, mut len) = ([0; 1024], 0);
        let put = &mut |byte| {
            bytes[len] = byte;
            len += 1;
        };
        write(&globals, &[Layer::of(&blocks)], &[0], put).unwrap();
        (bytes, len)
    }

    /// Every word that is a code or unused, with a value that no version has written.
    #[test]
    fn unknown_codes_are_refused() {
        let (bytes, len) = section();
        assert_eq!(Architecture::parse(&bytes[..len]).unwrap().layer(0).attention().unwrap().heads, 2);
        let block = |block: usize, word: usize| GLOBAL_WORDS + KIND_WORDS + block * BLOCK_WORDS + word;
        // The words for positions, the final norm and the bound, and one after the last; those for operations, norms, the norm of
        // heads and the activation, and some after the last.
        let words = [
            5,
            10,
            23,
            31,
            block(0, 0),
            block(0, 1),
            block(0, 12),
            block(0, 31),
            block(1, 3),
            block(1, 9),
            block(1, 31),
        ];
        for word in words {
            let mut bytes = bytes;
            bytes[4 * word] = 77;
            assert!(Architecture::parse(&bytes[..len]).is_err(), "word {word}");
        }
    }
}
