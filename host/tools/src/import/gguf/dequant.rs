//! Turns ggml's blocks of quantised weights into 32-bit floats, bit for bit as ggml's reference
//! (`dequantize_row_*` in ggml-quants.c) does: the same operations in the same order.

use half::f16;

use super::GgmlType;

/// The number of elements in a block of this type.
pub const fn block_len(kind: GgmlType) -> usize {
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => 1,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => 32,
        GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => 256,
    }
}

/// The number of bytes that a block of this type takes.
pub const fn block_bytes(kind: GgmlType) -> usize {
    match kind {
        GgmlType::F32 => 4,
        GgmlType::F16 | GgmlType::BF16 => 2,
        GgmlType::Q4_0 => 18,
        GgmlType::Q4_1 => 20,
        GgmlType::Q5_0 => 22,
        GgmlType::Q5_1 => 24,
        GgmlType::Q8_0 => 34,
        GgmlType::Q4K => 144,
        GgmlType::Q5K => 176,
        GgmlType::Q6K => 210,
    }
}

/// Dequantises whole blocks of the given type into `out`, which must have room for exactly their
/// elements.
pub fn dequantize(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    check_sizes(kind, bytes.len(), out.len())?;
    match kind {
        GgmlType::F32 => blocks(bytes, out, |b, y: &mut [f32; 1]| *y = [f32::from_le_bytes(*b)]),
        GgmlType::F16 => blocks(bytes, out, |b, y: &mut [f32; 1]| *y = [half(*b)]),
        GgmlType::BF16 => blocks(bytes, out, |b, y: &mut [f32; 1]| *y = [bfloat(*b)]),
        GgmlType::Q4_0 => blocks(bytes, out, q4_0),
        GgmlType::Q4_1 => blocks(bytes, out, q4_1),
        GgmlType::Q5_0 => blocks(bytes, out, q5_0),
        GgmlType::Q5_1 => blocks(bytes, out, q5_1),
        GgmlType::Q8_0 => blocks(bytes, out, q8_0),
        GgmlType::Q4K => blocks(bytes, out, q4_k),
        GgmlType::Q5K => blocks(bytes, out, q5_k),
        GgmlType::Q6K => blocks(bytes, out, q6_k),
    }
    Ok(())
}

/// Checks that the bytes are whole blocks of the number of elements.
fn check_sizes(kind: GgmlType, bytes: usize, elements: usize) -> Result<(), String> {
    let (len, size) = (block_len(kind), block_bytes(kind));
    let whole = bytes.is_multiple_of(size) && elements.is_multiple_of(len);
    if whole && bytes / size == elements / len {
        return Ok(());
    }
    Err(format!("{bytes} bytes of {kind} are not {elements} elements: a block of {size} bytes has {len}"))
}

/// Runs `each` on every block of `B` bytes and the `N` elements that it becomes.
fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], each: impl Fn(&[u8; B], &mut [f32; N])) {
    let (inputs, _) = bytes.as_chunks::<B>();
    let (outputs, _) = out.as_chunks_mut::<N>();
    for (input, output) in inputs.iter().zip(outputs) {
        each(input, output);
    }
}

/// An IEEE half float.
fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The upper half of a 32-bit float.
fn bfloat(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Takes 16 bytes apart: the low nibbles are elements 0 to 15, the high ones 16 to 31. `value`
/// gets the element's index and its nibble.
fn nibbles(packed: &[u8], y: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = y.split_at_mut(16);
    for (j, ((q, low), high)) in packed.iter().zip(low).zip(high).enumerate() {
        *low = value(j, q & 15);
        *high = value(j + 16, q >> 4);
    }
}

/// The fifth bit of element `j`, in its place.
fn fifth(bits: u32, j: usize) -> u8 {
    if (bits >> j) & 1 == 1 { 16 } else { 0 }
}

/// Q4_0: scale, nibbles.
fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    nibbles(&b[2..], y, |_, q| (f32::from(q) - 8.0) * d);
}

/// Q4_1: scale, minimum, nibbles.
fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half([b[0], b[1]]), half([b[2], b[3]]));
    nibbles(&b[4..], y, |_, q| f32::from(q) * d + m);
}

/// Q5_0: scale, fifth bits, nibbles.
fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    let bits = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    nibbles(&b[6..], y, |j, q| (f32::from(q | fifth(bits, j)) - 16.0) * d);
}

/// Q5_1: scale, minimum, fifth bits, nibbles.
fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half([b[0], b[1]]), half([b[2], b[3]]));
    let bits = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    nibbles(&b[8..], y, |j, q| f32::from(q | fifth(bits, j)) * d + m);
}

/// Q8_0: scale, bytes.
fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half([b[0], b[1]]);
    for (y, q) in y.iter_mut().zip(&b[2..]) {
        *y = f32::from(q.cast_signed()) * d;
    }
}

/// The eight 6-bit scales and minima that Q4_K and Q5_K pack into 12 bytes, each multiplied by
/// its super-block's factor.
fn scales(d: f32, dmin: f32, packed: &[u8]) -> [(f32, f32); 8] {
    let byte = |j: usize| packed.get(j).copied().unwrap_or_default();
    std::array::from_fn(|j| {
        let (scale, min) = if j < 4 {
            (byte(j) & 63, byte(j + 4) & 63)
        } else {
            let high = (byte(j - 4) >> 6, byte(j) >> 6);
            ((byte(j + 4) & 15) | (high.0 << 4), (byte(j + 4) >> 4) | (high.1 << 4))
        };
        (d * f32::from(scale), dmin * f32::from(min))
    })
}

/// Q4_K: scale, minimum, scales of the eight parts, nibbles; every 32 bytes hold two parts.
fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (half([b[0], b[1]]), half([b[2], b[3]]));
    let factors = scales(d, dmin, &b[4..16]);
    for (part, ((d, m), y)) in factors.into_iter().zip(y.chunks_exact_mut(32)).enumerate() {
        let packed = &b[16 + part / 2 * 32..];
        let shift = part % 2 * 4;
        for (y, q) in y.iter_mut().zip(packed) {
            *y = d * f32::from((q >> shift) & 15) - m;
        }
    }
}

/// Q5_K: as Q4_K, with 32 bytes before the nibbles that hold bit `p` of each for part `p`.
fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (half([b[0], b[1]]), half([b[2], b[3]]));
    let factors = scales(d, dmin, &b[4..16]);
    for (part, ((d, m), y)) in factors.into_iter().zip(y.chunks_exact_mut(32)).enumerate() {
        let packed = &b[48 + part / 2 * 32..];
        let shift = part % 2 * 4;
        for ((y, q), bits) in y.iter_mut().zip(packed).zip(&b[16..48]) {
            let q = ((q >> shift) & 15) | (((bits >> part) & 1) << 4);
            *y = d * f32::from(q) - m;
        }
    }
}

/// Q6_K: low nibbles, upper two bits, 16 scales, scale. Each half of 128 elements has four parts
/// of 32, which share its 64 bytes of nibbles and 32 bytes of upper bits.
fn q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = half([b[208], b[209]]);
    for (part, y) in y.chunks_exact_mut(32).enumerate() {
        let (half, part) = (part / 4, part % 4);
        let low = &b[half * 64 + part % 2 * 32..];
        let high = &b[128 + half * 32..];
        let scales = &b[192 + half * 8 + part * 2..];
        for (j, ((y, low), high)) in y.iter_mut().zip(low).zip(high).enumerate() {
            let q = ((low >> (part / 2 * 4)) & 15) | (((high >> (part * 2)) & 3) << 4);
            *y = d * f32::from(scales[j / 16].cast_signed()) * (f32::from(q) - 32.0);
        }
    }
}
