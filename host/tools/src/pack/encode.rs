//! Encoding blocks of 32 weights, and putting 16 of them into a tile.

use half::f16;
use shadowllm_core::format::{Arithmetic, BLOCK, Format, TILE_ROWS};

/// One encoded block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Scale.
    pub scale: f16,
    /// Minimum, for formats that have one.
    pub min: f16,
    /// Codes: signed bytes of `Int8`, else 0..16.
    pub codes: [u8; BLOCK],
}

const EMPTY: Block = Block { scale: f16::ZERO, min: f16::ZERO, codes: [0; BLOCK] };

/// Encodes a block of an integer format.
///
/// Q8_0, Q4_0 and Q4_1 exactly as GGML's reference quantizers do (absolute maximum, signed extreme and
/// range); table formats by a search of the scale (see `table_block`).
pub fn encode(format: Format, x: &[f32; BLOCK]) -> Block {
    match format {
        Format::Q8_0 => q8_0(x),
        Format::Q4_0 => q4_0(x),
        Format::Q4_1 => q4_1(x),
        _ => table_block(format, x),
    }
}

fn q8_0(x: &[f32; BLOCK]) -> Block {
    let d = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    Block { scale: f16::from_f32(d), codes: x.map(|v| (v * inverse).round() as i8 as u8), ..EMPTY }
}

fn q4_0(x: &[f32; BLOCK]) -> Block {
    let extreme = x.iter().fold(0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = extreme / -8.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    Block { scale: f16::from_f32(d), codes: x.map(|v| (v * inverse + 8.5).clamp(0.0, 15.0) as u8), ..EMPTY }
}

fn q4_1(x: &[f32; BLOCK]) -> Block {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let d = (high - low) / 15.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let codes = x.map(|v| ((v - low) * inverse + 0.5).clamp(0.0, 15.0) as u8);
    Block { scale: f16::from_f32(d), min: f16::from_f32(low), codes }
}

/// Entries of a table that a code may name: doubled zeros at the end of 15-entry tables are left out.
fn entries(format: Format) -> &'static [i8] {
    let table = format.table();
    if table[15] <= table[14] { &table[..15] } else { table }
}

/// Encodes through a table: scale = largest |x| * clip / largest entry, the clip searched from 1 down to
/// 0.805 in steps of 0.005 for the least squared error; nearest entry, ties to the lower (arXiv
/// 2405.03103). For E2M1-SR, whose table reaches further up than down, both signs of the scale are tried.
fn table_block(format: Format, x: &[f32; BLOCK]) -> Block {
    let entries = entries(format);
    let largest = entries.iter().fold(0f32, |m, e| m.max(f32::from(*e).abs()));
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let mut best = Block { codes: [entries.partition_point(|e| *e < 0) as u8; BLOCK], ..EMPTY };
    if amax == 0.0 || !amax.is_finite() {
        return best;
    }
    let signs: &[f32] = if format == Format::E2m1Sr { &[1.0, -1.0] } else { &[1.0] };
    let mut least = f32::INFINITY;
    for sign in signs {
        for step in 0..40 {
            let scale = f16::from_f32(sign * amax * (1.0 - step as f32 * 0.005) / largest);
            let codes = nearest(entries, x, scale.to_f32());
            let error = squared_error(entries, x, scale.to_f32(), &codes);
            if error < least {
                (least, best) = (error, Block { scale, min: f16::ZERO, codes });
            }
        }
    }
    best
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
    let error = |(v, c): (&f32, &u8)| (v - scale * f32::from(entries[usize::from(*c)])).powi(2);
    x.iter().zip(codes).map(error).sum()
}

/// A block as GGML stores it (Q8_0, Q4_0, Q4_1), taken over without loss.
pub fn from_ggml(format: Format, raw: &[u8]) -> Block {
    let half = |at: usize| f16::from_le_bytes([raw[at], raw[at + 1]]);
    let nibbles = |at: usize| std::array::from_fn(|k| if k < 16 { raw[at + k] & 15 } else { raw[at + k - 16] >> 4 });
    match format {
        Format::Q8_0 => Block { scale: half(0), codes: std::array::from_fn(|k| raw[2 + k]), ..EMPTY },
        Format::Q4_0 => Block { scale: half(0), codes: nibbles(2), ..EMPTY },
        _ => Block { scale: half(0), min: half(2), codes: nibbles(4) },
    }
}

/// Writes a block as output `lane` of a tile (image/FORMAT.md in the core has the layout).
pub fn put_block(format: Format, tile: &mut [u8], lane: usize, block: &Block) {
    tile[2 * lane..2 * lane + 2].copy_from_slice(&block.scale.to_le_bytes());
    let mut codes_at = 2 * TILE_ROWS;
    if format.arithmetic() == Arithmetic::Affine4 {
        tile[codes_at + 2 * lane..codes_at + 2 * lane + 2].copy_from_slice(&block.min.to_le_bytes());
        codes_at *= 2;
    }
    let place = |k: usize| codes_at + k / 4 * 64 + lane * 4 + k % 4;
    if format.arithmetic() == Arithmetic::Int8 {
        (0..BLOCK).for_each(|k| tile[place(k)] = block.codes[k]);
    } else {
        (0..BLOCK / 2).for_each(|k| tile[place(k)] = block.codes[k] | block.codes[k + 16] << 4);
    }
}

/// Writes 32 floats as output `lane` of a float tile.
pub fn put_floats(format: Format, tile: &mut [u8], lane: usize, x: &[f32; BLOCK]) {
    for (k, v) in x.iter().enumerate() {
        let at = k * TILE_ROWS + lane;
        if format == Format::F16 {
            tile[2 * at..2 * at + 2].copy_from_slice(&f16::from_f32(*v).to_le_bytes());
        } else {
            tile[4 * at..4 * at + 4].copy_from_slice(&v.to_le_bytes());
        }
    }
}

/// Moves the codes of input `k` of a tile's 16 outputs to their half of `line`, which holds codes of 32 outputs.
pub fn move_codes(format: Format, tile: &[u8], k: usize, line: &mut [u8], half: usize) {
    let codes = &tile[format.header_bytes() * TILE_ROWS..];
    let quad = |k: usize, lane: usize| codes[k / 4 * 64 + lane * 4 + k % 4];
    for lane in 0..TILE_ROWS {
        let at = half * TILE_ROWS + lane;
        match format.arithmetic() {
            Arithmetic::Int8 => line[at] = quad(k, lane),
            Arithmetic::Table4 | Arithmetic::Affine4 => {
                let nibble = quad(k % 16, lane) >> (if k < 16 { 0 } else { 4 }) & 15;
                line[lane] |= nibble << (4 * half);
            }
            Arithmetic::F32 | Arithmetic::F16 => {
                let size = format.code_bytes() / BLOCK;
                line[at * size..(at + 1) * size].copy_from_slice(&codes[(k * TILE_ROWS + lane) * size..][..size]);
            }
        }
    }
}

/// Writes block `i` of a line of `n`.
pub fn put_line_block(format: Format, line: &mut [u8], i: usize, n: usize, block: &Block) {
    line[2 * i..2 * i + 2].copy_from_slice(&block.scale.to_le_bytes());
    if format.arithmetic() == Arithmetic::Affine4 {
        line[2 * (n + i)..2 * (n + i) + 2].copy_from_slice(&block.min.to_le_bytes());
    }
    let codes = &mut line[n * format.header_bytes() + i * format.code_bytes()..][..format.code_bytes()];
    if format.arithmetic() == Arithmetic::Int8 {
        codes.copy_from_slice(&block.codes);
    } else {
        (0..BLOCK / 2).for_each(|k| codes[k] = block.codes[k] | block.codes[k + 16] << 4);
    }
}

/// Writes block `i` of a line of a float format.
pub fn put_line_floats(format: Format, line: &mut [u8], i: usize, x: &[f32; BLOCK]) {
    let size = format.code_bytes() / BLOCK;
    let codes = &mut line[i * format.code_bytes()..][..format.code_bytes()];
    for (out, v) in codes.chunks_exact_mut(size).zip(x) {
        if format == Format::F16 {
            out.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
        } else {
            out.copy_from_slice(&v.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Student-t(5) by the ratio of a normal to a chi, both from a small generator.
    fn samples(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
        (0..n)
            .map(|_| {
                let chi: f64 = (0..5).map(|_| normal().powi(2)).sum();
                (normal() / (chi / 5.0).sqrt()) as f32
            })
            .collect()
    }

    fn relative_error(format: Format, x: &[f32]) -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for chunk in x.as_chunks::<BLOCK>().0 {
            let b = encode(format, chunk);
            for (v, c) in chunk.iter().zip(b.codes) {
                let w = b.scale.to_f32() * f32::from(format.table()[usize::from(c)]);
                error += f64::from(v - w).powi(2);
                power += f64::from(*v).powi(2);
            }
        }
        100.0 * error / power
    }

    /// Relative errors on Student-t(5), blocks of 32, without a search of the clip, published with the
    /// formats' tables: ours search the clip, so they must come out below, and not absurdly far.
    #[test]
    fn table_errors_are_below_the_published_ones_without_clip() {
        let x = samples(320_000);
        let published = [
            (Format::Int4, 1.4976),
            (Format::Nf4, 0.8601),
            (Format::Sf4, 0.9514),
            (Format::E2m1, 1.0354),
            (Format::E2m1Sr, 0.9609),
            (Format::E2m1Sp, 0.9271),
            (Format::Apot4, 1.0545),
        ];
        for (format, error) in published {
            let ours = relative_error(format, &x);
            assert!(ours < error && ours > 0.6 * error, "{}: {ours} against {error}", format.name());
        }
    }

    #[test]
    fn zero_blocks_stay_zero() {
        for format in Format::ALL.into_iter().filter(|f| f.takes_int8()) {
            let b = encode(format, &[0.0; BLOCK]);
            assert!(b.scale == f16::ZERO && b.min == f16::ZERO, "{}", format.name());
        }
    }
}
