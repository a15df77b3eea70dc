//! The head of a block: the numbers that belong to it alone beside its codes, and how the heads of 16 blocks are
//! packed.
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

/// The kinds of heads; the module's documentation shows their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// This number of f16: a scale, or a scale and a minimum.
    Numbers(usize),
    /// The exponent of a power of two, 127 for 1 (E8M0).
    Exponent,
    /// Integers that multiply the scale of the super-block, for the first 16 and for the last 16 weights.
    Halves,
    /// One or two integers below 64: the first multiplies the scale of the super-block, the second its minimum. A
    /// single one has 32 subtracted first.
    SixBits(usize),
}

impl Head {
    /// Bytes of the head of a block on its own.
    pub const fn bytes(self) -> usize {
        match self {
            Head::Numbers(n) => 2 * n,
            Head::Exponent => 1,
            Head::Halves => 2,
            Head::SixBits(n) => n,
        }
    }

    /// Bytes of the heads of `blocks` blocks in a matrix: any number of them for [`Head::Numbers`], else a multiple of
    /// 16.
    pub const fn bytes_of(self, blocks: usize) -> usize {
        match self {
            Head::SixBits(n) => blocks * n * 6 / 8,
            _ => blocks * self.bytes(),
        }
    }

    /// Whether a head can be stored without those of 15 other outputs.
    pub const fn stands_alone(self) -> bool {
        matches!(self, Head::Numbers(_))
    }

    /// Reads the head of output `lane` of 16 packed ones (not for [`Head::Numbers`]).
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

    /// Writes the head of output `lane` of 16 packed ones (not for [`Head::Numbers`]).
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
