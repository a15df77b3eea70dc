//! Writes small GGUF files, right and wrong ones, for the tests.

#![allow(dead_code)] // every test binary compiles this module, and uses a part of it

/// A string as GGUF has it.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A metadata entry: its key, its value's type and its value.
pub fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value].concat()
}

/// A metadata entry that is an array of `count` elements of the type `kind`.
pub fn array(key: &str, kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    let value = [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat();
    entry(key, 9, &value)
}

/// A metadata entry that is a string.
pub fn string(key: &str, value: &str) -> Vec<u8> {
    entry(key, 8, &text(value))
}

/// A metadata entry that is a truth value.
pub fn truth(key: &str, value: bool) -> Vec<u8> {
    entry(key, 7, &[u8::from(value)])
}

/// A metadata entry that is a 32-bit number.
pub fn number(key: &str, value: u32) -> Vec<u8> {
    entry(key, 4, &value.to_le_bytes())
}

/// A metadata entry that is an array of strings.
pub fn strings(key: &str, values: &[&str]) -> Vec<u8> {
    let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
    array(key, 8, values.len() as u64, &elements)
}

/// A metadata entry that is an array of signed 32-bit numbers.
pub fn integers(key: &str, values: &[i32]) -> Vec<u8> {
    let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    array(key, 5, values.len() as u64, &elements)
}

/// A metadata entry that is an array of 32-bit floats.
pub fn floats(key: &str, values: &[f32]) -> Vec<u8> {
    let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    array(key, 6, values.len() as u64, &elements)
}

/// A tensor's description.
pub fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|size| size.to_le_bytes()).collect();
    let rank = (dims.len() as u32).to_le_bytes();
    [&text(name), &rank[..], &dims_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A whole file of these entries and tensors, with `data` bytes of tensor data.
pub fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(entries.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}
