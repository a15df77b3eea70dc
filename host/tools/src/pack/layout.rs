//! Where every tensor of a model goes in the weights section: the order that FORMAT.md describes.

use super::Formats;
use crate::import::{Source, SourceTensor};
use shadowllm_core::format::{BLOCK, Format, Geometry, TILE_ROWS};
use shadowllm_core::image::{Config, Entry, GLOBAL, Kind, Storage, order_of};

/// Layers start at multiples of this.
pub const PAGE: usize = 4096;
/// Tensors start at multiples of this.
pub const LINE: usize = 64;

/// A part of the weights section that is made and written as one: the globals, or a layer.
pub struct Part {
    /// First byte in the section.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// What it holds; offsets are from the section's start.
    pub entries: Vec<Entry>,
    /// The layer, for messages and look-ups.
    pub layer: usize,
}

/// How rows or columns of the source map to those of the image: `count` segments of `len`, each padded.
#[derive(Clone, Copy)]
pub struct Segments {
    /// Real length of a segment.
    pub len: usize,
    /// Length in the image.
    pub padded: usize,
    /// Length of all segments in the source.
    pub total: usize,
}

impl Segments {
    /// Source index of image index `i`, `None` for padding.
    pub fn source(&self, i: usize) -> Option<usize> {
        let at = i / self.padded * self.len + i % self.padded;
        (i % self.padded < self.len && at < self.total).then_some(at)
    }

    /// Whether blocks of 32 in the image are blocks of 32 in the source.
    pub fn keeps_blocks(&self) -> bool {
        self.len == self.padded || self.len == self.total
    }
}

/// Segments of a matrix's outputs.
pub fn row_segments(kind: Kind, c: &Config, rows: usize) -> Segments {
    match kind {
        // Stored by input, outputs lie as they do in activation buffers.
        Kind::Q | Kind::K | Kind::V => {
            let padded = if c.attention_by_input { c.head_slot() } else { c.head_width() };
            Segments { len: c.head_dim, padded, total: rows }
        }
        Kind::Gate | Kind::Up => Segments { len: rows, padded: c.neuron_width(), total: rows },
        _ => Segments { len: rows, padded: rows.next_multiple_of(TILE_ROWS), total: rows },
    }
}

/// Segments of a matrix's inputs.
pub fn col_segments(kind: Kind, c: &Config, cols: usize) -> Segments {
    match kind {
        Kind::O => Segments { len: c.head_dim, padded: c.head_slot(), total: cols },
        _ => Segments { len: cols, padded: cols.next_multiple_of(BLOCK), total: cols },
    }
}

/// Segments of a vector: biases of heads and neurons are padded like their matrices' outputs.
pub fn vector_segments(kind: Kind, c: &Config, len: usize) -> Segments {
    match kind {
        Kind::QBias | Kind::KBias | Kind::VBias => Segments { len: c.head_dim, padded: c.head_slot(), total: len },
        Kind::GateBias | Kind::UpBias => Segments { len, padded: c.neuron_width(), total: len },
        _ => Segments { len, padded: len, total: len },
    }
}

/// Rows and columns that the configuration asks of a matrix, `None` for vectors.
pub fn matrix_shape(kind: Kind, c: &Config) -> Option<(usize, usize)> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    Some(match kind {
        Kind::Embed | Kind::Output => (c.vocab, c.d_embed),
        Kind::ProjectIn => (c.d_model, c.d_embed),
        Kind::ProjectOut => (c.d_embed, c.d_model),
        Kind::Q => (q, c.d_model),
        Kind::K | Kind::V => (kv, c.d_model),
        Kind::O => (c.d_model, q),
        Kind::Gate | Kind::Up => (c.ffn, c.d_model),
        Kind::Down => (c.d_model, c.ffn),
        _ => return None,
    })
}

/// Length that the configuration asks of a vector.
pub fn vector_len(kind: Kind, c: &Config) -> usize {
    match kind {
        Kind::QBias => c.heads * c.head_dim,
        Kind::KBias | Kind::VBias => c.kv_heads * c.head_dim,
        Kind::GateBias | Kind::UpBias => c.ffn,
        Kind::QNorm | Kind::KNorm => c.head_dim,
        Kind::RopeFrequencies => c.head_dim / 2,
        Kind::EmbedPositions => (c.max_positions + 2) * c.d_model,
        _ => c.d_model,
    }
}

/// Kinds outside the layers, in file order: small ones first.
const GLOBALS: [Kind; 8] = [
    Kind::RopeFrequencies,
    Kind::FinalNorm,
    Kind::FinalNormBias,
    Kind::ProjectIn,
    Kind::ProjectOut,
    Kind::EmbedPositions,
    Kind::Embed,
    Kind::Output,
];
const ATTENTION_VECTORS: [Kind; 8] =
    [Kind::AttnNorm, Kind::AttnNormBias, Kind::QBias, Kind::KBias, Kind::VBias, Kind::OBias, Kind::QNorm, Kind::KNorm];
const FFN_VECTORS: [Kind; 5] = [Kind::FfnNorm, Kind::FfnNormBias, Kind::GateBias, Kind::UpBias, Kind::DownBias];

/// Lays out one part after another.
pub struct Planner<'a> {
    config: &'a Config,
    formats: &'a Formats,
    has: &'a dyn Fn(Kind, usize) -> bool,
    at: usize,
    entries: Vec<Entry>,
    layer: u16,
}

/// The plan of a whole model.
pub fn plan(source: &dyn Source, c: &Config, formats: &Formats) -> shadowllm_host::Result<Vec<Part>> {
    let mut present = std::collections::HashSet::new();
    for kind in Kind::ALL {
        let layers = if kind.in_layers() { c.layers } else { 1 };
        for layer in 0..layers {
            if kind == Kind::RopeFrequencies && !source.spec().rope.is_empty() || source.tensor(kind, layer)?.is_some()
            {
                present.insert((kind, layer));
            }
        }
    }
    let has = |kind: Kind, layer: usize| present.contains(&(kind, layer));
    let mut planner = Planner { config: c, formats, has: &has, at: 0, entries: Vec::new(), layer: GLOBAL };
    let mut parts = vec![planner.globals()];
    parts.extend((0..c.layers).map(|layer| planner.layer(layer)));
    Ok(parts)
}

impl Planner<'_> {
    fn globals(&mut self) -> Part {
        let start = self.at;
        for kind in GLOBALS {
            if (self.has)(kind, 0) {
                if matrix_shape(kind, self.config).is_some() { self.whole(kind) } else { self.vector(kind) }
            }
        }
        self.finish(start, 0)
    }

    fn layer(&mut self, layer: usize) -> Part {
        self.at = self.at.next_multiple_of(PAGE);
        self.layer = layer as u16;
        let start = self.at;
        self.vectors(&ATTENTION_VECTORS, layer);
        if self.config.attention_by_input {
            [Kind::K, Kind::V, Kind::Q, Kind::O].into_iter().for_each(|kind| self.whole(kind));
        } else {
            [Kind::K, Kind::V].into_iter().for_each(|kind| self.bundles(&[kind], self.config.kv_heads));
            self.bundles(&[Kind::Q, Kind::O], self.config.heads);
        }
        self.vectors(&FFN_VECTORS, layer);
        let ffn: &[Kind] =
            if self.config.gated { &[Kind::Gate, Kind::Up, Kind::Down] } else { &[Kind::Up, Kind::Down] };
        if self.config.ffn_by_input {
            ffn.iter().for_each(|kind| self.whole(*kind));
        } else {
            self.bundles(ffn, self.config.neuron_groups());
        }
        self.finish(start, layer)
    }

    fn finish(&mut self, start: usize, layer: usize) -> Part {
        Part { offset: start, len: self.at - start, entries: std::mem::take(&mut self.entries), layer }
    }

    fn vectors(&mut self, kinds: &[Kind], layer: usize) {
        for kind in kinds {
            if (self.has)(*kind, layer) {
                self.vector(*kind);
            }
        }
    }

    fn vector(&mut self, kind: Kind) {
        let rows = vector_len(kind, self.config);
        let s = vector_segments(kind, self.config, rows);
        let len = rows / s.len.max(1) * s.padded;
        self.push(kind, rows, 1, Storage::Vector { len });
        self.at += 4 * len;
    }

    /// Geometry of a matrix, its group stride that of a matrix alone.
    fn geometry(&self, kind: Kind) -> Geometry {
        let c = self.config;
        let (rows, cols) = matrix_shape(kind, c).unwrap_or((1, 1));
        let col = col_segments(kind, c, cols);
        let k_blocks = cols.div_ceil(col.len) * col.padded / BLOCK;
        let row = row_segments(kind, c, rows);
        let order = order_of(kind, c);
        let outputs = (rows.div_ceil(row.len) * row.padded).next_multiple_of(order.output_multiple());
        let panels = outputs / TILE_ROWS;
        let group = c.neuron_group;
        let (units_per_group, group_width) = match kind {
            _ if order.shares_scales() => (BLOCK, 0),
            Kind::O => (c.head_slot() / order.unit_inputs(), 0),
            Kind::Down => (group / order.unit_inputs(), 0),
            Kind::Q | Kind::K | Kind::V => (c.head_width() / order.unit_outputs(), c.head_slot()),
            Kind::Gate | Kind::Up => (group / order.unit_outputs(), group),
            _ => (panels, outputs),
        };
        let format = self.formats.of(kind);
        let mut g = Geometry { format, order, panels, k_blocks, units_per_group, group_stride: 0, group_width };
        g.group_stride = g.shared_bytes() + units_per_group * g.unit_bytes();
        g
    }

    fn whole(&mut self, kind: Kind) {
        let g = self.geometry(kind);
        self.bundle(&[kind], g.units() / g.units_per_group, g.group_stride);
    }

    fn bundles(&mut self, kinds: &[Kind], groups: usize) {
        let stride = kinds.iter().map(|k| self.geometry(*k).group_stride).sum();
        self.bundle(kinds, groups, stride);
    }

    /// Several matrices whose groups lie together.
    fn bundle(&mut self, kinds: &[Kind], groups: usize, stride: usize) {
        self.at = self.at.next_multiple_of(LINE);
        let mut within = 0;
        for kind in kinds {
            let mut g = self.geometry(*kind);
            let (rows, cols) = matrix_shape(*kind, self.config).unwrap_or((1, 1));
            let own = g.group_stride;
            g.group_stride = stride;
            let at = self.at;
            self.at += within;
            self.push_at(*kind, rows, cols, Storage::Tiles(g));
            self.at = at;
            within += own;
        }
        self.at += groups * stride;
    }

    fn push(&mut self, kind: Kind, rows: usize, cols: usize, storage: Storage) {
        self.at = self.at.next_multiple_of(LINE);
        self.push_at(kind, rows, cols, storage);
    }

    fn push_at(&mut self, kind: Kind, rows: usize, cols: usize, storage: Storage) {
        let layer = if kind.in_layers() { self.layer } else { GLOBAL };
        self.entries.push(Entry { kind, layer, rows, cols, offset: self.at, storage });
    }
}

/// Shape check of a source tensor, in words.
pub fn check_shape(kind: Kind, c: &Config, t: &SourceTensor) -> Result<(), String> {
    let expected = matrix_shape(kind, c).unwrap_or((1, vector_len(kind, c)));
    let fits = match matrix_shape(kind, c) {
        Some(shape) => (t.rows, t.cols) == shape,
        None => t.rows * t.cols == expected.1,
    };
    if fits {
        return Ok(());
    }
    let (found, wanted) = match matrix_shape(kind, c) {
        Some((r, k)) => (format!("[{}, {}]", t.rows, t.cols), format!("[{r}, {k}]")),
        None => (format!("[{}]", t.rows * t.cols), format!("[{}]", expected.1)),
    };
    Err(format!(
        "tensor {} has shape {found}, the configuration asks for {wanted}: do both belong to one model?",
        t.name
    ))
}

/// Formats that can be chosen, for messages.
pub fn format_names() -> String {
    Format::ALL.map(Format::name).join(", ")
}
