//! What a block has of its own beside its codes, and how 16 blocks pack it.
//!
//! ```text
//!              on its own                 of 16 outputs, in a tile
//! Numbers(n)   n f16                      the first of all outputs, then the second
//! Exponent     a byte                     16 bytes
//! Halves       a signed byte for each     16 bytes for the first halves, then 16 for the second ones
//!              half of the block
//! SixBits(1)   a byte below 64            8 bytes: the lower four bits of outputs i and i + 8;
//!                                         4 bytes: the upper two of outputs i, i + 4, i + 8 and i + 12
//! SixBits(2)   a scale and a minimum,     16 bytes: a scale and above it the lower two bits of the minimum;
//!              bytes below 64             8 bytes: the upper four bits of the minima of outputs i and i + 8
//! ```

use super::TILE_ROWS;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// That many f16: a scale, a minimum.
    Numbers(usize),
    /// The exponent of a power of two, 127 for 1 (E8M0).
    Exponent,
    /// Integers that multiply the scale of the super-block, for the first 16 and for the last 16 weights.
    Halves,
    /// Integers below 64 that multiply the scale (less 32, where it is the only one) and the minimum of the super-block.
    SixBits(usize),
}

impl Head {
    /// Bytes of a block's on its own.
    pub const fn bytes(self) -> usize {
        match self {
            Head::Numbers(n) => 2 * n,
            Head::Exponent => 1,
            Head::Halves => 2,
            Head::SixBits(n) => n,
        }
    }

    /// Bytes of `blocks` in a matrix: any number of [`Head::Numbers`], else a multiple of 16.
    pub const fn bytes_of(self, blocks: usize) -> usize {
        match self {
            Head::SixBits(n) => blocks * n * 6 / 8,
            _ => blocks * self.bytes(),
        }
    }

    /// Whether it can lie apart from those of 15 other outputs.
    pub const fn stands_alone(self) -> bool {
        matches!(self, Head::Numbers(_))
    }

    /// Reads that of output `lane` of 16 (not of [`Head::Numbers`]).
    pub(super) fn read(self, packed: &[u8], lane: usize, to: &mut [u8]) {
        match self {
            Head::Numbers(_) => {}
            Head::Exponent => to[0] = packed[lane],
            Head::Halves => [to[0], to[1]] = [packed[lane], packed[TILE_ROWS + lane]],
            Head::SixBits(1) => {
                let low = packed[lane % 8] >> (lane / 8 * 4) & 15;
                to[0] = low | (packed[8 + lane % 4] >> (lane / 4 * 2) & 3) << 4;
            }
            Head::SixBits(_) => {
                let high = packed[TILE_ROWS + lane % 8] >> (lane / 8 * 4) & 15;
                [to[0], to[1]] = [packed[lane] & 63, packed[lane] >> 6 | high << 2];
            }
        }
    }

    /// Writes that of output `lane` of 16 (not of [`Head::Numbers`]).
    pub(super) fn write(self, packed: &mut [u8], lane: usize, from: &[u8]) {
        let put = |byte: &mut u8, shift: usize, mask: u8, bits: u8| {
            *byte = *byte & !(mask << shift) | (bits & mask) << shift;
        };
        match self {
            Head::Numbers(_) => {}
            Head::Exponent => packed[lane] = from[0],
            Head::Halves => [packed[lane], packed[TILE_ROWS + lane]] = [from[0], from[1]],
            Head::SixBits(1) => {
                put(&mut packed[lane % 8], lane / 8 * 4, 15, from[0]);
                put(&mut packed[8 + lane % 4], lane / 4 * 2, 3, from[0] >> 4);
            }
            Head::SixBits(_) => {
                packed[lane] = from[0] & 63 | from[1] << 6;
                put(&mut packed[TILE_ROWS + lane % 8], lane / 8 * 4, 15, from[1] >> 2);
            }
        }
    }
}
