//! Reads right and wrong GGUF files.

mod common;

use common::{array, entry, file, integers, number, string, strings, tensor, text, truth};
use shadowllm_tools::import::gguf::{Array, GgmlType, Gguf, Value};
use shadowllm_tools::import::gguf::{special_tokens, tokenizer_json};

/// A file that has something of everything: 64 bytes of F32 data, then 36 of Q4_0.
fn sample() -> Vec<u8> {
    let nested = [&4u32.to_le_bytes()[..], &1u64.to_le_bytes(), &7u32.to_le_bytes()].concat();
    let entries = [
        entry("a.u8", 0, &[200]),
        entry("a.i8", 1, &[0xfe]),
        entry("a.u16", 2, &[1, 2]),
        entry("a.i16", 3, &[0xff, 0xff]),
        number("a.u32", 70000),
        entry("a.i32", 5, &(-70000i32).to_le_bytes()),
        entry("a.f32", 6, &1.5f32.to_le_bytes()),
        truth("a.bool", true),
        string("a.string", "héllo"),
        entry("a.u64", 10, &u64::MAX.to_le_bytes()),
        entry("a.i64", 11, &i64::MIN.to_le_bytes()),
        entry("a.f64", 12, &0.1f64.to_le_bytes()),
        entry("a.latin1", 8, b"\x02\0\0\0\0\0\0\0h\xe9"),
        strings("b.strings", &["x", "", "zz"]),
        integers("b.integers", &[-1, 2]),
        array("b.bools", 7, 2, &[1, 0]),
        array("b.nested", 9, 1, &nested),
        array("b.bytes", 0, 2, &[3, 255]),
    ];
    let tensors = [tensor("first", &[4, 4], 0, 0), tensor("odd", &[7, 3], 16, 64), tensor("second", &[32, 2], 2, 64)];
    file(&entries, &tensors, 100)
}

#[test]
fn metadata_of_every_type_is_read() {
    let gguf = Gguf::parse(&sample()).unwrap();
    assert_eq!(gguf.u64("a.u8"), Some(200));
    assert_eq!((gguf.u64("a.i8"), gguf.f64("a.i8")), (None, Some(-2.0)));
    assert_eq!(gguf.u64("a.u16"), Some(513));
    assert_eq!(gguf.f64("a.i16"), Some(-1.0));
    assert_eq!(gguf.u64("a.u32"), Some(70000));
    assert_eq!(gguf.value("a.i32"), Some(&Value::Signed(-70000)));
    assert_eq!((gguf.f64("a.f32"), gguf.u64("a.f32")), (Some(1.5), None));
    assert_eq!((gguf.bool("a.bool"), gguf.bool("a.u8")), (Some(true), None));
    assert_eq!((gguf.str("a.string"), gguf.str("a.u8")), (Some("héllo"), None));
    assert_eq!(gguf.u64("a.u64"), Some(u64::MAX));
    assert_eq!(gguf.value("a.i64"), Some(&Value::Signed(i64::MIN)));
    assert_eq!(gguf.f64("a.f64"), Some(0.1));
    assert_eq!(gguf.str("a.latin1"), Some("h\u{fffd}"));
    assert_eq!(gguf.strings("b.strings").unwrap(), ["x", "", "zz"]);
    assert_eq!(gguf.numbers("b.integers"), Some(vec![-1.0, 2.0]));
    assert_eq!(gguf.numbers("b.bytes"), Some(vec![3.0, 255.0]));
    assert_eq!(gguf.value("b.bools"), Some(&Value::Array(Array::Bool(vec![true, false]))));
    let nested = Array::Nested(vec![Array::Unsigned(vec![7])]);
    assert_eq!(gguf.value("b.nested"), Some(&Value::Array(nested)));
    assert_eq!((gguf.value("absent"), gguf.keys().count()), (None, 18));
}

#[test]
fn tensors_are_placed_and_unsupported_types_are_errors_when_asked_for() {
    let bytes = sample();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensor_names().collect::<Vec<_>>(), ["first", "odd", "second"]);
    let first = gguf.tensor("first").unwrap();
    assert_eq!((first.kind, first.dims), (GgmlType::F32, &[4usize, 4][..]));
    assert_eq!(first.range, bytes.len() - 100..bytes.len() - 36);
    let second = gguf.tensor("second").unwrap();
    assert_eq!((second.columns(), second.rows()), (32, 2));
    assert_eq!(second.range, bytes.len() - 36..bytes.len());
    assert!(gguf.has_tensor("odd") && !gguf.has_tensor("even"));
    assert_eq!(
        gguf.tensor("odd").unwrap_err(),
        "tensor odd: its type IQ2_XXS is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, \
         Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4"
    );
    assert_eq!(gguf.tensor("even").unwrap_err(), "the file has no tensor even");
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = sample();
    for len in 0..bytes.len() {
        let error = Gguf::parse(&bytes[..len]).unwrap_err();
        assert!(error.contains("download"), "{len}: {error}");
    }
    let error = Gguf::parse(&bytes[..bytes.len() - 1]).unwrap_err();
    let (end, len) = (bytes.len(), bytes.len() - 1);
    assert_eq!(
        error,
        format!("tensor second: its data ends at byte {end}, the file has {len}; is the download complete?")
    );
}

#[test]
fn damaged_bytes_never_panic() {
    let mut tokens = vec![string("tokenizer.ggml.model", "llama")];
    tokens.push(strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "b", "ab"]));
    tokens.push(common::floats("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0, -2.0, -3.0]));
    tokens.push(integers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1]));
    for original in [sample(), file(&tokens, &[], 0)] {
        for at in 0..original.len() {
            for value in [0, 1, 4, 9, 0x7f, 0x80, 0xff] {
                let mut bytes = original.clone();
                bytes[at] = value;
                let Ok(gguf) = Gguf::parse(&bytes) else {
                    continue;
                };
                let _ = (tokenizer_json(&gguf), special_tokens(&gguf));
                for tensor in gguf.tensor_names().filter_map(|name| gguf.tensor(name).ok()) {
                    let data = &bytes[tensor.range.clone()];
                    let mut out = vec![0.0; tensor.columns() * tensor.rows()];
                    tensor.kind.dequantize(data, &mut out).unwrap();
                }
            }
        }
    }
}

fn error(bytes: &[u8]) -> String {
    Gguf::parse(bytes).unwrap_err()
}

#[test]
fn other_files_are_refused_with_the_reason() {
    assert!(error(b"FUGG\0\0\0\x03").contains("big-endian"));
    assert!(error(b"GGUF\0\0\0\x03\0\0\0\0").contains("big-endian"));
    assert_eq!(error(b"PK\x03\x04rest"), "this is not a GGUF file: it starts with \"PK\\x03\\x04\", not with \"GGUF\"");
    assert!(error(b"GGUF\x01\0\0\0").contains("version 1;"));
    assert!(error(b"GGUF\x04\0\0\0").contains("version 4;"));
    let mut old = sample();
    old[4] = 2;
    assert!(Gguf::parse(&old).is_ok());
}

#[test]
fn counts_that_cannot_be_are_refused_before_anything_is_allocated() {
    let huge = u64::MAX.to_le_bytes();
    let header = |tensors: [u8; 8], entries: [u8; 8]| [b"GGUF\x03\0\0\0", &tensors[..], &entries].concat();
    assert!(error(&header(huge, [0; 8])).starts_with("the number of tensors: 18446744073709551615 "));
    assert!(error(&header([0; 8], huge)).starts_with("the number of metadata entries: "));
    let entries = [
        entry("k", 8, &huge),
        array("k", 8, u64::MAX, &[]),
        array("k", 0, 1 << 40, &[0; 64]),
        array("k", 12, 100, &[0; 64]),
        array("k", 9, 1 << 33, &[0; 64]),
    ];
    for entry in entries {
        assert!(error(&file(&[entry], &[], 0)).starts_with("metadata key k: "));
    }
    let deep: Vec<u8> = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(100);
    let deep = file(&[entry("k", 9, &deep)], &[], 0);
    assert_eq!(error(&deep), "metadata key k: its arrays are nested too deeply");
    assert!(error(&file(&[entry("k", 13, &[0; 8])], &[], 0)).contains("type number 13"));
    let twice = file(&[number("k", 1), number("k", 1)], &[], 0);
    assert_eq!(error(&twice), "metadata key k: it is in the file twice");
    let key = [&2u64.to_le_bytes()[..], b"\xff\xfe", &[0; 16]].concat();
    assert!(error(&file(&[key], &[], 0)).contains("is not UTF-8"));
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let cases = [
        (tensor("t", &[1; 5], 0, 0), "has 5 dimensions"),
        (tensor("t", &[33], 2, 0), "rows of 33 are not a multiple of 32, the size of a Q4_0 block"),
        (tensor("t", &[1 << 40, 1 << 40], 0, 0), "are too large"),
        (tensor("t", &[1 << 62], 0, 0), "too large"),
        (tensor("t", &[0, u64::MAX, u64::MAX], 0, 0), "it is empty"),
        (tensor("t", &[4], 0, 31), "offset 31 is not a multiple of 32"),
        (tensor("t", &[4], 0, u64::MAX - 31), "or too large"),
        (tensor("t", &[4], 0, 1 << 62), "is the download complete?"),
        (tensor("t", &[4], 99, 1 << 62), "is the download complete?"),
    ];
    for (tensor, words) in cases {
        let error = error(&file(&[], &[tensor], 64));
        assert!(error.starts_with("tensor t: ") && error.contains(words), "{error}");
    }
    let one = tensor("t", &[4], 0, 0);
    assert_eq!(error(&file(&[], &[one.clone(), one], 64)), "tensor t: it is in the file twice");
    for align in [0, 24] {
        let bytes = file(&[number("general.alignment", align)], &[], 64);
        assert!(error(&bytes).contains("power of two"));
    }
    // Two tensors of the same bytes, of bytes in part, and one after the other.
    for (offset, shared) in [(0, true), (32, true), (64, false)] {
        let result = Gguf::parse(&file(&[], &[tensor("a", &[16], 0, 0), tensor("b", &[16], 0, offset)], 128));
        assert_eq!(result.is_err(), shared, "offset {offset}");
        assert!(result.err().is_none_or(|e| e.starts_with("tensors a and b share bytes of the file")));
    }
    let wide = entry("general.alignment", 10, &(1u64 << 63).to_le_bytes());
    assert!(Gguf::parse(&file(&[wide], &[tensor("t", &[4], 0, 0)], 64)).is_err());
}

#[test]
fn the_alignment_of_the_file_is_heeded() {
    let entries = [number("general.alignment", 1024), string("pad", &"x".repeat(50))];
    let bytes = file(&entries, &[tensor("t", &[8], 0, 1024)], 3000);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensor("t").unwrap().range, 2048..2080);
    let scalar = file(&[], &[tensor("t", &[], 99, 0)], 0);
    assert_eq!(
        Gguf::parse(&scalar).unwrap().tensor("t").unwrap_err().split(';').next(),
        Some("tensor t: its type number 99 is not supported")
    );
    assert_eq!(text("ab").len(), 10);
}

#[test]
fn smollm2_is_read_and_dequantised_whole() {
    let Some(path) = shadowllm_tests::smollm2() else {
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.str("general.architecture"), Some("llama"));
    assert_eq!(gguf.u64("llama.block_count"), Some(30));
    assert_eq!(gguf.f64("llama.rope.freq_base"), Some(100_000.0));
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().len(), 49152);
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.kind, embedding.dims), (GgmlType::Q8_0, &[576usize, 49152][..]));
    assert_eq!(embedding.range.start, 1_785_664);
    assert_eq!(gguf.tensor_names().count(), 272);
    let mut end = 0;
    for name in gguf.tensor_names() {
        let tensor = gguf.tensor(name).unwrap();
        let mut out = vec![f32::NAN; tensor.columns() * tensor.rows()];
        tensor.kind.dequantize(&bytes[tensor.range.clone()], &mut out).unwrap();
        assert!(out.iter().all(|x| x.is_finite()), "{name}");
        end = end.max(tensor.range.end);
    }
    assert_eq!(end, bytes.len());
}
