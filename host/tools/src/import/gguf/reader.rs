//! Reads the numbers, strings and arrays of a GGUF file, without trusting any of its bytes.

/// Arrays that are nested deeper than this are refused; real files have no nested arrays.
const MAX_DEPTH: usize = 4;

/// The longest key or tensor name; ggml's own limit for tensors is 63.
const LONGEST_NAME: usize = 256;

/// A metadata value. Integers and floats of all widths are widened to 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `u8`, `u16`, `u32` or `u64`.
    Unsigned(u64),
    /// `i8`, `i16`, `i32` or `i64`.
    Signed(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string; bytes that are not UTF-8 are replaced by U+FFFD.
    String(String),
    /// An array of values of one type.
    Array(Array),
}

/// An array in the metadata: its elements are of one type, or arrays themselves.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Integers of one byte each, and whether they have a sign: as in the file, since they may be most of it.
    Bytes(Vec<u8>, bool),
    /// Unsigned integers of any other width.
    Unsigned(Vec<u64>),
    /// Signed integers of any other width.
    Signed(Vec<i64>),
    /// Floats of either width.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Strings.
    Strings(Vec<String>),
    /// Arrays, each of a type of its own.
    Nested(Vec<Array>),
}

/// A position in the file; everything before it was read.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of a file.
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, pos: 0 }
    }

    /// The number of bytes read so far.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// The bytes that were not read yet.
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.pos..).unwrap_or_default()
    }

    /// The error for a file that ends inside `what`.
    fn ends(&self, what: &str) -> String {
        let len = self.bytes.len();
        format!("the file ends at byte {len}, inside {what}; is the download complete?")
    }

    /// The next `N` bytes.
    pub(crate) fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let chunk = self.rest().first_chunk::<N>().ok_or_else(|| self.ends(what))?;
        self.pos += N;
        Ok(*chunk)
    }

    /// The next 4 bytes as a number.
    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.fixed(what)?))
    }

    /// The next 8 bytes as a number.
    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.fixed(what)?))
    }

    /// The next 8 bytes as a number of items of at least `size` bytes, all of which must fit in the rest of the file.
    pub(crate) fn count(&mut self, size: usize, what: &str) -> Result<usize, String> {
        let count = self.u64(what)?;
        let left = self.rest().len();
        match usize::try_from(count) {
            Ok(count) if count <= left / size.max(1) => Ok(count),
            _ => Err(format!(
                "{what}: {count} cannot fit in the remaining {left} bytes of the file; it is damaged, or its download is not complete"
            )),
        }
    }

    /// The next `count` bytes.
    fn some(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let bytes = self.rest().get(..count).ok_or_else(|| self.ends(what))?;
        self.pos += count;
        Ok(bytes)
    }

    /// A string's bytes, which follow their number.
    fn raw(&mut self, what: &str) -> Result<&'a [u8], String> {
        let len = self.count(1, what)?;
        self.some(len, what)
    }

    /// A string in which bytes that are not UTF-8 are replaced.
    fn text(&mut self, what: &str) -> Result<String, String> {
        Ok(String::from_utf8_lossy(self.raw(what)?).into_owned())
    }

    /// A string that must be UTF-8: a key or a tensor's name.
    pub(crate) fn name(&mut self, what: &str) -> Result<String, String> {
        let raw = self.raw(what)?;
        if raw.len() > LONGEST_NAME {
            return Err(format!("{what} is {} bytes long, more than {LONGEST_NAME}: is the file damaged?", raw.len()));
        }
        let name = std::str::from_utf8(raw);
        Ok(name.map_err(|_| format!("{what} is not UTF-8: {}", raw.escape_ascii()))?.to_string())
    }

    /// An unsigned integer of the type with GGUF's number `kind`.
    fn unsigned(&mut self, kind: u32, what: &str) -> Result<u64, String> {
        match kind {
            0 => Ok(u64::from(u8::from_le_bytes(self.fixed(what)?))),
            2 => Ok(u64::from(u16::from_le_bytes(self.fixed(what)?))),
            4 => Ok(u64::from(self.u32(what)?)),
            _ => self.u64(what),
        }
    }

    /// A signed integer of the type with GGUF's number `kind`.
    fn signed(&mut self, kind: u32, what: &str) -> Result<i64, String> {
        match kind {
            1 => Ok(i64::from(i8::from_le_bytes(self.fixed(what)?))),
            3 => Ok(i64::from(i16::from_le_bytes(self.fixed(what)?))),
            5 => Ok(i64::from(i32::from_le_bytes(self.fixed(what)?))),
            _ => Ok(i64::from_le_bytes(self.fixed(what)?)),
        }
    }

    /// A float of the type with GGUF's number `kind`.
    fn float(&mut self, kind: u32, what: &str) -> Result<f64, String> {
        match kind {
            6 => Ok(f64::from(f32::from_le_bytes(self.fixed(what)?))),
            _ => Ok(f64::from_le_bytes(self.fixed(what)?)),
        }
    }

    /// A truth value: a byte.
    fn truth(&mut self, what: &str) -> Result<bool, String> {
        Ok(self.fixed::<1>(what)? != [0])
    }

    /// A value of the type with GGUF's number `kind`.
    pub(crate) fn value(&mut self, kind: u32, what: &str) -> Result<Value, String> {
        match kind {
            0 | 2 | 4 | 10 => Ok(Value::Unsigned(self.unsigned(kind, what)?)),
            1 | 3 | 5 | 11 => Ok(Value::Signed(self.signed(kind, what)?)),
            6 | 12 => Ok(Value::Float(self.float(kind, what)?)),
            7 => Ok(Value::Bool(self.truth(what)?)),
            8 => Ok(Value::String(self.text(what)?)),
            9 => Ok(Value::Array(self.array(what, MAX_DEPTH)?)),
            _ => Err(unknown_kind(kind, what)),
        }
    }

    /// An array: its elements' type, their number, and the elements; arrays may be nested `depth` levels deeper.
    fn array(&mut self, what: &str, depth: usize) -> Result<Array, String> {
        let kind = self.u32(what)?;
        match kind {
            0 | 1 => {
                let count = self.count(1, what)?;
                Ok(Array::Bytes(self.some(count, what)?.to_vec(), kind == 1))
            }
            2 | 4 | 10 => Ok(Array::Unsigned(self.many(kind, what, |r| r.unsigned(kind, what))?)),
            3 | 5 | 11 => Ok(Array::Signed(self.many(kind, what, |r| r.signed(kind, what))?)),
            6 | 12 => Ok(Array::Float(self.many(kind, what, |r| r.float(kind, what))?)),
            7 => Ok(Array::Bool(self.many(kind, what, |r| r.truth(what))?)),
            8 => Ok(Array::Strings(self.many(kind, what, |r| r.text(what))?)),
            9 if depth == 0 => Err(format!("{what}: its arrays are nested too deeply")),
            9 => Ok(Array::Nested(self.many(kind, what, |r| r.array(what, depth - 1))?)),
            _ => Err(unknown_kind(kind, what)),
        }
    }

    /// The elements of an array, whose number comes first; each is read by `read`.
    fn many<T>(
        &mut self,
        kind: u32,
        what: &str,
        read: impl Fn(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let count = self.count(least_bytes(kind), what)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}

/// The fewest bytes that a value of the type with GGUF's number `kind` can take.
fn least_bytes(kind: u32) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        9 => 12,
        _ => 8,
    }
}

/// The error for a value whose type GGUF does not have.
fn unknown_kind(kind: u32, what: &str) -> String {
    format!("{what}: GGUF has no type number {kind}; is the file damaged?")
}
