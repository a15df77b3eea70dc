//! Reads the header of a GGUF file (versions 2 and 3): its metadata and the places of its tensors.
//!
//! Nothing in the file is trusted: before anything is allocated, counts and lengths are checked against the bytes that
//! are left, and every tensor's byte range is checked against the file's length. An error is a sentence that names the
//! thing.

mod config;
mod kinds;
mod parts;
mod pretokenizers;
mod reader;
mod source;
mod tokenizer;
mod types;

pub use source::GgufSource;
pub use tokenizer::{Special, special_tokens, tokenizer_json};
pub use types::GgmlType;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use reader::Reader;
pub use reader::{Array, Value};
use types::unsupported;

/// ggml's own limit on a tensor's dimensions.
const MAX_DIMS: u32 = 4;
/// Tensors start at multiples of this if `general.alignment` is absent.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The fewest bytes of a metadata entry: a length, a type and a one-byte value.
const MIN_ENTRY: usize = 13;
/// The fewest bytes of a tensor's description: a length, a rank, a type and an offset.
const MIN_TENSOR: usize = 24;

/// A tensor of the file: its description, and the range of its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'g> {
    /// Its name, as in `blk.0.attn_q.weight`.
    pub name: &'g str,
    /// The type of its elements.
    pub kind: GgmlType,
    /// Its dimensions in the file's order: the first is the length of a row (the columns).
    pub dims: &'g [usize],
    /// The range of its bytes, which is inside the file.
    pub range: Range<usize>,
}

impl Tensor<'_> {
    /// The length of a row: the first dimension, 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// The number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.dims.iter().skip(1).product()
    }
}

/// A tensor's description in the file, with the number of its type if this is not supported.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    kind: Result<GgmlType, u32>,
    dims: Vec<usize>,
    offset: u64,
    range: Range<usize>,
}

/// A GGUF file's metadata and the places of its tensors.
#[derive(Clone, Debug)]
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// The header of a file with this metadata and without tensors.
    pub(crate) fn of(metadata: BTreeMap<String, Value>) -> Gguf {
        Gguf { metadata, tensors: Vec::new(), by_name: HashMap::new() }
    }

    /// Reads the header of a GGUF file; `bytes` is the whole file.
    pub fn parse(bytes: &[u8]) -> Result<Gguf, String> {
        let mut reader = Reader::new(bytes);
        check_magic(&mut reader)?;
        let tensors = reader.count(MIN_TENSOR, "the number of tensors")?;
        let entries = reader.count(MIN_ENTRY, "the number of metadata entries")?;
        let metadata = read_metadata(&mut reader, entries)?;
        kinds::check(&metadata)?;
        let (mut tensors, by_name) = read_tensors(&mut reader, tensors)?;
        place_tensors(&mut tensors, reader.pos(), bytes.len(), alignment(&metadata)?)?;
        Ok(Gguf { metadata, tensors, by_name })
    }

    /// Sets a value.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    /// The metadata value of this key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The string of this key; `None` if the value is missing or not a string.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer of this key, of any integer type; `None` if the value is missing or negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.value(key)? {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The number of this key, of any numeric type.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            Value::Float(number) => Some(*number),
            Value::Unsigned(number) => Some(*number as f64),
            Value::Signed(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// The truth value of this key.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The array of strings of this key.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.value(key)? {
            Value::Array(Array::Strings(texts)) => Some(texts),
            _ => None,
        }
    }

    /// The array of numbers of this key, of any numeric type.
    pub fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        match self.value(key)? {
            Value::Array(Array::Float(numbers)) => Some(numbers.clone()),
            Value::Array(Array::Bytes(bytes, true)) => Some(bytes.iter().map(|b| f64::from(*b as i8)).collect()),
            Value::Array(Array::Bytes(bytes, false)) => Some(bytes.iter().map(|b| f64::from(*b)).collect()),
            Value::Array(Array::Unsigned(numbers)) => Some(numbers.iter().map(|n| *n as f64).collect()),
            Value::Array(Array::Signed(numbers)) => Some(numbers.iter().map(|n| *n as f64).collect()),
            _ => None,
        }
    }

    /// The array of bytes under this key, with a sign or without.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        match self.value(key)? {
            Value::Array(Array::Bytes(bytes, _)) => Some(bytes),
            _ => None,
        }
    }

    /// The names of all tensors in the file's order, including those of unsupported types.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|entry| entry.name.as_str())
    }

    /// Whether the file has a tensor of this name, also of an unsupported type.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor of this name; an error if it is missing or of an unsupported type.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, String> {
        let entry = self.by_name.get(name).and_then(|&index| self.tensors.get(index));
        let entry = entry.ok_or_else(|| format!("the file has no tensor {name}"))?;
        let kind = entry.kind.map_err(|id| unsupported(name, id))?;
        Ok(Tensor { name: &entry.name, kind, dims: &entry.dims, range: entry.range.clone() })
    }
}

/// Reads the magic number and the version, and refuses everything but little-endian GGUF 2 and 3.
fn check_magic(reader: &mut Reader<'_>) -> Result<(), String> {
    let big_endian = "this is a big-endian GGUF file; only little-endian ones can be read (llama.cpp's gguf_convert_endian.py converts it)";
    let magic = reader.fixed::<4>("the file's magic number")?;
    if magic == *b"FUGG" {
        return Err(big_endian.to_string());
    }
    if magic != *b"GGUF" {
        return Err(format!("this is not a GGUF file: it starts with \"{}\", not with \"GGUF\"", magic.escape_ascii()));
    }
    match reader.u32("the format's version")? {
        2 | 3 => Ok(()),
        1 => Err("this is a GGUF file of version 1; only 2 and 3 can be read, so convert the model again".to_string()),
        version if version & 0xffff == 0 && version != 0 => Err(big_endian.to_string()),
        version => Err(format!("this is a GGUF file of version {version}; only 2 and 3 can be read")),
    }
}

/// Reads the metadata's entries.
fn read_metadata(reader: &mut Reader<'_>, count: usize) -> Result<BTreeMap<String, Value>, String> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = reader.name(&format!("the key of metadata entry {index}"))?;
        let what = format!("metadata key {key}");
        let kind = reader.u32(&what)?;
        let value = reader.value(kind, &what)?;
        if metadata.insert(key, value).is_some() {
            return Err(format!("{what}: it is in the file twice"));
        }
    }
    Ok(metadata)
}

/// Reads the tensors' descriptions; their byte ranges are still empty.
fn read_tensors(reader: &mut Reader<'_>, count: usize) -> Result<(Vec<Entry>, HashMap<String, usize>), String> {
    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    for index in 0..count {
        let entry = read_tensor(reader, index)?;
        if by_name.insert(entry.name.clone(), index).is_some() {
            return Err(format!("tensor {}: it is in the file twice", entry.name));
        }
        tensors.push(entry);
    }
    Ok((tensors, by_name))
}

/// Reads one tensor's description.
fn read_tensor(reader: &mut Reader<'_>, index: usize) -> Result<Entry, String> {
    let name = reader.name(&format!("the name of tensor {index}"))?;
    let what = format!("tensor {name}");
    let rank = reader.u32(&what)?;
    if rank > MAX_DIMS {
        return Err(format!("{what}: it has {rank} dimensions; {MAX_DIMS} is the most"));
    }
    let mut dims = Vec::new();
    for _ in 0..rank {
        let size = reader.u64(&what)?;
        dims.push(usize::try_from(size).map_err(|_| format!("{what}: a dimension of {size} is too large"))?);
    }
    let id = reader.u32(&what)?;
    let offset = reader.u64(&what)?;
    let kind = GgmlType::from_id(id).ok_or(id);
    Ok(Entry { name, kind, dims, offset, range: 0..0 })
}

/// The alignment of the tensors' data.
fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(align)) if align.is_power_of_two() => Ok(*align),
        Some(_) => Err("metadata key general.alignment: it must be a power of two".to_string()),
    }
}

/// Sets every tensor's byte range; the descriptions end at byte `header` of a file of `len` bytes.
fn place_tensors(tensors: &mut [Entry], header: usize, len: usize, align: u64) -> Result<(), String> {
    let base = (header as u64).checked_next_multiple_of(align);
    let base = base.ok_or("metadata key general.alignment: it is too large")?;
    for entry in tensors.iter_mut() {
        let start = base.checked_add(entry.offset).filter(|_| entry.offset.is_multiple_of(align));
        let start = start.ok_or_else(|| {
            format!("tensor {}: its offset {} is not a multiple of {align}, or too large", entry.name, entry.offset)
        })?;
        entry.range = byte_range(entry, start, len)?;
    }
    // A file of shared bytes could stand for a model many times its size.
    let mut ordered: Vec<&Entry> = tensors.iter().filter(|entry| !entry.range.is_empty()).collect();
    ordered.sort_by_key(|entry| entry.range.start);
    match ordered.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => {
            Err(format!("tensors {} and {} share bytes of the file; is it damaged?", pair[0].name, pair[1].name))
        }
        None => Ok(()),
    }
}

/// The bytes of a tensor that starts at byte `start` of a file of `len` bytes. For an unsupported type the length is
/// not known, and the range is empty.
fn byte_range(entry: &Entry, start: u64, len: usize) -> Result<Range<usize>, String> {
    let size = match entry.kind {
        Ok(kind) => data_bytes(entry, kind)?,
        Err(_) => 0,
    };
    let end = start.saturating_add(size);
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if end <= len => Ok(start..end),
        _ => Err(format!(
            "tensor {}: its data ends at byte {end}, the file has {len}; is the download complete?",
            entry.name
        )),
    }
}

/// The number of bytes that a tensor of this type and these dimensions takes.
fn data_bytes(entry: &Entry, kind: GgmlType) -> Result<u64, String> {
    let (name, dims) = (&entry.name, &entry.dims);
    if dims.contains(&0) {
        return Err(format!("tensor {name}: it is empty, with dimensions {dims:?}"));
    }
    let columns = dims.first().copied().unwrap_or(1);
    let len = kind.block_len();
    if !columns.is_multiple_of(len) {
        return Err(format!(
            "tensor {name}: its rows of {columns} are not a multiple of {len}, the size of a {kind} block"
        ));
    }
    let elements = dims.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let bytes = elements.and_then(|n| (n / len).checked_mul(kind.block_bytes()));
    bytes.map(|n| n as u64).ok_or_else(|| format!("tensor {name}: its dimensions {dims:?} are too large"))
}
