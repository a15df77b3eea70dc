//! The orders in which the blocks of a matrix can be stored: one file and one row of a table for each.
//!
//! ```text
//!   tiles of 16 outputs by 32 inputs, for dot products of 16 outputs at a time
//!   Rows                                              Columns (transposed at pack time)
//!   panel 0: tile k=0, tile k=1, ...                  k-block 0: tile panel=0, tile panel=1, ...
//!   panel 1: tile k=0, tile k=1, ...                  k-block 1: tile panel=0, tile panel=1, ...
//!
//!   lines of blocks, for skipping single outputs or inputs
//!   RowLines                                          ColumnLines (transposed at pack time)
//!   output 0: inputs 0..32, inputs 32..64, ...        input 0: outputs 0..32, outputs 32..64, ...
//!   output 1: inputs 0..32, inputs 32..64, ...        input 1: outputs 0..32, outputs 32..64, ...
//!
//!   Inputs: the scales of a k-block's blocks, for all outputs, then a line of codes for each of its 32 inputs
//!   k-block 0: scales, input 0: outputs 0, 1, 2, ..., input 1: outputs 0, 1, 2, ...
//! ```
//! The numbers of a super-block are stored before the 8 k-blocks that share them: in Rows within each panel, in Columns
//! and Inputs once for all outputs.
//!
//! A *panel* is 16 outputs, a *k-block* 32 inputs. A panel, a k-block or a line that is stored in one piece is a
//! *unit*: the smallest run of bytes that a sparse pass can leave out.
//!
//! # Adding an order
//! A file with its `Rules`, its `mod` line, an entry of `TABLE` and a variant of [`Order`]; new kernels only for new
//! [`Shape`]s.

mod column_lines;
pub(super) mod columns;
mod inputs;
mod row_lines;
mod rows;

use super::block::{Block, code, set_code};
use super::{Arithmetic, BLOCK, Format, Geometry, Head, Matrix, TILE_ROWS};

/// The order of a matrix's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// All tiles of 16 outputs together.
    Rows = 0,
    /// All tiles of 32 inputs together.
    Columns = 1,
    /// All blocks of an output together.
    RowLines = 2,
    /// All blocks of an input together; its blocks run along the outputs.
    ColumnLines = 3,
    /// All codes of an input together, after the scales of its k-block: blocks run along the inputs.
    Inputs = 4,
}

/// The rules of all orders; an order's code in an image is its index here.
static TABLE: [Rules; 5] = [rows::RULES, columns::RULES, row_lines::RULES, column_lines::RULES, inputs::RULES];

/// Everything that an order decides.
pub(super) struct Rules {
    order: Order,
    name: &'static str,
    unit: Unit,
    /// Whether blocks run along the outputs, not along the inputs.
    along_outputs: bool,
    /// Whether units hold codes only: the scales are stored once for all inputs of a k-block, before them.
    shares_scales: bool,
    /// Whether it can hold super-blocks, and heads that 16 outputs pack together.
    packs: bool,
    /// Kernels for one token and for several.
    shapes: [Shape; 2],
    /// The same for formats of quantized inputs.
    int8_shapes: [Shape; 2],
    /// Where the numbers of block `i` of line `line` are (see [`Geometry::lines`]).
    pub(super) place: fn(g: &Geometry, line: usize, i: usize) -> Place,
    /// Where the tiles of a panel of a matrix are, if it is made of tiles.
    pub(super) panel: Option<fn(m: &Matrix, panel: usize) -> PanelTiles>,
}

/// The part of a matrix that is stored in one piece.
#[derive(Clone, Copy)]
enum Unit {
    /// Some outputs, with all their inputs.
    Outputs(usize),
    /// Some inputs, with all their outputs.
    Inputs(usize),
}

/// The shapes of matrix products that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A panel of tiles, for any number of tokens.
    Panel,
    /// Any 16 outputs out of lines, for any number of tokens.
    Rows,
    /// The tiles of a k-block, whose products are added to the outputs, for one token or few.
    Columns,
    /// Chosen inputs out of lines of whole blocks or of floats, added to the outputs, for one token.
    Inputs,
    /// All inputs out of such lines, for any number of tokens.
    AllInputs,
    /// Chosen inputs out of lines of codes, added to the outputs, for one token.
    Codes,
    /// All inputs out of such lines, for any number of tokens.
    AllCodes,
}

impl Order {
    /// All, in the order of their codes.
    pub const ALL: [Order; TABLE.len()] = {
        let mut all = [Order::Rows; TABLE.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = TABLE[i].order;
            assert!(all[i] as usize == i);
            i += 1;
        }
        all
    };

    pub(super) const fn rules(self) -> &'static Rules {
        &TABLE[self as usize]
    }

    /// The order with this code in an image.
    pub fn from_code(code: u8) -> Option<Order> {
        Self::ALL.get(code as usize).copied()
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        self.rules().name
    }

    /// Outputs of a unit; 0 where units are inputs.
    pub const fn unit_outputs(self) -> usize {
        match self.rules().unit {
            Unit::Outputs(n) => n,
            Unit::Inputs(_) => 0,
        }
    }

    /// Inputs of a unit; 0 where units are outputs.
    pub const fn unit_inputs(self) -> usize {
        match self.rules().unit {
            Unit::Outputs(_) => 0,
            Unit::Inputs(n) => n,
        }
    }

    /// Whether single inputs can be left out.
    pub const fn is_by_input(self) -> bool {
        self.unit_inputs() == 1
    }

    /// Outputs come in multiples of this: a panel, or a block where lines are inputs.
    pub const fn output_multiple(self) -> usize {
        if self.is_by_input() { BLOCK } else { TILE_ROWS }
    }

    /// Whether blocks run along the outputs.
    pub const fn is_along_outputs(self) -> bool {
        self.rules().along_outputs
    }

    /// Whether the inputs of a k-block share their scales, which makes k-blocks the groups.
    pub const fn shares_scales(self) -> bool {
        self.rules().shares_scales
    }

    /// Whether matrices of a format can be stored in this order.
    pub const fn holds(self, format: Format) -> bool {
        self.rules().packs || (format.head().stands_alone() && format.supers() == 0)
    }

    /// Units of a group, where the numbers that they share are stored before them: the inputs of a k-block or of a
    /// super-block, or the k-blocks of a super-block.
    pub const fn group_units(self, format: Format) -> Option<usize> {
        match self.unit_inputs() {
            0 => None,
            _ if !self.shares_scales() && format.supers() == 0 => None,
            inputs => Some(format.blocks_together() * BLOCK / inputs),
        }
    }

    /// The kernels that products of this arithmetic need: for one token, and for several.
    pub const fn shapes(self, arithmetic: Arithmetic) -> [Shape; 2] {
        match arithmetic {
            Arithmetic::F32 | Arithmetic::F16 | Arithmetic::Bf16 => self.rules().shapes,
            _ => self.rules().int8_shapes,
        }
    }
}

/// Where the tiles of one panel are, in the order of the inputs: `outer` groups of `inner` tiles.
#[derive(Clone, Copy)]
pub struct PanelTiles {
    /// First tile.
    pub start: *const u8,
    /// The numbers of the first super-block, where the format has super-blocks: 16 of each; the next super-block's are
    /// `outer_stride` bytes further on.
    pub supers: *const u8,
    /// Groups.
    pub outer: usize,
    /// Bytes between groups.
    pub outer_stride: usize,
    /// Tiles in a group.
    pub inner: usize,
    /// Bytes between tiles of a group.
    pub inner_stride: usize,
}

impl PanelTiles {
    /// Whether tiles of another panel are at the same distances, and as many.
    pub fn is_shaped_as(&self, other: &PanelTiles) -> bool {
        let shape = |t: &PanelTiles| [t.outer, t.outer_stride, t.inner, t.inner_stride];
        shape(self) == shape(other)
    }
}

/// Where the numbers of one block are in a matrix.
pub(super) struct Place {
    /// First of the numbers of its super-block.
    supers: usize,
    /// First byte of the block's head, or of the 16 heads that it is packed with.
    head: usize,
    /// The output's number among these 16.
    lane: usize,
    /// Bytes from its scale to its minimum, where they are [`Head::Numbers`].
    head_step: usize,
    /// First byte of its codes.
    codes: usize,
    spread: Spread,
}

/// How the codes of a block are distributed in memory.
enum Spread {
    /// In pieces of `bytes` bytes (2, 4 or all), each `step` bytes after the one before.
    Pieces { bytes: usize, step: usize },
    /// Each alone, as number `at` of 32 codes that are stored together, `step` bytes after the one before.
    Across { at: usize, step: usize },
}

/// Bytes between an output's numbers of a super-block: each number is stored for 16 outputs together.
const SUPER_STEP: usize = 2 * TILE_ROWS;

impl Place {
    /// Output `lane` of the tile at byte `tile`: 16 blocks, heads first, codes in pieces of one vector lane. The
    /// super-blocks' numbers for 16 outputs are at byte `supers`.
    fn in_tile(format: Format, supers: usize, tile: usize, lane: usize) -> Place {
        // Four codes of integers, or one float.
        let bytes = if format.code_bits() == 16 { 2 } else { 4 };
        let codes = tile + format.head().bytes_of(TILE_ROWS) + lane * bytes;
        let spread = Spread::Pieces { bytes, step: TILE_ROWS * bytes };
        Place { supers: supers + 2 * lane, head: tile, lane, head_step: SUPER_STEP, codes, spread }
    }

    /// Block `i` of the `n` of the line at byte `line`: scales first, then minima, then codes.
    fn in_line(format: Format, line: usize, i: usize, n: usize) -> Place {
        let codes = line + n * format.header_bytes() + i * format.code_bytes();
        let spread = Spread::Pieces { bytes: format.code_bytes(), step: 0 };
        Place { supers: line, head: line, lane: i, head_step: 2 * n, codes, spread }
    }

    /// Number `i` of [`Head::Numbers`], and of the super-block.
    fn number(&self, i: usize) -> usize {
        self.head + i * self.head_step + 2 * self.lane
    }

    fn super_number(&self, i: usize) -> usize {
        self.supers + i * SUPER_STEP
    }

    /// Reads the block out of the bytes of a matrix.
    pub(super) fn read(&self, format: Format, bytes: &[u8]) -> Block {
        let mut block = [0; size_of::<Block>()];
        let (header, codes) = block[..format.block_bytes()].split_at_mut(format.header_bytes());
        let (supers, own) = header.split_at_mut(format.super_bytes());
        for (i, number) in supers.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            number.copy_from_slice(&bytes[self.super_number(i)..][..2]);
        }
        match format.head() {
            Head::Numbers(_) => {
                for (i, number) in own.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    number.copy_from_slice(&bytes[self.number(i)..][..2]);
                }
            }
            head => head.read(&bytes[self.head..], self.lane, own),
        }
        let bytes = &bytes[self.codes..];
        match self.spread {
            Spread::Pieces { bytes: 2, step } => gather::<2>(bytes, step, codes),
            Spread::Pieces { bytes: 4, step } => gather::<4>(bytes, step, codes),
            Spread::Pieces { .. } => codes.copy_from_slice(&bytes[..codes.len()]),
            Spread::Across { at, step } => {
                (0..BLOCK).for_each(|k| set_code(format, codes, k, code(format, &bytes[k * step..], at)));
            }
        }
        block
    }

    /// Writes the block into the bytes of a matrix. All blocks of a super-block write the same numbers of it.
    pub(super) fn write(&self, format: Format, bytes: &mut [u8], block: &[u8]) {
        let (header, codes) = block[..format.block_bytes()].split_at(format.header_bytes());
        let (supers, own) = header.split_at(format.super_bytes());
        for (i, number) in supers.as_chunks::<2>().0.iter().enumerate() {
            bytes[self.super_number(i)..][..2].copy_from_slice(number);
        }
        match format.head() {
            Head::Numbers(_) => {
                for (i, number) in own.as_chunks::<2>().0.iter().enumerate() {
                    bytes[self.number(i)..][..2].copy_from_slice(number);
                }
            }
            head => head.write(&mut bytes[self.head..], self.lane, own),
        }
        let bytes = &mut bytes[self.codes..];
        match self.spread {
            Spread::Pieces { bytes: 2, step } => scatter::<2>(codes, bytes, step),
            Spread::Pieces { bytes: 4, step } => scatter::<4>(codes, bytes, step),
            Spread::Pieces { .. } => bytes[..codes.len()].copy_from_slice(codes),
            Spread::Across { at, step } => {
                (0..BLOCK).for_each(|k| set_code(format, &mut bytes[k * step..], at, code(format, codes, k)));
            }
        }
    }
}

/// Puts pieces of `N` bytes together that begin every `step` bytes.
fn gather<const N: usize>(from: &[u8], step: usize, to: &mut [u8]) {
    for (i, piece) in to.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        piece.copy_from_slice(&from[i * step..][..N]);
    }
}

/// Takes pieces of `N` bytes apart, so that they begin every `step` bytes.
fn scatter<const N: usize>(from: &[u8], to: &mut [u8], step: usize) {
    for (i, piece) in from.as_chunks::<N>().0.iter().enumerate() {
        to[i * step..][..N].copy_from_slice(piece);
    }
}
