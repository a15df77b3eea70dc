//! Number formats of weights.
//!
//! Every format stores blocks of [`BLOCK`] weights along the reduction; blocks of 16 neighbouring outputs
//! are interleaved to a *tile* (see [`crate::kernels`]). A 4-bit *table* format is a 16-entry `i8` table in
//! front of one integer dot product: `weight = scale * TABLE[code]`, so all of them share one kernel.
//!
//! The scales are `f16` and include whatever factor makes the table integral (1/127 for SF4, 1/2 for E2M1).

mod matrix;

pub use matrix::{Geometry, Lines, Matrix, Order, PanelTiles};

/// Weights along the reduction that share a scale.
pub const BLOCK: usize = 32;
/// Outputs interleaved in one tile.
pub const TILE_ROWS: usize = 16;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// IEEE single.
    F32 = 0,
    /// IEEE half.
    F16 = 1,
    /// 8-bit integers, one scale per block (GGML's Q8_0).
    Q8_0 = 2,
    /// 4-bit integers -8..7, one scale per block (GGML's Q4_0, its encoder too).
    Q4_0 = 3,
    /// 4-bit integers 0..15 with scale and minimum per block (GGML's Q4_1).
    Q4_1 = 4,
    /// 4-bit integers -7..7, symmetric, scale searched for least squared error.
    Int4 = 5,
    /// Normal float (QLoRA, arXiv 2305.14314).
    Nf4 = 6,
    /// Student float with 5 degrees of freedom (arXiv 2405.03103).
    Sf4 = 7,
    /// FP4: sign, two exponent bits, one mantissa bit.
    E2m1 = 8,
    /// E2M1 with the code of -0 spent on +8 (super-range, arXiv 2405.03103); the scale carries a sign.
    E2m1Sr = 9,
    /// E2M1 with the code of -0 spent on +5 (super-precision, arXiv 2405.03103).
    E2m1Sp = 10,
    /// Additive powers of two (arXiv 1909.13144).
    Apot4 = 11,
}

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

impl Format {
    /// All formats, in the order of their codes.
    pub const ALL: [Format; 12] = [
        Format::F32,
        Format::F16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Int4,
        Format::Nf4,
        Format::Sf4,
        Format::E2m1,
        Format::E2m1Sr,
        Format::E2m1Sp,
        Format::Apot4,
    ];

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
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Int4 => "int4",
            Format::Nf4 => "nf4",
            Format::Sf4 => "sf4",
            Format::E2m1 => "e2m1",
            Format::E2m1Sr => "e2m1-sr",
            Format::E2m1Sp => "e2m1-sp",
            Format::Apot4 => "apot4",
        }
    }

    /// Which kernel serves it.
    pub const fn arithmetic(self) -> Arithmetic {
        match self {
            Format::F32 => Arithmetic::F32,
            Format::F16 => Arithmetic::F16,
            Format::Q8_0 => Arithmetic::Int8,
            Format::Q4_1 => Arithmetic::Affine4,
            _ => Arithmetic::Table4,
        }
    }

    /// Whether the inputs are quantized to 8 bits before the dot product.
    pub const fn takes_int8(self) -> bool {
        !matches!(self, Format::F32 | Format::F16)
    }

    /// Bytes of one block of [`BLOCK`] weights of one output.
    pub const fn block_bytes(self) -> usize {
        match self.arithmetic() {
            Arithmetic::F32 => 4 * BLOCK,
            Arithmetic::F16 => 2 * BLOCK,
            Arithmetic::Int8 => 2 + BLOCK,
            Arithmetic::Table4 => 2 + BLOCK / 2,
            Arithmetic::Affine4 => 4 + BLOCK / 2,
        }
    }

    /// Bytes of a block's scale and minimum.
    pub const fn header_bytes(self) -> usize {
        match self.arithmetic() {
            Arithmetic::F32 | Arithmetic::F16 => 0,
            Arithmetic::Int8 | Arithmetic::Table4 => 2,
            Arithmetic::Affine4 => 4,
        }
    }

    /// Bytes of a block's codes.
    pub const fn code_bytes(self) -> usize {
        self.block_bytes() - self.header_bytes()
    }

    /// Bytes of one tile: [`TILE_ROWS`] blocks, interleaved.
    pub const fn tile_bytes(self) -> usize {
        TILE_ROWS * self.block_bytes()
    }

    /// The 16 integer values of a table format; zeros for the others.
    pub const fn table(self) -> &'static [i8; 16] {
        match self {
            Format::Q4_0 => &[-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7],
            Format::Int4 => &[-7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 0],
            Format::Nf4 => &[-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127],
            Format::Sf4 => &[-127, -80, -58, -42, -30, -19, -10, 0, 8, 17, 26, 36, 48, 62, 83, 127],
            Format::E2m1 => &[-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 0],
            Format::E2m1Sr => &[-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16],
            Format::E2m1Sp => &[-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10, 12],
            Format::Apot4 => &[-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10, 0],
            _ => &[0; 16],
        }
    }
}

const _: () = {
    assert!(Format::Q4_0.tile_bytes() == 288);
    assert!(Format::Q4_1.tile_bytes() == 320);
    assert!(Format::Q8_0.tile_bytes() == 544);
    assert!(Format::F16.tile_bytes() == 1024);
    assert!(Format::F32.tile_bytes() == 2048);
};
