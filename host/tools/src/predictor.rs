//! Putting a predictor into an image: one that calibration has just made, or one that ships alone.

use crate::import::Source;
use crate::output::Output;
use crate::pack::{Arrangement, Formats, Packed, Progress, check, write};
use serde_json::{Value, json};
use shadowllm_core::image::{HEADER_LEN, SECTION_LEN, SectionKind};
use shadowllm_core::{Image, Kernels, Model};
use shadowllm_host::map::map;
use shadowllm_host::model::cpu;
use shadowllm_host::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes a copy of an image with this predictor section, in place of any it had, and with `record` as what its
/// provenance says of the calibration.
///
/// # Errors
/// When the section does not belong to the image, or a file cannot be read or written.
pub fn attach(image: &Path, section: &[u8], record: &Value, out: &Path) -> Result<()> {
    let mapping = map(image)?;
    let engine = |source| Error::Engine { path: Some(image.to_owned()), source };
    let parsed = Image::parse(&mapping).map_err(engine)?;
    let mut provenance: Value = serde_json::from_slice(parsed.section(SectionKind::Provenance)).unwrap_or(json!({}));
    provenance["calibration"] = record.clone();
    let bytes = with_sections(&parsed, section, provenance.to_string().as_bytes());
    let model = Model::new(Image::parse(&bytes).map_err(engine)?, Kernels::best(cpu()));
    // An empty section is none.
    model.predictor().and_then(|p| p.ok_or(shadowllm_core::Error::BadPredictor("it is empty"))).map_err(engine)?;
    let mut output = Output::create(out)?;
    output.file().write_all(&bytes).map_err(|e| Error::io("write to", out, e))?;
    check(&output, out)?;
    output.finish()
}

/// Packs `source` with a predictor. The name appears with both in the file, or not at all.
///
/// # Errors
/// As packing and [`attach`].
pub fn pack_with(
    source: &dyn Source,
    formats: Formats,
    arrangement: Arrangement,
    (section, record): (&[u8], &Value),
    out: &Path,
    progress: Progress,
) -> Result<Packed> {
    let mut draft = Output::create(out)?;
    let packed = write(source, formats, arrangement, &mut draft, out, progress)?;
    attach(draft.draft(), section, record, out).map_err(|e| match e {
        // Not the draft's name, which is gone.
        Error::Engine { source, .. } => Error::Engine { path: Some(out.to_owned()), source },
        other => other,
    })?;
    Ok(packed)
}

/// An image's bytes with predictor and provenance replaced: the other sections keep their order and content.
fn with_sections(image: &Image, predictor: &[u8], provenance: &[u8]) -> Vec<u8> {
    let content = |k: SectionKind| match k {
        SectionKind::Predictor => predictor,
        SectionKind::Provenance => provenance,
        _ => image.section(k),
    };
    let all = SectionKind::ALL.into_iter().map(|k| (k, content(k)));
    let sections: Vec<(SectionKind, &[u8])> = all.filter(|(_, bytes)| !bytes.is_empty()).collect();
    let mut out = vec![0; HEADER_LEN + sections.len() * SECTION_LEN];
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
    out[..HEADER_LEN + sections.len() * SECTION_LEN]
        .copy_from_slice(&head[..HEADER_LEN + sections.len() * SECTION_LEN]);
    let sum = crc32fast::hash(&out[..head_len]);
    out[24..28].copy_from_slice(&sum.to_le_bytes());
    out
}
