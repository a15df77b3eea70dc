//! Tables in Arrow's [stream format], as far as small data sets use it: columns of texts (Utf8) and signed integers,
//! uncompressed, without dictionaries. The crate for the whole format is made for trusted files: it panics on some
//! damaged ones.
//!
//! [stream format]: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format

/// A column's values; `None` is a null.
#[derive(Debug)]
pub enum Column {
    /// Utf8.
    Texts(Vec<Option<String>>),
    /// Signed integers of this number of bytes each.
    Integers(usize, Vec<Option<i64>>),
}

/// Columns with their names; `None` when this is not such a stream, or one that is cut off.
pub fn read(mut bytes: &[u8]) -> Option<Vec<(String, Column)>> {
    let mut columns = None;
    loop {
        let metadata = next(&mut bytes)?;
        if metadata.is_empty() {
            return columns;
        }
        let message = Table::root(metadata)?;
        let (kind, header) = (message.byte(KIND)?, message.table(HEADER)?);
        let body = take(&mut bytes, message.long(BODY_LENGTH))?;
        match kind {
            SCHEMA if columns.is_none() => columns = Some(schema(&header)?),
            BATCH => batch(&header, body, columns.as_mut()?)?,
            _ => return None,
        }
    }
}

// Fields of a Message (Message.fbs), and kinds of its header.
const KIND: usize = 1;
const HEADER: usize = 2;
const BODY_LENGTH: usize = 3;
const SCHEMA: u8 = 1;
const BATCH: u8 = 3;

/// The next message's metadata; empty at the stream's end.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let prefix = take(bytes, Some(8))?;
    (number::<4>(prefix, 0)? == -1).then(|| take(bytes, number::<4>(prefix, 4)))?
}

fn take<'a>(bytes: &mut &'a [u8], count: Option<i64>) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(usize::try_from(count?).ok()?)?;
    *bytes = rest;
    Some(first)
}

/// The columns of a Schema (Schema.fbs), still empty.
fn schema(schema: &Table) -> Option<Vec<(String, Column)>> {
    let (fields, count) = schema.vector(1)?;
    // Many names may point to the same bytes, and together be much longer than the file.
    let mut left = schema.bytes.len();
    let column = |i: usize| {
        let field = schema.follow(fields + 4 * i)?;
        let (name, length) = field.vector(0)?;
        left = left.checked_sub(length)?;
        let name = std::str::from_utf8(field.bytes.get(name..)?.get(..length)?).ok()?;
        let (kind, dictionary) = (field.byte(2)?, field.field(4));
        let column = match (kind, dictionary) {
            (2, None) => Column::Integers(integer_bytes(&field.table(3)?)?, Vec::new()),
            (5, None) => Column::Texts(Vec::new()),
            _ => return None,
        };
        Some((name.to_owned(), column))
    };
    (0..count).map(column).collect()
}

fn integer_bytes(integer: &Table) -> Option<usize> {
    let (bits, signed) = (number::<4>(integer.bytes, integer.field(0)?)?, integer.byte(1)? == 1);
    (signed && matches!(bits, 32 | 64)).then_some(bits as usize / 8)
}

/// Adds a RecordBatch's rows (Message.fbs) to the columns.
fn batch(batch: &Table, body: &[u8], columns: &mut [(String, Column)]) -> Option<()> {
    let compressed = batch.field(3).is_some();
    let rows = usize::try_from(batch.long(0)?).ok().filter(|_| !compressed)?;
    let mut buffers = Buffers { batch, body, next: 0 };
    // The columns' values may do so too.
    let mut left = body.len();
    for (_, column) in columns {
        let valid = buffers.next()?;
        let is_valid = |row: usize| valid.is_empty() || valid.get(row / 8).is_some_and(|b| b >> (row % 8) & 1 == 1);
        match column {
            Column::Integers(width, values) => {
                let numbers = buffers.next()?;
                left = left.checked_sub(rows.checked_mul(*width)?)?;
                for row in 0..rows {
                    let value = if *width == 4 { number::<4>(numbers, 4 * row) } else { number::<8>(numbers, 8 * row) };
                    values.push(Some(value?).filter(|_| is_valid(row)));
                }
            }
            Column::Texts(values) => {
                let (ends, text) = (buffers.next()?, buffers.next()?);
                left = left.checked_sub(text.len().checked_add(rows.checked_mul(4)?)?)?;
                let end = |row: usize| usize::try_from(number::<4>(ends, 4 * row)?).ok();
                for row in 0..rows {
                    let text = std::str::from_utf8(text.get(end(row)?..end(row + 1)?)?).ok()?;
                    values.push(is_valid(row).then(|| text.to_owned()));
                }
            }
        }
    }
    Some(())
}

/// A batch's buffers, in order: for every column a buffer of bits that say which rows are not null, which may be empty,
/// then its values.
struct Buffers<'a> {
    batch: &'a Table<'a>,
    body: &'a [u8],
    next: usize,
}

impl<'a> Buffers<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (buffers, count) = self.batch.vector(2)?;
        let at = (self.next < count).then_some(buffers + 16 * self.next)?;
        self.next += 1;
        let (offset, length) = (number::<8>(self.batch.bytes, at)?, number::<8>(self.batch.bytes, at + 8)?);
        self.body.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(length).ok()?)
    }
}

/// A little-endian signed number of `N` bytes, at most 8.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<i64> {
    let mut wide = [0; 8];
    wide[8 - N..].copy_from_slice(bytes.get(at..)?.first_chunk::<N>()?);
    Some(i64::from_le_bytes(wide) >> (64 - 8 * N))
}

/// A table of a flatbuffer.
struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Table<'a> {
    fn root(bytes: &'a [u8]) -> Option<Self> {
        Table { bytes, at: 0 }.follow(0)
    }

    /// The table that the offset at a place points to.
    fn follow(&self, at: usize) -> Option<Self> {
        let forward = usize::try_from(number::<4>(self.bytes, at)?).ok()?;
        Some(Table { bytes: self.bytes, at: at + forward })
    }

    /// The place of the n-th field; `None` if it has its default value.
    fn field(&self, n: usize) -> Option<usize> {
        let layout = usize::try_from(self.at as i64 - number::<4>(self.bytes, self.at)?).ok()?;
        let size = number::<2>(self.bytes, layout)? as usize;
        let offset = if 4 + 2 * n < size { number::<2>(self.bytes, layout + 4 + 2 * n)? } else { 0 };
        (offset > 0).then(|| self.at + offset as usize)
    }

    fn table(&self, n: usize) -> Option<Self> {
        self.follow(self.field(n)?)
    }

    fn byte(&self, n: usize) -> Option<u8> {
        self.bytes.get(self.field(n)?).copied()
    }

    /// A 64-bit number; all fields used here have the default 0.
    fn long(&self, n: usize) -> Option<i64> {
        self.field(n).map_or(Some(0), |at| number::<8>(self.bytes, at))
    }

    /// The place of a vector's first element, and the number of its elements.
    fn vector(&self, n: usize) -> Option<(usize, usize)> {
        let start = self.table(n)?.at;
        // The count is limited to the number of bytes, whatever the file says.
        let count = usize::try_from(number::<4>(self.bytes, start)?).ok()?;
        (count <= self.bytes.len()).then_some((start + 4, count))
    }
}

#[cfg(test)]
mod tests {
    /// A stream whose columns all use the same bytes of the file for their names.
    fn columns_of_one_name(columns: usize, length: usize) -> Vec<u8> {
        let mut b: Vec<u8> = vec![0; 4];
        let put = |b: &mut Vec<u8>, at: usize, x: usize| b[at..at + 4].copy_from_slice(&(x as u32).to_le_bytes());
        let words = |b: &mut Vec<u8>, words: &[u16]| words.iter().for_each(|w| b.extend(w.to_le_bytes()));
        let align = |b: &mut Vec<u8>, to: usize| b.resize(b.len().next_multiple_of(to), 0);
        // The message: version, kind (schema), header, empty body.
        let table = b.len();
        words(&mut b, &[12, 24, 4, 6, 8, 16]);
        align(&mut b, 8);
        let message = b.len();
        b.extend(((message - table) as i32).to_le_bytes());
        b.extend([4, 0, 1, 0]);
        b.extend([0; 16]);
        put(&mut b, 0, message);
        // The schema: endianness left out, fields.
        let table = b.len();
        words(&mut b, &[8, 8, 0, 4]);
        let schema = b.len();
        b.extend(((schema - table) as i32).to_le_bytes());
        b.extend([0; 4]);
        put(&mut b, message + 8, schema - message - 8);
        // A field: name, kind (Utf8).
        let table = b.len();
        words(&mut b, &[14, 16, 4, 0, 12, 8, 0]);
        align(&mut b, 4);
        let vector = b.len();
        put(&mut b, schema + 4, vector - schema - 4);
        b.extend((columns as u32).to_le_bytes());
        let starts = b.len();
        b.resize(b.len() + 4 * columns, 0);
        let field = b.len();
        b.extend(((field - table) as i32).to_le_bytes());
        b.extend([0; 8]);
        b.extend([5, 0, 0, 0]);
        let name = b.len();
        b.extend((length as u32).to_le_bytes());
        b.resize(b.len() + length, b'a');
        align(&mut b, 8);
        put(&mut b, field + 4, name - field - 4);
        for i in 0..columns {
            put(&mut b, starts + 4 * i, field - starts - 4 * i);
        }
        let end = [(-1i32).to_le_bytes(), 0i32.to_le_bytes()].concat();
        [(-1i32).to_le_bytes().to_vec(), (b.len() as i32).to_le_bytes().to_vec(), b, end].concat()
    }

    #[test]
    fn columns_that_share_bytes() {
        let one = super::read(&columns_of_one_name(1, 100)).unwrap();
        assert_eq!((one.len(), one[0].0.len()), (1, 100));
        assert_eq!(super::read(&columns_of_one_name(2, 4)).unwrap().len(), 2);
        // 600 KB would become 5 GB.
        assert!(super::read(&columns_of_one_name(25_000, 200_000)).is_none());
    }
}
