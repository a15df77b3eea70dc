//! One block of 32 weights: encoding and decoding.
//!
//! A block on its own is, for every format, its scale (`f16`), its minimum (`f16`, where there is one) and 32 codes:
//! 4, 2 or 1 bytes each, or 16 bytes whose low halves are the first 16 codes and whose high halves are the others.
//! Blocks of GGML's Q8_0, Q4_0 and Q4_1 are the same bytes. The order of a matrix may take a block's bytes apart
//! ([`super::order`]); what they mean is said here alone.

use super::{Arithmetic, BLOCK, Format};
use half::f16;

/// Room for a block of any format.
pub type Block = [u8; Format::F32.block_bytes()];

/// How an encoder chooses a block's scale and codes.
#[derive(Clone, Copy)]
pub(super) enum Choice {
    /// Numbers as they are, rounded to the format's.
    Exact,
    /// As GGML's Q8_0: the largest magnitude becomes 127.
    Largest,
    /// As GGML's Q4_0: the number of the largest magnitude becomes -8.
    Extreme,
    /// As GGML's Q4_1: smallest and largest become 0 and 15.
    Range,
    /// The scale that gives the least squared error with the nearest entries of the table.
    Search,
    /// The same with scales of both signs, for a table that reaches further up than down.
    SignedSearch,
}

/// Encodes 32 weights; the block's bytes come first in the answer.
pub fn encode(format: Format, x: &[f32; BLOCK]) -> Block {
    match format.row().choice {
        Choice::Exact => exact(format, x),
        Choice::Largest => largest(format, x),
        Choice::Extreme => extreme(format, x),
        Choice::Range => range(format, x),
        Choice::Search => search(format, x, &[1.0]),
        Choice::SignedSearch => search(format, x, &[1.0, -1.0]),
    }
}

/// Decodes 32 weights from a block's bytes.
///
/// # Panics
/// When `block` is shorter than a block of the format.
pub fn decode(format: Format, block: &[u8]) -> [f32; BLOCK] {
    let (header, codes) = block[..format.block_bytes()].split_at(format.header_bytes());
    let number = |i: usize| f16::from_le_bytes([header[2 * i], header[2 * i + 1]]).to_f32();
    core::array::from_fn(|k| {
        let code = code(format, codes, k);
        match format.arithmetic() {
            Arithmetic::F32 => f32::from_bits(code),
            Arithmetic::F16 => f16::from_bits(code as u16).to_f32(),
            Arithmetic::Int8 => number(0) * f32::from(code as i8),
            Arithmetic::Table4 => number(0) * f32::from(format.table()[code as usize]),
            Arithmetic::Affine4 => number(0) * code as f32 + number(1),
        }
    })
}

/// Code `k` of 32 that lie together.
pub(super) fn code(format: Format, codes: &[u8], k: usize) -> u32 {
    match format.code_bits() {
        4 => u32::from(codes[k % 16] >> (k / 16 * 4) & 15),
        8 => u32::from(codes[k]),
        16 => u32::from(u16::from_le_bytes([codes[2 * k], codes[2 * k + 1]])),
        _ => u32::from_le_bytes([codes[4 * k], codes[4 * k + 1], codes[4 * k + 2], codes[4 * k + 3]]),
    }
}

/// Writes code `k` of 32 that lie together.
pub(super) fn set_code(format: Format, codes: &mut [u8], k: usize, code: u32) {
    match format.code_bits() {
        4 => {
            let (byte, shift) = (&mut codes[k % 16], k / 16 * 4);
            *byte = *byte & !(15 << shift) | (code as u8 & 15) << shift;
        }
        8 => codes[k] = code as u8,
        16 => codes[2 * k..2 * k + 2].copy_from_slice(&(code as u16).to_le_bytes()),
        _ => codes[4 * k..4 * k + 4].copy_from_slice(&code.to_le_bytes()),
    }
}

/// A block of these numbers and codes.
fn pack(format: Format, numbers: &[f16], code_of: impl Fn(usize) -> u32) -> Block {
    let mut block = [0; size_of::<Block>()];
    let (header, codes) = block.split_at_mut(format.header_bytes());
    for (to, number) in header.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
        *to = number.to_le_bytes();
    }
    (0..BLOCK).for_each(|k| set_code(format, codes, k, code_of(k)));
    block
}

fn exact(format: Format, x: &[f32; BLOCK]) -> Block {
    let half = format.code_bits() == 16;
    pack(format, &[], |k| if half { f16::from_f32(x[k]).to_bits().into() } else { x[k].to_bits() })
}

fn largest(format: Format, x: &[f32; BLOCK]) -> Block {
    let d = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    pack(format, &[f16::from_f32(d)], |k| libm::roundf(x[k] * inverse) as i8 as u32)
}

fn extreme(format: Format, x: &[f32; BLOCK]) -> Block {
    let extreme = x.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = extreme / -8.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    pack(format, &[f16::from_f32(d)], |k| (x[k] * inverse + 8.5).clamp(0.0, 15.0) as u32)
}

fn range(format: Format, x: &[f32; BLOCK]) -> Block {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let d = (high - low) / 15.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let numbers = [f16::from_f32(d), f16::from_f32(low)];
    pack(format, &numbers, |k| ((x[k] - low) * inverse + 0.5).clamp(0.0, 15.0) as u32)
}

/// Entries of a table that a code may name: a second zero at the end is left out.
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
