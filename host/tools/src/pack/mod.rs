//! Packing: a source model becomes an image, part by part, so that memory stays at a small multiple of one
//! layer. The file appears under its name only when it is whole.

mod encode;
pub(crate) mod layout;

pub use encode::{Block, encode, put_block};
pub use layout::format_names;

use crate::import::gguf::GgmlType;
use crate::import::{Source, SourceTensor};
use crate::output::Output;
use layout::{Part, Segments};
use rayon::prelude::*;
use shadowllm_core::format::{BLOCK, Format, Geometry, Order, TILE_ROWS};
use shadowllm_core::image::{Config, Entry, HEADER_LEN, Kind, MAGIC, SECTION_LEN, SectionKind, Storage, VERSION};
use shadowllm_core::kernels::Activation;
use shadowllm_host::{Error, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Number formats of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Of the layers' matrices.
    pub weights: Format,
    /// Of the embedding and output matrices.
    pub output: Format,
}

impl Formats {
    /// The format of a matrix.
    pub fn of(&self, kind: Kind) -> Format {
        if matches!(kind, Kind::Embed | Kind::Output) { self.output } else { self.weights }
    }

    /// The format nearest to what the source stores: its own where it is one of ours, else Q8_0.
    ///
    /// # Errors
    /// When the source's tensors cannot be read.
    pub fn like(source: &dyn Source) -> Result<Formats> {
        let own = |kind| -> Result<Format> {
            let tensor = source.tensor(kind, 0)?;
            Ok(match tensor.map(|t| t.data) {
                Some(crate::import::Data::Bytes { kind, .. }) => match kind {
                    GgmlType::F32 => Format::F32,
                    GgmlType::F16 => Format::F16,
                    GgmlType::Q4_0 => Format::Q4_0,
                    GgmlType::Q4_1 => Format::Q4_1,
                    _ => Format::Q8_0,
                },
                _ => Format::Q8_0,
            })
        };
        Ok(Formats { weights: own(Kind::Down)?, output: own(Kind::Embed)? })
    }
}

/// How the blocks of the layers' matrices are ordered, which decides what can be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrangement {
    /// Neurons per group: 1, 4, 8, 16 or 32.
    pub neuron_group: usize,
    /// Attention's maps by input.
    pub attention_by_input: bool,
    /// The FFN's maps by input.
    pub ffn_by_input: bool,
}

impl Arrangement {
    /// The densest tiles: heads and groups of 32 neurons.
    pub const DENSE: Arrangement = Arrangement { neuron_group: 32, attention_by_input: false, ffn_by_input: false };
    /// Heads and single neurons.
    pub const NEURON: Arrangement = Arrangement { neuron_group: 1, ..Arrangement::DENSE };
    /// Single inputs of every map.
    pub const INPUT: Arrangement = Arrangement { neuron_group: 1, attention_by_input: true, ffn_by_input: true };

    /// What suits a model: single neurons where most are exactly zero (ReLU and kin), single inputs else.
    pub fn auto(config: &Config) -> Arrangement {
        match config.activation {
            Activation::Relu | Activation::Relu2 => Arrangement::NEURON,
            _ => Arrangement::INPUT,
        }
    }
}

/// Called with (bytes done, bytes in all) as packing goes on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// Bytes of the file.
    pub bytes: u64,
    /// Weights whose blocks were taken over as they were.
    pub carried_over: u64,
}

/// Packs `source` to `out`.
///
/// # Errors
/// Names the tensor that is missing, misshapen or unreadable, or the file that cannot be written; `out` is
/// then as it was before.
pub fn pack(
    source: &dyn Source,
    formats: Formats,
    arrangement: Arrangement,
    out: &Path,
    progress: Progress,
) -> Result<Packed> {
    let mut output = Output::create(out)?;
    let Arrangement { neuron_group, attention_by_input, ffn_by_input } = arrangement;
    let c = &Config { neuron_group, attention_by_input, ffn_by_input, ..source.spec().config };
    for kind in Kind::ALL {
        let layers = if kind.in_layers() { c.layers } else { 1 };
        for layer in 0..layers {
            if let Some(t) = source.tensor(kind, layer)? {
                layout::check_shape(kind, c, &t).map_err(|e| Error::file(source.path(), e))?;
            }
        }
    }
    let parts = layout::plan(source, c, &formats)?;
    require(source, &parts)?;
    let texts = texts(source, formats)?;
    let writer = Writer { source, config: c, out, formats, carried_over: 0 };
    let packed = writer.write(output.file(), &parts, &texts, progress)?;
    output.finish()?;
    Ok(packed)
}

/// Every matrix and vector that the image must have is in the plan.
fn require(source: &dyn Source, parts: &[Part]) -> Result<()> {
    let c = &source.spec().config;
    let layer_norm = c.norm == shadowllm_core::image::Norm::Layer;
    let wanted = |kind: Kind| match kind {
        Kind::Embed | Kind::AttnNorm | Kind::FfnNorm => true,
        Kind::FinalNorm => c.pre_norm,
        Kind::AttnNormBias | Kind::FfnNormBias => layer_norm,
        Kind::FinalNormBias => layer_norm && c.pre_norm,
        Kind::EmbedPositions => c.positions == shadowllm_core::image::Positions::Learned,
        Kind::ProjectIn | Kind::ProjectOut => c.d_embed != c.d_model,
        Kind::Gate => c.gated,
        Kind::Output => false,
        _ => layout::matrix_shape(kind, c).is_some(),
    };
    for kind in Kind::ALL.into_iter().filter(|k| wanted(*k)) {
        for layer in 0..if kind.in_layers() { c.layers } else { 1 } {
            // Matrices of a layer are planned whether the source has them or not.
            if source.tensor(kind, layer)?.is_none() {
                let place = if kind.in_layers() { format!(" of layer {layer}") } else { String::new() };
                return Err(Error::file(
                    source.path(),
                    format!("the model has no tensor for {}{place}; is the download complete?", kind.name()),
                ));
            }
        }
    }
    let shape = |p: &Part| p.entries.iter().map(|e| e.kind).collect::<Vec<_>>();
    match parts[1..].iter().find(|p| shape(p) != shape(&parts[1])) {
        Some(p) => Err(Error::file(source.path(), format!("layer {} has other tensors than layer 0", p.layer))),
        None => Ok(()),
    }
}

/// The text sections.
fn texts(source: &dyn Source, formats: Formats) -> Result<Vec<(SectionKind, Vec<u8>)>> {
    let mut texts = Vec::new();
    if let Some(tokenizer) = source.tokenizer()? {
        texts.push((SectionKind::Tokenizer, tokenizer.into_bytes()));
    }
    let json = |value: &serde_json::Value| value.to_string().into_bytes();
    let chat = serde_json::to_value(source.chat()?).map_err(|e| Error::Other(e.to_string()))?;
    texts.push((SectionKind::Chat, json(&chat)));
    let provenance = serde_json::json!({
        "source": source.origin(),
        "family": source.spec().family,
        "packer": concat!("shadowllm ", env!("CARGO_PKG_VERSION")),
        "format": formats.weights.name(),
        "output_format": formats.output.name(),
    });
    texts.push((SectionKind::Provenance, json(&provenance)));
    Ok(texts)
}

struct Writer<'a> {
    source: &'a dyn Source,
    config: &'a Config,
    out: &'a Path,
    formats: Formats,
    carried_over: u64,
}

impl Writer<'_> {
    fn write(
        mut self,
        file: &mut std::fs::File,
        parts: &[Part],
        texts: &[(SectionKind, Vec<u8>)],
        progress: Progress,
    ) -> Result<Packed> {
        let io = |e| Error::io("write to", self.out, e);
        let config = self.config.to_bytes();
        let table: Vec<u8> = parts.iter().flat_map(|p| &p.entries).flat_map(Entry::to_bytes).collect();
        let sections = 3 + texts.len();
        let config_at = (HEADER_LEN + sections * SECTION_LEN).next_multiple_of(layout::LINE);
        let table_at = (config_at + config.len()).next_multiple_of(layout::LINE);
        let head_len = table_at + table.len();
        let weights_at = head_len.next_multiple_of(layout::PAGE);
        let weights_len = parts.last().map_or(0, |p| p.offset + p.len);

        let mut crc = crc32fast::Hasher::new();
        let mut written = 0;
        file.seek(SeekFrom::Start(weights_at as u64)).map_err(io)?;
        for part in parts {
            let pad = vec![0; part.offset - written];
            let bytes = self.part(part)?;
            for piece in [&pad, &bytes] {
                file.write_all(piece).map_err(|e| Error::io("write to", self.out, e))?;
                crc.update(piece);
            }
            written = part.offset + part.len;
            progress(written as u64, weights_len as u64);
        }
        let mut rows = vec![
            (SectionKind::Config, config_at, config.len(), crc32fast::hash(&config)),
            (SectionKind::Tensors, table_at, table.len(), crc32fast::hash(&table)),
            (SectionKind::Weights, weights_at, weights_len, crc.finalize()),
        ];
        let io = |e| Error::io("write to", self.out, e);
        let mut at = weights_at + weights_len;
        for (kind, text) in texts {
            let start = at.next_multiple_of(layout::LINE);
            file.write_all(&vec![0; start - at]).map_err(io)?;
            file.write_all(text).map_err(io)?;
            rows.push((*kind, start, text.len(), crc32fast::hash(text)));
            at = start + text.len();
        }
        let mut head = header(&rows, head_len, at);
        head[config_at..config_at + config.len()].copy_from_slice(&config);
        head[table_at..].copy_from_slice(&table);
        let sum = crc32fast::hash(&head);
        head[24..28].copy_from_slice(&sum.to_le_bytes());
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(&head).map_err(io)?;
        Ok(Packed { bytes: at as u64, carried_over: self.carried_over })
    }

    /// The bytes of one part.
    fn part(&mut self, part: &Part) -> Result<Vec<u8>> {
        let mut bytes = vec![0; part.len];
        for entry in &part.entries {
            let at = entry.offset - part.offset;
            match entry.storage {
                Storage::Vector { len } => {
                    let values = self.vector(entry.kind, part.layer)?;
                    let segments = layout::vector_segments(entry.kind, self.config, values.len());
                    for i in 0..len {
                        let value = segments.source(i).map_or(0.0, |s| values[s]);
                        bytes[at + 4 * i..at + 4 * i + 4].copy_from_slice(&value.to_le_bytes());
                    }
                }
                Storage::Tiles(geometry) => self.matrix(entry.kind, part.layer, &geometry, &mut bytes[at..])?,
            }
        }
        Ok(bytes)
    }

    fn tensor(&self, kind: Kind, layer: usize) -> Result<SourceTensor<'_>> {
        let missing = || Error::file(self.source.path(), format!("no tensor for {} of layer {layer}", kind.name()));
        self.source.tensor(kind, layer)?.ok_or_else(missing)
    }

    fn vector(&self, kind: Kind, layer: usize) -> Result<Vec<f32>> {
        if kind == Kind::RopeFrequencies && !self.source.spec().rope.is_empty() {
            return Ok(self.source.spec().rope.clone());
        }
        let tensor = self.tensor(kind, layer)?;
        tensor.vector().map_err(|e| Error::file(self.source.path(), e))
    }

    /// Encodes a matrix and puts its blocks where the geometry wants them.
    fn matrix(&mut self, kind: Kind, layer: usize, g: &Geometry, out: &mut [u8]) -> Result<()> {
        let c = self.config;
        let tensor = self.tensor(kind, layer)?;
        let rows = layout::row_segments(kind, c, tensor.rows);
        let cols = layout::col_segments(kind, c, tensor.cols);
        let encoder = Encoder { tensor: &tensor, rows, cols, format: self.formats.of(kind), geometry: g };
        let failed = |e| Error::file(self.source.path(), e);
        let unit = g.unit_bytes();
        let place = |u: usize| u / g.units_per_group * g.group_stride + u % g.units_per_group * unit;
        match g.order {
            Order::Rows | Order::Columns | Order::Inputs => {
                let panels: std::result::Result<Vec<Vec<u8>>, String> =
                    (0..g.panels).into_par_iter().map(|p| encoder.panel(p)).collect();
                let tile = g.format.tile_bytes();
                for (p, tiles) in panels.map_err(failed)?.iter().enumerate() {
                    if g.order == Order::Rows {
                        out[place(p)..place(p) + unit].copy_from_slice(tiles);
                        continue;
                    }
                    if g.order == Order::Inputs {
                        spread_panel(g, p, tiles, out);
                        continue;
                    }
                    for (kb, bytes) in tiles.chunks_exact(tile).enumerate() {
                        out[place(kb) + p * tile..place(kb) + (p + 1) * tile].copy_from_slice(bytes);
                    }
                }
            }
            Order::RowLines | Order::ColumnLines => {
                let transposed =
                    if g.order == Order::ColumnLines { encoder.transposed().map_err(failed)? } else { vec![] };
                let lines: std::result::Result<Vec<Vec<u8>>, String> =
                    (0..g.units()).into_par_iter().map(|u| encoder.line(u, &transposed)).collect();
                for (u, line) in lines.map_err(failed)?.iter().enumerate() {
                    out[place(u)..place(u) + unit].copy_from_slice(line);
                }
            }
        }
        let carried = encoder.carried().is_some();
        self.carried_over += if carried { (tensor.rows * tensor.cols) as u64 } else { 0 };
        Ok(())
    }
}

/// Puts the tiles of panel `p` where a matrix of [`Order::Inputs`] has them.
fn spread_panel(g: &Geometry, p: usize, tiles: &[u8], out: &mut [u8]) {
    let (tile, outputs, first) = (g.format.tile_bytes(), g.panels * TILE_ROWS, p * TILE_ROWS);
    for (kb, tile) in tiles.chunks_exact(tile).enumerate() {
        let group = &mut out[kb * g.group_stride..][..g.group_stride];
        let (shared, lines) = group.split_at_mut(g.shared_bytes());
        // Scales, and minima behind all of them.
        let numbers = tile[..g.format.header_bytes() * TILE_ROWS].chunks_exact(2 * TILE_ROWS);
        for (i, numbers) in numbers.enumerate() {
            shared[2 * (i * outputs + first)..][..2 * TILE_ROWS].copy_from_slice(numbers);
        }
        let unit = g.unit_bytes();
        for (k, line) in lines.chunks_exact_mut(unit).take(BLOCK).enumerate() {
            let part = &mut line[p / 2 * g.format.code_bytes()..][..g.format.code_bytes()];
            encode::move_codes(g.format, tile, k, part, p % 2);
        }
    }
}

/// Header and section table; the rest zero, the checksum not yet in.
pub(crate) fn header(rows: &[(SectionKind, usize, usize, u32)], head_len: usize, file_len: usize) -> Vec<u8> {
    let mut head = vec![0; head_len];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(head_len as u32).to_le_bytes());
    head[16..24].copy_from_slice(&(file_len as u64).to_le_bytes());
    head[28..32].copy_from_slice(&(rows.len() as u32).to_le_bytes());
    for (i, (kind, offset, len, crc)) in rows.iter().enumerate() {
        let row = &mut head[HEADER_LEN + i * SECTION_LEN..][..SECTION_LEN];
        row[..4].copy_from_slice(&(*kind as u32).to_le_bytes());
        row[4..8].copy_from_slice(&crc.to_le_bytes());
        row[8..16].copy_from_slice(&(*offset as u64).to_le_bytes());
        row[16..24].copy_from_slice(&(*len as u64).to_le_bytes());
    }
    head
}

/// Encodes a matrix, a unit at a time.
struct Encoder<'a> {
    tensor: &'a SourceTensor<'a>,
    rows: Segments,
    cols: Segments,
    format: Format,
    geometry: &'a Geometry,
}

impl Encoder<'_> {
    /// The GGML type whose blocks can be taken over as they are.
    fn carried(&self) -> Option<GgmlType> {
        let kind = match self.format {
            Format::Q8_0 => GgmlType::Q8_0,
            Format::Q4_0 => GgmlType::Q4_0,
            Format::Q4_1 => GgmlType::Q4_1,
            _ => return None,
        };
        let same = self.tensor.raw_block(kind, 0, 0).is_some() && self.geometry.order != Order::ColumnLines;
        (same && self.cols.keeps_blocks()).then_some(kind)
    }

    /// The blocks of source row `row`, in the order of the k-blocks, each handed to `put(kb, block)`.
    fn row_blocks(&self, row: usize, put: &mut dyn FnMut(usize, Piece)) -> std::result::Result<(), String> {
        if let Some(kind) = self.carried() {
            for kb in 0..self.geometry.k_blocks {
                let raw = self.tensor.raw_block(kind, row, kb);
                let raw = raw.ok_or_else(|| format!("tensor {} ends before row {row}", self.tensor.name))?;
                put(kb, Piece::Block(encode::from_ggml(self.format, raw)));
            }
            return Ok(());
        }
        let mut values = vec![0.0; self.tensor.cols];
        self.tensor.row(row, &mut values)?;
        for kb in 0..self.geometry.k_blocks {
            put(kb, Piece::of(self.format, |k| self.cols.source(kb * BLOCK + k).map_or(0.0, |s| values[s])));
        }
        Ok(())
    }

    /// Tiles of panel `p`, in the order of the k-blocks.
    fn panel(&self, p: usize) -> std::result::Result<Vec<u8>, String> {
        let size = self.format.tile_bytes();
        let mut tiles = vec![0; self.geometry.k_blocks * size];
        for lane in 0..TILE_ROWS {
            let Some(row) = self.rows.source(p * TILE_ROWS + lane) else { continue };
            self.row_blocks(row, &mut |kb, piece| {
                let tile = &mut tiles[kb * size..(kb + 1) * size];
                match piece {
                    Piece::Block(block) => encode::put_block(self.format, tile, lane, &block),
                    Piece::Floats(x) => encode::put_floats(self.format, tile, lane, &x),
                }
            })?;
        }
        Ok(tiles)
    }

    /// The whole matrix as floats, [cols, rows] of the source.
    fn transposed(&self) -> std::result::Result<Vec<f32>, String> {
        let (rows, cols) = (self.tensor.rows, self.tensor.cols);
        let (mut all, mut values) = (vec![0.0; rows * cols], vec![0.0; cols]);
        for row in 0..rows {
            self.tensor.row(row, &mut values)?;
            values.iter().enumerate().for_each(|(col, v)| all[col * rows + row] = *v);
        }
        Ok(all)
    }

    /// Blocks of line `u`: an output's, or an input's out of the transposed matrix.
    fn line(&self, u: usize, transposed: &[f32]) -> std::result::Result<Vec<u8>, String> {
        let mut line = vec![0; self.geometry.unit_bytes()];
        let n = line.len() / self.format.block_bytes();
        let mut put = |b: usize, piece: Piece| match piece {
            Piece::Block(block) => encode::put_line_block(self.format, &mut line, b, n, &block),
            Piece::Floats(x) => encode::put_line_floats(self.format, &mut line, b, &x),
        };
        if self.geometry.order == Order::RowLines {
            if let Some(row) = self.rows.source(u) {
                self.row_blocks(row, &mut put)?;
            }
        } else if let Some(col) = self.cols.source(u) {
            let column = &transposed[col * self.tensor.rows..(col + 1) * self.tensor.rows];
            for b in 0..self.geometry.panels * TILE_ROWS / BLOCK {
                let value = |k: usize| self.rows.source(b * BLOCK + k).map_or(0.0, |s| column[s]);
                put(b, Piece::of(self.format, value));
            }
        }
        Ok(line)
    }
}

/// An encoded block, or 32 floats of a float format.
enum Piece {
    Block(Block),
    Floats([f32; BLOCK]),
}

impl Piece {
    fn of(format: Format, value: impl Fn(usize) -> f32) -> Piece {
        let x = std::array::from_fn(value);
        if format.takes_int8() { Piece::Block(encode(format, &x)) } else { Piece::Floats(x) }
    }
}
