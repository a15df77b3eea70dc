//! Packing: a source model becomes an image, part by part, so that memory stays at a small multiple of one
//! layer. The file appears under its name only when it is whole.

mod choose;
mod encode;
pub(crate) mod layout;
mod outlook;
pub mod sketch;

pub use layout::format_names;
pub use outlook::{Outlook, outlook};

use crate::import::gguf::GgmlType;
use crate::import::{Data, Source, SourceTensor, Spec};
use crate::output::{Output, Pieces};
use encode::Encoder;
pub use encode::Kept;
use layout::Part;
use shadowllm_core::SessionOptions;
use shadowllm_core::format::{BLOCK, Format, Geometry};
use shadowllm_core::image::arch::{Layer, Op};
use shadowllm_core::image::roles::{Place, Segments};
use shadowllm_core::image::{Architecture, Entry, HEADER_LEN, MAGIC, Role, SECTION_LEN, SectionKind, Storage, VERSION};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Number formats of an image. `None` keeps the source's own format, tensor by tensor, if one of our formats holds its
/// numbers and the layout can hold that format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Format of the layers' matrices.
    pub weights: Option<Format>,
    /// Format of the embedding and output matrices.
    pub output: Option<Format>,
    /// Whether the output matrix gets a sketch ([`sketch::SKETCH`]).
    pub sketch: bool,
}

impl Formats {
    /// The source's own formats.
    pub const OWN: Formats = Formats { weights: None, output: None, sketch: false };

    /// One format for all matrices.
    pub const fn all(format: Format) -> Formats {
        Formats { weights: Some(format), output: Some(format), sketch: false }
    }

    /// The format that the user chose for a matrix.
    pub fn of(&self, role: Role) -> Option<Format> {
        match role {
            Role::Embed | Role::Output => self.output,
            Role::OutputSketch => Some(sketch::SKETCH),
            // A router is small, and its choice of experts affects everything else.
            Role::Router | Role::SharedRouter => Some(Format::F32),
            _ => self.weights,
        }
    }
}

/// How the blocks of the layers' matrices are ordered, which decides what can be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrangement {
    /// Neurons per group: 1, 4, 8, 16 or 32.
    pub neuron_group: usize,
    /// Whether attention's maps are stored by input.
    pub attention_by_input: bool,
    /// Whether the feed-forward network's maps are stored by input.
    pub ffn_by_input: bool,
}

impl Arrangement {
    /// Tiles, which are read fastest: heads and groups of 32 neurons can be skipped.
    pub const DENSE: Arrangement = Arrangement { neuron_group: 32, attention_by_input: false, ffn_by_input: false };
    /// Heads and single neurons can be skipped.
    pub const NEURON: Arrangement = Arrangement { neuron_group: 1, ..Arrangement::DENSE };
    /// Single inputs of every map can be skipped.
    pub const INPUT: Arrangement = Arrangement { neuron_group: 1, attention_by_input: true, ffn_by_input: true };

    /// The arrangement in which most of a model can be skipped: single neurons if most are exactly zero (after ReLU and similar
    /// functions), else single inputs.
    fn for_skipping(spec: &Spec) -> Arrangement {
        let activation = spec.layers.first().and_then(Layer::mlp).map(|m| m.activation);
        match activation {
            Some(activation) if activation.is_sparse() => Arrangement::NEURON,
            _ => Arrangement::INPUT,
        }
    }

    /// The arrangement that decodes fastest: [`Arrangement::suitable`], but not inputs. Skipping these saves bytes, but less time
    /// than reading tiles does.
    pub fn fastest(source: &dyn Source, formats: Formats) -> Arrangement {
        match Self::suitable(source, formats) {
            Self::INPUT => Self::DENSE,
            other => other,
        }
    }

    /// The arrangement in which most can be skipped, if it keeps all numbers of the source that [`Arrangement::DENSE`] keeps, and
    /// can hold the formats that the user chose; else [`Arrangement::DENSE`], because rounding a second time costs more than
    /// skipping gains.
    pub fn suitable(source: &dyn Source, formats: Formats) -> Arrangement {
        let wished = Self::for_skipping(source.spec());
        let kept = |arrangement: Arrangement| layout::formats(source, &arrangement.of(source.spec()), formats).ok();
        let down = source.tensor(Role::Down, 0).ok().flatten().and_then(|tensor| tensor.kind());
        // With single neurons, the blocks of this matrix run along its outputs, so quantized blocks cannot be kept.
        let turned = !wished.ffn_by_input && formats.weights.is_none() && down.is_some_and(GgmlType::is_quantized);
        if !turned && kept(wished).is_some_and(|w| Some(w) == kept(Self::DENSE)) { wished } else { Self::DENSE }
    }

    /// The model's description, with its layers stored in this arrangement.
    fn of(self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        for block in spec.layers.iter_mut().flat_map(|layer| &mut layer.blocks).flatten() {
            match &mut block.op {
                Op::Attention(a) => a.by_input = self.attention_by_input,
                // Experts are skipped whole, not by neurons.
                Op::Mlp(m) if m.router.is_some() => (m.group, m.by_input) = (BLOCK, false),
                Op::Mlp(m) => (m.group, m.by_input) = (self.neuron_group, self.ffn_by_input),
            }
        }
        spec
    }
}

/// Called during packing with the bytes done and the total.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What packing wrote.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// Bytes of the file.
    pub bytes: u64,
    /// Weights whose blocks were copied unchanged.
    pub carried_over: u64,
    /// Whether the image can read and write text.
    pub has_tokenizer: bool,
    /// Bytes of the sketch of the output matrix; 0 without one. A dense pass does not read them.
    pub sketch: u64,
    /// How matrices were converted: an entry for each type of the source and format of the image, in order.
    pub became: Vec<Became>,
    /// Bytes of matrices that decoding a token reads densely, in the image and in the source.
    pub per_token: [u64; 2],
}

/// The conversion of matrices of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Became {
    /// Their type in the source.
    pub from: &'static str,
    /// Their format in the image.
    pub to: Format,
    /// How much of their blocks was kept.
    pub kept: Kept,
    /// Whether they were quantized before, so that packing rounded them a second time.
    pub rounded_again: bool,
    /// Number of matrices.
    pub matrices: usize,
    /// Their weights.
    pub weights: u64,
}

impl Packed {
    /// Counts a matrix, of which a token reads the share `share[0] / share[1]`.
    fn add(&mut self, share: [usize; 2], tensor: &SourceTensor, geometry: &Geometry, kept: Kept) {
        let weights = (tensor.rows * tensor.cols) as u64;
        self.carried_over += if kept == Kept::All { weights } else { 0 };
        let source = tensor.stored_bytes();
        for (sum, bytes) in self.per_token.iter_mut().zip([geometry.weight_bytes() as u64, source]) {
            *sum += bytes * share[0] as u64 / share[1] as u64;
        }
        let (from, to) = (choose::source_name(tensor), geometry.format);
        // f32 holds every number of every type exactly.
        let kept = if to == Format::F32 { Kept::All } else { kept };
        let few_bits = |kind: GgmlType| kind.is_quantized() && kind != GgmlType::Q8_0;
        let rounded_again = kept == Kept::Nothing && to.takes_int8() && tensor.kind().is_some_and(few_bits);
        match self.became.iter_mut().find(|b| (b.from, b.to, b.kept) == (from, to, kept)) {
            Some(found) => {
                found.matrices += 1;
                found.weights += weights;
            }
            None => self.became.push(Became { from, to, kept, rounded_again, matrices: 1, weights }),
        }
    }
}

/// Packs `source` to `out`.
///
/// # Errors
/// Names the tensor that is missing, misshapen or unreadable, or the file that cannot be written; `out` is then
/// unchanged.
pub fn pack(
    source: &dyn Source,
    formats: Formats,
    arrangement: Arrangement,
    out: &Path,
    progress: Progress,
) -> Result<Packed> {
    let mut output = Output::create(out)?;
    let packed = write(source, formats, arrangement, &mut output, out, progress)?;
    check(&output, source.path())?;
    output.finish()?;
    Ok(packed)
}

/// Opens a new image as an engine would; an error is reported as a fault of `from`.
pub(crate) fn check(output: &Output, from: &Path) -> Result<()> {
    let read = || -> Result<()> {
        let model = LoadedModel::open(output.draft(), None)?;
        let options = SessionOptions { batch: 1, ..SessionOptions::of(model.model()) }.within(1);
        let mut memory = model.memory(&options)?;
        model.session(options, &mut memory).map(drop)
    };
    read().map_err(|e| {
        let why = match e {
            Error::Engine { source, .. } => source.to_string(),
            Error::File { message, .. } => message,
            other => other.to_string(),
        };
        Error::file(from, format!("would make an image that cannot be run, so none is written: {why}"))
    })
}

/// Writes an image to a temporary file; `out` is the name for messages.
pub(crate) fn write(
    source: &dyn Source,
    formats: Formats,
    arrangement: Arrangement,
    output: &mut Output,
    out: &Path,
    progress: Progress,
) -> Result<Packed> {
    let failed = |e: shadowllm_core::Error| match e {
        shadowllm_core::Error::Malformed(field) => Error::file(
            source.path(),
            format!("no model can have such a shape: {field} is out of range; is the file damaged?"),
        ),
        other => Error::file(source.path(), other.to_string()),
    };
    let spec = arrangement.of(source.spec());
    let section = spec.section().map_err(failed)?;
    let arch = Architecture::parse(&section).map_err(failed)?;
    layout::check(source, &spec, &arch)?;
    let parts = layout::plan(source, &arch, formats)?;
    let texts = texts(source, &parts)?;
    let tied = !parts.iter().flat_map(|p| &p.entries).any(|e| e.role == Role::Output);
    let writer = Writer { source, arch: &arch, section: &section, out, tied, packed: Packed::default() };
    let mut packed = writer.write(output.file(), &parts, &texts, progress)?;
    packed.has_tokenizer = texts.iter().any(|(kind, _)| *kind == SectionKind::Tokenizer);
    Ok(packed)
}

/// The names of the formats of the layers' matrices, or of embedding and output.
fn format_list(parts: &[Part], layers: bool) -> String {
    let mut names: Vec<&str> = Vec::new();
    for entry in parts.iter().flat_map(|p| &p.entries).filter(|e| e.role.in_layers() == layers) {
        if let Storage::Tiles(g) = entry.storage
            && !names.contains(&g.format.name())
        {
            names.push(g.format.name());
        }
    }
    names.join(" ")
}

/// The sections of text.
fn texts(source: &dyn Source, parts: &[Part]) -> Result<Vec<(SectionKind, Vec<u8>)>> {
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
        "format": format_list(parts, true),
        "output_format": format_list(parts, false),
    });
    texts.push((SectionKind::Provenance, json(&provenance)));
    Ok(texts)
}

struct Writer<'a> {
    source: &'a dyn Source,
    arch: &'a Architecture<'a>,
    /// The architecture's bytes.
    section: &'a [u8],
    out: &'a Path,
    /// Whether the embedding is also the output matrix.
    tied: bool,
    packed: Packed,
}

impl<'a> Writer<'a> {
    fn write(
        mut self,
        file: &mut std::fs::File,
        parts: &[Part],
        texts: &[(SectionKind, Vec<u8>)],
        progress: Progress,
    ) -> Result<Packed> {
        let io = |e| Error::io("write to", self.out, e);
        let config = self.section;
        let mut entries: Vec<&Entry> = parts.iter().flat_map(|p| &p.entries).collect();
        entries.sort_by_key(|e| e.key());
        let table: Vec<u8> = entries.into_iter().flat_map(Entry::to_bytes).collect();
        let sections = 3 + texts.len();
        let config_at = (HEADER_LEN + sections * SECTION_LEN).next_multiple_of(layout::LINE);
        let table_at = (config_at + config.len()).next_multiple_of(layout::LINE);
        let head_len = table_at + table.len();
        let weights_at = head_len.next_multiple_of(layout::PAGE);
        let weights_len = parts.last().map_or(0, |p| p.offset + p.len);

        let mut crc = crc32fast::Hasher::new();
        let mut written = 0;
        // The head follows when the weights are known.
        let mut pieces = Pieces::new(file);
        pieces.write_all(&vec![0; weights_at]).map_err(io)?;
        for part in parts {
            let pad = vec![0; part.offset - written];
            let bytes = self.part(part)?;
            for piece in [&pad, &bytes] {
                pieces.write_all(piece).map_err(|e| Error::io("write to", self.out, e))?;
                crc.update(piece);
            }
            written = part.offset + part.len;
            progress(written as u64, weights_len as u64);
        }
        let mut rows = vec![
            (SectionKind::Architecture, config_at, config.len(), crc32fast::hash(config)),
            (SectionKind::Tensors, table_at, table.len(), crc32fast::hash(&table)),
            (SectionKind::Weights, weights_at, weights_len, crc.finalize()),
        ];
        let io = |e| Error::io("write to", self.out, e);
        let mut at = weights_at + weights_len;
        for (kind, text) in texts {
            let start = at.next_multiple_of(layout::LINE);
            pieces.write_all(&vec![0; start - at]).map_err(io)?;
            pieces.write_all(text).map_err(io)?;
            rows.push((*kind, start, text.len(), crc32fast::hash(text)));
            at = start + text.len();
        }
        pieces.flush().map_err(io)?;
        let mut head = header(&rows, head_len, at);
        head[config_at..config_at + config.len()].copy_from_slice(config);
        head[table_at..].copy_from_slice(&table);
        let sum = crc32fast::hash(&head);
        head[24..28].copy_from_slice(&sum.to_le_bytes());
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        file.write_all(&head).map_err(io)?;
        Ok(Packed { bytes: at as u64, ..self.packed })
    }

    /// The bytes of one part.
    fn part(&mut self, part: &Part) -> Result<Vec<u8>> {
        let mut bytes = vec![0; part.len];
        let layer = self.arch.layer(part.layer);
        for entry in &part.entries {
            for copy in 0..entry.experts.max(1) {
                let at = entry.offset - part.offset + copy * entry.expert_stride;
                let expert = (entry.experts > 0).then_some(copy);
                match entry.storage {
                    Storage::Vector { len } => {
                        let values = self.vector(entry, expert)?;
                        let segments = self.place(entry, &layer)?.1;
                        for i in 0..len {
                            let value = segments.source(i).map_or(0.0, |s| values[s]);
                            bytes[at + 4 * i..at + 4 * i + 4].copy_from_slice(&value.to_le_bytes());
                        }
                    }
                    Storage::Tiles(geometry) => self.matrix(entry, expert, &layer, &geometry, &mut bytes[at..])?,
                }
            }
        }
        Ok(bytes)
    }

    fn tensor(&self, entry: &Entry, expert: Option<usize>) -> Result<SourceTensor<'a>> {
        let (role, layer) = (entry.role, usize::from(entry.layer));
        let missing =
            || Error::file(self.source.path(), format!("no tensor for {}", layout::named(role, layer, expert)));
        layout::tensor(self.source, role, layer, expert)?.ok_or_else(missing)
    }

    /// The part of the model that a tensor belongs to, and where its rows are in the image.
    fn place<'l>(&'l self, entry: &Entry, layer: &'l Layer) -> Result<(Place<'l>, Segments)> {
        let place = self.arch.place(entry.role, layer, entry.layer.into());
        let place = place.ok_or_else(|| Error::Other(format!("no block has the tensor {}", entry.role.name())))?;
        Ok((place, entry.role.outputs(&place)))
    }

    fn vector(&self, entry: &Entry, expert: Option<usize>) -> Result<Vec<f32>> {
        if entry.role == Role::RopeFrequencies {
            return Ok(self.source.spec().ropes[usize::from(entry.layer)].clone());
        }
        let tensor = self.tensor(entry, expert)?;
        tensor.vector().map_err(|e| Error::file(self.source.path(), e))
    }

    /// Encodes a matrix and writes its blocks to the places of its geometry.
    fn matrix(
        &mut self,
        entry: &Entry,
        expert: Option<usize>,
        layer: &Layer,
        g: &Geometry,
        out: &mut [u8],
    ) -> Result<()> {
        let tensor = self.tensor(entry, expert)?;
        let (place, rows) = self.place(entry, layer)?;
        let encoder = Encoder::new(rows, entry.role.inputs(&place), &tensor, g);
        encoder.write(out).map_err(|e| Error::file(self.source.path(), e))?;
        if entry.role == Role::OutputSketch {
            self.packed.sketch = g.weight_bytes() as u64;
            return Ok(());
        }
        let kept = encoder.kept();
        let used = layer.mlp().and_then(|m| m.router).map(|router| router.used);
        let share = match (entry.role, expert.and(used)) {
            (Role::Embed, _) if !self.tied => [0, 1],
            (_, Some(used)) => [used, entry.experts.max(1)],
            _ => [1, 1],
        };
        self.packed.add(share, &tensor, g, kept);
        Ok(())
    }
}

/// Header and section table, without the checksum.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A file gets its final name only if it is an image that can be run.
    #[test]
    fn images_that_could_not_be_run() {
        let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/story.sllm");
        let whole = std::fs::read(story).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let checked = |bytes: &[u8]| {
            let mut output = Output::create(&folder.path().join("x.sllm")).unwrap();
            output.file().write_all(bytes).unwrap();
            check(&output, Path::new("model.gguf")).map_err(|e| e.to_string())
        };
        assert_eq!(checked(&whole), Ok(()));
        for bytes in [&b"no image"[..], &whole[..whole.len() / 2], &[]] {
            let error = checked(bytes).unwrap_err();
            assert!(error.starts_with("model.gguf: would make an image that cannot be run"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
