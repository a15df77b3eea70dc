//! The blocks of a matrix: copied from the source or encoded, by all threads, and written to their places.

use crate::import::SourceTensor;
use crate::import::gguf::GgmlType;
use rayon::prelude::*;
use shadowllm_core::format::{BLOCK, Format, Geometry, block};
use shadowllm_core::image::roles::Segments;

/// Lines that are encoded before their blocks are written: enough for all threads, and few enough to need little
/// memory.
const TOGETHER: usize = 1024;

/// The largest f16.
const HALF: f32 = 65504.0;

/// Encodes a matrix.
pub struct Encoder<'a> {
    tensor: &'a SourceTensor<'a>,
    rows: Segments,
    cols: Segments,
    geometry: &'a Geometry,
    /// Whether the source's blocks are copied unchanged.
    carried: bool,
}

/// How much of a source's blocks is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All numbers, unchanged.
    All,
    /// The codes; scales, or scales times zeros, are rounded to f16.
    Codes,
    /// Nothing: numbers are rounded to new codes.
    Nothing,
}

type Fallible<T> = std::result::Result<T, String>;

impl<'a> Encoder<'a> {
    /// An encoder of `tensor`; `rows` and `cols` say where its rows and columns are in the image.
    pub fn new(rows: Segments, cols: Segments, tensor: &'a SourceTensor<'a>, geometry: &'a Geometry) -> Self {
        // Blocks of a source run along the inputs.
        let kept = !geometry.order.is_along_outputs() && cols.keeps_blocks() && tensor.cols.is_multiple_of(BLOCK);
        let same = tensor.own_kind().and_then(GgmlType::format) == Some(geometry.format);
        Encoder { tensor, rows, cols, geometry, carried: kept && same && tensor.block(0, 0).is_some() }
    }

    /// How much of the source's own blocks is kept.
    pub fn kept(&self) -> Kept {
        let single = self.tensor.own_kind().filter(|kind| !kind.is_quantized());
        if single.and_then(GgmlType::format) == Some(self.geometry.format) {
            return Kept::All;
        }
        match (self.carried, self.tensor.has_exact_blocks()) {
            (true, true) => Kept::All,
            (true, false) => Kept::Codes,
            (false, _) => Kept::Nothing,
        }
    }

    /// Writes all blocks to the bytes of the matrix, which must be zero before.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn write(&self, out: &mut [u8]) -> Fallible<()> {
        let g = self.geometry;
        if !self.carried && !g.format.has_encoder() {
            return Err(format!("tensor {} cannot be rounded to {}", self.tensor.name, g.format.name()));
        }
        let transposed = if g.order.is_along_outputs() { self.transposed()? } else { vec![] };
        for first in (0..g.lines()).step_by(TOGETHER) {
            let lines = first..g.lines().min(first + TOGETHER);
            let encoded: Fallible<Vec<Vec<u8>>> =
                lines.clone().into_par_iter().map(|line| self.line(line, &transposed)).collect();
            for (line, blocks) in lines.zip(encoded?) {
                for (i, block) in blocks.chunks_exact(g.format.block_bytes()).enumerate() {
                    g.write_block(out, line, i, block);
                }
            }
        }
        Ok(())
    }

    /// The blocks of a line, in order; empty if the source has no such line.
    fn line(&self, line: usize, transposed: &[f32]) -> Fallible<Vec<u8>> {
        if self.geometry.order.is_along_outputs() {
            let Some(col) = self.cols.source(line) else { return Ok(vec![]) };
            let rows = self.tensor.rows;
            return self.encode(&self.rows, &transposed[col * rows..(col + 1) * rows]);
        }
        let Some(row) = self.rows.source(line) else { return Ok(vec![]) };
        // Copied blocks are decoded too, because that refuses NaN and infinities.
        let mut values = vec![0.0; self.tensor.cols];
        self.tensor.row(row, &mut values)?;
        if self.carried {
            return self.take(row);
        }
        self.encode(&self.cols, &values)
    }

    /// The blocks of a row of the source; the last block is filled as far as the source goes.
    fn take(&self, row: usize) -> Fallible<Vec<u8>> {
        let g = self.geometry;
        let mut blocks = Vec::with_capacity(g.k_blocks * g.format.block_bytes());
        for i in 0..g.k_blocks {
            let block = self.tensor.block(row, i);
            let block = block.ok_or_else(|| format!("tensor {} ends before row {row}", self.tensor.name))?;
            blocks.extend_from_slice(&block[..g.format.block_bytes()]);
        }
        Ok(blocks)
    }

    /// Encodes a line; `segments` says where the source's numbers are in it.
    fn encode(&self, segments: &Segments, values: &[f32]) -> Fallible<Vec<u8>> {
        let g = self.geometry;
        // In every other format, numbers or scales are f16.
        if !matches!(g.format, Format::F32 | Format::Bf16)
            && let Some(x) = values.iter().find(|x| x.abs() > HALF)
        {
            let (name, format) = (&self.tensor.name, g.format.name());
            return Err(format!(
                "tensor {name} has the number {x}, which {format} cannot hold: pack it with --format f32"
            ));
        }
        let mut blocks = Vec::with_capacity(g.line_blocks() * g.format.block_bytes());
        for i in 0..g.line_blocks() {
            let x = std::array::from_fn(|k| segments.source(i * BLOCK + k).map_or(0.0, |s| values[s]));
            blocks.extend_from_slice(&block::encode(g.format, &x)[..g.format.block_bytes()]);
        }
        Ok(blocks)
    }

    /// The whole matrix as floats, [cols, rows] of the source.
    fn transposed(&self) -> Fallible<Vec<f32>> {
        let (rows, cols) = (self.tensor.rows, self.tensor.cols);
        let (mut all, mut values) = (vec![0.0; rows * cols], vec![0.0; cols]);
        for row in 0..rows {
            self.tensor.row(row, &mut values)?;
            values.iter().enumerate().for_each(|(col, v)| all[col * rows + row] = *v);
        }
        Ok(all)
    }
}
