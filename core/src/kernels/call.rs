//! The operands of a matrix kernel, the same for all of them.

use crate::format::{BLOCK, Geometry, Lines, PanelTiles, TILE_ROWS};
use core::ops::Range;

/// The scale of a block, and what the block adds to a sum of minima: see [`Input::scales`].
pub type Scale = [f32; 2];

/// The offsets of a block and of its first half: see [`Input::offsets`].
pub type Offset = [i32; 2];

/// Rows of inputs, one per token, as floats and (for integer formats) quantized by block.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Length of a row, a multiple of 32.
    pub width: usize,
    /// [tokens, width]; may be empty when only integer formats read it.
    pub values: &'a [f32],
    /// [tokens, width], round(x / scale); may be empty when only float formats read it.
    pub quants: &'a [i8],
    /// [tokens, width / 32], largest |x| of the block / 127, and that times the sum of the block's quants, by which
    /// minima of weights are multiplied.
    pub scales: &'a [Scale],
    /// [tokens, width / 32]: -128 times the sum of the block's quants, and the same of its first half. A kernel whose
    /// weights are shifted by 128 to be unsigned begins its sum at this number, which takes the shift out again.
    pub offsets: &'a [Offset],
}

impl Input<'_> {
    /// The rows of some tokens, as a kernel for this matrix reads them.
    ///
    /// # Panics
    /// When the width does not fit the matrix, or there are fewer rows than tokens.
    pub(super) fn rows(&self, m: &Geometry, tokens: Range<usize>) -> RawInput {
        assert!(self.width == m.input_width(), "input width does not fit the matrix");
        assert!(tokens.start <= tokens.end, "tokens out of order");
        // A product that wraps would ask for too little.
        let (numbers, int8) = (tokens.end.saturating_mul(self.width), m.takes_int8());
        if int8 {
            let blocks = tokens.end.saturating_mul(self.width / BLOCK);
            assert!(self.quants.len() >= numbers, "too few quantized inputs");
            assert!(self.scales.len() >= blocks && self.offsets.len() >= blocks, "too few input scales");
        } else {
            assert!(self.values.len() >= numbers, "too few inputs");
        }
        let (numbers, blocks) = (tokens.start * self.width, tokens.start * (self.width / BLOCK));
        RawInput {
            width: self.width,
            values: self.values.as_ptr().wrapping_add(numbers),
            quants: self.quants.as_ptr().wrapping_add(numbers),
            scales: self.scales.as_ptr().wrapping_add(blocks),
            offsets: self.offsets.as_ptr().wrapping_add(blocks),
        }
    }
}

/// Rows of inputs without their lengths; arrays that a kernel does not read may be of any length.
#[derive(Clone, Copy)]
pub(super) struct RawInput {
    pub(super) width: usize,
    pub(super) values: *const f32,
    pub(super) quants: *const i8,
    pub(super) scales: *const Scale,
    pub(super) offsets: *const Offset,
}

impl RawInput {
    /// The same rows from k-block `kb` on.
    pub(super) fn block(&self, kb: usize) -> RawInput {
        RawInput {
            width: self.width,
            values: self.values.wrapping_add(kb * BLOCK),
            quants: self.quants.wrapping_add(kb * BLOCK),
            scales: self.scales.wrapping_add(kb),
            offsets: self.offsets.wrapping_add(kb),
        }
    }

    /// K-blocks of a row.
    #[inline(always)]
    pub(super) fn blocks(&self) -> usize {
        self.width / BLOCK
    }
}

/// First bytes of the lines of 16 outputs.
pub(super) type RowStarts = [*const u8; TILE_ROWS];

/// How many runs of tiles a thread reads at most before it does anything else. Other work touches other pages of memory, and then
/// the processor takes the next weights for a new stream: on a Zen 4, ten loads from other pages after every 36 KB of weights cost
/// 300 ns, a fifth of the time.
pub const RUNS: usize = 16;

/// Tiles that are read one after the other: those of a panel in the order of its inputs or, to add one k-block, those of several
/// panels.
#[derive(Clone, Copy)]
pub(super) struct TileRun {
    /// First tile.
    pub(super) start: *const u8,
    /// The numbers of the first super-block, where the format has super-blocks.
    pub(super) supers: *const u8,
    /// The first k-block of `x` that they are multiplied by.
    pub(super) block: usize,
    /// Where the first token's outputs go.
    pub(super) out: *mut f32,
}

/// Runs of tiles of the same shape, which is that of `tiles`.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    /// The run that a kernel reads, and those that are read after it: these are prefetched.
    pub(super) list: &'a [TileRun],
    /// Where the run begins that is read after these: a hint.
    pub(super) next: *const u8,
    /// How the tiles of a run lie; the addresses are those of the first run.
    pub(super) tiles: PanelTiles,
}

/// The part of a matrix that a kernel reads.
pub(super) enum Weights<'a> {
    /// Tiles.
    Tiles(Runs<'a>),
    /// Lines of 16 outputs, and lines to be prefetched.
    Rows(&'a RowStarts, &'a RowStarts),
    /// Lines of inputs.
    Inputs {
        /// The matrix.
        lines: Lines,
        /// The sorted numbers of the inputs that are added for one token; empty where all are read.
        active: &'a [u32],
        /// Blocks of 32 outputs or, for kernels that compute one panel, the panel.
        outputs: Range<usize>,
    },
}

/// The operands of a matrix kernel.
pub(super) struct Call<'a> {
    /// The integers that 4-bit codes stand for.
    pub(super) table: &'a [i8; 16],
    /// The part of the matrix.
    pub(super) weights: Weights<'a>,
    /// The inputs, from the first token on (and from the k-block on, if one k-block is added).
    pub(super) x: RawInput,
    /// Tokens.
    pub(super) tokens: usize,
    /// Where the first token's outputs go, as many as the kernel computes.
    pub(super) out: *mut f32,
    /// Floats from a token's outputs to the next token's.
    pub(super) stride: usize,
    /// Whether no other thread reads weights meanwhile.
    pub(super) alone: bool,
}

/// A matrix kernel of one shape and arithmetic.
///
/// # Safety
/// The processor must have the kernel's instruction set; every tile or line in `weights` must be readable, `x` must
/// have `tokens` rows, and `out` must be valid for the shape's outputs at each multiple of `stride` below `tokens`.
pub(super) type MatrixKernel = unsafe fn(&Call);

/// The call is for another shape, which is a mistake in the dispatch.
#[cold]
#[inline(never)]
fn wrong_shape() -> ! {
    panic!("a matrix kernel was called for another shape")
}

impl<'a> Call<'a> {
    /// Runs of tiles.
    #[inline(always)]
    pub(super) fn runs(&self) -> &Runs<'a> {
        match &self.weights {
            Weights::Tiles(runs) => runs,
            _ => wrong_shape(),
        }
    }

    /// Makes it the call for the first run of `list`, multiplied by blocks of `x`; later runs are prefetched.
    #[inline(always)]
    pub(super) fn set_run(&mut self, list: &'a [TileRun], x: &RawInput) {
        let (Weights::Tiles(runs), Some(first)) = (&mut self.weights, list.first()) else { return };
        (runs.list, runs.tiles.start, runs.tiles.supers) = (list, first.start, first.supers);
        (self.x, self.out) = (x.block(first.block), first.out);
    }

    /// Lines of 16 outputs, and lines to be prefetched.
    #[inline(always)]
    pub(super) fn rows(&self) -> (&RowStarts, &RowStarts) {
        match &self.weights {
            Weights::Rows(rows, prefetch) => (rows, prefetch),
            _ => wrong_shape(),
        }
    }

    /// Lines of inputs, the active ones, and blocks of outputs.
    #[inline(always)]
    pub(super) fn inputs(&self) -> (&Lines, &[u32], Range<usize>) {
        match &self.weights {
            Weights::Inputs { lines, active, outputs } => (lines, active, outputs.clone()),
            _ => wrong_shape(),
        }
    }
}
