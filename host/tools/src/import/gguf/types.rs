//! The types of GGUF tensors: one table, whose rows say what a block of each type holds and which of our formats holds
//! the same numbers.
//!
//! A block of a file becomes blocks of 32 weights without choosing new codes ([`GgmlType::block`]): bits move, and the
//! numbers stay the same. (ggml: `block_*` in ggml-common.h, `dequantize_row_*` in ggml-quants.c.)

use shadowllm_core::Format;
use shadowllm_core::format::BLOCK;
use shadowllm_core::format::block::{self, Block, from_parts};
use std::fmt;

/// A row of the table.
struct Row {
    kind: GgmlType,
    /// ggml's number.
    id: u32,
    /// ggml's name.
    name: &'static str,
    /// Weights of a block.
    len: usize,
    /// Its bytes.
    bytes: usize,
    /// The format that holds its numbers exactly.
    format: Option<Format>,
    /// How blocks of that format are made from one of ggml's.
    take: Take,
}

/// How a block of the format is made.
#[derive(Clone, Copy)]
enum Take {
    /// The same bytes; for a type of single numbers, the bytes of 32 of them.
    Same,
    /// From ggml's block: its 32 weights number `part`.
    Parts(fn(&[u8], usize) -> Block),
    /// No format holds them: floats from ggml's block, its 32 weights number `part`.
    Floats(fn(&[u8], usize) -> [f32; BLOCK]),
}

macro_rules! types {
    ($($(#[$doc:meta])* $kind:ident = $id:literal, $name:literal, $len:literal, $bytes:literal, $format:expr, $take:expr;)*) => {
        /// The element types of tensors that can be read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum GgmlType { $($(#[$doc])* $kind),* }

        static ROWS: &[Row] = &[$(Row {
            kind: GgmlType::$kind, id: $id, name: $name, len: $len, bytes: $bytes, format: $format, take: $take,
        }),*];
    };
}

// ggml's number and name, weights and bytes of a block, the format that holds the same numbers, how its blocks are
// made.
types! {
    /// 32-bit floats.
    F32 = 0, "F32", 1, 4, Some(Format::F32), Take::Same;
    /// IEEE half floats.
    F16 = 1, "F16", 1, 2, Some(Format::F16), Take::Same;
    /// The upper halves of 32-bit floats.
    BF16 = 30, "BF16", 1, 2, Some(Format::Bf16), Take::Same;
    /// 4 bits, a scale for every 32.
    Q4_0 = 2, "Q4_0", 32, 18, Some(Format::Q4_0), Take::Same;
    /// 4 bits, a scale and a minimum for every 32.
    Q4_1 = 3, "Q4_1", 32, 20, Some(Format::Q4_1), Take::Same;
    /// 5 bits, a scale for every 32.
    Q5_0 = 6, "Q5_0", 32, 22, Some(Format::Q5_0), Take::Parts(q5_0);
    /// 5 bits, a scale and a minimum for every 32.
    Q5_1 = 7, "Q5_1", 32, 24, Some(Format::Q5_1), Take::Parts(q5_1);
    /// 8 bits, a scale for every 32.
    Q8_0 = 8, "Q8_0", 32, 34, Some(Format::Q8_0), Take::Same;
    /// 2 bits, scales and minima for every 16 in super-blocks of 256.
    Q2K = 10, "Q2_K", 256, 84, None, Take::Floats(q2_k);
    /// 3 bits, scales for every 16 in super-blocks of 256.
    Q3K = 11, "Q3_K", 256, 110, Some(Format::Q6K), Take::Parts(q3_k);
    /// 4 bits, scales and minima in super-blocks of 256.
    Q4K = 12, "Q4_K", 256, 144, Some(Format::Q4K), Take::Parts(q4_k);
    /// 5 bits, scales and minima in super-blocks of 256.
    Q5K = 13, "Q5_K", 256, 176, Some(Format::Q5K), Take::Parts(q5_k);
    /// 6 bits, scales for every 16 in super-blocks of 256.
    Q6K = 14, "Q6_K", 256, 210, Some(Format::Q6K), Take::Parts(q6_k);
    /// 4 bits through a table, a scale for every 32.
    IQ4NL = 20, "IQ4_NL", 32, 18, Some(Format::Iq4Nl), Take::Same;
    /// 4 bits through the same table, scales in super-blocks of 256.
    IQ4XS = 23, "IQ4_XS", 256, 136, Some(Format::Iq4Xs), Take::Parts(iq4_xs);
    /// 4-bit floats, a power of two for every 32.
    MXFP4 = 39, "MXFP4", 32, 17, Some(Format::Mxfp4), Take::Same;
}

/// ggml's names for the types that cannot be read, for error messages.
const UNSUPPORTED: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// The message for a tensor of a type with ggml's number `id`, which cannot be read.
pub(super) fn unsupported(name: &str, id: u32) -> String {
    let known = UNSUPPORTED.iter().find(|row| row.0 == id);
    let kind = known.map_or_else(|| format!("number {id}"), |row| row.1.to_string());
    let supported: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    format!("tensor {name}: its type {kind} is not supported; supported are {}", supported.join(", "))
}

impl GgmlType {
    /// All types that can be read.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        ROWS.iter().map(|row| row.kind)
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The type with ggml's number `id`, if it can be read.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        ROWS.iter().find(|row| row.id == id).map(|row| row.kind)
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        self.row().id
    }

    /// ggml's name for the type, as in `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Weights of a block.
    pub fn block_len(self) -> usize {
        self.row().len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().bytes
    }

    /// Bytes of `n` weights, whole blocks.
    pub fn bytes_of(self, n: usize) -> usize {
        n / self.block_len() * self.block_bytes()
    }

    /// The format that holds its numbers exactly, if any.
    pub fn format(self) -> Option<Format> {
        self.row().format
    }

    /// Whether its numbers are quantized in blocks.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Block `index` (of 32 weights) of a row of whole blocks, in [`GgmlType::format`]; `None` if there is no such
    /// block, or no format that holds it.
    pub fn block(self, row: &[u8], index: usize) -> Option<Block> {
        let r = self.row();
        if r.len == 1 {
            let mut block = [0; size_of::<Block>()];
            let bytes = row.get(index * BLOCK * r.bytes..(index + 1) * BLOCK * r.bytes)?;
            block[..bytes.len()].copy_from_slice(bytes);
            return Some(block);
        }
        let (bytes, part) = part_of(r, row, index)?;
        match r.take {
            Take::Same => {
                let mut block = [0; size_of::<Block>()];
                block[..bytes.len()].copy_from_slice(bytes);
                Some(block)
            }
            Take::Parts(take) => Some(take(bytes, part)),
            Take::Floats(_) => None,
        }
    }

    /// The weights of a row of whole blocks as 32-bit floats, bit for bit as ggml's reference computes them.
    ///
    /// # Errors
    /// When the bytes are not exactly the blocks of the weights that fit in `out`.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
        let (r, n) = (self.row(), out.len());
        if !n.is_multiple_of(r.len) || bytes.len() != n / r.len * r.bytes {
            return Err(format!(
                "{} bytes of {self} are not {n} elements: a block of {} bytes has {}",
                bytes.len(),
                r.bytes,
                r.len
            ));
        }
        let half = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            match (self, r.take) {
                (GgmlType::F32, _) => {
                    out.iter_mut()
                        .zip(&bytes.as_chunks().0[i * BLOCK..])
                        .for_each(|(y, b)| *y = f32::from_le_bytes(*b));
                }
                (GgmlType::F16, _) => {
                    (i * BLOCK..).zip(out).for_each(|(at, y)| *y = half::f16::from_bits(half(at)).to_f32());
                }
                (GgmlType::BF16, _) => {
                    (i * BLOCK..).zip(out).for_each(|(at, y)| *y = f32::from_bits(u32::from(half(at)) << 16));
                }
                (_, Take::Floats(floats)) => {
                    let (bytes, part) = part_of(r, bytes, i).ok_or("a block is missing")?;
                    out.copy_from_slice(&floats(bytes, part));
                }
                _ => {
                    let found = self.block(bytes, i).zip(r.format).ok_or("a block is missing")?;
                    out.copy_from_slice(&block::decode(found.1, &found.0));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The ggml block that holds the 32 weights number `index` of a row, and their part of it.
fn part_of<'a>(r: &Row, row: &'a [u8], index: usize) -> Option<(&'a [u8], usize)> {
    let parts = r.len / BLOCK;
    let at = index / parts * r.bytes;
    Some((row.get(at..at + r.bytes)?, index % parts))
}

/// Nibble `k` of 16 bytes, whose lower halves are nibbles 0..16 and whose upper halves are 16..32.
fn nibble(packed: &[u8], k: usize) -> u32 {
    u32::from(packed[k % 16] >> (k / 16 * 4) & 15)
}

/// A block is: scale, fifth bits, nibbles.
fn q5_0(b: &[u8], _: usize) -> Block {
    from_parts(Format::Q5_0, &b[..2], |k| nibble(&b[6..], k) | fifth(&b[2..6], k))
}

/// A block is: scale, minimum, fifth bits, nibbles.
fn q5_1(b: &[u8], _: usize) -> Block {
    from_parts(Format::Q5_1, &b[..4], |k| nibble(&b[8..], k) | fifth(&b[4..8], k))
}

/// Bit `k` of four bytes as a fifth bit.
fn fifth(bits: &[u8], k: usize) -> u32 {
    u32::from(bits[k / 8] >> (k % 8) & 1) << 4
}

/// The 6-bit scale and minimum of part `j` of eight, which Q4_K and Q5_K pack into 12 bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> [u8; 2] {
    match j {
        0..4 => [packed[j] & 63, packed[j + 4] & 63],
        _ => [
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, //
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        ],
    }
}

/// A block is: scale, minimum, scales and minima of the eight parts, nibbles; every 32 bytes hold two parts.
fn q4_k(b: &[u8], part: usize) -> Block {
    let [scale, minimum] = scale_and_minimum(&b[4..16], part);
    let packed = &b[16 + part / 2 * 32..];
    from_parts(Format::Q4K, &[b[0], b[1], b[2], b[3], scale, minimum], |k| u32::from(packed[k] >> (part % 2 * 4) & 15))
}

/// As Q4_K, with 32 bytes before the nibbles that hold bit `p` of each for part `p`.
fn q5_k(b: &[u8], part: usize) -> Block {
    let [scale, minimum] = scale_and_minimum(&b[4..16], part);
    let (bits, packed) = (&b[16..48], &b[48 + part / 2 * 32..]);
    from_parts(Format::Q5K, &[b[0], b[1], b[2], b[3], scale, minimum], |k| {
        u32::from(packed[k] >> (part % 2 * 4) & 15) | u32::from(bits[k] >> part & 1) << 4
    })
}

/// A block is: lower nibbles, upper two bits, 16 scales, scale. Each half of 128 weights has four parts, which share
/// its 64 bytes of nibbles and 32 bytes of upper bits.
fn q6_k(b: &[u8], part: usize) -> Block {
    let (half, within) = (part / 4, part % 4);
    let (low, high) = (&b[half * 64 + within % 2 * 32..], &b[128 + half * 32..]);
    let scales = &b[192 + 2 * part..];
    from_parts(Format::Q6K, &[b[208], b[209], scales[0], scales[1]], |k| {
        u32::from(low[k] >> (within / 2 * 4) & 15) | u32::from(high[k] >> (2 * within) & 3) << 4
    })
}

/// A block is: upper bits (bit `p` of each byte belongs to part `p`), lower two bits of the parts of each half, 16
/// scales of six bits, scale.
fn q3_k(b: &[u8], part: usize) -> Block {
    let (upper, low, packed) = (&b[..32], &b[32 + part / 4 * 32..], &b[96..108]);
    let scale = |i: usize| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4).wrapping_sub(32)
    };
    // A code is -4 to 3; Q6_K stores codes plus 32.
    from_parts(Format::Q6K, &[b[108], b[109], scale(2 * part), scale(2 * part + 1)], |k| {
        28 + (u32::from(low[k] >> (part % 4 * 2) & 3) | u32::from(upper[k] >> part & 1) << 2)
    })
}

/// A block is: scale, scales of eight parts (upper two bits, lower four), nibbles.
fn iq4_xs(b: &[u8], part: usize) -> Block {
    let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * part) & 3;
    let scale = b[4 + part / 2] >> (part % 2 * 4) & 15 | (high as u8) << 4;
    from_parts(Format::Iq4Xs, &[b[0], b[1], scale], |k| nibble(&b[8 + part * 16..], k))
}

/// A block is: scales and minima of 4 bits, 2-bit codes of the parts of each half, scale, minimum.
fn q2_k(b: &[u8], part: usize) -> [f32; BLOCK] {
    let half = |i: usize| half::f16::from_le_bytes([b[i], b[i + 1]]).to_f32();
    let (scales, codes) = (&b[2 * part..], &b[16 + part / 4 * 32..]);
    std::array::from_fn(|k| {
        let numbers = scales[k / 16];
        let (scale, minimum) = (half(80) * f32::from(numbers & 15), half(82) * f32::from(numbers >> 4));
        scale * f32::from(codes[k] >> (part % 4 * 2) & 3) - minimum
    })
}
