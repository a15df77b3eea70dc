//! The parts of a layer that a budget is divided among.

use crate::image::Config;

/// A part of a layer with a share of its own to be read: a linear map, all heads, or all neurons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Slot {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output projection.
    O,
    /// The gate of the feed-forward network.
    Gate,
    /// The first projection of the feed-forward network.
    Up,
    /// The second projection of the feed-forward network.
    Down,
    /// Query heads: their parts of Q and O.
    Heads,
    /// Neurons: their parts of gate, up and down.
    Neurons,
}

/// The inputs of maps: a layer has four different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// The input of attention, [d_model rounded up to 32].
    Attention,
    /// The outputs of the heads, [heads * head_slot].
    Heads,
    /// The input of the feed-forward network, [d_model rounded up to 32].
    FeedForward,
    /// The neurons, `[neuron_width]`.
    Neurons,
}

impl Slot {
    /// The number of slots.
    pub const COUNT: usize = 9;
    /// The linear maps, in the order of a budget's columns.
    pub const MAPS: [Slot; 7] = [Slot::Q, Slot::K, Slot::V, Slot::O, Slot::Gate, Slot::Up, Slot::Down];
    /// Heads and neurons, in the order of a budget's columns.
    pub const PARTS: [Slot; 2] = [Slot::Heads, Slot::Neurons];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Slot::Q => "q",
            Slot::K => "k",
            Slot::V => "v",
            Slot::O => "o",
            Slot::Gate => "gate",
            Slot::Up => "up",
            Slot::Down => "down",
            Slot::Heads => "heads",
            Slot::Neurons => "neurons",
        }
    }

    /// Whether it belongs to attention, and not to the feed-forward network.
    pub const fn in_attention(self) -> bool {
        matches!(self, Slot::Q | Slot::K | Slot::V | Slot::O | Slot::Heads)
    }

    /// The input of the map.
    pub const fn source(self) -> Source {
        match self {
            Slot::Q | Slot::K | Slot::V | Slot::Heads => Source::Attention,
            Slot::O => Source::Heads,
            Slot::Gate | Slot::Up | Slot::Neurons => Source::FeedForward,
            Slot::Down => Source::Neurons,
        }
    }
}

impl Source {
    /// The number of different inputs of a layer.
    pub const COUNT: usize = 4;

    /// Length of the vector in its buffer.
    pub const fn width(self, c: &Config) -> usize {
        match self {
            Source::Attention | Source::FeedForward => c.d_model.next_multiple_of(32),
            Source::Heads => c.heads * c.head_slot(),
            Source::Neurons => c.neuron_width(),
        }
    }
}
