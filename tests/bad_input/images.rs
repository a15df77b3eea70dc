//! Images that are cut off, damaged, of a newer version, or lack what a command needs.

use super::{image, resign};
use shadowllm_core::image::{HEADER_LEN, SectionKind, VERSION};
use shadowllm_host::model::LoadedModel;
use shadowllm_tests::program::Place;
use shadowllm_tests::vectors;

const COMMANDS: [&str; 5] = [
    "run x.sllm -p hi",
    "inspect x.sllm",
    "bench x.sllm -p 1 -n 1 -r 1",
    "logits x.sllm --ids ids.json -o l.safetensors",
    "eval x.sllm --text text.txt",
];

/// Every command refuses this image.
fn bad_image(bytes: &[u8], words: &[&str]) {
    let place = Place::new();
    place.write("x.sllm", bytes);
    place.write("ids.json", "[1]");
    place.write("text.txt", "some text");
    place.write("l.safetensors", "earlier logits");
    COMMANDS.iter().for_each(|command| place.fails(1, command, &[&["x.sllm: "], words].concat()));
}

fn bytes() -> Vec<u8> {
    image("llama-relu").read("model.sllm")
}

#[test]
fn cut_off_at_every_boundary() {
    let place = Place::new();
    // The model that ships has sections of all kinds.
    let shipped = vectors("../../host/models/story.sllm");
    let bytes = std::fs::read(&shipped).unwrap();
    let model = LoadedModel::open(&shipped, None).unwrap();
    let sections = SectionKind::ALL.map(|k| model.model().image().section_info(k)).into_iter().filter(|s| s.len > 0);
    let cuts: Vec<usize> = sections.flat_map(|s| [s.offset, s.offset + s.len / 2, s.offset + s.len - 1]).collect();
    assert_eq!(cuts.len(), 3 * SectionKind::ALL.len(), "{cuts:?}");
    for cut in cuts.into_iter().chain([8, HEADER_LEN - 1, HEADER_LEN, bytes.len() - 1]) {
        place.write("x.sllm", &bytes[..cut]);
        let words = ["x.sllm: the image is cut off", &format!("there are {cut}"), "copy or pack it again"];
        place.fails(1, "run x.sllm -p hi", &words.map(|w| w as &str));
    }
}

#[test]
fn cut_off_before_and_after_the_magic_number() {
    bad_image(&[], &["the file is empty", "again"]);
    bad_image(&bytes()[..7], &["not a shadowllm image", "shadowllm pack"]);
    bad_image(&bytes()[..1000], &["the image is cut off", "copy or pack it again"]);
}

#[test]
fn flipped_header_bytes() {
    let good = bytes();
    let mut bytes = good.clone();
    bytes[0] ^= 1;
    bad_image(&bytes, &["not a shadowllm image", "shadowllm pack"]);
    let head = u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
    let place = Place::new();
    for at in [12, 16, 24, 28, 40, HEADER_LEN, HEADER_LEN + 8, head / 2, head - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        place.write("x.sllm", bytes);
        place.fails(1, "run x.sllm -p hi", &["x.sllm: the image", "again"]);
    }
}

#[test]
fn another_kind_of_file() {
    bad_image(b"\x7fELF and so on, as long as any file", &["not a shadowllm image", "shadowllm pack"]);
    bad_image(b"GGU", &["not a shadowllm image"]);
}

#[test]
fn a_newer_version() {
    let mut bytes = bytes();
    bytes[8] = 9;
    resign(&mut bytes);
    bad_image(&bytes, &["version 9", &format!("reads version {VERSION}"), "update shadowllm or pack the model again"]);
}

#[test]
fn damaged_weights_when_asked_to_verify() {
    let place = Place::new();
    let mut bytes = bytes();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    place.write("x.sllm", bytes);
    place.fails(1, "inspect x.sllm --verify", &["x.sllm: its weights section is damaged", "copy or pack it again"]);
    place.fails(1, "inspect x.sllm --verify --json", &["x.sllm: its weights section is damaged"]);
    // The other commands read the damaged bytes as they are; with --verify they compare checksums first.
    place.write("ids.json", "[1]");
    let logits = "logits x.sllm --ids ids.json -o l.safetensors";
    place.works(logits);
    for command in [&format!("{logits} --verify"), "bench x.sllm -p 1 -n 1 -r 1 --verify"] {
        place.fails(
            1,
            command,
            &["x.sllm: its weights section is damaged (checksum mismatch)", "copy or pack it again"],
        );
    }
}

#[test]
fn no_tokenizer_for_text() {
    let place = image("opt");
    place.write("text.txt", "some text");
    let words = ["model.sllm: the image has no tokenizer", "pack from a source that has one"];
    place.fails(1, "run model.sllm -p hi", &words);
    place.fails(1, "run model.sllm", &words);
    place.fails(1, "eval model.sllm --text text.txt", &words);
}

#[test]
fn a_folder_where_an_image_is_needed() {
    let place = image("opt");
    place.fails(1, "inspect model --verify", &["model: is not packed yet", "sections of an image"]);
}
