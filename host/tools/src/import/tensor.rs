//! A source's tensor, and how its numbers are read from the source's bytes.

use super::gguf::GgmlType;
use super::int4::Int4;
use super::synthetic;
use shadowllm_core::format::block::Block;

/// A tensor's numbers, row by row.
#[derive(Clone)]
pub struct SourceTensor<'a> {
    /// Name in the source.
    pub name: String,
    /// Outputs (1 for vectors).
    pub rows: usize,
    /// Inputs (the length, for vectors).
    pub cols: usize,
    /// The numbers.
    pub data: Data<'a>,
    /// How they are read from the data.
    pub reading: Reading,
}

/// How a tensor's numbers are read from its data; by default in order and unchanged.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// For every row the row of the data, or for every number of a vector the number of the data; `None` if they are
    /// the same.
    pub rows: Option<Vec<u32>>,
    /// Length of the data's rows, if these are the tensor's columns.
    pub transposed: Option<usize>,
    /// Factor of every row, or of every number of a vector; `None` for 1.
    pub factors: Option<Vec<f32>>,
    /// What is added to every number.
    pub plus: f32,
}

impl Reading {
    /// Keeps these of the current rows, in this order.
    pub fn select(&mut self, order: impl Iterator<Item = usize>) {
        let at = |row: usize| self.rows.as_ref().map_or(row as u32, |rows| rows.get(row).copied().unwrap_or(u32::MAX));
        self.rows = Some(order.map(at).collect());
    }

    fn row(&self, row: usize) -> Option<usize> {
        self.rows.as_ref().map_or(Some(row), |rows| rows.get(row).map(|r| *r as usize))
    }

    fn finish(&self, row: usize, x: &mut f32) {
        *x = (*x + self.plus) * self.factors.as_ref().and_then(|f| f.get(row)).copied().unwrap_or(1.0);
    }
}

/// The numbers of a tensor.
#[derive(Clone)]
pub enum Data<'a> {
    /// In memory, in blocks of `kind`.
    Bytes {
        /// Number format.
        kind: GgmlType,
        /// rows * cols numbers, or more if the tensor is a part of the data.
        bytes: &'a [u8],
    },
    /// In memory, as words of 4-bit weights with separate scales.
    Int4(Int4<'a>),
    /// Uniformly random, with this standard deviation.
    Random {
        /// Seed of the random numbers.
        seed: u64,
        /// Standard deviation.
        deviation: f32,
    },
    /// All numbers equal to this one.
    Constant(f32),
}

type Fallible<T> = std::result::Result<T, String>;

impl SourceTensor<'_> {
    /// The bytes of a row's blocks in the data.
    fn row_bytes(&self, row: usize) -> Option<(GgmlType, &[u8])> {
        let Data::Bytes { kind, bytes } = &self.data else { return None };
        let len = kind.bytes_of(self.cols);
        let at = self.reading.row(row)?.checked_mul(len)?;
        bytes.get(at..at.checked_add(len)?).map(|b| (*kind, b))
    }

    /// The type of its data, if this is in memory.
    pub fn kind(&self) -> Option<GgmlType> {
        match self.data {
            Data::Bytes { kind, .. } => Some(kind),
            Data::Int4(words) => Some(words.kind()),
            _ => None,
        }
    }

    /// Bytes that its data takes.
    pub fn stored_bytes(&self) -> u64 {
        let weights = (self.rows * self.cols) as u64;
        match self.data {
            Data::Bytes { kind, .. } => kind.bytes_of(weights as usize) as u64,
            Data::Int4(words) => words.bytes_of(weights),
            // Computed numbers (as in random models) count as four bytes each.
            _ => 4 * weights,
        }
    }

    /// Whether its blocks hold exactly its numbers; if not, scales and minima are rounded to 16 bits.
    pub fn has_exact_blocks(&self) -> bool {
        if let Data::Int4(words) = self.data { words.is_exact() } else { true }
    }

    /// The same, if the tensor's numbers are those of the data, in whole blocks if the type has blocks.
    pub fn own_kind(&self) -> Option<GgmlType> {
        let r = &self.reading;
        let same = r.factors.is_none() && r.plus == 0.0;
        self.kind().filter(|kind| same && (r.transposed.is_none() || !kind.is_quantized()))
    }

    /// Block `index` (of 32) of a row without loss, in the format of the data's type ([`GgmlType::format`]); `None` if
    /// the tensor changes the data's numbers.
    pub fn block(&self, row: usize, index: usize) -> Option<Block> {
        self.own_kind().filter(|_| self.reading.transposed.is_none())?;
        if let Data::Int4(words) = self.data {
            return words.block(self.reading.row(row)?, index);
        }
        let (kind, bytes) = self.row_bytes(row)?;
        kind.block(bytes, index)
    }

    /// A whole row as floats, `[cols]`.
    ///
    /// # Errors
    /// When the data is shorter than the shape says.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Fallible<()> {
        match &self.data {
            Data::Bytes { kind, bytes } => match self.reading.transposed {
                Some(width) => self.gather(*kind, bytes, width, row, out)?,
                None => {
                    let (kind, bytes) = self.row_bytes(row).ok_or_else(|| self.ends(row))?;
                    kind.dequantize(bytes, out).map_err(|e| format!("tensor {}: {e}", self.name))?;
                }
            },
            Data::Int4(words) => {
                if self.reading.transposed.is_some() {
                    return Err(format!(
                        "tensor {} is transposed and has 4-bit weights, which cannot be read",
                        self.name
                    ));
                }
                let of = self.reading.row(row).ok_or_else(|| self.ends(row))?;
                words.row(of, out).map_err(|e| format!("tensor {} {e}", self.name))?;
            }
            Data::Random { seed, deviation } => {
                synthetic::fill(*seed ^ (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), *deviation, out);
            }
            Data::Constant(x) => out.fill(*x),
        }
        out.iter_mut().for_each(|x| self.reading.finish(row, x));
        self.numbers(out)
    }

    /// A column of the data, whose rows have `width` numbers.
    fn gather(&self, kind: GgmlType, bytes: &[u8], width: usize, row: usize, out: &mut [f32]) -> Fallible<()> {
        if kind.is_quantized() {
            return Err(format!("tensor {} is transposed and in blocks of {kind}, which cannot be read", self.name));
        }
        let (size, column) = (kind.block_bytes(), self.reading.row(row).ok_or_else(|| self.ends(row))?);
        for (i, out) in out.iter_mut().enumerate() {
            let at = (i * width + column) * size;
            let one = bytes.get(at..at + size).ok_or_else(|| self.ends(row))?;
            kind.dequantize(one, std::slice::from_mut(out)).map_err(|e| format!("tensor {}: {e}", self.name))?;
        }
        Ok(())
    }

    /// Refuses NaN and infinities, which would spread to all results of the model.
    fn numbers(&self, values: &[f32]) -> Fallible<()> {
        match values.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(format!(
                "tensor {} has the value {x}, which is not a finite number: is the file damaged?",
                self.name
            )),
            None => Ok(()),
        }
    }

    fn ends(&self, row: usize) -> String {
        format!("tensor {} ends before row {row}", self.name)
    }

    /// The tensor as one vector of floats (its rows one after the other).
    ///
    /// # Errors
    /// As [`SourceTensor::row`].
    pub fn vector(&self) -> Fallible<Vec<f32>> {
        let mut all = vec![0.0; self.rows * self.cols];
        if self.rows > 1 || !matches!(self.data, Data::Bytes { .. }) {
            for (row, out) in all.chunks_exact_mut(self.cols.max(1)).enumerate() {
                self.row(row, out)?;
            }
            return Ok(all);
        }
        let Data::Bytes { kind, bytes } = self.data else { return Ok(all) };
        let mut stored = vec![0.0; bytes.len() / kind.block_bytes() * kind.block_len()];
        kind.dequantize(bytes, &mut stored).map_err(|e| format!("tensor {}: {e}", self.name))?;
        for (i, x) in all.iter_mut().enumerate() {
            let at = self.reading.row(i).and_then(|at| stored.get(at));
            *x = *at.ok_or_else(|| format!("tensor {} ends before number {i}", self.name))?;
            self.reading.finish(i, x);
        }
        self.numbers(&all)?;
        Ok(all)
    }
}
