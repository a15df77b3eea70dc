//! The tensors of a model: one table of rows. A row says what the tensor is called, which part of the model has it, its
//! rows and columns in symbols, and when it is needed; sizes, groups, padding and checks all follow from it, for the
//! packer and for the reader alike.

use super::arch::{Attention, Block, Globals, HeadNorm, Layer, Mlp, Norm, Norming, Op};
use crate::format::{BLOCK, Format, TILE_ROWS};
use crate::format::{Geometry, Order};

/// The part of a model that has a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The model, once.
    Model,
    /// Each table of rotary frequencies.
    Rope,
    /// Each layer with a block of attention.
    Attention,
    /// Each layer with a feed-forward network.
    Mlp,
}

/// A length in symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// 1: the columns of a vector.
    One,
    /// `d_model`.
    Model,
    /// `d_embed`.
    Embed,
    /// The vocabulary.
    Vocab,
    /// The numbers of all learned positions together, `max_positions * d_model`.
    Positions,
    /// `head_dim / 2` of the blocks that use the table.
    Rotations,
    /// `heads * head_dim`.
    Queries,
    /// `kv_heads * head_dim`.
    Keys,
    /// `head_dim`, or as [`Dim::Queries`] where all heads are normed together.
    QueryNorm,
    /// `head_dim`, or as [`Dim::Keys`] where all heads are normed together.
    KeyNorm,
    /// `heads`.
    Heads,
    /// Neurons of the feed-forward network, or of an expert.
    Neurons,
    /// Experts.
    Experts,
    /// Neurons of the expert that every token uses.
    Shared,
}

/// A row of the table.
pub struct Row {
    /// The tensor.
    pub role: Role,
    /// Name in reports.
    pub name: &'static str,
    /// The part of the model that has it.
    pub scope: Scope,
    /// Outputs; the length of a vector.
    pub rows: Dim,
    /// Inputs; [`Dim::One`] for a vector.
    pub cols: Dim,
    /// Whether a model must have it or must not; `None` where it is optional.
    needed: fn(&Place) -> Option<bool>,
}

impl Row {
    /// Whether a budget may skip parts of it; routers are read whole.
    fn slot(&self) -> bool {
        self.rows != Dim::Experts && self.rows != Dim::One
    }
}

/// The part of a model that a tensor belongs to.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The properties of the model that do not belong to a layer.
    pub globals: &'a Globals,
    /// The block, where the tensor belongs to one.
    pub block: Option<&'a Block>,
    /// Width of the heads that a table of rotary frequencies is for.
    pub rotated: usize,
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $scope:ident, [$rows:ident, $cols:ident], $needed:expr;)*) => {
        /// The purpose of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Role { $($(#[$doc])* $name = $code),* }

        /// One row a role, in the order of their codes.
        pub static ROLES: &[Row] = &[$(Row {
            role: Role::$name, name: $text, scope: Scope::$scope, rows: Dim::$rows, cols: Dim::$cols, needed: $needed,
        }),*];
    };
}

fn always(_: &Place) -> Option<bool> {
    Some(true)
}

fn norm_bias(norm: Option<Norm>) -> Option<bool> {
    Some(norm.is_some_and(|n| n.kind == Norming::Layer))
}

roles! {
    /// Token embeddings.
    Embed = 0, "embed", Model, [Vocab, Embed], always;
    /// Learned positions as one vector, [positions, d_model].
    EmbedPositions = 1, "embed_positions", Model, [Positions, One],
        |p| Some(p.globals.positions == super::arch::Positions::Learned);
    /// Embedding projection.
    ProjectIn = 2, "project_in", Model, [Model, Embed], |p| Some(p.globals.d_embed != p.globals.d_model);
    /// Output projection.
    ProjectOut = 3, "project_out", Model, [Embed, Model], |p| Some(p.globals.d_embed != p.globals.d_model);
    /// Norm before the output matrix.
    FinalNorm = 4, "final_norm", Model, [Model, One], |p| Some(p.globals.final_norm.is_some());
    /// Its bias.
    FinalNormBias = 5, "final_norm.bias", Model, [Model, One], |p| norm_bias(p.globals.final_norm);
    /// Output matrix; absent when tied to `Embed`.
    Output = 6, "output", Model, [Vocab, Embed], |_| None;
    /// Inverse rotary frequencies, scaling applied.
    RopeFrequencies = 7, "rope_frequencies", Rope, [Rotations, One], always;
    /// Norm of the input of attention.
    AttnNorm = 8, "attn_norm", Attention, [Model, One], |p| Some(p.norms().input.is_some());
    /// Its bias.
    AttnNormBias = 9, "attn_norm.bias", Attention, [Model, One], |p| norm_bias(p.norms().input);
    /// Norm of the output of attention.
    AttnOutNorm = 10, "attn_out_norm", Attention, [Model, One], |p| Some(p.norms().output.is_some());
    /// Its bias.
    AttnOutNormBias = 11, "attn_out_norm.bias", Attention, [Model, One], |p| norm_bias(p.norms().output);
    /// Norm of the residual stream after attention.
    AttnStreamNorm = 12, "attn_stream_norm", Attention, [Model, One], |p| Some(p.norms().stream.is_some());
    /// Its bias.
    AttnStreamNormBias = 13, "attn_stream_norm.bias", Attention, [Model, One], |p| norm_bias(p.norms().stream);
    /// Query projection.
    Q = 14, "q", Attention, [Queries, Model], always;
    /// Its bias.
    QBias = 15, "q.bias", Attention, [Queries, One], |p| Some(p.attention().biases[0]);
    /// Key projection.
    K = 16, "k", Attention, [Keys, Model], always;
    /// Its bias.
    KBias = 17, "k.bias", Attention, [Keys, One], |p| Some(p.attention().biases[0]);
    /// Value projection.
    V = 18, "v", Attention, [Keys, Model], always;
    /// Its bias.
    VBias = 19, "v.bias", Attention, [Keys, One], |p| Some(p.attention().biases[0]);
    /// Output projection of attention.
    O = 20, "o", Attention, [Model, Queries], always;
    /// Its bias.
    OBias = 21, "o.bias", Attention, [Model, One], |p| Some(p.attention().biases[1]);
    /// RMS norm of the queries.
    QNorm = 22, "q_norm", Attention, [QueryNorm, One], |p| Some(p.attention().head_norm != HeadNorm::None);
    /// RMS norm of the keys.
    KNorm = 23, "k_norm", Attention, [KeyNorm, One], |p| Some(p.attention().head_norm != HeadNorm::None);
    /// The sinks: for each head a score that has no value.
    Sinks = 24, "sinks", Attention, [Heads, One], |p| Some(p.attention().sinks);
    /// Norm of the input of the feed-forward network.
    FfnNorm = 25, "ffn_norm", Mlp, [Model, One], |p| Some(p.norms().input.is_some());
    /// Its bias.
    FfnNormBias = 26, "ffn_norm.bias", Mlp, [Model, One], |p| norm_bias(p.norms().input);
    /// Norm of the output of the feed-forward network.
    FfnOutNorm = 27, "ffn_out_norm", Mlp, [Model, One], |p| Some(p.norms().output.is_some());
    /// Its bias.
    FfnOutNormBias = 28, "ffn_out_norm.bias", Mlp, [Model, One], |p| norm_bias(p.norms().output);
    /// Norm of the residual stream after the feed-forward network.
    FfnStreamNorm = 29, "ffn_stream_norm", Mlp, [Model, One], |p| Some(p.norms().stream.is_some());
    /// Its bias.
    FfnStreamNormBias = 30, "ffn_stream_norm.bias", Mlp, [Model, One], |p| norm_bias(p.norms().stream);
    /// Gate.
    Gate = 31, "gate", Mlp, [Neurons, Model], |p| Some(p.mlp().gated);
    /// Its bias.
    GateBias = 32, "gate.bias", Mlp, [Neurons, One], |p| Some(p.mlp().gated && p.mlp().biases[0]);
    /// Up projection.
    Up = 33, "up", Mlp, [Neurons, Model], always;
    /// Its bias.
    UpBias = 34, "up.bias", Mlp, [Neurons, One], |p| Some(p.mlp().biases[0]);
    /// Down projection.
    Down = 35, "down", Mlp, [Model, Neurons], always;
    /// Its bias.
    DownBias = 36, "down.bias", Mlp, [Model, One], |p| Some(p.mlp().biases[1]);
    /// The router, whose outputs choose experts.
    Router = 37, "router", Mlp, [Experts, Model], |p| Some(p.mlp().router.is_some());
    /// Its bias.
    RouterBias = 38, "router.bias", Mlp, [Experts, One], |p| if p.mlp().router.is_some() { None } else { Some(false) };
    /// A bias of the experts' scores that affects only which experts are chosen, not their shares.
    RouterChoiceBias = 39, "router.choice_bias", Mlp, [Experts, One], |p| Some(p.mlp().router.is_some_and(|r| r.bias));
    /// Gate of the expert that every token uses.
    SharedGate = 40, "shared_gate", Mlp, [Shared, Model], |p| Some(p.mlp().gated && p.shared() > 0);
    /// Its up projection.
    SharedUp = 41, "shared_up", Mlp, [Shared, Model], |p| Some(p.shared() > 0);
    /// Its down projection.
    SharedDown = 42, "shared_down", Mlp, [Model, Shared], |p| Some(p.shared() > 0);
    /// A router of one output whose sigmoid is the shared expert's share.
    SharedRouter = 43, "shared_router", Mlp, [One, Model], |p| Some(p.mlp().router.is_some_and(|r| r.shared_gate));
    /// Bias of the output matrix.
    OutputBias = 44, "output.bias", Model, [Vocab, One], |_| None;
    /// A smaller copy of the output matrix, to find the rows worth reading.
    OutputSketch = 45, "output.sketch", Model, [Vocab, Embed], |_| None;
}

impl Role {
    /// Its row of the table.
    pub fn row(self) -> &'static Row {
        &ROLES[self as usize]
    }

    /// The role with this code in an image.
    pub fn from_code(code: u8) -> Option<Role> {
        ROLES.get(code as usize).map(|row| row.role)
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether each layer has its own.
    pub fn in_layers(self) -> bool {
        matches!(self.row().scope, Scope::Attention | Scope::Mlp)
    }

    /// Whether it is a matrix, and not a vector of f32.
    pub fn is_matrix(self) -> bool {
        self.row().cols != Dim::One
    }

    /// The block of a layer that has it, if any.
    pub fn block(self, layer: &Layer) -> Option<&Block> {
        let scope = self.row().scope;
        layer.blocks().find(|b| match &b.op {
            Op::Attention(_) => scope == Scope::Attention,
            Op::Mlp(_) => scope == Scope::Mlp,
        })
    }

    /// The order of a matrix's blocks.
    pub fn order(self, place: &Place) -> Order {
        let row = self.row();
        let by_input = match place.block.map(|b| &b.op) {
            Some(Op::Attention(a)) => a.by_input,
            Some(Op::Mlp(m)) => m.by_input,
            None => false,
        };
        match (row.rows, row.cols) {
            _ if by_input && row.slot() => Order::Inputs,
            (_, Dim::Queries) => Order::Columns,
            (_, Dim::Neurons) if place.mlp().group < BLOCK => Order::ColumnLines,
            (_, Dim::Neurons | Dim::Shared) => Order::Columns,
            (Dim::Neurons, _) if place.mlp().group < TILE_ROWS => Order::RowLines,
            _ => Order::Rows,
        }
    }

    /// Where the blocks of the matrix are when it stands alone.
    pub fn geometry(self, place: &Place, format: Format) -> Geometry {
        let (row, order) = (self.row(), self.order(place));
        let (outputs, inputs) = (self.outputs(place), self.inputs(place));
        let panels = outputs.width().next_multiple_of(order.output_multiple()) / TILE_ROWS;
        let group = |dim: Dim| match dim {
            Dim::Queries | Dim::Keys => Some(place.attention().head_slot()),
            Dim::Neurons => Some(place.mlp().group),
            Dim::Shared => Some(BLOCK),
            _ => None,
        };
        let (units_per_group, group_width) = match (order.unit_outputs(), group(row.rows), group(row.cols)) {
            _ if order.group_units(format).is_some() => (order.group_units(format).unwrap_or(1), 0),
            // Heads are padded further in the output vector than in the matrix.
            (n @ 1.., Some(group), _) => (outputs.padded.min(group) / n, group),
            (0, _, Some(group)) => (group / order.unit_inputs(), 0),
            _ => (panels, panels * TILE_ROWS),
        };
        let k_blocks = inputs.width() / BLOCK;
        let mut g = Geometry { format, order, panels, k_blocks, units_per_group, group_stride: 0, group_width };
        // Sizes that no memory holds fit no image.
        g.group_stride = g.shared_bytes().saturating_add(units_per_group.saturating_mul(g.unit_bytes()));
        g
    }

    /// Where the source's rows are in the image: the outputs of a matrix, or the numbers of a vector.
    pub fn outputs(self, place: &Place) -> Segments {
        let dim = self.row().rows;
        let total = place.len(dim);
        match dim {
            Dim::Queries | Dim::Keys => {
                let a = place.attention();
                // Biases are laid out as activation buffers are, and so are the outputs of matrices that are stored by
                // input.
                let padded = if a.by_input || !self.is_matrix() { a.head_slot() } else { a.head_width() };
                Segments { len: a.head_dim, padded, total }
            }
            Dim::Neurons | Dim::Shared => Segments { len: total, padded: total.next_multiple_of(BLOCK), total },
            _ if self.is_matrix() => Segments { len: total, padded: total.next_multiple_of(TILE_ROWS), total },
            _ => Segments { len: total, padded: total, total },
        }
    }

    /// Where the source's columns are in the image.
    pub fn inputs(self, place: &Place) -> Segments {
        let dim = self.row().cols;
        let total = place.len(dim);
        match dim {
            Dim::Queries => {
                let a = place.attention();
                Segments { len: a.head_dim, padded: a.head_slot(), total }
            }
            _ => Segments { len: total, padded: total.next_multiple_of(BLOCK), total },
        }
    }

    /// The number of such tensors in a layer, where every expert has its own; else 0.
    pub fn experts(self, place: &Place) -> usize {
        use Role::{Down, DownBias, Gate, GateBias, Up, UpBias};
        let per_expert = matches!(self, Gate | GateBias | Up | UpBias | Down | DownBias);
        place.mlp().router.filter(|_| per_expert).map_or(0, |r| r.experts)
    }

    /// Whether a model must have the tensor or must not; `None` where it is optional.
    pub fn needed(self, place: &Place) -> Option<bool> {
        (self.row().needed)(place)
    }

    /// Rows and columns in the source (of one expert's tensor); a vector has one column.
    pub fn shape(self, place: &Place) -> (usize, usize) {
        (place.len(self.row().rows), place.len(self.row().cols))
    }
}

impl Place<'_> {
    fn norms(&self) -> super::arch::Norms {
        self.block.map_or_else(Default::default, |b| b.norms)
    }

    fn attention(&self) -> &Attention {
        match self.block.map(|b| &b.op) {
            Some(Op::Attention(a)) => a,
            _ => &Attention::NONE,
        }
    }

    fn mlp(&self) -> &Mlp {
        match self.block.map(|b| &b.op) {
            Some(Op::Mlp(m)) => m,
            _ => &Mlp::NONE,
        }
    }

    /// Neurons of the expert that every token uses; 0 where there is none.
    fn shared(&self) -> usize {
        self.mlp().router.map_or(0, |r| r.shared)
    }

    /// A length.
    pub fn len(&self, dim: Dim) -> usize {
        let (g, a) = (self.globals, self.attention());
        let whole = a.head_norm == HeadNorm::Whole;
        match dim {
            Dim::One => 1,
            Dim::Model => g.d_model,
            Dim::Embed => g.d_embed,
            Dim::Vocab => g.vocab,
            Dim::Positions => g.max_positions.saturating_mul(g.d_model),
            Dim::Rotations => self.rotated / 2,
            Dim::Queries => a.heads * a.head_dim,
            Dim::Keys => a.kv_heads * a.head_dim,
            Dim::QueryNorm => {
                if whole {
                    a.heads * a.head_dim
                } else {
                    a.head_dim
                }
            }
            Dim::KeyNorm => {
                if whole {
                    a.kv_heads * a.head_dim
                } else {
                    a.head_dim
                }
            }
            Dim::Heads => a.heads,
            Dim::Neurons => self.mlp().neurons,
            Dim::Experts => self.mlp().router.map_or(0, |r| r.experts),
            Dim::Shared => self.shared(),
        }
    }
}

/// Where rows or columns of the source are in the image: in segments of `len`, each padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Length of a segment in the source.
    pub len: usize,
    /// Its length in the image.
    pub padded: usize,
    /// Length of all segments in the source.
    pub total: usize,
}

impl Segments {
    /// Source index of image index `i`, `None` for padding.
    pub fn source(&self, i: usize) -> Option<usize> {
        let at = i / self.padded * self.len + i % self.padded;
        (i % self.padded < self.len && at < self.total).then_some(at)
    }

    /// Whether blocks of 32 in the image are blocks of 32 in the source.
    pub fn keeps_blocks(&self) -> bool {
        self.len == self.padded || self.len == self.total
    }

    /// Length in the image.
    pub fn width(&self) -> usize {
        self.total.div_ceil(self.len.max(1)) * self.padded
    }
}
