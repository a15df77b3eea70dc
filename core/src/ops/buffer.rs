//! Rows of inputs for matrix products, as floats and quantized.

use crate::arena::{Arena, Plain};
use crate::error::Error;
use crate::format::BLOCK;
use crate::kernels::{Input, Kernels, Offset, Scale};
use crate::views::Disjoint;
use core::ops::Range;

/// Input rows in session memory: [tokens, width] and their quantized twins.
#[derive(Default)]
pub struct Rows<'m> {
    /// Length of a row, a multiple of 32.
    pub width: usize,
    /// [tokens, width].
    pub values: &'m mut [f32],
    quants: &'m mut [i8],
    scales: &'m mut [Scale],
    offsets: &'m mut [Offset],
}

/// [`Rows`] as shared by tasks that fill disjoint blocks of it.
pub struct SharedRows<'a> {
    /// Length of a row.
    pub width: usize,
    /// [tokens, width].
    pub values: Disjoint<'a, f32>,
    quants: Disjoint<'a, i8>,
    scales: Disjoint<'a, Scale>,
    offsets: Disjoint<'a, Offset>,
}

fn rows<'m, T: Plain>(arena: &mut Arena<'m>, tokens: usize, width: usize) -> Result<&'m mut [T], Error> {
    arena.rows(tokens, width)
}

impl<'m> Rows<'m> {
    /// Memory for `tokens` rows of `width`, filled with zeros.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn new(arena: &mut Arena<'m>, tokens: usize, width: usize) -> Result<Self, Error> {
        let width = width.next_multiple_of(BLOCK);
        let blocks = width / BLOCK;
        Ok(Rows {
            width,
            values: rows(arena, tokens, width)?,
            quants: rows(arena, tokens, width)?,
            scales: rows(arena, tokens, blocks)?,
            offsets: rows(arena, tokens, blocks)?,
        })
    }

    /// The same memory as rows of another width, at most as long.
    pub fn narrow(&mut self, width: usize) -> Rows<'_> {
        Rows {
            width: width.next_multiple_of(BLOCK).min(self.width),
            values: self.values,
            quants: self.quants,
            scales: self.scales,
            offsets: self.offsets,
        }
    }

    /// Copies rows of another buffer of this width, floats and quants.
    pub fn gather(&mut self, from: &Rows, rows: &[u32]) {
        let (width, blocks) = (self.width, self.width / BLOCK);
        for (to, row) in rows.iter().enumerate() {
            let row = *row as usize;
            self.values[to * width..(to + 1) * width].copy_from_slice(&from.values[row * width..(row + 1) * width]);
            self.quants[to * width..(to + 1) * width].copy_from_slice(&from.quants[row * width..(row + 1) * width]);
            let (to, row) = (to * blocks..(to + 1) * blocks, row * blocks..(row + 1) * blocks);
            self.scales[to.clone()].copy_from_slice(&from.scales[row.clone()]);
            self.offsets[to].copy_from_slice(&from.offsets[row]);
        }
    }

    /// The rows as the input of a product.
    pub fn input(&self) -> Input<'_> {
        Input {
            width: self.width,
            values: self.values,
            quants: self.quants,
            scales: self.scales,
            offsets: self.offsets,
        }
    }

    /// The quants of the first row.
    pub fn quants(&self) -> &[i8] {
        &self.quants[..self.width]
    }

    /// Fills row `t` with zeros, floats and quants.
    pub fn clear(&mut self, t: usize) {
        let (row, blocks) = (t * self.width..(t + 1) * self.width, self.width / BLOCK);
        self.values[row.clone()].fill(0.0);
        self.quants[row].fill(0);
        self.scales[t * blocks..(t + 1) * blocks].fill([0.0; 2]);
        self.offsets[t * blocks..(t + 1) * blocks].fill([0; 2]);
    }

    /// Fills a range of row 0 with zeros; also its quants, if the range consists of whole blocks.
    pub fn clear_range(&mut self, range: Range<usize>) {
        self.values[range.clone()].fill(0.0);
        if range.start.is_multiple_of(BLOCK) && range.end.is_multiple_of(BLOCK) {
            self.quants[range.clone()].fill(0);
            self.scales[range.start / BLOCK..range.end / BLOCK].fill([0.0; 2]);
            self.offsets[range.start / BLOCK..range.end / BLOCK].fill([0; 2]);
        }
    }

    /// The rows as shared by tasks.
    pub fn share(&mut self) -> SharedRows<'_> {
        SharedRows {
            width: self.width,
            values: Disjoint::new(self.values),
            quants: Disjoint::new(self.quants),
            scales: Disjoint::new(self.scales),
            offsets: Disjoint::new(self.offsets),
        }
    }
}

impl SharedRows<'_> {
    /// Quantizes `source` into the blocks from element `at` on (a multiple of 32).
    ///
    /// # Panics
    /// When the range is outside or not whole blocks.
    ///
    /// # Safety
    /// No other task may access these blocks during the call.
    pub unsafe fn quantize(&self, kernels: &Kernels, at: usize, source: &[f32]) {
        assert!(at.is_multiple_of(BLOCK), "blocks start at multiples of 32");
        let end = at + source.len();
        let blocks = at / BLOCK..end / BLOCK;
        // SAFETY: the caller lets no other task access these blocks; the views check that the ranges are inside.
        unsafe {
            let (q, s, o) = (self.quants.range(at..end), self.scales.range(blocks.clone()), self.offsets.range(blocks));
            kernels.quantize(source, q, s, o);
        }
    }

    /// A range of the values.
    ///
    /// # Panics
    /// When the range is outside.
    ///
    /// # Safety
    /// No other task may access these values while the result lives.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn values(&self, range: Range<usize>) -> &mut [f32] {
        // SAFETY: the caller lets no other task access these values; the view checks that the range is inside.
        unsafe { self.values.range(range) }
    }
}
