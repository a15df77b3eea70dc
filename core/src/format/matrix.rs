//! A weight matrix in the image: blocks of 32 weights in one of the orders of [`super::order`].
//!
//! `units_per_group` consecutive units form a group (a head, a group of neurons). Groups begin `group_stride` bytes
//! apart, so that those parts of several matrices that are used together can be stored together.

use super::block::{self, Block};
use super::order::{PanelTiles, Place, Shape, columns};
use super::{BLOCK, Format, Order, TILE_ROWS};
use crate::error::Error;

/// Where the blocks of a matrix are, without the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number format.
    pub format: Format,
    /// Block order.
    pub order: Order,
    /// Panels of 16 outputs (an even number where lines are inputs, since their blocks hold 32 outputs).
    pub panels: usize,
    /// Blocks of 32 inputs.
    pub k_blocks: usize,
    /// Units (see [`super::order`]) in a group.
    pub units_per_group: usize,
    /// Bytes from one group's first unit to the next group's.
    pub group_stride: usize,
    /// Where units are outputs: the distance from one group's first output to the next group's (at least the outputs of
    /// its units).
    pub group_width: usize,
}

impl Geometry {
    /// Outputs, without the unused ones between groups.
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

    /// Bytes of one unit, without the numbers that units share.
    pub const fn unit_bytes(&self) -> usize {
        let (format, order) = (self.format, self.order);
        let (weights, supers) = match order.unit_outputs() {
            0 => (self.outputs() * order.unit_inputs(), 0),
            outputs => (self.input_width() * outputs, outputs * (self.k_blocks / format.blocks_together())),
        };
        let heads = if order.shares_scales() { 0 } else { format.head().bytes_of(weights / BLOCK) };
        weights / BLOCK * format.code_bytes() + heads + supers * format.super_bytes()
    }

    /// Bytes of the numbers that the units of a group share, which are stored before the first unit: those of
    /// super-blocks where units are inputs, and those of blocks too where units are single inputs; else 0.
    pub const fn shared_bytes(&self) -> usize {
        let (format, order) = (self.format, self.order);
        let heads = if order.shares_scales() { format.head().bytes_of(self.outputs()) } else { 0 };
        let supers = if order.unit_outputs() == 0 { self.outputs() * format.super_bytes() } else { 0 };
        supers + format.blocks_together() * heads
    }

    /// Lines of blocks: outputs, or inputs where blocks run along the outputs.
    pub const fn lines(&self) -> usize {
        if self.order.is_along_outputs() { self.input_width() } else { self.outputs() }
    }

    /// Blocks of a line.
    pub const fn line_blocks(&self) -> usize {
        if self.order.is_along_outputs() { self.outputs() / BLOCK } else { self.k_blocks }
    }

    /// Whether products take quantized inputs, and not floats: they do where blocks of integers run along the inputs.
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

    /// Bytes of all units, without the gaps between groups.
    pub const fn weight_bytes(&self) -> usize {
        let supers = self.k_blocks / self.format.blocks_together();
        self.bytes_read(self.outputs(), self.input_width(), self.k_blocks, supers)
    }

    /// Bytes that are read for `outputs` outputs (whole panels, or whole blocks where lines are inputs) of `inputs`
    /// inputs. These inputs are in `k_blocks` different k-blocks and `supers` different super-blocks (ignored for
    /// formats without super-blocks).
    pub const fn bytes_read(&self, outputs: usize, inputs: usize, k_blocks: usize, supers: usize) -> usize {
        let format = self.format;
        let codes = format.code_bytes();
        if self.order.is_along_outputs() {
            let blocks = outputs / BLOCK * inputs;
            return blocks * codes + format.head().bytes_of(blocks);
        }
        let heads = format.head().bytes_of(outputs * k_blocks);
        outputs * inputs / BLOCK * codes + heads + outputs * supers * format.super_bytes()
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

    /// Place of panel `p`'s first output in an output vector. Groups of output lines follow each other without padding
    /// (checked by the image).
    pub const fn output_offset(&self, p: usize) -> usize {
        let (first, group) = (p * TILE_ROWS, self.units_per_group * self.order.unit_outputs());
        if group < TILE_ROWS { first } else { first / group * self.group_width + first % group }
    }

    /// Place of unit `u` in the bytes.
    pub(super) const fn unit_offset(&self, u: usize) -> usize {
        self.offset_of(u, self.unit_bytes(), self.shared_bytes())
    }

    /// [`Geometry::unit_offset`], with bytes of a unit and of what units share that are known already.
    const fn offset_of(&self, u: usize, unit_bytes: usize, shared_bytes: usize) -> usize {
        let per_group = self.units_per_group;
        // Many matrices are one group.
        let (group, within) = if u < per_group { (0, u) } else { (u / per_group, u % per_group) };
        group * self.group_stride + shared_bytes + within * unit_bytes
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

    /// Bytes from the start of the first unit to the end of the last one, or `None` when the geometry is impossible.
    pub fn span(&self) -> Option<usize> {
        let (order, upg) = (self.order, self.units_per_group);
        // With counts up to this limit, far above any model's, the products below fit in 64 bits.
        if self.panels == 0 || self.k_blocks == 0 || upg == 0 || self.panels.max(self.k_blocks) > 1 << 26 {
            return None;
        }
        if !order.holds(self.format) || !self.k_blocks.is_multiple_of(self.format.blocks_together()) {
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
        // The numbers that units share are stored before them, once a group, so that the order decides how many units a
        // group has.
        if order.group_units(self.format).is_some_and(|units| units != upg) {
            return None;
        }
        let group = self.shared_bytes().checked_add(self.unit_bytes().checked_mul(upg)?)?;
        // Widths are also used as element counts, so they must stay far from overflow.
        if self.group_stride < group || (units / upg).checked_mul(self.group_width)? > isize::MAX as usize / 8 {
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
    /// Those of the geometry, which kernels need for every unit that they read.
    unit_bytes: usize,
    shared_bytes: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of this geometry at the start of `bytes`.
    ///
    /// # Errors
    /// [`Error::BadTensor`] when the geometry is impossible or the bytes too few.
    pub fn new(geometry: Geometry, bytes: &'a [u8]) -> Result<Self, Error> {
        match geometry.span() {
            Some(span) if span <= bytes.len() => {
                let (unit_bytes, shared_bytes) = (geometry.unit_bytes(), geometry.shared_bytes());
                Ok(Matrix { geometry, bytes: &bytes[..span], unit_bytes, shared_bytes })
            }
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

    /// First byte of unit `u`; a meaningless address where there is no such unit.
    pub fn unit_start(&self, u: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(self.unit_offset(u))
    }

    /// The first byte that is read of the tiles of panel `p`; a meaningless address where there is no such panel.
    pub fn panel_start(&self, p: usize) -> *const u8 {
        match self.geometry.order.unit_inputs() {
            0 => self.unit_start(p),
            _ => self.unit_start(0).wrapping_add(p * self.geometry.format.tile_bytes()),
        }
    }

    /// [`Geometry::unit_offset`].
    fn unit_offset(&self, u: usize) -> usize {
        self.geometry.offset_of(u, self.unit_bytes, self.shared_bytes)
    }

    /// Bytes of a unit ([`Geometry::unit_bytes`]).
    pub(super) fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    /// The address `offset` bytes after the first one; a meaningless one where the matrix is shorter.
    pub(super) fn address(&self, offset: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(offset)
    }

    /// Where the lines are, in a matrix of lines.
    ///
    /// # Panics
    /// When the matrix is made of tiles.
    pub fn lines(&self) -> Lines {
        let g = &self.geometry;
        assert!(g.order.rules().panel.is_none(), "a matrix of tiles has no lines");
        let (format, heads) =
            (g.format, if g.order.shares_scales() { g.format.head().bytes_of(g.outputs()) } else { 0 });
        Lines {
            start: self.bytes.as_ptr(),
            per_group: g.units_per_group,
            group_stride: g.group_stride,
            shared_bytes: self.shared_bytes,
            super_bytes: self.shared_bytes - heads * format.blocks_together(),
            head_bytes: heads,
            together: format.blocks_together(),
            line_bytes: self.unit_bytes,
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
        panel(self, p)
    }

    /// The tiles of k-block `kb` from panel `from` to `to`, which are one run of bytes, where k-blocks are the units.
    ///
    /// # Panics
    /// When out of range, or when units are not k-blocks.
    pub fn column_run(&self, kb: usize, from: usize, to: usize) -> &'a [u8] {
        let g = &self.geometry;
        assert!(g.order.unit_inputs() == BLOCK && kb < g.k_blocks && to <= g.panels, "run out of range");
        let (start, tile) = (self.unit_offset(kb), g.format.tile_bytes());
        &self.bytes[start + from * tile..start + to * tile]
    }

    /// The numbers of the super-blocks of k-block `kb`, from panel `from` on: 16 of each for every panel. A meaningless
    /// address where the format has no super-blocks.
    pub fn column_supers(&self, kb: usize, from: usize) -> *const u8 {
        let g = &self.geometry;
        self.bytes.as_ptr().wrapping_add(columns::supers(g, kb / g.units_per_group, from))
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
    /// Of these, the numbers of super-blocks, which come first.
    super_bytes: usize,
    /// Bytes of the heads of all outputs, for each k-block; they follow the super-scales.
    head_bytes: usize,
    /// K-blocks of a group where its lines share heads.
    together: usize,
    line_bytes: usize,
    /// Blocks of a line.
    blocks: usize,
}

impl Lines {
    /// First byte of the heads that the lines of k-block `kb` share.
    ///
    /// # Safety
    /// `kb` must be a k-block of the matrix, and its lines must share heads.
    #[inline(always)]
    pub unsafe fn heads(&self, kb: usize) -> *const u8 {
        let at = kb / self.together.max(1) * self.group_stride
            + self.super_bytes
            + kb % self.together.max(1) * self.head_bytes;
        // SAFETY: a group's heads are inside the matrix, whose span `Matrix::new` has checked.
        unsafe { self.start.add(at) }
    }

    /// First byte of the numbers of the super-block that k-block `kb` is in.
    ///
    /// # Safety
    /// As [`Lines::heads`].
    #[inline(always)]
    pub unsafe fn supers(&self, kb: usize) -> *const u8 {
        // SAFETY: a group's first byte is inside the matrix, whose span `Matrix::new` has checked.
        unsafe { self.start.add(kb / self.together.max(1) * self.group_stride) }
    }

    /// First byte of the first line of k-block `kb`, and bytes from line to line there.
    ///
    /// # Safety
    /// As [`Lines::heads`].
    #[inline(always)]
    pub unsafe fn of_block(&self, kb: usize) -> (*const u8, usize) {
        // SAFETY: the caller has a k-block `kb`, and each k-block has 32 lines, so line `kb * 32` exists.
        unsafe { (self.line(kb * BLOCK), self.line_bytes) }
    }

    /// Blocks of a line.
    #[inline(always)]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// First byte of line `i`.
    ///
    /// # Safety
    /// `i` must be below the number of lines of the matrix.
    #[inline(always)]
    pub unsafe fn line(&self, i: usize) -> *const u8 {
        // Groups of one line and groups of neurons have sizes that are powers of two: these need no division.
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
