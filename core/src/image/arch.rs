//! The architecture of a model, as data: what `forward` walks through, so that a family is a description and not a
//! branch. `FORMAT.md` beside this file is the specification of its bytes.
//!
//! ```text
//!   x = embedding * embed_scale (+ position)
//!   for every layer, for every block of its kind:
//!       x = stream(x + output(operation(input(x))))        each norm optional
//!   logits = cap(output matrix * final(x) * logit_scale)
//! ```
//! A *kind* is a layer's list of blocks; every layer names its kind. In a parallel kind all blocks read the `x` that the
//! layer began with. Llama has an input norm in each block, OPT-350m a stream norm, Gemma 2 input and output norms,
//! OLMo 2 output norms.

use super::roles::{Place, Role, Scope};
use super::words::{Codec, Words, coded};
use crate::error::Error;
use crate::format::BLOCK;
use crate::kernels::{Activate, Activation};

/// End-of-sequence tokens at most.
pub const MAX_EOS: usize = 8;
/// Layers at most.
pub const MAX_LAYERS: usize = 4096;
/// Kinds of layers at most.
pub const MAX_KINDS: usize = 8;
/// Blocks of a layer at most.
pub const MAX_BLOCKS: usize = 4;
/// Tables of rotary frequencies at most.
pub const MAX_ROPES: usize = 4;
/// Width of a head at most.
pub const MAX_HEAD_DIM: usize = 1024;

/// Words of the section's first part.
const GLOBAL_WORDS: usize = 32;
/// Words of a kind before its blocks.
const KIND_WORDS: usize = 4;
/// Words of a block.
const BLOCK_WORDS: usize = 32;

coded! {
    /// Which normalisation.
    Norming {
        /// Root mean square, a weight.
        Rms = 1,
        /// Mean and variance, a weight and a bias.
        Layer = 2,
    }
    /// How positions enter.
    Positions {
        /// Rotation of query and key halves, by a table of inverse frequencies per block of attention.
        Rope = 0,
        /// Learned embeddings, added to the tokens'.
        Learned = 1,
    }
    /// RMS norm of queries and keys before their rotation.
    HeadNorm {
        /// None.
        None = 0,
        /// Of each head, one weight of `head_dim` for all.
        PerHead = 1,
        /// Of all heads together, a weight of `heads * head_dim`.
        Whole = 2,
    }
    /// What turns a router's outputs into the shares of the experts.
    Scoring {
        /// Soft-max over all experts, then the largest are chosen.
        Softmax = 0,
        /// A sigmoid of each expert's output.
        Sigmoid = 1,
        /// The largest are chosen, then soft-max over these.
        SoftmaxOfChosen = 2,
    }
    /// What a block does.
    enum Operation {
        /// [`Attention`].
        Attention = 1,
        /// [`Mlp`].
        Mlp = 2,
    }
}

/// A normalisation and its epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: Norming,
    /// What is added to the mean of squares, or to the variance.
    pub eps: f32,
}

/// The norms around a block's operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of what the operation reads.
    pub input: Option<Norm>,
    /// Of what it returns, before it is added to the residual stream.
    pub output: Option<Norm>,
    /// Of the residual stream after the addition.
    pub stream: Option<Norm>,
}

/// Causal self-attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that a token looks back, itself counted; 0 for all.
    pub window: usize,
    /// Table of rotary frequencies, `None` where heads are not rotated.
    pub rope: Option<usize>,
    /// Norm of queries and keys.
    pub head_norm: HeadNorm,
    /// Its epsilon.
    pub head_norm_eps: f32,
    /// Factor of the scores, commonly 1 / sqrt(head_dim).
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; 0 for none.
    pub cap: f32,
    /// Whether every head has a learned score that takes part in the soft-max and has no value.
    pub sinks: bool,
    /// Whether Q, K and V have biases, and whether O has one.
    pub biases: [bool; 2],
    /// Whether Q, K, V and O are stored by input, so that single inputs may be skipped.
    pub by_input: bool,
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Experts.
    pub experts: usize,
    /// Experts that a token uses.
    pub used: usize,
    /// From outputs to shares.
    pub scoring: Scoring,
    /// Whether the shares of the chosen experts are scaled to a sum of 1.
    pub renormalise: bool,
    /// Factor of the shares.
    pub scale: f32,
    /// Whether the outputs have a bias that counts in the choice alone.
    pub bias: bool,
    /// Neurons of the expert that every token uses; 0 for none.
    pub shared: usize,
    /// Whether the shared expert's output has a sigmoid gate of its own.
    pub shared_gate: bool,
    /// Whether the router reads the layer's input in place of the block's.
    pub early: bool,
}

/// A feed-forward network, or a mixture of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mlp {
    /// Neurons (of one expert, where there are experts).
    pub neurons: usize,
    /// Whether a gate multiplies the neurons.
    pub gated: bool,
    /// Activation of the gate, or of the neurons where there is none.
    pub activation: Activation,
    /// Its parameter (a threshold, a slope); 0 where it has none.
    pub parameter: f32,
    /// Its bound ([`Activation::ClampedSwiglu`]); 0 for none.
    pub clamp: f32,
    /// Whether gate and up have biases, and whether down has one.
    pub biases: [bool; 2],
    /// Neurons per group, the fewest that are skipped together: 1, 4, 8, 16 or 32.
    pub group: usize,
    /// Whether gate, up and down are stored by input.
    pub by_input: bool,
    /// Present where there are experts.
    pub router: Option<Router>,
}

/// What a block does.
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
    /// Its blocks, in order, the first ones filled.
    pub blocks: [Option<Block>; MAX_BLOCKS],
    /// Whether all blocks read what the layer began with.
    pub parallel: bool,
}

/// What a model has once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Globals {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the token embeddings (differs from `d_model` where they are projected).
    pub d_embed: usize,
    /// Layers.
    pub layers: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub max_positions: usize,
    /// How positions enter.
    pub positions: Positions,
    /// Tables of rotary frequencies.
    pub ropes: usize,
    /// Factor of the token embeddings.
    pub embed_scale: f32,
    /// Factor of the logits.
    pub logit_scale: f32,
    /// Logits become `cap * tanh(logit / cap)`; 0 for none.
    pub logit_cap: f32,
    /// Norm before the output matrix.
    pub final_norm: Option<Norm>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, the first `eos_len` of them filled.
    pub eos: [u32; MAX_EOS],
    /// How many are filled.
    pub eos_len: usize,
}

/// The description of a model, in the image's bytes.
#[derive(Clone, Copy)]
pub struct Architecture<'a> {
    globals: Globals,
    /// [kinds], each of [`KIND_WORDS`] and [`MAX_BLOCKS`] blocks.
    kinds: &'a [u8],
    /// The kind of every layer, `[layers]`.
    kind_of: &'a [u8],
}

/// Bytes of a kind.
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

    /// What the model has once.
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
    /// What decides about a tensor: the block that has it, `None` when the layer has no such block. `table` is the
    /// number of the table, for rotary frequencies.
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

    /// Whether a norm of the residual stream is of this kind.
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

    /// Positions that a token looks back in a layer, itself counted; `usize::MAX` for all.
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
/// What [`Architecture::parse`] would refuse.
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

impl Globals {
    /// Zeros, to be filled.
    pub const NONE: Globals = Globals {
        d_model: 0,
        d_embed: 0,
        layers: 0,
        vocab: 0,
        max_positions: 0,
        positions: Positions::Rope,
        ropes: 0,
        embed_scale: 1.0,
        logit_scale: 1.0,
        logit_cap: 0.0,
        final_norm: None,
        bos: None,
        eos: [0; MAX_EOS],
        eos_len: 0,
    };

    fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.d_model);
        w.count(&mut self.d_embed);
        w.count(&mut self.layers);
        w.count(&mut self.vocab);
        w.count(&mut self.max_positions);
        w.code(&mut self.positions);
        w.count(&mut self.ropes);
        w.number(&mut self.embed_scale);
        w.number(&mut self.logit_scale);
        w.number(&mut self.logit_cap);
        norm_words(&mut self.final_norm, w);
        let mut bos = self.bos.map_or(0, |id| id as usize + 1);
        w.count(&mut bos);
        self.bos = bos.checked_sub(1).map(|id| id as u32);
        w.count(&mut self.eos_len);
        for id in &mut self.eos {
            w.id(id);
        }
    }

    /// Whether the numbers can be a model's.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the field.
    pub fn check(&self) -> Result<(), Error> {
        let factor = |x: f32| x.is_finite() && x != 0.0;
        first_wrong(&[
            (small(self.d_model), "d_model"),
            (small(self.d_embed), "d_embed"),
            ((1..=MAX_LAYERS).contains(&self.layers), "layers"),
            ((1..=1 << 24).contains(&self.vocab), "vocab"),
            ((1..=1 << 26).contains(&self.max_positions), "max_positions"),
            (self.ropes <= MAX_ROPES, "ropes"),
            (factor(self.embed_scale), "embed_scale"),
            (factor(self.logit_scale), "logit_scale"),
            (magnitude(self.logit_cap), "logit_cap"),
            (eps_fits(&self.final_norm), "norm_eps"),
            (self.eos_len <= MAX_EOS, "eos"),
        ])
    }

    /// End-of-sequence tokens.
    pub fn eos(&self) -> &[u32] {
        self.eos.get(..self.eos_len).unwrap_or(&self.eos)
    }
}

impl Block {
    const NONE: Block = Block { norms: Norms { input: None, output: None, stream: None }, op: Op::Mlp(Mlp::NONE) };

    fn words(&mut self, w: &mut impl Codec) {
        let mut operation = match self.op {
            Op::Attention(_) => Operation::Attention,
            Op::Mlp(_) => Operation::Mlp,
        };
        w.code(&mut operation);
        for norm in [&mut self.norms.input, &mut self.norms.output, &mut self.norms.stream] {
            norm_words(norm, w);
        }
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

    fn check(&self, globals: &Globals) -> Result<(), Error> {
        let of = |op: fn(&Op) -> bool| self.blocks().filter(|b| op(&b.op)).count();
        // A tensor is found by its layer and its role: an operation stands once in a layer.
        if of(|op| matches!(op, Op::Attention(_))) > 1 || of(|op| matches!(op, Op::Mlp(_))) > 1 {
            return Err(Error::Malformed("a layer has two blocks of one operation"));
        }
        for block in self.blocks() {
            let norms = [&block.norms.input, &block.norms.output, &block.norms.stream];
            first_wrong(&[(norms.into_iter().all(eps_fits), "norm_eps")])?;
            match &block.op {
                Op::Attention(a) => a.check(globals)?,
                Op::Mlp(m) => m.check()?,
            }
        }
        Ok(())
    }
}

impl Attention {
    /// Width of one head in activation buffers: `head_dim` rounded up to 32, so that quantized blocks never straddle
    /// heads.
    pub const fn head_slot(&self) -> usize {
        self.head_dim.next_multiple_of(32)
    }

    /// Width of one head in the KV cache: `head_dim` rounded up to 16.
    pub const fn head_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Zeros, to be filled.
    pub const NONE: Attention = Attention {
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        window: 0,
        rope: None,
        head_norm: HeadNorm::None,
        head_norm_eps: 0.0,
        scale: 0.0,
        cap: 0.0,
        sinks: false,
        biases: [false; 2],
        by_input: false,
    };

    fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.heads);
        w.count(&mut self.kv_heads);
        w.count(&mut self.head_dim);
        w.count(&mut self.window);
        let mut rope = self.rope.map_or(0, |table| table + 1);
        w.count(&mut rope);
        self.rope = rope.checked_sub(1);
        w.code(&mut self.head_norm);
        w.number(&mut self.head_norm_eps);
        w.number(&mut self.scale);
        w.number(&mut self.cap);
        w.flag(&mut self.sinks);
        self.biases.iter_mut().for_each(|b| w.flag(b));
        w.flag(&mut self.by_input);
    }

    fn check(&self, globals: &Globals) -> Result<(), Error> {
        first_wrong(&[
            ((1..=4096).contains(&self.heads), "heads"),
            (self.kv_heads >= 1 && self.kv_heads <= self.heads, "kv_heads"),
            (self.kv_heads >= 1 && self.heads.is_multiple_of(self.kv_heads), "heads / kv_heads"),
            ((1..=MAX_HEAD_DIM).contains(&self.head_dim), "head_dim"),
            (self.rope.is_none() || self.head_dim.is_multiple_of(2), "head_dim (odd under RoPE)"),
            (self.rope.is_none_or(|table| table < globals.ropes), "rope"),
            (self.window <= 1 << 26, "window"),
            (magnitude(self.head_norm_eps), "head_norm_eps"),
            (self.scale.is_finite() && self.scale > 0.0, "attention scale"),
            (magnitude(self.cap), "attention cap"),
        ])
    }
}

impl Mlp {
    /// Neurons in activation buffers: rounded up to 32.
    pub const fn width(&self) -> usize {
        self.neurons.next_multiple_of(32)
    }

    /// The activation with its numbers.
    pub const fn activate(&self) -> Activate {
        Activate { kind: self.activation, parameter: self.parameter, clamp: self.clamp }
    }

    /// Zeros, to be filled.
    pub const NONE: Mlp = Mlp {
        neurons: 0,
        gated: false,
        activation: Activation::Silu,
        parameter: 0.0,
        clamp: 0.0,
        biases: [false; 2],
        group: 0,
        by_input: false,
        router: None,
    };

    fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.neurons);
        w.flag(&mut self.gated);
        w.code(&mut self.activation);
        w.number(&mut self.parameter);
        w.number(&mut self.clamp);
        self.biases.iter_mut().for_each(|b| w.flag(b));
        w.count(&mut self.group);
        w.flag(&mut self.by_input);
        let mut router = self.router.unwrap_or(Router::NONE);
        router.words(w);
        self.router = (router.experts > 0).then_some(router);
    }

    fn check(&self) -> Result<(), Error> {
        first_wrong(&[
            (small(self.neurons), "neurons"),
            (self.parameter.is_finite(), "activation's parameter"),
            (magnitude(self.clamp), "clamp"),
            (matches!(self.group, 1 | 4 | 8 | 16 | 32), "neuron_group (1, 4, 8, 16 or 32)"),
            (self.gated || self.activation != Activation::ClampedSwiglu, "activation (without a gate)"),
            ((self.clamp > 0.0) == (self.activation == Activation::ClampedSwiglu), "clamp (of another activation)"),
            (self.router.is_none() || self.group == BLOCK && !self.by_input, "experts that are not stored in blocks"),
        ])?;
        let Some(r) = &self.router else { return Ok(()) };
        first_wrong(&[
            ((1..=4096).contains(&r.experts), "experts"),
            (r.used >= 1 && r.used <= r.experts, "experts used"),
            (r.scale.is_finite() && r.scale != 0.0, "router scale"),
            (r.shared == 0 || small(r.shared), "shared expert"),
        ])
    }
}

impl Router {
    const NONE: Router = Router {
        experts: 0,
        used: 0,
        scoring: Scoring::Softmax,
        renormalise: false,
        scale: 0.0,
        bias: false,
        shared: 0,
        shared_gate: false,
        early: false,
    };

    fn words(&mut self, w: &mut impl Codec) {
        w.count(&mut self.experts);
        w.count(&mut self.used);
        w.code(&mut self.scoring);
        w.flag(&mut self.renormalise);
        w.number(&mut self.scale);
        w.flag(&mut self.bias);
        w.count(&mut self.shared);
        w.flag(&mut self.shared_gate);
        w.flag(&mut self.early);
    }
}

fn norm_words(norm: &mut Option<Norm>, w: &mut impl Codec) {
    let (mut there, mut value) = (norm.is_some(), norm.unwrap_or(Norm { kind: Norming::Rms, eps: 0.0 }));
    w.optional_code(&mut there, &mut value.kind);
    w.number(&mut value.eps);
    *norm = there.then_some(value);
}

/// Bounds far above any model keep products of three of them inside 64 bits.
fn small(n: usize) -> bool {
    (1..=1 << 20).contains(&n)
}

fn magnitude(x: f32) -> bool {
    x.is_finite() && x >= 0.0
}

fn eps_fits(norm: &Option<Norm>) -> bool {
    norm.is_none_or(|n| magnitude(n.eps))
}

/// Names the first field that does not hold.
fn first_wrong(fields: &[(bool, &'static str)]) -> Result<(), Error> {
    match fields.iter().find(|(holds, _)| !holds) {
        Some((_, name)) => Err(Error::Malformed(name)),
        None => Ok(()),
    }
}
