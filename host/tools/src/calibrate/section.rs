//! Writing the predictor section of an image (its specification is the core's `image/FORMAT.md`).

use shadowllm_core::Image;
use shadowllm_core::format::block::encode;
use shadowllm_core::format::{BLOCK, Format, TILE_ROWS};
use shadowllm_core::sparsity::{
    ENTRY_LEN, HEADER_LEN, MAGIC, Policy, Predictor, RANKS, Table, Tap, VERSION, fingerprint,
};
use shadowllm_host::{Error, Result};

/// Format code of vectors.
const VECTOR: u8 = 255;

/// A table to be written.
struct Row {
    table: Table,
    layer: u16,
    format: u8,
    /// Length of a vector, or padded outputs.
    outputs: usize,
    /// Padded inputs of a matrix.
    inputs: usize,
    bytes: Vec<u8>,
}

/// A predictor section in the making.
#[derive(Default)]
pub struct Section {
    rows: Vec<Row>,
    /// Whether predictors' scores only rank.
    pub ranks: bool,
}

impl Section {
    /// A section that was written before, and what feeds its shadow predictor.
    ///
    /// # Errors
    /// When its table does not lie inside it.
    pub fn read(bytes: &[u8]) -> Result<(Section, Tap)> {
        let bad = || Error::Other("the predictor's table is damaged".into());
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let mut section = Section { ranks: word(36).ok_or_else(bad)? as u32 & RANKS != 0, ..Section::default() };
        for i in 0..word(32).ok_or_else(bad)? {
            let at = HEADER_LEN + i * ENTRY_LEN;
            let entry = bytes.get(at..at + ENTRY_LEN).ok_or_else(bad)?;
            let (outputs, inputs, offset) = (word(at + 4), word(at + 8), word(at + 16));
            let (outputs, inputs, offset) =
                outputs.zip(inputs).zip(offset).map(|((o, i), at)| (o, i, at)).ok_or_else(bad)?;
            let size = match Format::from_code(entry[1]) {
                Some(f) if entry[1] != VECTOR => Predictor::geometry(f, outputs, inputs).weight_bytes(),
                _ => 4 * outputs,
            };
            section.rows.push(Row {
                table: Table::from_code(entry[0]).ok_or_else(bad)?,
                layer: u16::from_le_bytes([entry[2], entry[3]]),
                format: entry[1],
                outputs,
                inputs,
                bytes: bytes.get(offset..offset + size).ok_or_else(bad)?.to_vec(),
            });
        }
        Ok((section, Tap(word(28).ok_or_else(bad)? as u32)))
    }

    /// Adds a vector.
    pub fn vector(&mut self, table: Table, layer: usize, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.rows.push(Row { table, layer: layer as u16, format: VECTOR, outputs: values.len(), inputs: 0, bytes });
    }

    /// Replaces a vector, or adds it.
    pub fn set_vector(&mut self, table: Table, values: &[f32]) {
        self.rows.retain(|r| r.table != table);
        self.vector(table, 0, values);
    }

    /// Whether it holds what a calibrated policy needs.
    pub fn has(&self, policy: Policy) -> bool {
        let there = |table: Table| self.rows.iter().any(|r| r.table == table);
        policy.plan().calibrated.is_some_and(|c| there(c.quantiles) && c.neurons.is_none_or(there))
    }

    /// Adds a matrix [outputs, inputs] in 8 bits, padded to whole tiles.
    pub fn matrix(&mut self, table: Table, layer: usize, values: &[f32], inputs: usize) {
        let rows = values.len() / inputs.max(1);
        let (outputs, padded) = (rows.next_multiple_of(TILE_ROWS), inputs.next_multiple_of(BLOCK));
        let g = Predictor::geometry(Format::Q8_0, outputs, padded);
        let mut bytes = vec![0; g.weight_bytes()];
        for (i, row) in values.chunks_exact(inputs.max(1)).enumerate() {
            for (kb, block) in row.chunks(BLOCK).enumerate() {
                let x = std::array::from_fn(|k| block.get(k).copied().unwrap_or(0.0));
                g.write_block(&mut bytes, i, kb, &encode(g.format, &x));
            }
        }
        let format = g.format as u8;
        self.rows.push(Row { table, layer: layer as u16, format, outputs, inputs: padded, bytes });
    }

    /// The section's bytes, for the model of `image`.
    pub fn bytes(&self, image: &Image, tap: Tap) -> Vec<u8> {
        let c = image.config();
        // First the model's own tables, then each layer's, in the order of their kinds.
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|r| (r.table.in_layers(), r.layer, r.table as u8));
        let mut out = vec![0; HEADER_LEN + rows.len() * ENTRY_LEN];
        out[..MAGIC.len()].copy_from_slice(&MAGIC);
        let head = [
            VERSION,
            fingerprint(image),
            c.layers as u32,
            c.heads as u32,
            c.neuron_groups() as u32,
            tap.0,
            rows.len() as u32,
            if self.ranks { RANKS } else { 0 },
        ];
        for (i, word) in head.into_iter().enumerate() {
            out[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_le_bytes());
        }
        for (i, row) in rows.iter().enumerate() {
            out.resize(out.len().next_multiple_of(64), 0);
            let offset = out.len();
            out.extend_from_slice(&row.bytes);
            let entry = &mut out[HEADER_LEN + i * ENTRY_LEN..][..ENTRY_LEN];
            (entry[0], entry[1]) = (row.table as u8, row.format);
            entry[2..4].copy_from_slice(&row.layer.to_le_bytes());
            for (at, n) in [(4, row.outputs), (8, row.inputs), (16, offset)] {
                entry[at..at + 4].copy_from_slice(&(n as u32).to_le_bytes());
            }
        }
        out
    }
}
