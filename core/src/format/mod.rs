//! What the bytes of weights mean: numbers, blocks of numbers, and the order of the blocks in a matrix.
//!
//! Every format stores blocks of [`BLOCK`] weights that share a scale: first the scale (`f16`), then the minimum where
//! the format has one, then 32 codes. [`block`] encodes and decodes one; [`order`] says where the blocks of a matrix
//! stand; [`Matrix`] is bytes that were checked against a [`Geometry`].
//!
//! # Adding a format
//! A row in the table of [`Format`]. Where its arithmetic is one of [`Arithmetic`]'s, that is all: a 4-bit *table*
//! format is a 16-entry `i8` table in front of one integer dot product (`weight = scale * TABLE[code]`), so all of them
//! share their kernels. The scale includes the factor that makes the table integral (1/127 for SF4, 1/2 for E2M1).

pub mod block;
mod matrix;
pub mod order;

pub use matrix::{Geometry, Lines, Matrix};
pub use order::{Order, PanelTiles, Shape};

use block::Choice;

/// Weights that share a scale.
pub const BLOCK: usize = 32;
/// Outputs interleaved in one tile.
pub const TILE_ROWS: usize = 16;

/// The arithmetic a format asks of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Arithmetic {
    /// f32 weights times f32 inputs.
    F32 = 0,
    /// f16 weights times f32 inputs.
    F16 = 1,
    /// i8 weights times i8 inputs.
    Int8 = 2,
    /// 4-bit codes through a table, times i8 inputs.
    Table4 = 3,
    /// 4-bit unsigned codes times i8 inputs, plus a minimum per block.
    Affine4 = 4,
}

/// Of each arithmetic, in the order of their codes: numbers (scale, minimum) of a block, and bits of a code.
const SIZES: [(usize, usize); 5] = [(0, 32), (0, 16), (1, 8), (1, 4), (2, 4)];

/// A row of the table of formats.
struct Row {
    name: &'static str,
    arithmetic: Arithmetic,
    choice: Choice,
    table: [i8; 16],
}

/// The table of a format that has none.
const NONE: [i8; 16] = [0; 16];

macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident = $code:literal, $name:literal, $arithmetic:ident, $choice:ident, $table:expr;)*) => {
        /// How weights are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Format { $($(#[$doc])* $format = $code),* }

        impl Format {
            /// All formats, in the order of their codes.
            pub const ALL: [Format; FORMATS] = [$(Format::$format),*];
        }

        const FORMATS: usize = [$($code),*].len();
        static ROWS: [Row; FORMATS] = [$(Row {
            name: $name,
            arithmetic: Arithmetic::$arithmetic,
            choice: Choice::$choice,
            table: $table,
        }),*];
    };
}

// Name, code in an image, name on the command line, arithmetic, how an encoder chooses the codes, table.
formats! {
    /// IEEE single.
    F32 = 0, "f32", F32, Exact, NONE;
    /// IEEE half.
    F16 = 1, "f16", F16, Exact, NONE;
    /// 8-bit integers, one scale per block (GGML's Q8_0).
    Q8_0 = 2, "q8_0", Int8, Largest, NONE;
    /// 4-bit integers -8..7, one scale per block (GGML's Q4_0, its encoder too).
    Q4_0 = 3, "q4_0", Table4, Extreme, [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
    /// 4-bit integers 0..15 with scale and minimum per block (GGML's Q4_1).
    Q4_1 = 4, "q4_1", Affine4, Range, NONE;
    /// 4-bit integers -7..7, symmetric, scale searched for least squared error.
    Int4 = 5, "int4", Table4, Search, [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 0];
    /// Normal float (QLoRA, arXiv 2305.14314).
    Nf4 = 6, "nf4", Table4, Search, [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127];
    /// Student float with 5 degrees of freedom (arXiv 2405.03103).
    Sf4 = 7, "sf4", Table4, Search, [-127, -80, -58, -42, -30, -19, -10, 0, 8, 17, 26, 36, 48, 62, 83, 127];
    /// FP4: sign, two exponent bits, one mantissa bit.
    E2m1 = 8, "e2m1", Table4, Search, [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 0];
    /// E2M1 with the code of -0 spent on +8 (super-range, arXiv 2405.03103); the scale carries a sign.
    E2m1Sr = 9, "e2m1-sr", Table4, SignedSearch, [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16];
    /// E2M1 with the code of -0 spent on +5 (super-precision, arXiv 2405.03103).
    E2m1Sp = 10, "e2m1-sp", Table4, Search, [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10, 12];
    /// Additive powers of two (arXiv 1909.13144).
    Apot4 = 11, "apot4", Table4, Search, [-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10, 0];
}

impl Format {
    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The format with this code in an image.
    pub fn from_code(code: u8) -> Option<Format> {
        Self::ALL.get(code as usize).copied()
    }

    /// The format of this name, as [`Format::name`] writes it.
    pub fn from_name(name: &str) -> Option<Format> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Which kernels compute with it.
    pub const fn arithmetic(self) -> Arithmetic {
        self.row().arithmetic
    }

    /// Whether the inputs are quantized to 8 bits before the dot product.
    pub const fn takes_int8(self) -> bool {
        self.code_bits() <= 8
    }

    /// Bytes of one block of [`BLOCK`] weights.
    pub const fn block_bytes(self) -> usize {
        self.header_bytes() + self.code_bytes()
    }

    /// Bytes of a block's scale and minimum.
    pub const fn header_bytes(self) -> usize {
        2 * SIZES[self.arithmetic() as usize].0
    }

    /// Bits of a weight's code.
    pub const fn code_bits(self) -> usize {
        SIZES[self.arithmetic() as usize].1
    }

    /// Bytes of a block's codes.
    pub const fn code_bytes(self) -> usize {
        BLOCK * self.code_bits() / 8
    }

    /// Bytes of one tile: [`TILE_ROWS`] blocks, interleaved.
    pub const fn tile_bytes(self) -> usize {
        TILE_ROWS * self.block_bytes()
    }

    /// The 16 integer values of a table format; zeros for the others.
    pub const fn table(self) -> &'static [i8; 16] {
        &self.row().table
    }
}

const _: () = {
    // An image's code is a place in the table.
    let mut i = 0;
    while i < FORMATS {
        assert!(Format::ALL[i] as usize == i);
        i += 1;
    }
    assert!(Format::Q4_0.tile_bytes() == 288);
    assert!(Format::Q4_1.tile_bytes() == 320);
    assert!(Format::Q8_0.tile_bytes() == 544);
    assert!(Format::F16.tile_bytes() == 1024);
    assert!(Format::F32.tile_bytes() == 2048);
};
