//! Products of integer matrices stored by input ([`crate::format::Order::Inputs`]): chosen inputs of one token, and all
//! inputs of many.
//!
//! The contract is that of the integer formats, with what is left out as zero: the dot product of a k-block is
//! exact, so in whatever order its inputs are added the bits are the same as from tiles.

use super::RawInput;
use super::codes::{Affine4Codes, Codes, Int8Codes, Table4Codes};
use super::matmul::block_sum;
use super::prefetch::AHEAD;
use super::tiles::Gather;
use crate::format::{BLOCK, Lines, TILE_ROWS};
use crate::simd::{LANES, Lanes, join_nibbles, zip};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Codes of 32 outputs in the line of an input.
pub(super) trait InputCodes: Codes {
    /// Makes the codes of a tile of outputs `16 * half..` of 32 out of the same part of 32 lines.
    ///
    /// # Safety
    /// There must be [`Codes::BYTES`] at every line, and room for a tile's codes.
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8);
}

impl InputCodes for Int8Codes {
    #[inline(always)]
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
        for quad in 0..BLOCK / 4 {
            // SAFETY: by the contract.
            unsafe {
                let part = |i: usize| lines[4 * quad + i].add(half * LANES).cast::<u128>().read_unaligned();
                zip([part(0), part(1), part(2), part(3)], tile.add(64 * quad));
            }
        }
    }
}

/// Nibbles of tiles: inputs `4 * quad..` in the low halves, those 16 later in the high ones.
///
/// # Safety
/// As [`InputCodes::gather`].
#[inline(always)]
unsafe fn gather_nibbles(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
    for quad in 0..4 {
        // SAFETY: by the contract.
        unsafe {
            let part = |i: usize| join_nibbles(lines[4 * quad + i], lines[16 + 4 * quad + i], half);
            zip([part(0), part(1), part(2), part(3)], tile.add(64 * quad));
        }
    }
}

impl InputCodes for Table4Codes {
    #[inline(always)]
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe { gather_nibbles(lines, half, tile) }
    }
}

impl InputCodes for Affine4Codes {
    #[inline(always)]
    unsafe fn gather(lines: &[*const u8; BLOCK], half: usize, tile: *mut u8) {
        // SAFETY: by the contract.
        unsafe { gather_nibbles(lines, half, tile) }
    }
}

/// The chosen inputs of a k-block.
pub(super) struct Chosen {
    /// Where their codes for the first output begin, filled up to whole quads by the last one, with a quant of zero.
    pub lines: [*const u8; BLOCK],
    /// As many lines that are needed later: their place is known, and no processor guesses it.
    pub later: [*const u8; BLOCK],
    /// Their quants, four in an i32 as they lie in memory.
    pub quants: [i32; BLOCK / 4],
    /// Quads.
    pub quads: usize,
    /// -128 times the sum of the quants.
    pub offset: i32,
}

impl Chosen {
    /// The first `n` of some inputs; those `ahead` of them are to be asked for.
    ///
    /// # Safety
    /// The lines must be there, and quants of them; `n` is 1 to 32, of one k-block, and no more than the inputs.
    #[inline(always)]
    unsafe fn new(lines: &Lines, inputs: &[u32], n: usize, ahead: usize, quants: *const i8) -> Chosen {
        let mut bytes = [0i8; BLOCK];
        let mut chosen = Chosen {
            lines: [core::ptr::null(); BLOCK],
            later: [core::ptr::null(); BLOCK],
            quants: [0; BLOCK / 4],
            quads: n.div_ceil(4),
            offset: 0,
        };
        for (i, byte) in bytes.iter_mut().enumerate().take(n.next_multiple_of(4)) {
            // SAFETY: inputs that are there, and their lines and quants, by the contract.
            unsafe {
                let input = |i: usize| *inputs.as_ptr().add(i) as usize;
                let this = input(i.min(n - 1));
                chosen.lines[i] = lines.line(this);
                chosen.later[i] = lines.line(input((i + ahead).min(inputs.len() - 1)));
                if i < n {
                    *byte = *quants.add(this);
                }
            }
            chosen.offset -= 128 * i32::from(*byte);
        }
        for (quad, four) in chosen.quants.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *quad = i32::from_le_bytes(four.map(|b| b as u8));
        }
        chosen
    }
}

/// Blocks of outputs whose sums are held on the stack at once: lines are read in long runs, which is what memory is fast
/// at, but a small machine's stack is small.
pub(super) const STRIP: usize = if cfg!(target_pointer_width = "64") { 64 } else { 16 };

/// The sums of a strip.
pub(super) type Sums = [f32; STRIP * BLOCK];

/// Exact dot products of the chosen inputs; what is needed later is asked for meanwhile.
///
/// # Safety
/// Methods may only be called where the implementation's target features are there, with codes for the outputs
/// at `skip` bytes behind each line's start.
pub(super) unsafe trait InputDot {
    /// The float lanes that go with it.
    type L: Lanes;
    /// The arrangement of the codes.
    type C: InputCodes;

    /// Of 32 outputs.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn dot32(chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // SAFETY: by the contract.
        unsafe {
            // Sums of at most 32 products of 7-bit numbers are exact in f32.
            let mut sums = [Self::L::splat(0.0); 2];
            for i in 0..(4 * chosen.quads).min(BLOCK) {
                Self::L::prefetch(chosen.later[i].wrapping_add(skip));
                let [a, b] = Self::C::read::<Self::L>(chosen.lines[i].add(skip), table);
                let x = Self::L::splat(f32::from(chosen.quants[i / 4].to_le_bytes()[i % 4] as i8));
                sums = [sums[0].add(a.mul(x)), sums[1].add(b.mul(x))];
            }
            sums
        }
    }

    /// Of `n` blocks of 32 outputs, at most a strip: to `sums`.
    ///
    /// # Safety
    /// See the trait; `sums` must be valid for a strip's.
    #[inline(always)]
    unsafe fn dots(chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
        for b in 0..n {
            // SAFETY: by the contract.
            unsafe {
                let [low, high] = Self::dot32(chosen, skip + b * Self::C::BYTES, table);
                low.store(sums.add(b * BLOCK));
                high.store(sums.add(b * BLOCK + LANES));
            }
        }
    }
}

/// [`InputDot`] as it stands.
pub(super) struct Plain<L, C>(PhantomData<(L, C)>);
// SAFETY: uses nothing but `L`.
unsafe impl<L: Lanes, C: InputCodes> InputDot for Plain<L, C> {
    type L = L;
    type C = C;
}

/// Adds the inputs in `active` (in order) to outputs `32 * blocks`, one token.
///
/// # Safety
/// Every active line must be there, `x` must have a quant for each and the blocks' scales, `y` (which stands for
/// the first block's first output) 32 floats a block, a k-block's shared part scales for `outputs`; `D`'s
/// features must be there.
#[inline(always)]
pub(super) unsafe fn gemv_codes<D: InputDot>(
    table: &[i8; 16],
    lines: &Lines,
    outputs: usize,
    active: &[u32],
    x: &RawInput,
    blocks: Range<usize>,
    y: *mut f32,
) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    let ahead = (AHEAD / (blocks.len() * D::C::BYTES).max(1)).max(BLOCK / 4);
    let mut inputs = active;
    while !inputs.is_empty() {
        let kb = k_block(inputs);
        let n = inputs.iter().take_while(|i| **i as usize / BLOCK == kb).count().min(BLOCK);
        let rest = inputs.get(n..).unwrap_or_default();
        // SAFETY: by the contract; sums are written before they are read.
        unsafe {
            let chosen = Chosen::new(lines, inputs, n, ahead, x.quants);
            let shared = lines.shared(kb).cast::<u16>();
            let soon = lines.shared(k_block(rest)).cast::<u16>();
            let add = Add { scale: *x.scales.add(kb), sum: block_sum(chosen.offset), shared, soon, outputs };
            for first in blocks.clone().step_by(STRIP) {
                let n = STRIP.min(blocks.end - first);
                D::dots(&chosen, first * D::C::BYTES, n, table, sums);
                for b in 0..n {
                    let dots = sums.add(b * BLOCK);
                    let dots = [D::L::load(dots), D::L::load(dots.add(LANES))];
                    add.to::<D::L>(D::C::AFFINE, &dots, (first + b) * BLOCK, y.add((first + b - blocks.start) * BLOCK));
                }
            }
        }
        inputs = rest;
    }
}

/// The k-block of some of its inputs.
fn k_block(inputs: &[u32]) -> usize {
    inputs.first().map_or(0, |i| *i as usize / BLOCK)
}

/// What turns dot products of a k-block into outputs.
struct Add {
    /// The inputs' scale.
    scale: f32,
    /// The sum of the inputs' quants.
    sum: f32,
    /// Scales of the outputs, minima `outputs` behind them.
    shared: *const u16,
    /// Those of the k-block that comes next.
    soon: *const u16,
    outputs: usize,
}

impl Add {
    /// Adds to outputs `at..at + 32`, which begin at `y`.
    ///
    /// # Safety
    /// There must be scales and floats for them; `L`'s features must be there.
    #[inline(always)]
    unsafe fn to<L: Lanes>(&self, affine: bool, dots: &[L; 2], at: usize, y: *mut f32) {
        // SAFETY: by the contract.
        unsafe {
            L::prefetch(self.soon.wrapping_add(at).cast());
            if affine {
                L::prefetch(self.soon.wrapping_add(self.outputs + at).cast());
            }
            for (i, dot) in dots.iter().enumerate() {
                let at = at + i * LANES;
                let (y, scale) = (y.add(i * LANES), L::load_f16(self.shared.add(at)));
                let mut sum = L::load(y).add(dot.mul(scale.mul(L::splat(self.scale))));
                if affine {
                    let min = L::load_f16(self.shared.add(self.outputs + at));
                    sum = sum.add(min.mul(L::splat(self.scale * self.sum)));
                }
                sum.store(y);
            }
        }
    }
}

/// Tiles out of the lines of 32 inputs.
pub(super) struct GatheredCodes<C> {
    lines: Lines,
    panel: usize,
    outputs: usize,
    kb: usize,
    codes: PhantomData<C>,
}

impl<C: InputCodes> GatheredCodes<C> {
    /// Tiles of `panel` out of `outputs`.
    ///
    /// # Safety
    /// The lines must be there.
    pub(super) unsafe fn new(lines: &Lines, panel: usize, outputs: usize) -> Self {
        GatheredCodes { lines: *lines, panel, outputs, kb: 0, codes: PhantomData }
    }
}

impl<L: Lanes, C: InputCodes> Gather<L> for GatheredCodes<C> {
    #[inline(always)]
    unsafe fn run(&mut self, n: usize, _once: bool, room: *mut u8) {
        for i in 0..n {
            // SAFETY: by the contracts of this and of `new`.
            unsafe {
                let tile = room.add(i * C::FORMAT.tile_bytes());
                let shared = self.lines.shared(self.kb).cast::<u16>().add(self.panel * TILE_ROWS);
                for i in 0..C::SHARED / 2 {
                    let numbers = shared.add(i * self.outputs).cast::<[u16; TILE_ROWS]>().read_unaligned();
                    tile.cast::<[u16; TILE_ROWS]>().add(i).write_unaligned(numbers);
                }
                let skip = self.panel / 2 * C::BYTES;
                let (first, stride) = self.lines.group(self.kb);
                let mut lines = [first; BLOCK];
                for (k, line) in lines.iter_mut().enumerate() {
                    *line = first.add(k * stride + skip);
                }
                C::gather(&lines, self.panel % 2, tile.add(C::SHARED * TILE_ROWS));
            }
            self.kb += 1;
        }
    }
}
