//! Compares every type's dequantisation with the floats that the reference made, bit for bit
//! (`tests/vectors/dequant/dequant.json`, written by `make_dequant.py` beside it).

use shadowllm_core::format::block;
use shadowllm_tools::import::gguf::GgmlType;

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The blocks of a type, and the bits of their floats.
fn vector(kind: GgmlType) -> (Vec<u8>, Vec<u32>) {
    let vectors = include_str!("../vectors/dequant/dequant.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    assert_eq!(vectors.as_object().unwrap().len(), GgmlType::all().count());
    let vector = &vectors[kind.name()];
    let floats = bytes(&vector["floats"]).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    (bytes(&vector["blocks"]), floats)
}

/// # Panics
/// When the bits differ from the expected ones.
fn compare(kind: GgmlType, got: &[f32], expected: &[u32]) {
    let bits: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits.len(), expected.len(), "{kind}");
    let wrong = bits.iter().zip(expected).position(|(got, want)| got != want);
    assert_eq!(wrong, None, "{kind}: the first element that differs");
}

#[test]
fn every_type_is_dequantised_as_the_reference_does() {
    for kind in GgmlType::all() {
        let (blocks, expected) = vector(kind);
        let mut floats = vec![f32::NAN; blocks.len() / kind.block_bytes() * kind.block_len()];
        kind.dequantize(&blocks, &mut floats).unwrap();
        compare(kind, &floats, &expected);
    }
}

/// An image holds the file's numbers in the same number of bytes, except for Q3_K.
#[test]
fn every_type_but_one_is_held_by_a_format() {
    for kind in GgmlType::all() {
        let (blocks, expected) = vector(kind);
        let Some(format) = kind.format() else {
            assert_eq!(kind, GgmlType::Q2K);
            continue;
        };
        let n = blocks.len() / kind.block_bytes() * kind.block_len() / 32;
        let one = |i: usize| block::decode(format, &kind.block(&blocks, i).unwrap());
        let floats: Vec<f32> = (0..n).flat_map(one).collect();
        compare(kind, &floats, &expected[..floats.len()]);
        assert_eq!(kind.block(&blocks, n.next_multiple_of(8)), None, "{kind}: after the last");
        let tiles = format.blocks_together() * format.tile_bytes() + 16 * format.super_bytes();
        let (len, bytes) =
            if kind.is_quantized() { (kind.block_len(), kind.block_bytes()) } else { (32, kind.bytes_of(32)) };
        let same = tiles * len == 16 * bytes * 32 * format.blocks_together();
        assert_eq!(same, kind != GgmlType::Q3K, "{kind}: {tiles}");
    }
}

#[test]
fn sizes_that_do_not_match_are_refused() {
    for kind in GgmlType::all() {
        let (size, len) = (kind.block_bytes(), kind.block_len());
        let bytes = vec![0; 2 * size];
        assert_eq!(kind.dequantize(&bytes, &mut vec![0.0; 2 * len]), Ok(()));
        for (bytes, elements) in [(size, 2 * len), (2 * size, len), (2 * size - 1, 2 * len), (2 * size, 2 * len - 1)] {
            let error = kind.dequantize(&vec![0; bytes], &mut vec![0.0; elements]).unwrap_err();
            assert!(error.contains(kind.name()), "{error}");
        }
        assert_eq!(kind.dequantize(&[], &mut []), Ok(()));
    }
}
