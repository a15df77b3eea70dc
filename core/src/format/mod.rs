//! What the bytes of weights mean: numbers, blocks of numbers, and the order of the blocks in a matrix.
//!
//! Every format stores blocks of [`BLOCK`] weights that share a scale: first the numbers that the weights of a block
//! share, then 32 codes. GGML's K types share more: [`SUPER`] blocks, a *super-block*, share a scale (and a minimum) in
//! `f16`, and each block has small integers of its own that multiply these. [`block`] encodes and decodes a block;
//! [`order`] says where the blocks of a matrix are stored; a [`Matrix`] is bytes that were checked against a
//! [`Geometry`].
//!
//! # Adding a format
//! A row in the table of [`Format`]. Where its arithmetic is one of [`Arithmetic`]'s, that is all: a 4-bit *table*
//! format is a 16-entry `i8` table in front of one integer dot product (`weight = scale * TABLE[code]`), so all of them
//! share their kernels. The scale includes the factor that makes the table integral (1/127 for SF4, 1/2 for E2M1).

pub mod block;
mod head;
mod matrix;
pub mod order;

pub use matrix::{Geometry, Lines, Matrix};
pub use order::{Order, PanelTiles, Shape};

use block::Choice;
pub use head::Head;

/// Weights that share a scale.
pub const BLOCK: usize = 32;
/// Blocks of a super-block.
pub const SUPER: usize = 8;
/// Outputs interleaved in one tile.
pub const TILE_ROWS: usize = 16;

/// The arithmetic that a kernel does with a format's weights.
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
    /// bf16 weights times f32 inputs.
    Bf16 = 5,
    /// 5-bit codes less 16, times i8 inputs.
    Int5 = 6,
    /// 5-bit unsigned codes times i8 inputs, plus a minimum per block.
    Affine5 = 7,
    /// [`Arithmetic::Table4`] with powers of two for scales.
    Power4 = 8,
    /// [`Arithmetic::Affine4`] in super-blocks.
    SuperAffine4 = 9,
    /// [`Arithmetic::Affine5`] in super-blocks.
    SuperAffine5 = 10,
    /// 6-bit codes less 32 in super-blocks, times an integer for each half of a block, times i8 inputs.
    SuperInt6 = 11,
    /// [`Arithmetic::Table4`] in super-blocks.
    SuperTable4 = 12,
    /// 4-bit codes less 8, times i8 inputs.
    Int4 = 13,
}

/// What weights of an arithmetic are made of.
struct Parts {
    /// Numbers (f16) that the blocks of a super-block share.
    supers: usize,
    /// What a block has of its own.
    head: Head,
    /// Bits of a code.
    bits: usize,
}

impl Arithmetic {
    /// How many there are.
    pub const COUNT: usize = Arithmetic::Int4 as usize + 1;

    const fn parts(self) -> Parts {
        let (supers, head, bits) = match self {
            Arithmetic::F32 => (0, Head::Numbers(0), 32),
            Arithmetic::F16 | Arithmetic::Bf16 => (0, Head::Numbers(0), 16),
            Arithmetic::Int8 => (0, Head::Numbers(1), 8),
            Arithmetic::Table4 | Arithmetic::Int4 => (0, Head::Numbers(1), 4),
            Arithmetic::Affine4 => (0, Head::Numbers(2), 4),
            Arithmetic::Int5 => (0, Head::Numbers(1), 5),
            Arithmetic::Affine5 => (0, Head::Numbers(2), 5),
            Arithmetic::Power4 => (0, Head::Exponent, 4),
            Arithmetic::SuperAffine4 => (2, Head::SixBits(2), 4),
            Arithmetic::SuperAffine5 => (2, Head::SixBits(2), 5),
            Arithmetic::SuperInt6 => (1, Head::Halves, 6),
            Arithmetic::SuperTable4 => (1, Head::SixBits(1), 4),
        };
        Parts { supers, head, bits }
    }

    /// Whether a block's weights have a minimum that is added.
    pub const fn has_minimum(self) -> bool {
        use Arithmetic::{Affine4, Affine5, SuperAffine4, SuperAffine5};
        matches!(self, Affine4 | Affine5 | SuperAffine4 | SuperAffine5)
    }
}

/// A row of the table of formats.
struct Row {
    name: &'static str,
    arithmetic: Arithmetic,
    choice: Choice,
    table: [i8; 16],
}

/// The table of a format that has none.
const NONE: [i8; 16] = [0; 16];
/// GGML's `kvalues_iq4nl`.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

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
    Q4_0 = 3, "q4_0", Int4, Extreme, [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7];
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
    /// The upper half of an IEEE single.
    Bf16 = 12, "bf16", Bf16, Exact, NONE;
    /// 5-bit integers -16..15, one scale per block (GGML's Q5_0, its encoder too).
    Q5_0 = 13, "q5_0", Int5, Extreme, NONE;
    /// 5-bit integers 0..31 with scale and minimum per block (GGML's Q5_1, its encoder too).
    Q5_1 = 14, "q5_1", Affine5, Range, NONE;
    /// GGML's IQ4_NL.
    Iq4Nl = 15, "iq4_nl", Table4, SignedSearch, IQ4;
    /// E2M1 with a power of two for a scale (OCP Microscaling Formats 1.0; GGML's MXFP4).
    Mxfp4 = 16, "mxfp4", Power4, Power, [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    /// 4-bit integers 0..15 with 6-bit scales and minima (GGML's Q4_K).
    Q4K = 17, "q4_k", SuperAffine4, Carried, NONE;
    /// 5-bit integers 0..31 with 6-bit scales and minima (GGML's Q5_K).
    Q5K = 18, "q5_k", SuperAffine5, Carried, NONE;
    /// 6-bit integers -32..31 with 8-bit scales for 16 (GGML's Q6_K; Q3_K too).
    Q6K = 19, "q6_k", SuperInt6, Carried, NONE;
    /// [`Format::Iq4Nl`] with 6-bit scales (GGML's IQ4_XS).
    Iq4Xs = 20, "iq4_xs", SuperTable4, Carried, IQ4;
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

    /// Whether numbers can be rounded to it; if not, its blocks can only be copied from a source.
    pub const fn has_encoder(self) -> bool {
        !matches!(self.row().choice, Choice::Carried)
    }

    /// Numbers (f16) that the blocks of a super-block share; 0 where there are no super-blocks.
    pub const fn supers(self) -> usize {
        self.arithmetic().parts().supers
    }

    /// Bytes of these numbers.
    pub const fn super_bytes(self) -> usize {
        2 * self.supers()
    }

    /// Blocks that share numbers: [`SUPER`], or 1.
    pub const fn blocks_together(self) -> usize {
        if self.supers() > 0 { SUPER } else { 1 }
    }

    /// The head of its blocks: the numbers that belong to a block alone.
    pub const fn head(self) -> Head {
        self.arithmetic().parts().head
    }

    /// Bytes of one block of [`BLOCK`] weights on its own (in a matrix, blocks share and pack some of these bytes).
    pub const fn block_bytes(self) -> usize {
        self.header_bytes() + self.code_bytes()
    }

    /// Bytes of the numbers of a block on its own.
    pub const fn header_bytes(self) -> usize {
        self.super_bytes() + self.head().bytes()
    }

    /// Bits of a weight's code.
    pub const fn code_bits(self) -> usize {
        self.arithmetic().parts().bits
    }

    /// Bytes of a block's codes.
    pub const fn code_bytes(self) -> usize {
        BLOCK * self.code_bits() / 8
    }

    /// Bytes of one tile: [`TILE_ROWS`] blocks, interleaved, without what super-blocks share.
    pub const fn tile_bytes(self) -> usize {
        self.head().bytes_of(TILE_ROWS) + TILE_ROWS * self.code_bytes()
    }

    /// The 16 integer values of a table format; zeros for the others.
    pub const fn table(self) -> &'static [i8; 16] {
        &self.row().table
    }
}

const _: () = {
    // A code in an image is an index into the table, so the rows must be in the order of their codes.
    let mut i = 0;
    while i < FORMATS {
        assert!(Format::ALL[i] as usize == i);
        i += 1;
    }
    // Blocks take as many bytes as GGML's blocks of the same type.
    let sizes = [
        (Format::F16, 64),
        (Format::Bf16, 64),
        (Format::Q8_0, 34),
        (Format::Q4_0, 18),
        (Format::Q4_1, 20),
        (Format::Q5_0, 22),
        (Format::Q5_1, 24),
        (Format::Iq4Nl, 18),
        (Format::Mxfp4, 17),
        (Format::Q4K, 144),
        (Format::Q5K, 176),
        (Format::Q6K, 210),
        (Format::Iq4Xs, 136),
    ];
    let mut i = 0;
    while i < sizes.len() {
        let (format, bytes) = sizes[i];
        let tiles = format.blocks_together() * format.tile_bytes();
        assert!(TILE_ROWS * format.super_bytes() + tiles == TILE_ROWS * bytes);
        i += 1;
    }
};
