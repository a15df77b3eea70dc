//! A weight matrix in the image: blocks of 32 weights in one of five orders.
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
//! A *panel* is 16 outputs, a *k-block* 32 inputs. What lies together (a panel, a k-block, a line) is a
//! *unit*: the smallest run of bytes a sparse pass may leave out. `units_per_group` consecutive units form a
//! group (a head, a group of neurons); groups stand `group_stride` bytes apart, so that the parts of several
//! matrices that are used together can lie together. Blocks run along the reduction, but for `ColumnLines`.

use super::{Arithmetic, BLOCK, Format, TILE_ROWS};
use crate::error::Error;
use half::f16;

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
    /// All codes of an input together, behind the scales of its k-block: blocks run along the reduction.
    Inputs = 4,
}

impl Order {
    /// All, in the order of their codes.
    pub const ALL: [Order; 5] = [Order::Rows, Order::Columns, Order::RowLines, Order::ColumnLines, Order::Inputs];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Rows => "rows",
            Order::Columns => "columns",
            Order::RowLines => "row-lines",
            Order::ColumnLines => "column-lines",
            Order::Inputs => "inputs",
        }
    }
}

/// Where the blocks of a matrix are, without the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number format.
    pub format: Format,
    /// Block order.
    pub order: Order,
    /// Panels of 16 outputs (an even number where inputs are lines, which are cut by 32).
    pub panels: usize,
    /// Blocks of 32 inputs.
    pub k_blocks: usize,
    /// Units (see the module) in a group.
    pub units_per_group: usize,
    /// Bytes from one group's first unit to the next group's.
    pub group_stride: usize,
    /// Under `Rows` and `RowLines`: outputs from one group's first to the next group's (at least those of its
    /// units).
    pub group_width: usize,
}

impl Geometry {
    /// Units: panels under `Rows`, k-blocks under `Columns`, outputs or inputs where those are lines.
    pub const fn units(&self) -> usize {
        match self.order {
            Order::Rows => self.panels,
            Order::Columns => self.k_blocks,
            Order::RowLines => self.panels * TILE_ROWS,
            Order::ColumnLines | Order::Inputs => self.k_blocks * BLOCK,
        }
    }

    /// Bytes of one unit (without the scales that all inputs of a k-block share under `Inputs`).
    pub const fn unit_bytes(&self) -> usize {
        match self.order {
            Order::Rows => self.format.tile_bytes() * self.k_blocks,
            Order::Columns => self.format.tile_bytes() * self.panels,
            Order::RowLines => self.format.block_bytes() * self.k_blocks,
            Order::ColumnLines => self.format.block_bytes() * (self.panels * TILE_ROWS / BLOCK),
            Order::Inputs => self.format.code_bytes() * (self.panels * TILE_ROWS / BLOCK),
        }
    }

    /// Blocks of a line.
    const fn line_blocks(&self) -> usize {
        match self.order {
            Order::ColumnLines | Order::Inputs => self.panels * TILE_ROWS / BLOCK,
            _ => self.k_blocks,
        }
    }

    /// Outputs of a unit, where units are outputs.
    const fn unit_outputs(&self) -> usize {
        match self.order {
            Order::Rows => TILE_ROWS,
            Order::RowLines => 1,
            Order::Columns | Order::ColumnLines | Order::Inputs => 0,
        }
    }

    /// Whether products take quantized inputs (else floats): dot products along blocks of integers do.
    pub const fn takes_int8(&self) -> bool {
        self.format.takes_int8() && !matches!(self.order, Order::ColumnLines)
    }

    /// Bytes of the scales that the inputs of a k-block share, under `Inputs`; else 0.
    pub const fn shared_bytes(&self) -> usize {
        match self.order {
            Order::Inputs => self.format.header_bytes() * self.panels * TILE_ROWS,
            _ => 0,
        }
    }

    /// Whether single inputs can be left out.
    pub const fn is_by_input(&self) -> bool {
        matches!(self.order, Order::ColumnLines | Order::Inputs)
    }

    /// Bytes of all units, without what lies between groups.
    pub const fn weight_bytes(&self) -> usize {
        self.units() * self.unit_bytes() + self.k_blocks * self.shared_bytes()
    }

    /// Length of an input vector (a multiple of 32).
    pub const fn input_width(&self) -> usize {
        self.k_blocks * BLOCK
    }

    /// Length of an output vector (a multiple of 16).
    pub const fn output_width(&self) -> usize {
        match self.order {
            Order::Rows | Order::RowLines => self.units() / self.units_per_group * self.group_width,
            Order::Columns | Order::ColumnLines | Order::Inputs => self.panels * TILE_ROWS,
        }
    }

    /// Bytes from the first unit's first to the last unit's last, or `None` when the geometry is impossible.
    pub fn span(&self) -> Option<usize> {
        let upg = self.units_per_group;
        // Counts far above any model's keep the products below inside 64 bits.
        if self.panels == 0 || self.k_blocks == 0 || upg == 0 || self.panels.max(self.k_blocks) > 1 << 26 {
            return None;
        }
        let units = self.units();
        if !units.is_multiple_of(upg) || self.is_by_input() && !self.panels.is_multiple_of(2) {
            return None;
        }
        if self.group_width < upg.checked_mul(self.unit_outputs())? {
            return None;
        }
        let blocks = self.panels.checked_mul(TILE_ROWS)?.checked_mul(self.k_blocks)?;
        let bytes = blocks.checked_mul(self.format.block_bytes())?;
        let group = bytes / units * upg;
        // What inputs share stands once in every k-block, so k-blocks are the groups.
        if self.order == Order::Inputs && upg != BLOCK {
            return None;
        }
        if self.group_stride < group || bytes > isize::MAX as usize {
            return None;
        }
        // Widths are used as element counts too: keep them far from overflow.
        if self.group_width.checked_mul(units)? > isize::MAX as usize / 8 {
            return None;
        }
        (units / upg - 1).checked_mul(self.group_stride)?.checked_add(group)
    }
}

/// A weight matrix: geometry and bytes, checked against each other.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    geometry: Geometry,
    tiles: &'a [u8],
}

/// Where the lines of a matrix are.
#[derive(Clone, Copy)]
pub struct Lines {
    start: *const u8,
    per_group: usize,
    group_stride: usize,
    /// Bytes of a group before its first line.
    shared_bytes: usize,
    line_bytes: usize,
    /// Blocks of a line.
    blocks: usize,
}

impl Lines {
    /// First byte of group `g`: what its lines share.
    ///
    /// # Safety
    /// There must be a group `g`.
    #[inline(always)]
    pub unsafe fn shared(&self, g: usize) -> *const u8 {
        // SAFETY: inside the matrix by the caller's promise.
        unsafe { self.start.add(g * self.group_stride) }
    }

    /// First byte of the first line of group `g`, and bytes from line to line there.
    ///
    /// # Safety
    /// There must be a group `g`.
    #[inline(always)]
    pub unsafe fn group(&self, g: usize) -> (*const u8, usize) {
        // SAFETY: inside the matrix by the caller's promise.
        unsafe { (self.start.add(g * self.group_stride + self.shared_bytes), self.line_bytes) }
    }

    /// Blocks of a line.
    #[inline(always)]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// First byte of line `i`.
    ///
    /// # Safety
    /// There must be a line `i`.
    #[inline(always)]
    pub unsafe fn line(&self, i: usize) -> *const u8 {
        // Groups of one, and those of neurons, whose sizes are powers of two, need no division.
        let (group, place) = if self.per_group.is_power_of_two() {
            (i >> self.per_group.trailing_zeros(), i & (self.per_group - 1))
        } else {
            (i / self.per_group.max(1), i % self.per_group.max(1))
        };
        let at = group * self.group_stride + self.shared_bytes + place * self.line_bytes;
        // SAFETY: inside the matrix by the caller's promise.
        unsafe { self.start.add(at) }
    }
}

/// Where the tiles of one panel are, in the order of the inputs: `outer` groups of `inner` tiles.
#[derive(Clone, Copy)]
pub struct PanelTiles {
    /// First tile.
    pub start: *const u8,
    /// Groups.
    pub outer: usize,
    /// Bytes between groups.
    pub outer_stride: usize,
    /// Tiles in a group.
    pub inner: usize,
    /// Bytes between tiles of a group.
    pub inner_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of this geometry at the start of `tiles`.
    ///
    /// # Errors
    /// [`Error::BadTensor`] when the geometry is impossible or the bytes too few.
    pub fn new(geometry: Geometry, tiles: &'a [u8]) -> Result<Self, Error> {
        match geometry.span() {
            Some(span) if span <= tiles.len() => Ok(Matrix { geometry, tiles: &tiles[..span] }),
            _ => Err(Error::BadTensor("matrix")),
        }
    }

    /// Where its tiles are.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Number format.
    pub const fn format(&self) -> Format {
        self.geometry.format
    }

    /// Place of unit `u` in the bytes.
    fn unit_offset(&self, u: usize) -> usize {
        let g = &self.geometry;
        u / g.units_per_group * g.group_stride + u % g.units_per_group * g.unit_bytes()
    }

    /// Place of panel `p`'s first output in an output vector.
    pub fn output_offset(&self, p: usize) -> usize {
        let g = &self.geometry;
        match g.order {
            Order::Rows => p / g.units_per_group * g.group_width + p % g.units_per_group * TILE_ROWS,
            // Groups of lines follow each other without padding (checked by the image).
            Order::Columns | Order::RowLines | Order::ColumnLines | Order::Inputs => p * TILE_ROWS,
        }
    }

    /// Where the lines are, in a matrix of lines.
    ///
    /// # Panics
    /// When the matrix is made of tiles.
    pub fn lines(&self) -> Lines {
        let g = &self.geometry;
        assert!(!matches!(g.order, Order::Rows | Order::Columns), "a matrix of tiles has no lines");
        Lines {
            start: self.tiles.as_ptr(),
            per_group: g.units_per_group,
            group_stride: g.group_stride,
            shared_bytes: g.shared_bytes(),
            line_bytes: g.unit_bytes(),
            blocks: g.line_blocks(),
        }
    }

    /// Where the tiles of panel `p` are, in the order of the inputs.
    ///
    /// # Panics
    /// When there is no panel `p`, or no tiles.
    pub fn panel_tiles(&self, p: usize) -> PanelTiles {
        let g = &self.geometry;
        assert!(p < g.panels, "panel out of range");
        let tile = g.format.tile_bytes();
        match g.order {
            Order::Rows => PanelTiles {
                start: self.tiles[self.unit_offset(p)..].as_ptr(),
                outer: 1,
                outer_stride: 0,
                inner: g.k_blocks,
                inner_stride: tile,
            },
            Order::Columns => PanelTiles {
                start: self.tiles[p * tile..].as_ptr(),
                outer: g.k_blocks / g.units_per_group,
                outer_stride: g.group_stride,
                inner: g.units_per_group,
                inner_stride: g.unit_bytes(),
            },
            Order::RowLines | Order::ColumnLines | Order::Inputs => panic!("a matrix of lines has no tiles"),
        }
    }

    /// First byte of unit `u`; an address without meaning where there is no such unit.
    pub fn unit_start(&self, u: usize) -> *const u8 {
        self.tiles.as_ptr().wrapping_add(self.unit_offset(u))
    }

    /// The run of tiles of k-block `kb` from panel `from` to `to`, under [`Order::Columns`].
    ///
    /// # Panics
    /// When out of range or not a `Columns` matrix.
    pub fn column_run(&self, kb: usize, from: usize, to: usize) -> &'a [u8] {
        let g = &self.geometry;
        assert!(g.order == Order::Columns && kb < g.k_blocks && to <= g.panels);
        let (start, tile) = (self.unit_offset(kb), g.format.tile_bytes());
        &self.tiles[start + from * tile..start + to * tile]
    }

    /// The 32 weights of output `row` (counted in panels of 16) and k-block `kb`, as floats. Slow and
    /// clear: for looking up embedding rows, and as the definition the kernels are tested against.
    ///
    /// # Panics
    /// When out of range.
    pub fn block(&self, row: usize, kb: usize) -> [f32; BLOCK] {
        let g = &self.geometry;
        let (p, lane, tile) = (row / TILE_ROWS, row % TILE_ROWS, g.format.tile_bytes());
        assert!(p < g.panels && kb < g.k_blocks, "block out of range");
        let block = |unit: usize, i: usize| {
            let start = self.unit_offset(unit);
            decode_line(g.format, &self.tiles[start..start + g.unit_bytes()], i, g.line_blocks())
        };
        let start = match g.order {
            Order::Rows => self.unit_offset(p) + kb * tile,
            Order::Columns => self.unit_offset(kb) + p * tile,
            Order::RowLines => return block(row, kb),
            Order::ColumnLines => {
                return core::array::from_fn(|k| block(kb * BLOCK + k, row / BLOCK)[row % BLOCK]);
            }
            Order::Inputs => return self.input_block(row, kb),
        };
        decode_block(g.format, &self.tiles[start..start + tile], lane)
    }
}

impl Matrix<'_> {
    /// [`Matrix::block`] under [`Order::Inputs`].
    fn input_block(&self, row: usize, kb: usize) -> [f32; BLOCK] {
        let g = &self.geometry;
        let shared = &self.tiles[kb * g.group_stride..];
        let outputs = g.panels * TILE_ROWS;
        let half_at = |i: usize| f16::from_le_bytes([shared[2 * i], shared[2 * i + 1]]).to_f32();
        // The line of an input holds 32 codes of outputs as a block's codes are arranged.
        let start = |k: usize| g.shared_bytes() + k * g.unit_bytes() + row / BLOCK * g.format.code_bytes();
        let nibble = |k: usize| shared[start(k) + row % 16] >> (if row % BLOCK < 16 { 0 } else { 4 }) & 15;
        core::array::from_fn(|k| match g.format.arithmetic() {
            Arithmetic::F32 => {
                let at = start(k) + 4 * (row % BLOCK);
                f32::from_le_bytes([shared[at], shared[at + 1], shared[at + 2], shared[at + 3]])
            }
            Arithmetic::F16 => half_at((start(k) + 2 * (row % BLOCK)) / 2),
            Arithmetic::Int8 => half_at(row) * f32::from(shared[start(k) + row % BLOCK] as i8),
            Arithmetic::Table4 => half_at(row) * f32::from(g.format.table()[usize::from(nibble(k))]),
            Arithmetic::Affine4 => half_at(row) * f32::from(nibble(k)) + half_at(outputs + row),
        })
    }
}

/// The 32 weights of block `i` of a line of `n` (image/FORMAT.md).
fn decode_line(format: Format, line: &[u8], i: usize, n: usize) -> [f32; BLOCK] {
    let half_at = |i: usize| f16::from_le_bytes([line[2 * i], line[2 * i + 1]]).to_f32();
    let codes = &line[n * format.header_bytes() + i * format.code_bytes()..][..format.code_bytes()];
    let nibble = |k: usize| codes[k % 16] >> (if k < 16 { 0 } else { 4 }) & 15;
    core::array::from_fn(|k| match format.arithmetic() {
        Arithmetic::F32 => f32::from_le_bytes([codes[4 * k], codes[4 * k + 1], codes[4 * k + 2], codes[4 * k + 3]]),
        Arithmetic::F16 => f16::from_le_bytes([codes[2 * k], codes[2 * k + 1]]).to_f32(),
        Arithmetic::Int8 => half_at(i) * f32::from(codes[k] as i8),
        Arithmetic::Table4 => half_at(i) * f32::from(format.table()[usize::from(nibble(k))]),
        Arithmetic::Affine4 => half_at(i) * f32::from(nibble(k)) + half_at(n + i),
    })
}

/// The 32 weights of one output in a tile: the definition of the tile formats (image/FORMAT.md).
fn decode_block(format: Format, tile: &[u8], lane: usize) -> [f32; BLOCK] {
    let half_at = |i: usize| f16::from_le_bytes([tile[2 * i], tile[2 * i + 1]]).to_f32();
    let scale = half_at(lane);
    // Bytes behind `header` come in quads: four consecutive inputs of output 0, of output 1, ...
    let quad = |header: usize, k: usize| tile[header + (k / 4) * 64 + lane * 4 + k % 4];
    let nibble = |header: usize, k: usize| quad(header, k % 16) >> (if k < 16 { 0 } else { 4 }) & 15;
    core::array::from_fn(|k| match format.arithmetic() {
        Arithmetic::F32 => {
            let at = 4 * (k * TILE_ROWS + lane);
            f32::from_le_bytes([tile[at], tile[at + 1], tile[at + 2], tile[at + 3]])
        }
        Arithmetic::F16 => half_at(k * TILE_ROWS + lane),
        Arithmetic::Int8 => scale * f32::from(quad(32, k) as i8),
        Arithmetic::Table4 => scale * f32::from(format.table()[usize::from(nibble(32, k))]),
        Arithmetic::Affine4 => scale * f32::from(nibble(64, k)) + half_at(TILE_ROWS + lane),
    })
}
