//! Writing the predictor section of an image (its specification is the core's `image/FORMAT.md`).

use crate::error::{Error, Result};
use crate::map::map;
use crate::model::cpu;
use crate::output::Output;
use crate::pack::{encode, put_block};
use shadowllm_core::format::{BLOCK, Format, TILE_ROWS};
use shadowllm_core::image::{HEADER_LEN as HEAD, SECTION_LEN, SectionKind, VERSION as IMAGE_VERSION};
use shadowllm_core::sparsity::{ENTRY_LEN, HEADER_LEN, MAGIC, Policy, Table, Tap, VERSION, fingerprint};
use shadowllm_core::{Image, Kernels, Model};
use std::io::Write;
use std::path::Path;

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
}

impl Section {
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
        let table = match policy {
            Policy::Static => Table::StaticQuantiles,
            Policy::Shadow => Table::ShadowQuantiles,
            Policy::PerLayer => Table::PerLayerQuantiles,
            Policy::Gate => Table::GateQuantiles,
            Policy::Input => Table::InputQuantiles,
            _ => return false,
        };
        self.rows.iter().any(|r| r.table == table)
    }

    /// Adds a matrix [outputs, inputs] in 8 bits, padded to whole tiles.
    pub fn matrix(&mut self, table: Table, layer: usize, values: &[f32], inputs: usize) {
        let rows = values.len() / inputs.max(1);
        let (outputs, padded) = (rows.next_multiple_of(TILE_ROWS), inputs.next_multiple_of(BLOCK));
        let tile = Format::Q8_0.tile_bytes();
        let mut bytes = vec![0; outputs / TILE_ROWS * (padded / BLOCK) * tile];
        for (i, row) in values.chunks_exact(inputs.max(1)).enumerate() {
            for (kb, block) in row.chunks(BLOCK).enumerate() {
                let x = std::array::from_fn(|k| block.get(k).copied().unwrap_or(0.0));
                let at = (i / TILE_ROWS * (padded / BLOCK) + kb) * tile;
                put_block(Format::Q8_0, &mut bytes[at..at + tile], i % TILE_ROWS, &encode(Format::Q8_0, &x));
            }
        }
        let format = Format::Q8_0 as u8;
        self.rows.push(Row { table, layer: layer as u16, format, outputs, inputs: padded, bytes });
    }

    /// The section's bytes, for the model of `image`.
    pub fn bytes(&self, image: &Image, tap: Tap) -> Vec<u8> {
        let c = image.config();
        // First the model's own tables, then each layer's, in the order of their kinds.
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|r| (r.table as u8 >= Table::LayerIn as u8, r.layer, r.table as u8));
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

/// Writes a copy of an image with this predictor section, in place of any it had.
///
/// # Errors
/// When the section does not belong to the image, or a file cannot be read or written.
pub fn attach(image: &Path, section: &[u8], out: &Path) -> Result<()> {
    let mapping = map(image)?;
    let engine = |source| Error::Engine { path: Some(image.to_owned()), source };
    let parsed = Image::parse(&mapping).map_err(engine)?;
    let bytes = with_section(&parsed, section);
    let model = Model::new(Image::parse(&bytes).map_err(engine)?, Kernels::best(cpu()));
    model.predictor().map_err(engine)?;
    let mut output = Output::create(out)?;
    output.file().write_all(&bytes).map_err(|e| Error::io("write to", out, e))?;
    output.finish()
}

/// An image's bytes with its predictor section replaced: all sections keep their order and content.
fn with_section(image: &Image, section: &[u8]) -> Vec<u8> {
    let mut sections: Vec<(SectionKind, &[u8])> = SectionKind::ALL
        .into_iter()
        .filter(|k| *k != SectionKind::Predictor)
        .map(|k| (k, image.section(k)))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    sections.push((SectionKind::Predictor, section));
    let mut out = vec![0; HEAD + sections.len() * SECTION_LEN];
    let mut head_len = 0;
    let mut table = Vec::new();
    for (kind, bytes) in &sections {
        let align = if *kind == SectionKind::Weights { 4096 } else { 64 };
        out.resize(out.len().next_multiple_of(align), 0);
        table.push((*kind, out.len(), bytes.len(), crc32fast::hash(bytes)));
        out.extend_from_slice(bytes);
        if *kind == SectionKind::Tensors {
            head_len = out.len();
        }
    }
    let head = crate::pack::header(&table, head_len, out.len());
    out[..HEAD + sections.len() * SECTION_LEN].copy_from_slice(&head[..HEAD + sections.len() * SECTION_LEN]);
    debug_assert!(out[8] == IMAGE_VERSION as u8);
    let sum = crc32fast::hash(&out[..head_len]);
    out[24..28].copy_from_slice(&sum.to_le_bytes());
    out
}
