//! A layer: blocks of an operation and the norms around it.

use super::rules::first_wrong;
use super::{Attention, Globals, MAX_BLOCKS, Mlp, Norms};
use crate::error::Error;
use crate::image::words::{Codec, coded};

coded! {
    /// The code of a block's operation.
    enum Operation {
        /// [`Attention`].
        Attention = 1,
        /// [`Mlp`].
        Mlp = 2,
    }
}

/// The operation of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Attention.
    Attention(Attention),
    /// A feed-forward network.
    Mlp(Mlp),
}

/// A step of a layer: norms around an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// The norms.
    pub norms: Norms,
    /// The operation.
    pub op: Op,
}

/// A kind of layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Layer {
    /// Its blocks, in order; the entries after the last block are `None`.
    pub blocks: [Option<Block>; MAX_BLOCKS],
    /// Whether all blocks read the layer's input, and not the output of the block before.
    pub parallel: bool,
}

impl Block {
    pub(super) const NONE: Block =
        Block { norms: Norms { input: None, output: None, stream: None }, op: Op::Mlp(Mlp::NONE) };

    pub(super) fn words(&mut self, w: &mut impl Codec) {
        let mut operation = match self.op {
            Op::Attention(_) => Operation::Attention,
            Op::Mlp(_) => Operation::Mlp,
        };
        w.code(&mut operation);
        self.norms.words(w);
        match (&mut self.op, operation) {
            (Op::Attention(a), Operation::Attention) => a.words(w),
            (Op::Mlp(m), Operation::Mlp) => m.words(w),
            (op, Operation::Attention) => {
                let mut a = Attention::NONE;
                a.words(w);
                *op = Op::Attention(a);
            }
            (op, Operation::Mlp) => {
                let mut m = Mlp::NONE;
                m.words(w);
                *op = Op::Mlp(m);
            }
        }
    }
}

impl Layer {
    /// A layer of these blocks, one after the other.
    pub fn of(blocks: &[Block]) -> Layer {
        let mut layer = Layer::default();
        layer.blocks.iter_mut().zip(blocks).for_each(|(slot, block)| *slot = Some(*block));
        layer
    }

    /// Its blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().flatten()
    }

    /// Its attention, where it has one.
    pub fn attention(&self) -> Option<&Attention> {
        self.blocks().find_map(|b| if let Op::Attention(a) = &b.op { Some(a) } else { None })
    }

    /// Its feed-forward network, where it has one.
    pub fn mlp(&self) -> Option<&Mlp> {
        self.blocks().find_map(|b| if let Op::Mlp(m) = &b.op { Some(m) } else { None })
    }

    pub(super) fn check(&self, globals: &Globals) -> Result<(), Error> {
        let of = |op: fn(&Op) -> bool| self.blocks().filter(|b| op(&b.op)).count();
        // A tensor is found by its layer and its role, so a layer can have each operation only once.
        if of(|op| matches!(op, Op::Attention(_))) > 1 || of(|op| matches!(op, Op::Mlp(_))) > 1 {
            return Err(Error::Malformed("a layer has two blocks of the same operation"));
        }
        for block in self.blocks() {
            first_wrong(&[(block.norms.fit(), "norm_eps")])?;
            match &block.op {
                Op::Attention(a) => a.check(globals)?,
                Op::Mlp(m) => m.check()?,
            }
        }
        Ok(())
    }
}
