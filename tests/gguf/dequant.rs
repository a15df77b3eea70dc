//! Compares every type's dequantisation with the floats that the reference made, bit for bit
//! (`tests/vectors/dequant/dequant.json`, written by `make_dequant.py` beside it).

use shadowllm_tools::import::gguf::GgmlType;
use shadowllm_tools::import::gguf::dequant::{block_bytes, block_len, dequantize};

const KINDS: [GgmlType; 11] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
];

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_type_is_dequantised_as_the_reference_does() {
    let vectors = include_str!("../vectors/dequant/dequant.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    assert_eq!(vectors.as_object().unwrap().len(), KINDS.len());
    for kind in KINDS {
        let vector = &vectors[kind.name()];
        let blocks = bytes(&vector["blocks"]);
        let expected: Vec<u32> =
            bytes(&vector["floats"]).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut floats = vec![f32::NAN; blocks.len() / block_bytes(kind) * block_len(kind)];
        dequantize(kind, &blocks, &mut floats).unwrap();
        let bits: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits.len(), expected.len(), "{kind}");
        let wrong = bits.iter().zip(&expected).position(|(got, want)| got != want);
        assert_eq!(wrong, None, "{kind}: the first element that differs");
    }
}

#[test]
fn sizes_that_do_not_match_are_refused() {
    for kind in KINDS {
        let (size, len) = (block_bytes(kind), block_len(kind));
        let bytes = vec![0; 2 * size];
        assert_eq!(dequantize(kind, &bytes, &mut vec![0.0; 2 * len]), Ok(()));
        for (bytes, elements) in [(size, 2 * len), (2 * size, len), (2 * size - 1, 2 * len), (2 * size, 2 * len - 1)] {
            let error = dequantize(kind, &vec![0; bytes], &mut vec![0.0; elements]).unwrap_err();
            assert!(error.contains(kind.name()), "{error}");
        }
        assert_eq!(dequantize(kind, &[], &mut []), Ok(()));
    }
}
