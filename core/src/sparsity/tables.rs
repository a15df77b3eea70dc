//! The tables of an image's predictor section: their codes and contents.

use crate::format::BLOCK;
use crate::image::Config;
use crate::image::table::Name;

/// First bytes of the section.
pub const MAGIC: [u8; 8] = *b"SLLMPRD\0";
/// Version of the section.
pub const VERSION: u32 = 2;
/// Bytes of its header.
pub const HEADER_LEN: usize = 64;
/// Entries of a slot's table of quantiles: the scores that 0 %, 1 %, ... 100 % reach.
pub const QUANTILES: usize = 101;
/// Densities that budgets are tabulated at: 0, 5 %, ... 100 %.
pub const GRID: usize = 21;

/// Bit of the header's flags: the predictors' scores rank the parts of a layer and cannot be compared between tokens,
/// so that the same number of parts is kept for each token. Without it, scores are probabilities of being active, and
/// all parts above a threshold are kept.
pub const RANKS: u32 = 1;

/// The parts of the shadow predictor's input, which are in layer 0 or directly after it. Several parts are
/// concatenated, each padded to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap(pub u32);

impl Tap {
    /// Input of layer 0's attention: the normed embedding.
    pub const EMBEDDING: u32 = 1;
    /// Output of layer 0's heads, before their projection (ShadowLLM's).
    pub const HEADS: u32 = 2;
    /// Input of layer 1's attention: the normed stream after layer 0.
    pub const STREAM: u32 = 4;

    /// Whether a part belongs to the input.
    pub const fn has(self, part: u32) -> bool {
        self.0 & part != 0
    }

    /// Length of the input.
    pub fn width(self, c: &Config) -> usize {
        let d = c.d_model.next_multiple_of(BLOCK);
        let part = |part, width| if self.has(part) { width } else { 0 };
        part(Self::EMBEDDING, d) + part(Self::HEADS, c.heads * c.head_slot()) + part(Self::STREAM, d)
    }
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The tables of the section.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Table { $($(#[$doc])* $name = $code),* }

        impl Table {
            /// All, in the order of their codes.
            pub const ALL: &[Table] = &[$(Table::$name),*];

            /// Whether each layer has its own.
            pub const fn in_layers(self) -> bool {
                let code = self as u8;
                code >= Table::LayerIn as u8 && code <= Table::LayerHeadBias as u8
            }
        }

        impl Name for Table {
            fn from_code(code: u8) -> Option<Table> {
                Self::ALL.get(code as usize).copied()
            }
            fn code(self) -> u8 {
                self as u8
            }
            fn in_layers(self) -> bool {
                Table::in_layers(self)
            }
            fn once(self) -> bool {
                !self.in_layers()
            }
        }
    };
}

tables! {
    /// First map of the shadow predictor, matrix [rank, tap].
    ShadowIn = 0,
    /// Its bias, `[rank]`.
    ShadowInBias = 1,
    /// Its outputs for neurons, matrix [(layers - 1) * groups padded to 16, rank].
    ShadowNeurons = 2,
    /// Their bias.
    ShadowNeuronBias = 3,
    /// Its outputs for heads, matrix [(layers - 1) * heads padded to 16, rank].
    ShadowHeads = 4,
    /// Their bias.
    ShadowHeadBias = 5,
    /// Mean importance of groups of neurons, [layers, groups].
    StaticNeurons = 6,
    /// Mean importance of heads, [layers, heads].
    StaticHeads = 7,
    /// Norm of each neuron's down column, [layers, neuron width].
    NeuronNorms = 8,
    /// That norm times the mean |up|, [layers, neuron width]: the factor of a gate's activation in its score.
    GateWeights = 9,
    /// Quantiles of the static scores, [layers, 2 slots, QUANTILES].
    StaticQuantiles = 10,
    /// Quantiles of the shadow predictor's scores.
    ShadowQuantiles = 11,
    /// Quantiles of the per-layer predictors' scores.
    PerLayerQuantiles = 12,
    /// Quantiles of the gates' scores.
    GateQuantiles = 13,
    /// Quantiles of the inputs' magnitudes, [layers, 7 slots, QUANTILES].
    InputQuantiles = 14,
    /// Shares kept of the slots for the static scores, [GRID, layers, 2].
    StaticBudget = 15,
    /// The same for the shadow predictor.
    ShadowBudget = 16,
    /// The same for the per-layer predictors.
    PerLayerBudget = 17,
    /// The same for gates.
    GateBudget = 18,
    /// The same for inputs, [GRID, layers, 7].
    InputBudget = 19,
    /// Mean activation of the neurons, [layers, neuron width].
    NeuronMeans = 20,
    /// What these means add to the output of the feed-forward network, [layers, d_model].
    DownMeans = 21,
    /// Code of the best policy, `[GRID]`.
    Auto = 22,
    /// First map of a layer's own predictor, matrix [rank, d_model].
    LayerIn = 23,
    /// Its bias.
    LayerInBias = 24,
    /// Its outputs for neurons, matrix [groups, rank].
    LayerNeurons = 25,
    /// Their bias.
    LayerNeuronBias = 26,
    /// Its outputs for heads, matrix [heads, rank].
    LayerHeads = 27,
    /// Their bias.
    LayerHeadBias = 28,
    /// Shares kept of the slots by thresholds on attention's inputs and the shadow predictor, [GRID, layers, 7].
    MixedBudget = 29,
    /// What skipping cost on calibration's own text under the policies of [`Table::Auto`], [GRID, 2]: by how much the
    /// perplexity grew, as a share of the dense model's, and the divergence from the dense model in nats.
    Quality = 30,
}
