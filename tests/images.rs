//! Images that are cut off, have flipped bits, are of another version, or are hostile: each is an error, never a panic.

use shadowllm_core::image::{HEADER_LEN, SECTION_LEN, SectionKind, VERSION, crc32};
use shadowllm_core::{Error, Format, Image, Model, Serial, Session, SessionOptions};
use shadowllm_tests::folder::{Random, Shape};
use shadowllm_tests::gguf_file::GgufFile;
use shadowllm_tests::{fixture_ids, pack_to, vectors};
use shadowllm_tools::import;
use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::pack::{Arrangement, Formats, pack};
use std::path::Path;

fn image(family: &str, format: Format) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.sllm");
    pack_to(&vectors("models").join(family), format, &path);
    std::fs::read(path).unwrap()
}

/// A model of K types, whose blocks share numbers.
fn super_blocks(arrangement: Arrangement) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let (file, path) = (temp.path().join("model.gguf"), temp.path().join("model.sllm"));
    let shape = Shape { d: 256, ffn: 256, heads: [4, 2, 64], vocab: 40, layers: 1 };
    let kinds = [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q5K, GgmlType::IQ4XS, GgmlType::MXFP4];
    std::fs::write(&file, GgufFile::llama_of(shape, &[GgmlType::Q6K], &kinds).bytes()).unwrap();
    pack(&*import::open(&file).unwrap(), Formats::OWN, arrangement, &path, &mut |_, _| {}).unwrap();
    std::fs::read(path).unwrap()
}

/// Corrects the checksum of the header.
fn resign(bytes: &mut [u8]) {
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[24..28].fill(0);
    let Some(head) = bytes.get(..head) else { return };
    let sum = crc32(head, 0);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn every_cut_is_noticed() {
    for family in ["opt", "llama-mha"] {
        let bytes = image(family, Format::Q4_0);
        let parsed = Image::parse(&bytes).unwrap();
        let ends = SectionKind::ALL
            .map(|k| parsed.section_info(k))
            .map(|s| [s.offset, s.offset + s.len / 2, s.offset + s.len]);
        let cuts = (0..HEADER_LEN + 8 * SECTION_LEN).chain(ends.into_iter().flatten()).chain([bytes.len() - 1]);
        for cut in cuts.filter(|c| *c < bytes.len()) {
            match Image::parse(&bytes[..cut]) {
                Err(Error::Truncated { .. } | Error::NotAnImage) => {}
                other => panic!("{family} cut at {cut}: {:?}", other.err()),
            }
        }
    }
}

#[test]
fn every_flipped_header_byte_is_noticed() {
    let mut bytes = image("qwen2", Format::Q8_0);
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    for i in 0..head {
        bytes[i] ^= 0x10;
        assert!(Image::parse(&bytes).is_err(), "byte {i}");
        bytes[i] ^= 0x10;
    }
    assert!(Image::parse(&bytes).is_ok());
}

#[test]
fn another_version_is_named() {
    let mut bytes = image("opt", Format::F16);
    for found in [0, VERSION - 1, VERSION + 1, 9] {
        bytes[8] = found as u8;
        resign(&mut bytes);
        assert_eq!(Image::parse(&bytes).err(), Some(Error::OtherVersion { found, known: VERSION }));
    }
}

/// The documents name the version that is written.
#[test]
fn documents_name_the_version() {
    let documents = [
        ("CHANGELOG.md", format!("the image format, version {VERSION};")),
        ("core/src/image/FORMAT.md", format!("# The image format, version {VERSION}\n")),
        ("core/src/image/FORMAT.md", format!("| 8..12 | u32 | version, {VERSION}; a reader refuses others |")),
    ];
    for (file, words) in documents {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&words), "{file} does not say: {words}");
    }
}

#[test]
fn a_misaligned_image_is_refused() {
    let bytes = image("opt", Format::F16);
    let mut shifted = vec![0u8; bytes.len() + 8];
    let at = shifted.as_ptr().align_offset(4) + 1;
    shifted[at..at + bytes.len()].copy_from_slice(&bytes);
    assert_eq!(Image::parse(&shifted[at..at + bytes.len()]).err(), Some(Error::Misaligned(4)));
}

/// An attacker can compute checksums, so any header is possible. It is refused, or it runs without accessing memory
/// outside (addresses are checked by slices; a debug build also checks arithmetic).
#[test]
fn hostile_headers_with_good_checksums_are_refused_or_harmless() {
    let mut random = Random(11);
    let mut pick = |n: usize| (f64::from(random.draw().abs()) * 1e6) as usize % n;
    let mut parsed = 0;
    let families = ["opt-postnorm-proj", "llama-relu", "qwen3"].map(|f| (image(f, Format::Q4_1), fixture_ids(f)));
    let supers = [Arrangement::DENSE, Arrangement::INPUT].map(|a| (super_blocks(a), vec![3, 1, 4, 1, 5]));
    for (good, ids) in families.into_iter().chain(supers) {
        let head = u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
        for _ in 0..4000 {
            let mut bytes = good.clone();
            for _ in 0..1 + pick(3) {
                let at = 12 + pick(head - 12);
                // Codes of formats with super-blocks among them.
                bytes[at] = [0, 1, 2, 8, 15, 16, 17, 18, 19, 20, 31, 32, 64, 127, 128, 255][pick(16)];
            }
            resign(&mut bytes);
            let Ok(model) = Model::parse(&bytes) else { continue };
            parsed += 1;
            let options = SessionOptions { context: 16, batch: 4, ..SessionOptions::default() };
            let Ok(size) = Session::memory_required(&model, &options) else { continue };
            if size.size() > 1 << 26 {
                continue;
            }
            let mut memory = vec![std::mem::MaybeUninit::uninit(); size.size()];
            let mut session = Session::new(model, options, &mut memory).unwrap();
            // Ids may be out of range of a changed vocabulary, so errors are allowed.
            let _ = session.prefill(&Serial, &ids[..5]);
            let _ = session.decode(&Serial, ids[0]);
        }
    }
    assert!(parsed > 100, "the mutations hardly ever parse ({parsed}): they test too little");
}
