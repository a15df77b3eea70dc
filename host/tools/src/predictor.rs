//! Putting a predictor into an image: one that calibration has just made, or one that ships alone.

use crate::import::Source;
use crate::output::Output;
use crate::pack::{Arrangement, Formats, Packed, Progress, check, header, write};
use serde_json::{Value, json};
use shadowllm_core::Image;
use shadowllm_core::image::{HEADER_LEN, SECTION_LEN, SectionKind};
use shadowllm_host::map::map;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes a copy of an image with this predictor section, in place of any it had, and with `record` as what its
/// provenance says of the calibration. The image may be larger than the memory.
///
/// # Errors
/// When the section does not belong to the image, or a file cannot be read or written.
pub fn attach(image: &Path, section: &[u8], record: &Value, out: &Path) -> Result<()> {
    let mapping = map(image)?;
    let parsed = Image::parse(&mapping).map_err(|source| Error::Engine { path: Some(image.to_owned()), source })?;
    let mut provenance: Value = serde_json::from_slice(parsed.section(SectionKind::Provenance)).unwrap_or(json!({}));
    provenance["calibration"] = record.clone();
    let mut output = Output::create(out)?;
    let written = write_with(&parsed, section, provenance.to_string().as_bytes(), output.file());
    written.map_err(|e| Error::io("write to", out, e))?;
    holds_predictor(output.draft()).map_err(|e| of(image, e))?;
    check(&output, out)?;
    output.finish()
}

/// Checks that the image has a predictor, and that it is of this model.
fn holds_predictor(path: &Path) -> Result<()> {
    let model = LoadedModel::open(path, None)?;
    // An empty section is none.
    let none = shadowllm_core::Error::BadPredictor("it is empty");
    Ok(model.model().predictor().and_then(|p| p.ok_or(none)).map(drop)?)
}

/// An error of the engine about this file, and not about a draft, which is gone.
fn of(path: &Path, e: Error) -> Error {
    match e {
        Error::Engine { source, .. } => Error::Engine { path: Some(path.to_owned()), source },
        other => other,
    }
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
    attach(draft.draft(), section, record, out).map_err(|e| of(out, e))?;
    Ok(packed)
}

/// A section of a new image.
struct Part<'a> {
    kind: SectionKind,
    bytes: &'a [u8],
    crc: u32,
}

/// Writes an image with predictor and provenance replaced: the other sections keep their order, their content and the
/// checksum of it, which is not computed again, so that damage stays visible.
fn write_with(image: &Image, predictor: &[u8], provenance: &[u8], file: &mut File) -> std::io::Result<()> {
    let new = |kind, bytes| Part { kind, bytes, crc: crc32fast::hash(bytes) };
    let part = |kind| match kind {
        SectionKind::Predictor => new(kind, predictor),
        SectionKind::Provenance => new(kind, provenance),
        _ => Part { kind, bytes: image.section(kind), crc: image.section_info(kind).crc },
    };
    let parts: Vec<Part> = SectionKind::ALL.into_iter().map(part).filter(|part| !part.bytes.is_empty()).collect();
    let (mut end, mut head_len, mut table) = (HEADER_LEN + parts.len() * SECTION_LEN, 0, Vec::new());
    for Part { kind, bytes, crc } in &parts {
        let at = end.next_multiple_of(if *kind == SectionKind::Weights { 4096 } else { 64 });
        table.push((*kind, at, bytes.len(), *crc));
        end = at + bytes.len();
        if *kind == SectionKind::Tensors {
            head_len = end;
        }
    }
    let placed = || parts.iter().zip(&table).map(|(part, row)| (row.1, part.bytes));
    let mut head = header(&table, head_len, end);
    for (at, bytes) in placed().filter(|(at, _)| *at < head_len) {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let sum = crc32fast::hash(&head);
    head[24..28].copy_from_slice(&sum.to_le_bytes());
    file.write_all(&head)?;
    let mut end = head_len;
    for (at, bytes) in placed().filter(|(at, _)| *at >= head_len) {
        file.write_all(&vec![0; at - end])?;
        file.write_all(bytes)?;
        end = at + bytes.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shadowllm_host::model::Loading;

    #[test]
    fn all_but_the_predictor_stays_as_it_was() {
        let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/story.sllm");
        let whole = std::fs::read(&story).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [from, out] = ["from", "out"].map(|name| folder.path().join(name));
        let verified = |path: &Path| LoadedModel::open_with(path, Loading { verify: true, ..Loading::default() });
        let image = Image::parse(&whole).unwrap();
        let (predictor, record) = (image.section(SectionKind::Predictor), json!({"tokens": 7}));
        attach(&story, predictor, &record, &out).unwrap();
        let made = verified(&out).unwrap();
        for kind in SectionKind::ALL.into_iter().filter(|kind| *kind != SectionKind::Provenance) {
            assert!(made.model().image().section(kind) == image.section(kind), "{}", kind.name());
        }
        assert!(made.text(SectionKind::Provenance).unwrap().contains("\"calibration\":{\"tokens\":7}"));
        drop(made);
        // Weights that were damaged before do not get a checksum that says they are whole.
        let mut damaged = whole.clone();
        damaged[image.section_info(SectionKind::Weights).offset + 9] ^= 1;
        std::fs::write(&from, &damaged).unwrap();
        attach(&from, predictor, &record, &out).unwrap();
        let error = verified(&out).map(drop).unwrap_err().to_string();
        assert!(error.contains("weights section is damaged"), "{error}");
        for wrong in [&[][..], &predictor[..predictor.len() / 2]] {
            let error = attach(&story, wrong, &record, &out).unwrap_err().to_string();
            assert!(error.contains("story.sllm"), "{error}");
        }
    }
}
