//! A weight matrix in the image: blocks of 32 weights in one of the orders of [`super::order`].
//!
//! `units_per_group` consecutive units form a group (a head, a group of neurons); groups stand `group_stride` bytes
//! apart, so that the parts of several matrices that are used together can lie together.

use super::block::{self, Block};
use super::order::{PanelTiles, Place, Shape};
use super::{BLOCK, Format, Order, TILE_ROWS};
use crate::error::Error;

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
    /// Units (see [`super::order`]) in a group.
    pub units_per_group: usize,
    /// Bytes from one group's first unit to the next group's.
    pub group_stride: usize,
    /// Where units are outputs: outputs from one group's first to the next group's (at least those of its units).
    pub group_width: usize,
}

impl Geometry {
    /// Outputs, those between groups left out.
    pub const fn outputs(&self) -> usize {
        self.panels * TILE_ROWS
    }

    /// Units: panels, k-blocks, outputs or inputs, by the order.
    pub const fn units(&self) -> usize {
        match self.order.unit_outputs() {
            0 => self.input_width() / self.order.unit_inputs(),
            outputs => self.outputs() / outputs,
        }
    }

    /// Bytes of one unit, without scales that units share.
    pub const fn unit_bytes(&self) -> usize {
        let weights = match self.order.unit_outputs() {
            0 => self.outputs() * self.order.unit_inputs(),
            outputs => self.input_width() * outputs,
        };
        let codes_only = self.order.shares_scales();
        weights / BLOCK * if codes_only { self.format.code_bytes() } else { self.format.block_bytes() }
    }

    /// Bytes of the scales that the units of a group share; else 0.
    pub const fn shared_bytes(&self) -> usize {
        if self.order.shares_scales() { self.format.header_bytes() * self.outputs() } else { 0 }
    }

    /// Lines of blocks: outputs, or inputs where blocks run along the outputs.
    pub const fn lines(&self) -> usize {
        if self.order.is_along_outputs() { self.input_width() } else { self.outputs() }
    }

    /// Blocks of such a line.
    pub const fn line_blocks(&self) -> usize {
        if self.order.is_along_outputs() { self.outputs() / BLOCK } else { self.k_blocks }
    }

    /// Whether products take quantized inputs (else floats): dot products along blocks of integers do.
    pub const fn takes_int8(&self) -> bool {
        self.format.takes_int8() && !self.order.is_along_outputs()
    }

    /// Whether single inputs can be left out.
    pub const fn is_by_input(&self) -> bool {
        self.order.is_by_input()
    }

    /// The kernels of its products: for one token, and for several.
    pub const fn shapes(&self) -> [Shape; 2] {
        self.order.shapes(self.format.arithmetic())
    }

    /// Bytes of all units, without what lies between groups.
    pub const fn weight_bytes(&self) -> usize {
        self.bytes_read(self.outputs(), self.input_width(), self.k_blocks)
    }

    /// Bytes that are read for `outputs` outputs (whole panels, or blocks where lines are inputs) of `inputs` inputs,
    /// which lie in `k_blocks` k-blocks.
    pub const fn bytes_read(&self, outputs: usize, inputs: usize, k_blocks: usize) -> usize {
        let (header, codes) = (self.format.header_bytes(), self.format.code_bytes());
        if self.order.is_along_outputs() {
            return outputs / BLOCK * inputs * (header + codes);
        }
        outputs * k_blocks * header + outputs * inputs / BLOCK * codes
    }

    /// Length of an input vector (a multiple of 32).
    pub const fn input_width(&self) -> usize {
        self.k_blocks * BLOCK
    }

    /// Length of an output vector (a multiple of 16).
    pub const fn output_width(&self) -> usize {
        match self.order.unit_outputs() {
            0 => self.outputs(),
            _ => self.units() / self.units_per_group * self.group_width,
        }
    }

    /// Place of panel `p`'s first output in an output vector. Groups of lines of outputs follow each other without
    /// padding (checked by the image).
    pub const fn output_offset(&self, p: usize) -> usize {
        let (first, group) = (p * TILE_ROWS, self.units_per_group * self.order.unit_outputs());
        if group < TILE_ROWS { first } else { first / group * self.group_width + first % group }
    }

    /// Place of unit `u` in the bytes.
    pub(super) const fn unit_offset(&self, u: usize) -> usize {
        let (group, within) = (u / self.units_per_group, u % self.units_per_group);
        group * self.group_stride + self.shared_bytes() + within * self.unit_bytes()
    }

    /// Where block `i` of line `line` is (see [`Geometry::lines`]).
    fn place(&self, line: usize, i: usize) -> Place {
        assert!(line < self.lines() && i < self.line_blocks(), "block out of range");
        (self.order.rules().place)(self, line, i)
    }

    /// Writes block `i` of line `line` (see [`Geometry::lines`]) to the bytes of a matrix.
    ///
    /// # Panics
    /// When there is no such block, `bytes` are fewer than [`Geometry::span`], or `block` is too short.
    pub fn write_block(&self, bytes: &mut [u8], line: usize, i: usize, block: &[u8]) {
        self.place(line, i).write(self.format, bytes, block);
    }

    /// Bytes from the first unit's first to the last unit's last, or `None` when the geometry is impossible.
    pub fn span(&self) -> Option<usize> {
        let (order, upg) = (self.order, self.units_per_group);
        // Counts far above any model's keep the products below inside 64 bits.
        if self.panels == 0 || self.k_blocks == 0 || upg == 0 || self.panels.max(self.k_blocks) > 1 << 26 {
            return None;
        }
        let blocks = self.panels.checked_mul(TILE_ROWS)?.checked_mul(self.k_blocks)?;
        let bytes = blocks.checked_mul(self.format.block_bytes())?;
        if bytes > isize::MAX as usize {
            return None;
        }
        let units = self.units();
        if !units.is_multiple_of(upg) || !self.outputs().is_multiple_of(order.output_multiple()) {
            return None;
        }
        if self.group_width < upg.checked_mul(order.unit_outputs())? {
            return None;
        }
        // What inputs share stands once in every k-block, so k-blocks are the groups.
        if order.shares_scales() && upg != BLOCK {
            return None;
        }
        let group = bytes / units * upg;
        // Widths are used as element counts too: keep them far from overflow.
        if self.group_stride < group || self.group_width.checked_mul(units)? > isize::MAX as usize / 8 {
            return None;
        }
        (units / upg - 1).checked_mul(self.group_stride)?.checked_add(group)
    }
}

/// A weight matrix: geometry and bytes, checked against each other.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    geometry: Geometry,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix of this geometry at the start of `bytes`.
    ///
    /// # Errors
    /// [`Error::BadTensor`] when the geometry is impossible or the bytes too few.
    pub fn new(geometry: Geometry, bytes: &'a [u8]) -> Result<Self, Error> {
        match geometry.span() {
            Some(span) if span <= bytes.len() => Ok(Matrix { geometry, bytes: &bytes[..span] }),
            _ => Err(Error::BadTensor("matrix")),
        }
    }

    /// Where its blocks are.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Number format.
    pub const fn format(&self) -> Format {
        self.geometry.format
    }

    /// Place of panel `p`'s first output in an output vector.
    pub fn output_offset(&self, p: usize) -> usize {
        self.geometry.output_offset(p)
    }

    /// First byte of unit `u`; an address without meaning where there is no such unit.
    pub fn unit_start(&self, u: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(self.geometry.unit_offset(u))
    }

    /// Where the lines are, in a matrix of lines.
    ///
    /// # Panics
    /// When the matrix is made of tiles.
    pub fn lines(&self) -> Lines {
        let g = &self.geometry;
        assert!(g.order.rules().panel.is_none(), "a matrix of tiles has no lines");
        Lines {
            start: self.bytes.as_ptr(),
            per_group: g.units_per_group,
            group_stride: g.group_stride,
            shared_bytes: g.shared_bytes(),
            line_bytes: g.unit_bytes(),
            blocks: if g.order.unit_outputs() == 0 { g.outputs() / BLOCK } else { g.k_blocks },
        }
    }

    /// Where the tiles of panel `p` are, in the order of the inputs.
    ///
    /// # Panics
    /// When there is no panel `p`, or no tiles.
    pub fn panel_tiles(&self, p: usize) -> PanelTiles {
        let g = &self.geometry;
        assert!(p < g.panels, "panel out of range");
        let panel = g.order.rules().panel.expect("a matrix of lines has no tiles");
        panel(g, self.bytes.as_ptr(), p)
    }

    /// The run of tiles of k-block `kb` from panel `from` to `to`, where k-blocks are the units.
    ///
    /// # Panics
    /// When out of range, or where units are others.
    pub fn column_run(&self, kb: usize, from: usize, to: usize) -> &'a [u8] {
        let g = &self.geometry;
        assert!(g.order.unit_inputs() == BLOCK && kb < g.k_blocks && to <= g.panels, "run out of range");
        let (start, tile) = (g.unit_offset(kb), g.format.tile_bytes());
        &self.bytes[start + from * tile..start + to * tile]
    }

    /// Block `i` of line `line` (see [`Geometry::lines`]), as [`block::decode`] reads it.
    ///
    /// # Panics
    /// When out of range.
    pub fn read_block(&self, line: usize, i: usize) -> Block {
        self.geometry.place(line, i).read(self.format(), self.bytes)
    }

    /// The 32 weights of output `row` (counted in panels of 16) and k-block `kb`, as floats. Slow and
    /// clear: for looking up embedding rows, and as the definition the kernels are tested against.
    ///
    /// # Panics
    /// When out of range.
    pub fn block(&self, row: usize, kb: usize) -> [f32; BLOCK] {
        let block = |line, i| block::decode(self.format(), &self.read_block(line, i));
        if self.geometry.order.is_along_outputs() {
            return core::array::from_fn(|k| block(kb * BLOCK + k, row / BLOCK)[row % BLOCK]);
        }
        block(row, kb)
    }
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
        // SAFETY: a group's first byte is inside the matrix, whose span `Matrix::new` has checked.
        unsafe { self.start.add(g * self.group_stride) }
    }

    /// First byte of the first line of group `g`, and bytes from line to line there.
    ///
    /// # Safety
    /// There must be a group `g`.
    #[inline(always)]
    pub unsafe fn group(&self, g: usize) -> (*const u8, usize) {
        // SAFETY: a group's first line is inside the matrix, whose span `Matrix::new` has checked.
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
        // SAFETY: a line's first byte is inside the matrix, whose span `Matrix::new` has checked.
        unsafe { self.start.add(at) }
    }
}
