//! Codes of 32 weights as matrices of lines hold them (image/FORMAT.md).

use crate::format::{BLOCK, Format, TILE_ROWS};
use crate::simd::{LANES, Lanes};

/// Codes of 32 weights that lie together.
pub(super) trait Codes: Copy {
    /// The format, or the first of those that differ in their table only.
    const FORMAT: Format;
    /// Bytes of 32 codes.
    const BYTES: usize = Self::FORMAT.code_bytes();
    /// Bytes of their scale and minimum.
    const SHARED: usize = Self::FORMAT.header_bytes();
    /// Whether there is a minimum.
    const AFFINE: bool = Self::SHARED == 4;

    /// The 32 codes as floats.
    ///
    /// # Safety
    /// There must be [`Codes::BYTES`]; `L`'s features must be there.
    unsafe fn read<L: Lanes>(codes: *const u8, table: &[i8; 16]) -> [L; 2];

    /// [`Codes::read`], times `factor`, the same in all lanes.
    ///
    /// # Safety
    /// As [`Codes::read`].
    #[inline(always)]
    unsafe fn times<L: Lanes>(codes: *const u8, table: &[i8; 16], factor: L) -> [L; 2] {
        // SAFETY: by the contract.
        unsafe {
            let [a, b] = Self::read::<L>(codes, table);
            [a.mul(factor), b.mul(factor)]
        }
    }

    /// Writes `n` blocks of 16 rows as the codes of `n` tiles: those of the first at `out`, each `tile` bytes behind
    /// the one before.
    ///
    /// # Safety
    /// There must be `n` blocks at every row, and room at `out`; `L`'s features must be there.
    #[inline(always)]
    unsafe fn gather_rows<L: Lanes>(rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
        let quads = Self::BYTES / 4;
        // SAFETY: by the contract.
        unsafe { L::interleave(rows, n * quads, out, quads, tile) }
    }
}

/// Transposes `n` blocks of 16 rows of numbers.
///
/// # Safety
/// As [`Codes::gather_rows`].
#[inline(always)]
unsafe fn gather_numbers<T: Copy>(rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
    for k in 0..n * BLOCK {
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: by the contract.
            unsafe {
                let to = out.add(k / BLOCK * tile).cast::<T>().add(k % BLOCK * TILE_ROWS + r);
                to.write_unaligned(row.cast::<T>().add(k).read_unaligned());
            }
        }
    }
}

/// [`Format::F32`].
#[derive(Clone, Copy)]
pub(super) struct F32Codes;
impl Codes for F32Codes {
    const FORMAT: Format = Format::F32;

    #[inline(always)]
    unsafe fn read<L: Lanes>(codes: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: by the contract.
        unsafe { [L::load(codes.cast()), L::load(codes.cast::<f32>().add(LANES))] }
    }

    #[inline(always)]
    unsafe fn gather_rows<L: Lanes>(rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
        // SAFETY: by the contract.
        unsafe { gather_numbers::<f32>(rows, n, out, tile) }
    }
}

/// [`Format::F16`].
#[derive(Clone, Copy)]
pub(super) struct F16Codes;
impl Codes for F16Codes {
    const FORMAT: Format = Format::F16;

    #[inline(always)]
    unsafe fn read<L: Lanes>(codes: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: by the contract.
        unsafe { [L::load_f16(codes.cast()), L::load_f16(codes.cast::<u16>().add(LANES))] }
    }

    #[inline(always)]
    unsafe fn gather_rows<L: Lanes>(rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
        // SAFETY: by the contract.
        unsafe { gather_numbers::<u16>(rows, n, out, tile) }
    }
}

/// Signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Int8Codes;
impl Codes for Int8Codes {
    const FORMAT: Format = Format::Q8_0;

    #[inline(always)]
    unsafe fn read<L: Lanes>(codes: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: by the contract.
        unsafe { [L::load_i8(codes.cast()), L::load_i8(codes.cast::<i8>().add(LANES))] }
    }
}

/// Nibbles through a table.
#[derive(Clone, Copy)]
pub(super) struct Table4Codes;
impl Codes for Table4Codes {
    const FORMAT: Format = Format::Q4_0;

    #[inline(always)]
    unsafe fn read<L: Lanes>(codes: *const u8, table: &[i8; 16]) -> [L; 2] {
        // SAFETY: by the contract.
        let (low, high) = unsafe { L::lookup(codes, table) };
        [low, high]
    }

    #[inline(always)]
    unsafe fn times<L: Lanes>(codes: *const u8, table: &[i8; 16], factor: L) -> [L; 2] {
        // SAFETY: by the contract.
        let (low, high) = unsafe { L::lookup_times(codes, table, factor) };
        [low, high]
    }
}

/// Nibbles that stand for themselves.
const UNSIGNED: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Unsigned nibbles with a minimum.
#[derive(Clone, Copy)]
pub(super) struct Affine4Codes;
impl Codes for Affine4Codes {
    const FORMAT: Format = Format::Q4_1;

    #[inline(always)]
    unsafe fn read<L: Lanes>(codes: *const u8, _table: &[i8; 16]) -> [L; 2] {
        // SAFETY: by the contract.
        let (low, high) = unsafe { L::lookup(codes, &UNSIGNED) };
        [low, high]
    }

    #[inline(always)]
    unsafe fn times<L: Lanes>(codes: *const u8, _table: &[i8; 16], factor: L) -> [L; 2] {
        // SAFETY: by the contract.
        let (low, high) = unsafe { L::lookup_times(codes, &UNSIGNED, factor) };
        [low, high]
    }
}
