//! Writing the predictor section of an image (its specification is the core's `image/FORMAT.md`).

use shadowllm_core::Image;
use shadowllm_core::format::block::encode;
use shadowllm_core::format::{BLOCK, Format, TILE_ROWS};
use shadowllm_core::image::{ENTRY_LEN, Entry, GLOBAL, Storage};
use shadowllm_core::sparsity::{HEADER_LEN, MAGIC, Policy, Predictor, RANKS, Table, Tap, VERSION, fingerprint};
use shadowllm_host::{Error, Result};

/// A table to be written, whose offset is not known yet.
struct Row {
    entry: Entry<Table>,
    bytes: Vec<u8>,
}

impl Row {
    fn new(table: Table, layer: usize, [rows, cols]: [usize; 2], storage: Storage, bytes: Vec<u8>) -> Row {
        let layer = if table.in_layers() { layer as u16 } else { GLOBAL };
        let entry = Entry { role: table, layer, rows, cols, offset: 0, storage, experts: 0, expert_stride: 0 };
        Row { entry, bytes }
    }
}

/// A predictor section that is being built.
#[derive(Default)]
pub struct Section {
    rows: Vec<Row>,
    /// Whether predictors' scores only rank parts.
    pub ranks: bool,
}

impl Section {
    /// A section that was written before, and the input of its shadow predictor.
    ///
    /// # Errors
    /// When its table is not inside its bytes.
    pub fn read(bytes: &[u8]) -> Result<(Section, Tap)> {
        let bad = || Error::Other("the predictor's table is damaged".into());
        let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let mut section = Section { ranks: word(36).ok_or_else(bad)? as u32 & RANKS != 0, ..Section::default() };
        let rows = bytes.get(HEADER_LEN..).map_or(&[][..], |rest| rest.as_chunks::<ENTRY_LEN>().0);
        for raw in rows.get(..word(32).ok_or_else(bad)?).ok_or_else(bad)? {
            let entry: Entry<Table> = Entry::parse(raw).ok_or_else(bad)?;
            let own = bytes.get(entry.offset..).and_then(|rest| rest.get(..entry.bytes()));
            section.rows.push(Row { entry, bytes: own.ok_or_else(bad)?.to_vec() });
        }
        Ok((section, Tap(word(28).ok_or_else(bad)? as u32)))
    }

    /// Adds a vector.
    pub fn vector(&mut self, table: Table, layer: usize, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let storage = Storage::Vector { len: values.len() };
        self.rows.push(Row::new(table, layer, [values.len(), 1], storage, bytes));
    }

    /// Replaces a vector, or adds it.
    pub fn set_vector(&mut self, table: Table, values: &[f32]) {
        self.rows.retain(|r| r.entry.role != table);
        self.vector(table, 0, values);
    }

    /// Whether it has the tables that a calibrated policy needs.
    pub fn has(&self, policy: Policy) -> bool {
        let there = |table: Table| self.rows.iter().any(|r| r.entry.role == table);
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
        self.rows.push(Row::new(table, layer, [rows, inputs], Storage::Tiles(g), bytes));
    }

    /// The section's bytes, for the model of `image`.
    pub fn bytes(&self, image: &Image, tap: Tap) -> Vec<u8> {
        let c = image.config();
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|r| r.entry.key());
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
        for (i, r) in rows.iter().enumerate() {
            out.resize(out.len().next_multiple_of(64), 0);
            let entry = Entry { offset: out.len(), ..r.entry };
            out.extend_from_slice(&r.bytes);
            out[HEADER_LEN + i * ENTRY_LEN..][..ENTRY_LEN].copy_from_slice(&entry.to_bytes());
        }
        out
    }
}
