//! One block of 32 weights: encoding and decoding.
//!
//! In every format a block on its own consists of the numbers that its weights share, followed by 32 codes. The numbers
//! are a scale (`f16`) and a minimum (`f16`, in formats with a minimum), or those of its super-block and then its own
//! ([`super::Head`]). A code takes 4, 2 or 1 bytes; or all codes take 16 bytes, whose low halves are the first 16 codes
//! and whose high halves are the last 16. Codes of 5 bits are followed by 4 more bytes with the fifth bits: bit q of
//! byte i belongs to code 4q + i. Codes of 6 bits are followed by 8 more bytes: bits 2q and 2q + 1 of byte i belong to
//! code 4q + i, those of byte 4 + i to code 16 + 4q + i. Blocks of GGML's Q8_0, Q4_0, Q4_1 and IQ4_NL have the same
//! bytes. The order of a matrix may store a block's bytes apart from each other ([`super::order`]); only this file says
//! what they mean.

use super::{Arithmetic, BLOCK, Format, Head};
use half::f16;

/// Room for a block of any format.
pub type Block = [u8; Format::F32.block_bytes()];

/// How an encoder chooses a block's scale and codes.
#[derive(Clone, Copy)]
pub(super) enum Choice {
    /// Numbers as they are, rounded to the format's.
    Exact,
    /// As in GGML's Q8_0: the largest magnitude becomes 127.
    Largest,
    /// As in GGML's Q4_0 and Q5_0: the number of the largest magnitude becomes the lowest code.
    Extreme,
    /// As in GGML's Q4_1 and Q5_1: smallest and largest become the lowest and the highest code.
    Range,
    /// The scale that gives the least squared error with the nearest entries of the table.
    Search,
    /// The same with scales of both signs, for a table that reaches further up than down.
    SignedSearch,
    /// As in GGML's MXFP4: the power of two that brings the largest magnitude between 4 and 8, and the nearest entries.
    Power,
    /// There is no encoder: blocks are copied from a source.
    Carried,
}

/// Encodes 32 weights; the first [`Format::block_bytes`] bytes of the result are the block.
///
/// # Panics
/// When the format has no encoder ([`Format::has_encoder`]).
pub fn encode(format: Format, x: &[f32; BLOCK]) -> Block {
    match format.row().choice {
        Choice::Exact => exact(format, x),
        Choice::Largest => largest(format, x),
        Choice::Extreme => extreme(format, x),
        Choice::Range => range(format, x),
        Choice::Search => search(format, x, &[1.0]),
        Choice::SignedSearch => search(format, x, &[1.0, -1.0]),
        Choice::Power => power(format, x),
        Choice::Carried => panic!("this format has no encoder"),
    }
}

/// Decodes 32 weights from a block's bytes.
///
/// # Panics
/// When `block` is shorter than a block of the format.
pub fn decode(format: Format, block: &[u8]) -> [f32; BLOCK] {
    let (header, codes) = block[..format.block_bytes()].split_at(format.header_bytes());
    let (scales, minimum) = numbers(format, header);
    core::array::from_fn(|k| {
        let code = code(format, codes, k);
        let integer = match format.arithmetic() {
            Arithmetic::F32 => return f32::from_bits(code),
            Arithmetic::F16 => return f16::from_bits(code as u16).to_f32(),
            Arithmetic::Bf16 => return f32::from_bits(code << 16),
            Arithmetic::Int8 => i32::from(code as i8),
            Arithmetic::Table4 | Arithmetic::Int4 | Arithmetic::Power4 | Arithmetic::SuperTable4 => {
                i32::from(format.table()[code as usize])
            }
            Arithmetic::Affine4 | Arithmetic::Affine5 => code as i32,
            Arithmetic::SuperAffine4 | Arithmetic::SuperAffine5 => code as i32,
            Arithmetic::Int5 => code as i32 - 16,
            Arithmetic::SuperInt6 => code as i32 - 32,
        };
        let product = scales[k / (BLOCK / 2)] * integer as f32;
        if format.arithmetic().has_minimum() { product + minimum } else { product }
    })
}

/// The scales of both halves of a block, exactly (11 bits times at most 8), and its minimum.
fn numbers(format: Format, header: &[u8]) -> ([f32; 2], f32) {
    let half = |i: usize| match header.get(2 * i..2 * i + 2) {
        Some(bytes) => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        None => 0.0,
    };
    let own = &header[format.super_bytes()..];
    match format.head() {
        Head::Numbers(_) => ([half(0); 2], half(1)),
        Head::Exponent => ([power_of_two(own[0]); 2], 0.0),
        Head::Halves => ([0, 1].map(|i| half(0) * f32::from(own[i] as i8)), 0.0),
        Head::SixBits(1) => ([half(0) * (f32::from(own[0]) - 32.0); 2], 0.0),
        Head::SixBits(_) => ([half(0) * f32::from(own[0]); 2], -(half(1) * f32::from(own[1]))),
    }
}

/// 2^(exponent - 128): the scale of an E8M0 exponent, halved because the table's entries are doubled.
pub(crate) const fn power_of_two(exponent: u8) -> f32 {
    // The two smallest are subnormal.
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent as u32 - 1) << 23 })
}

/// Byte and shift of the upper bits of code `k` (5 or 6 bits), which follow the 16 bytes of all codes' lower four bits.
const fn upper(bits: usize, k: usize) -> (usize, usize) {
    let (quad, i) = (k / 4, k % 4);
    if bits == 5 { (16 + i, quad) } else { (16 + quad / 4 * 4 + i, quad % 4 * 2) }
}

/// Code `k` of 32 that are stored together.
pub(super) fn code(format: Format, codes: &[u8], k: usize) -> u32 {
    let nibble = || u32::from(codes[k % 16] >> (k / 16 * 4) & 15);
    match format.code_bits() {
        4 => nibble(),
        bits @ (5 | 6) => {
            let (byte, shift) = upper(bits, k);
            nibble() | u32::from(codes[byte] >> shift & ((1 << (bits - 4)) - 1)) << 4
        }
        8 => u32::from(codes[k]),
        16 => u32::from(u16::from_le_bytes([codes[2 * k], codes[2 * k + 1]])),
        _ => u32::from_le_bytes([codes[4 * k], codes[4 * k + 1], codes[4 * k + 2], codes[4 * k + 3]]),
    }
}

/// Writes code `k` of 32 that are stored together.
pub(super) fn set_code(format: Format, codes: &mut [u8], k: usize, code: u32) {
    let mut put = |byte: usize, shift: usize, mask: u8, bits: u32| {
        codes[byte] = codes[byte] & !(mask << shift) | (bits as u8 & mask) << shift;
    };
    match format.code_bits() {
        4 => put(k % 16, k / 16 * 4, 15, code),
        bits @ (5 | 6) => {
            let (byte, shift) = upper(bits, k);
            put(k % 16, k / 16 * 4, 15, code);
            put(byte, shift, (1 << (bits - 4)) - 1, code >> 4);
        }
        8 => codes[k] = code as u8,
        16 => codes[2 * k..2 * k + 2].copy_from_slice(&(code as u16).to_le_bytes()),
        _ => codes[4 * k..4 * k + 4].copy_from_slice(&code.to_le_bytes()),
    }
}

/// A block on its own, made of this header and these codes: for importers that read blocks of other kinds.
pub fn from_parts(format: Format, header: &[u8], codes: impl Fn(usize) -> u32) -> Block {
    let mut block = [0; size_of::<Block>()];
    let (to, bytes) = block.split_at_mut(format.header_bytes());
    to.copy_from_slice(header);
    (0..BLOCK).for_each(|k| set_code(format, bytes, k, codes(k)));
    block
}

/// A block made of these numbers and codes.
fn pack(format: Format, numbers: &[f16], code_of: impl Fn(usize) -> u32) -> Block {
    let mut header = [0; 4];
    for (to, number) in header.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
        *to = number.to_le_bytes();
    }
    from_parts(format, &header[..2 * numbers.len()], code_of)
}

fn exact(format: Format, x: &[f32; BLOCK]) -> Block {
    pack(format, &[], |k| match format.arithmetic() {
        Arithmetic::F16 => f16::from_f32(x[k]).to_bits().into(),
        Arithmetic::Bf16 => half::bf16::from_f32(x[k]).to_bits().into(),
        _ => x[k].to_bits(),
    })
}

fn largest(format: Format, x: &[f32; BLOCK]) -> Block {
    let d = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    pack(format, &[f16::from_f32(d)], |k| libm::roundf(x[k] * inverse) as i8 as u32)
}

fn extreme(format: Format, x: &[f32; BLOCK]) -> Block {
    let extreme = x.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let lowest = (1 << (format.code_bits() - 1)) as f32;
    let d = extreme / -lowest;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let code = |k: usize| (x[k] * inverse + (lowest + 0.5)).clamp(0.0, 2.0 * lowest - 1.0) as u32;
    pack(format, &[f16::from_f32(d)], code)
}

fn range(format: Format, x: &[f32; BLOCK]) -> Block {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let highest = ((1 << format.code_bits()) - 1) as f32;
    let d = (high - low) / highest;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let numbers = [f16::from_f32(d), f16::from_f32(low)];
    pack(format, &numbers, |k| ((x[k] - low) * inverse + 0.5).clamp(0.0, highest) as u32)
}

fn power(format: Format, x: &[f32; BLOCK]) -> Block {
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    // The exponent of the largest magnitude, less 2.
    let exponent = if amax > 0.0 { ((amax.to_bits() >> 23) as u8).saturating_sub(2) } else { 0 };
    let scale = power_of_two(exponent);
    let nearest = |k: usize| {
        let error = |code: usize| (scale * f32::from(format.table()[code]) - x[k]).abs();
        (1..16).fold(0, |best, code| if error(code) < error(best) { code } else { best }) as u32
    };
    from_parts(format, &[exponent], nearest)
}

/// Entries of a table that a code can stand for, without the second zero at the end that some tables have.
fn entries(format: Format) -> &'static [i8] {
    let table = format.table();
    if table[15] <= table[14] { &table[..15] } else { table }
}

/// Encodes through a table: scale = largest |x| * clip / largest entry, the clip searched from 1 down to
/// 0.805 in steps of 0.005 for the least squared error; nearest entry, ties to the lower (arXiv
/// 2405.03103).
fn search(format: Format, x: &[f32; BLOCK], signs: &[f32]) -> Block {
    let entries = entries(format);
    let largest = entries.iter().fold(0f32, |m, e| m.max(f32::from(*e).abs()));
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let zero = entries.partition_point(|e| *e < 0) as u8;
    let (mut least, mut best) = (f32::INFINITY, (f16::ZERO, [zero; BLOCK]));
    if amax != 0.0 && amax.is_finite() {
        for sign in signs {
            for step in 0..40 {
                let scale = f16::from_f32(sign * amax * (1.0 - step as f32 * 0.005) / largest);
                let codes = nearest(entries, x, scale.to_f32());
                let error = squared_error(entries, x, scale.to_f32(), &codes);
                if error < least {
                    (least, best) = (error, (scale, codes));
                }
            }
        }
    }
    pack(format, &[best.0], |k| best.1[k].into())
}

/// Index of the entry nearest to each x / scale.
fn nearest(entries: &[i8], x: &[f32; BLOCK], scale: f32) -> [u8; BLOCK] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let scaled = x.map(|v| v * inverse);
    let mut codes = [0; BLOCK];
    for pair in entries.windows(2) {
        let middle = (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
        for (c, v) in codes.iter_mut().zip(&scaled) {
            *c += u8::from(*v > middle);
        }
    }
    codes
}

fn squared_error(entries: &[i8], x: &[f32; BLOCK], scale: f32, codes: &[u8; BLOCK]) -> f32 {
    let error = |(v, c): (&f32, &u8)| {
        let error = v - scale * f32::from(entries[usize::from(*c)]);
        error * error
    };
    x.iter().zip(codes).map(error).sum()
}
