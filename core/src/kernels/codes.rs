//! Codes of 32 weights as they are stored in matrices of lines (image/FORMAT.md).

use super::floats::load_bf16;
use crate::format::{BLOCK, Format, TILE_ROWS};
use crate::simd::{LANES, Lanes, Proof};

/// Codes of 32 weights that are stored together.
///
/// # Safety
/// [`Codes::Block`] must consist of [`Codes::BYTES`] bytes alone: then a reference to it is valid at any address and
/// with any contents.
pub(super) unsafe trait Codes: Copy {
    /// The format, or the first of several formats that differ only in their tables.
    const FORMAT: Format;
    /// Bytes of 32 codes.
    const BYTES: usize = Self::FORMAT.code_bytes();
    /// Bytes of their scale and minimum.
    const SHARED: usize = Self::FORMAT.header_bytes();
    /// Whether they have a minimum.
    const AFFINE: bool = Self::FORMAT.arithmetic().has_minimum();
    /// The codes in memory.
    type Block;

    /// The 32 codes as floats.
    fn read<L: Lanes>(isa: Proof<L>, codes: &Self::Block, table: &[i8; 16]) -> [L; 2];

    /// [`Codes::read`], times `factor`, the same in all lanes.
    #[inline(always)]
    fn times<L: Lanes>(codes: &Self::Block, table: &[i8; 16], factor: L) -> [L; 2] {
        let [a, b] = Self::read::<L>(factor.isa(), codes, table);
        [a.mul(factor), b.mul(factor)]
    }

    /// Writes `n` blocks of 16 rows as the codes of `n` tiles: those of the first at `out`, each `tile` bytes after
    /// the one before.
    ///
    /// # Safety
    /// `n` blocks must be readable at every row's address, and the codes of `n` tiles writable at `out`.
    #[inline(always)]
    unsafe fn gather_rows<L: Lanes>(isa: Proof<L>, rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
        let quads = Self::BYTES / 4;
        // SAFETY: the caller gives `n` readable blocks a row, which are `n * quads` quads, and `n` writable tiles, each
        // of which gets `quads` of them.
        unsafe { L::interleave(isa, rows, n * quads, out, quads, tile) }
    }
}

/// Transposes `n` blocks of 16 rows of numbers.
///
/// # Safety
/// As [`Codes::gather_rows`], for blocks of `T`.
#[inline(always)]
unsafe fn gather_numbers<T: Copy>(rows: &[*const u8; TILE_ROWS], n: usize, out: *mut u8, tile: usize) {
    for k in 0..n * BLOCK {
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: number `k` is in one of the `n` blocks that the caller gives for each row, and its place is in
            // one of the `n` tiles.
            unsafe {
                let to = out.add(k / BLOCK * tile).cast::<T>().add(k % BLOCK * TILE_ROWS + r);
                to.write_unaligned(row.cast::<T>().add(k).read_unaligned());
            }
        }
    }
}

/// Formats whose codes are numbers: a name, the number (its size decides how rows are gathered), and how 16 are read.
macro_rules! numbers {
    ($($name:ident, $format:ident, $number:ty, $load:expr;)*) => {$(
        #[doc = concat!("[`Format::", stringify!($format), "`].")]
        #[derive(Clone, Copy)]
        pub(super) struct $name;
        // SAFETY: the type is an array of the bytes of 32 numbers.
        unsafe impl Codes for $name {
            const FORMAT: Format = Format::$format;
            type Block = [[u8; size_of::<$number>() * LANES]; 2];

            #[inline(always)]
            fn read<L: Lanes>(isa: Proof<L>, [a, b]: &Self::Block, _table: &[i8; 16]) -> [L; 2] {
                [$load(isa, a), $load(isa, b)]
            }

            #[inline(always)]
            unsafe fn gather_rows<L: Lanes>(
                _isa: Proof<L>,
                rows: &[*const u8; TILE_ROWS],
                n: usize,
                out: *mut u8,
                tile: usize,
            ) {
                // SAFETY: the caller meets the requirements of `gather_rows`, which are those of `gather_numbers` too.
                unsafe { gather_numbers::<$number>(rows, n, out, tile) }
            }
        }
    )*};
}

numbers! {
    F32Codes, F32, f32, L::load_bytes;
    F16Codes, F16, u16, L::load_f16;
    Bf16Codes, Bf16, u16, load_bf16;
}

/// Signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Int8Codes;
// SAFETY: the type is an array of 32 bytes.
unsafe impl Codes for Int8Codes {
    const FORMAT: Format = Format::Q8_0;
    type Block = [[i8; LANES]; 2];

    #[inline(always)]
    fn read<L: Lanes>(isa: Proof<L>, [a, b]: &Self::Block, _table: &[i8; 16]) -> [L; 2] {
        [L::load_i8(isa, a), L::load_i8(isa, b)]
    }
}

/// Nibbles through a table.
#[derive(Clone, Copy)]
pub(super) struct Table4Codes;
// SAFETY: the type is an array of 16 bytes.
unsafe impl Codes for Table4Codes {
    const FORMAT: Format = Format::Q4_0;
    type Block = [u8; LANES];

    #[inline(always)]
    fn read<L: Lanes>(isa: Proof<L>, codes: &Self::Block, table: &[i8; 16]) -> [L; 2] {
        L::lookup(isa, codes, table).into()
    }

    #[inline(always)]
    fn times<L: Lanes>(codes: &Self::Block, table: &[i8; 16], factor: L) -> [L; 2] {
        L::lookup_times(codes, table, factor).into()
    }
}

/// Nibbles that stand for themselves.
const UNSIGNED: [i8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Unsigned nibbles with a minimum.
#[derive(Clone, Copy)]
pub(super) struct Affine4Codes;
// SAFETY: the type is an array of 16 bytes.
unsafe impl Codes for Affine4Codes {
    const FORMAT: Format = Format::Q4_1;
    type Block = [u8; LANES];

    #[inline(always)]
    fn read<L: Lanes>(isa: Proof<L>, codes: &Self::Block, _table: &[i8; 16]) -> [L; 2] {
        L::lookup(isa, codes, &UNSIGNED).into()
    }

    #[inline(always)]
    fn times<L: Lanes>(codes: &Self::Block, _table: &[i8; 16], factor: L) -> [L; 2] {
        L::lookup_times(codes, &UNSIGNED, factor).into()
    }
}

/// The upper `BITS` bits of each of 32 codes, which are stored at `upper`.
///
/// # Safety
/// `4 * BITS` bytes must be readable at `upper`.
#[inline(always)]
pub(super) unsafe fn upper_bits<const BITS: usize>(upper: *const u8) -> [u8; BLOCK] {
    let mut bits = [0; BLOCK];
    for quad in 0..BLOCK / 4 {
        // Byte `4 * part + i` holds the upper bits of code `i` of several neighbouring quads.
        let (part, shift) = (quad * BITS / 8, quad * BITS % 8);
        for i in 0..4 {
            // SAFETY: `part` is below `BITS` and `i` below 4, so this is one of the `4 * BITS` readable bytes.
            bits[4 * quad + i] = unsafe { *upper.add(4 * part + i) } >> shift & ((1 << BITS) - 1);
        }
    }
    bits
}

/// Nibbles with `BITS` upper bits, less `less`, as floats.
#[inline(always)]
fn with_upper<L: Lanes, const BITS: usize>(isa: Proof<L>, low: &[u8; LANES], upper: *const u8, less: i8) -> [L; 2] {
    // SAFETY: every caller passes the upper bits of a block, which are `4 * BITS` bytes.
    let upper = unsafe { upper_bits::<BITS>(upper) };
    let mut codes = [[0i8; LANES]; 2];
    for i in 0..LANES {
        codes[0][i] = (low[i] & 15 | upper[i] << 4) as i8 - less;
        codes[1][i] = (low[i] >> 4 | upper[LANES + i] << 4) as i8 - less;
    }
    [L::load_i8(isa, &codes[0]), L::load_i8(isa, &codes[1])]
}

/// Nibbles, followed by upper bits.
#[repr(C)]
pub(super) struct Packed<const UPPER: usize> {
    low: [u8; LANES],
    upper: [u8; UPPER],
}

macro_rules! upper_codes {
    ($(#[$doc:meta])* $name:ident, $format:ident, $bits:literal, $less:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;
        // SAFETY: the type consists of an array of 16 bytes and one of 4 bytes for each upper bit.
        unsafe impl Codes for $name {
            const FORMAT: Format = Format::$format;
            type Block = Packed<{ 4 * $bits }>;

            #[inline(always)]
            fn read<L: Lanes>(isa: Proof<L>, codes: &Self::Block, _table: &[i8; 16]) -> [L; 2] {
                with_upper::<L, $bits>(isa, &codes.low, codes.upper.as_ptr(), $less)
            }

            #[inline(always)]
            unsafe fn gather_rows<L: Lanes>(
                isa: Proof<L>,
                rows: &[*const u8; TILE_ROWS],
                n: usize,
                out: *mut u8,
                tile: usize,
            ) {
                // SAFETY: the caller meets the requirements of `gather_rows`, which are those of `gather_upper` too.
                unsafe { gather_upper::<L, $bits>(isa, rows, n, out, tile) }
            }
        }
    };
}

/// [`Codes::gather_rows`] of nibbles with upper bits.
///
/// # Safety
/// As [`Codes::gather_rows`].
#[inline(always)]
unsafe fn gather_upper<L: Lanes, const BITS: usize>(
    isa: Proof<L>,
    rows: &[*const u8; TILE_ROWS],
    n: usize,
    out: *mut u8,
    tile: usize,
) {
    for i in 0..n {
        let mut blocks = *rows;
        for block in &mut blocks {
            *block = block.wrapping_add(i * (LANES + 4 * BITS));
        }
        // SAFETY: `i` is below `n`, so the block is readable and the tile writable: a block has 16 bytes of nibbles and
        // `4 * BITS` of upper bits, a tile 16 times as many.
        unsafe {
            let out = out.add(i * tile);
            L::interleave(isa, &blocks, 4, out, 4, tile);
            for part in 0..BITS {
                for (r, block) in blocks.iter().enumerate() {
                    let four = block.add(LANES + 4 * part).cast::<u32>().read_unaligned();
                    out.add(16 * TILE_ROWS + 64 * part + 4 * r).cast::<u32>().write_unaligned(four);
                }
            }
        }
    }
}

upper_codes!(
    /// Five bits less 16.
    Int5Codes, Q5_0, 1, 16
);
upper_codes!(
    /// Five bits with a minimum.
    Affine5Codes, Q5_1, 1, 0
);
upper_codes!(
    /// Six bits less 32.
    Int6Codes, Q6K, 2, 32
);
