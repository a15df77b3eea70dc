//! The tensor table: one entry per tensor, those of a layer together, the same kinds in every layer.

use super::config::{Config, Norm, Positions};
use super::head::{u32_at, u64_at};
use crate::error::Error;
use crate::format::{BLOCK, Format, Geometry, Matrix, Order, TILE_ROWS};

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;
/// The `layer` of tensors outside the layers.
pub const GLOBAL: u16 = u16::MAX;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What a tensor is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $code),* }

        impl Kind {
            /// All kinds in the order of their codes; those below [`Kind::AttnNorm`] stand outside the layers.
            pub const ALL: [Kind; KINDS] = [$(Kind::$name),*];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => $text),* }
            }
        }
    };
}

const KINDS: usize = 29;
kinds! {
    /// Token embeddings, [vocab, d_embed].
    Embed = 0, "embed";
    /// Learned positions as one vector, [positions + offset, d_model]; row p + 2 belongs to position p.
    EmbedPositions = 1, "embed_positions";
    /// Embedding projection, [d_model, d_embed].
    ProjectIn = 2, "project_in";
    /// Output projection, [d_embed, d_model].
    ProjectOut = 3, "project_out";
    /// Norm before the output matrix.
    FinalNorm = 4, "final_norm";
    /// Its bias.
    FinalNormBias = 5, "final_norm.bias";
    /// Output matrix, [vocab, d_embed]; absent when tied to `Embed`.
    Output = 6, "output";
    /// RoPE inverse frequencies, [head_dim / 2].
    RopeFrequencies = 7, "rope_frequencies";
    /// Norm of the attention part.
    AttnNorm = 8, "attn_norm";
    /// Its bias.
    AttnNormBias = 9, "attn_norm.bias";
    /// Query projection, [heads * head_dim, d_model].
    Q = 10, "q";
    /// Its bias.
    QBias = 11, "q.bias";
    /// Key projection, [kv_heads * head_dim, d_model].
    K = 12, "k";
    /// Its bias.
    KBias = 13, "k.bias";
    /// Value projection, [kv_heads * head_dim, d_model].
    V = 14, "v";
    /// Its bias.
    VBias = 15, "v.bias";
    /// Output projection of attention, [d_model, heads * head_dim].
    O = 16, "o";
    /// Its bias.
    OBias = 17, "o.bias";
    /// RMS norm of each query head, `[head_dim]`.
    QNorm = 18, "q_norm";
    /// RMS norm of each key head, `[head_dim]`.
    KNorm = 19, "k_norm";
    /// Norm of the feed-forward part.
    FfnNorm = 20, "ffn_norm";
    /// Its bias.
    FfnNormBias = 21, "ffn_norm.bias";
    /// Gate, [ffn, d_model].
    Gate = 22, "gate";
    /// Its bias.
    GateBias = 23, "gate.bias";
    /// Up projection, [ffn, d_model].
    Up = 24, "up";
    /// Its bias.
    UpBias = 25, "up.bias";
    /// Down projection, [d_model, ffn].
    Down = 26, "down";
    /// Its bias.
    DownBias = 27, "down.bias";
    /// Reserved: mean contribution of skipped neurons.
    DownMean = 28, "down.mean";
}

impl Kind {
    /// Whether every layer has one of its own.
    pub const fn in_layers(self) -> bool {
        self as u8 >= Kind::AttnNorm as u8
    }
}

/// How a tensor's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Consecutive f32.
    Vector {
        /// How many.
        len: usize,
    },
    /// Tiles.
    Tiles(Geometry),
}

/// A row of the tensor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Layer, or [`GLOBAL`].
    pub layer: u16,
    /// Rows in the source model (outputs).
    pub rows: usize,
    /// Columns in the source model (inputs), 1 for vectors.
    pub cols: usize,
    /// First byte in the weights section.
    pub offset: usize,
    /// How to read it.
    pub storage: Storage,
}

/// Format code of vectors.
const VECTOR: u8 = 255;

impl Entry {
    /// Weight bytes, without what lies between groups.
    pub fn bytes(&self) -> usize {
        match self.storage {
            Storage::Vector { len } => 4 * len,
            Storage::Tiles(g) => g.weight_bytes(),
        }
    }

    /// Reads a row.
    pub(super) fn parse(raw: &[u8]) -> Result<Entry, Error> {
        let bad = Error::Malformed("the tensor table has an unknown kind, format or layout");
        let kind = *Kind::ALL.get(raw[0] as usize).ok_or(bad)?;
        let n = |i: usize| u32_at(raw, i) as usize;
        let storage = if raw[1] == VECTOR {
            Storage::Vector { len: n(16) }
        } else {
            if raw[3] as usize != TILE_ROWS {
                return Err(bad);
            }
            Storage::Tiles(Geometry {
                format: Format::from_code(raw[1]).ok_or(bad)?,
                order: Order::from_code(raw[2]).ok_or(bad)?,
                panels: n(16),
                k_blocks: n(20),
                units_per_group: n(24),
                group_width: n(28),
                group_stride: usize::try_from(u64_at(raw, 40)).map_err(|_| bad)?,
            })
        };
        Ok(Entry {
            kind,
            layer: u16::from_le_bytes([raw[4], raw[5]]),
            rows: n(8),
            cols: n(12),
            offset: usize::try_from(u64_at(raw, 32)).map_err(|_| bad)?,
            storage,
        })
    }

    /// Writes a row.
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let mut raw = [0; ENTRY_LEN];
        raw[0] = self.kind as u8;
        raw[4..6].copy_from_slice(&self.layer.to_le_bytes());
        let mut put = |at: usize, n: usize| raw[at..at + 4].copy_from_slice(&(n as u32).to_le_bytes());
        put(8, self.rows);
        put(12, self.cols);
        let (codes, stride) = match self.storage {
            Storage::Vector { len } => {
                put(16, len);
                ([VECTOR, 0, 0], 0)
            }
            Storage::Tiles(g) => {
                put(16, g.panels);
                put(20, g.k_blocks);
                put(24, g.units_per_group);
                put(28, g.group_width);
                ([g.format as u8, g.order as u8, TILE_ROWS as u8], g.group_stride)
            }
        };
        raw[1..4].copy_from_slice(&codes);
        raw[32..40].copy_from_slice(&(self.offset as u64).to_le_bytes());
        raw[40..48].copy_from_slice(&(stride as u64).to_le_bytes());
        raw
    }
}

/// Where in the table each kind is: the globals first, then each layer's tensors in the same order.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    /// Index among the globals or inside a layer; `NONE` when absent.
    at: [u8; KINDS],
    globals: usize,
    per_layer: usize,
}

const NONE: u8 = u8::MAX;

impl Slots {
    pub(super) fn index(&self, kind: Kind, layer: usize) -> Option<usize> {
        let at = self.at[kind as usize];
        (at != NONE)
            .then(|| if kind.in_layers() { self.globals + layer * self.per_layer + at as usize } else { at as usize })
    }

    /// Checks the whole table against the weights section and the configuration.
    pub(super) fn parse(table: &[u8], weights: &[u8], config: &Config) -> Result<Slots, Error> {
        let count = table.len() / ENTRY_LEN;
        let bad = Error::Malformed("the tensor table is not in order");
        let mut slots = Slots { at: [NONE; KINDS], globals: 0, per_layer: 0 };
        for raw in table.chunks_exact(ENTRY_LEN) {
            let e = Entry::parse(raw)?;
            let next = match (e.kind.in_layers(), e.layer) {
                (false, GLOBAL) => &mut slots.globals,
                (true, 0) => &mut slots.per_layer,
                (true, l) if l != GLOBAL => continue,
                _ => return Err(bad),
            };
            let at = &mut slots.at[e.kind as usize];
            if *at != NONE {
                return Err(bad);
            }
            *at = u8::try_from(*next).map_err(|_| bad)?;
            *next += 1;
        }
        if !table.len().is_multiple_of(ENTRY_LEN) || count != slots.globals + slots.per_layer * config.layers {
            return Err(bad);
        }
        for (i, raw) in table.chunks_exact(ENTRY_LEN).enumerate() {
            let e = Entry::parse(raw)?;
            let layer = if e.kind.in_layers() { e.layer as usize } else { 0 };
            if slots.index(e.kind, layer) != Some(i) {
                return Err(bad);
            }
            check_entry(&e, weights, config)?;
        }
        slots.require(config)?;
        Ok(slots)
    }

    /// Every tensor that the configuration asks for is there, and none that it does not.
    fn require(&self, c: &Config) -> Result<(), Error> {
        let has = |kind: Kind| self.at[kind as usize] != NONE;
        let layer_norm = c.norm == Norm::Layer;
        let rope = c.positions == Positions::Rope;
        let needed = [
            (Kind::Embed, true),
            (Kind::EmbedPositions, !rope),
            (Kind::ProjectIn, c.d_embed != c.d_model),
            (Kind::ProjectOut, c.d_embed != c.d_model),
            (Kind::FinalNorm, c.pre_norm),
            (Kind::FinalNormBias, c.pre_norm && layer_norm),
            (Kind::RopeFrequencies, rope),
            (Kind::AttnNorm, true),
            (Kind::AttnNormBias, layer_norm),
            (Kind::Q, true),
            (Kind::K, true),
            (Kind::V, true),
            (Kind::O, true),
            (Kind::FfnNorm, true),
            (Kind::FfnNormBias, layer_norm),
            (Kind::Gate, c.gated),
            (Kind::Up, true),
            (Kind::Down, true),
        ];
        match needed.iter().find(|(kind, needed)| has(*kind) != *needed) {
            Some((kind, true)) => Err(Error::MissingTensor(kind.name())),
            Some((kind, false)) => Err(Error::BadTensor(kind.name())),
            None if has(Kind::QNorm) != has(Kind::KNorm) => Err(Error::MissingTensor(Kind::KNorm.name())),
            None => Ok(()),
        }
    }
}

/// What a kind's storage must be.
enum Expected {
    /// A vector of so many floats.
    Vector(usize),
    /// A matrix with so many outputs and inputs.
    Matrix {
        /// Order of its blocks.
        order: Order,
        /// Length of an output vector.
        outputs: usize,
        /// Length of an input vector.
        inputs: usize,
        /// Units in a group; 0 where all are one.
        per_group: usize,
        /// Outputs from group to group, where outputs are grouped.
        group_width: usize,
    },
}

/// How the blocks of a matrix are ordered in a model of this shape.
pub fn order_of(kind: Kind, c: &Config) -> Order {
    match kind {
        Kind::Q | Kind::K | Kind::V | Kind::O if c.attention_by_input => Order::Inputs,
        Kind::Gate | Kind::Up | Kind::Down if c.ffn_by_input => Order::Inputs,
        Kind::O => Order::Columns,
        Kind::Down if c.neuron_group < BLOCK => Order::ColumnLines,
        Kind::Down => Order::Columns,
        Kind::Gate | Kind::Up if c.neuron_group < TILE_ROWS => Order::RowLines,
        _ => Order::Rows,
    }
}

fn expected(kind: Kind, c: &Config) -> Expected {
    let block = |n: usize| n.next_multiple_of(BLOCK);
    let (d, e, ffn) = (block(c.d_model), block(c.d_embed), c.neuron_width());
    let (q, kv) = (c.heads * c.head_slot(), c.kv_heads * c.head_slot());
    let order = order_of(kind, c);
    let vector = Expected::Vector;
    let matrix = |outputs: usize, inputs, per_group, group_width| {
        let outputs = outputs.next_multiple_of(order.output_multiple());
        Expected::Matrix { order, outputs, inputs, per_group, group_width }
    };
    // A matrix of its own has no groups, or k-blocks where their inputs share scales.
    let whole = |outputs, inputs| matrix(outputs, inputs, if order.shares_scales() { BLOCK } else { 0 }, 0);
    match kind {
        Kind::Embed | Kind::Output => whole(c.vocab, e),
        Kind::EmbedPositions => vector((c.max_positions + 2) * c.d_model),
        Kind::ProjectIn => whole(c.d_model, e),
        Kind::ProjectOut => whole(c.d_embed, d),
        Kind::RopeFrequencies => vector(c.head_dim / 2),
        Kind::QNorm | Kind::KNorm => vector(c.head_dim),
        Kind::Q if c.attention_by_input => whole(q, d),
        Kind::K | Kind::V if c.attention_by_input => whole(kv, d),
        Kind::O if c.attention_by_input => whole(c.d_model, q),
        Kind::Gate | Kind::Up if c.ffn_by_input => whole(ffn, d),
        Kind::Down if c.ffn_by_input => whole(c.d_model, ffn),
        Kind::Q => matrix(q, d, c.head_width() / TILE_ROWS, c.head_slot()),
        Kind::K | Kind::V => matrix(kv, d, c.head_width() / TILE_ROWS, c.head_slot()),
        Kind::O => matrix(c.d_model, q, c.head_slot() / order.unit_inputs(), 0),
        Kind::Gate | Kind::Up => matrix(ffn, d, c.neuron_group.div_ceil(order.unit_outputs()), c.neuron_group),
        Kind::Down => matrix(c.d_model, ffn, c.neuron_group / order.unit_inputs(), 0),
        Kind::QBias => vector(q),
        Kind::KBias | Kind::VBias => vector(kv),
        Kind::GateBias | Kind::UpBias => vector(ffn),
        _ => vector(c.d_model),
    }
}

fn check_entry(e: &Entry, weights: &[u8], c: &Config) -> Result<(), Error> {
    let bad = Error::BadTensor(e.kind.name());
    let rest = weights.get(e.offset..).ok_or(bad)?;
    match (expected(e.kind, c), e.storage) {
        (Expected::Vector(len), Storage::Vector { len: found }) => {
            let aligned = rest.as_ptr().addr().is_multiple_of(super::ALIGN);
            let fits = len == found && aligned && len.checked_mul(4).is_some_and(|n| n <= rest.len());
            if fits { Ok(()) } else { Err(bad) }
        }
        (Expected::Matrix { order, outputs, inputs, per_group, group_width }, Storage::Tiles(g)) => {
            Matrix::new(g, rest).map_err(|_| bad)?;
            // A matrix without groups is one group, and its outputs are as many as its panels'.
            let whole = g.units_per_group == g.units() && g.panels * TILE_ROWS == outputs;
            let grouped = g.units_per_group == per_group && (group_width == 0 || g.group_width == group_width);
            let fits = (if per_group == 0 { whole } else { grouped })
                && g.order == order
                && g.input_width() == inputs
                && g.output_width() == outputs;
            if fits { Ok(()) } else { Err(bad) }
        }
        _ => Err(bad),
    }
}
