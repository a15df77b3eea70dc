//! Products of integer matrices stored by input ([`super::Layout::Inputs`]): chosen inputs of one token, and all
//! inputs of many.
//!
//! The contract is that of the integer formats, with what is left out as zero: the dot product of a k-block is
//! exact, so in whatever order its inputs are added the bits are the same as from tiles.

use super::RawInput;
use super::codes::{Affine4Codes, Codes, Int8Codes, Table4Codes};
use super::matmul::block_sum;
use super::matrix::Lines;
use super::tiles::Gather;
use crate::format::{BLOCK, TILE_ROWS};
use crate::simd::{LANES, Lanes, join_nibbles, zip};
use core::marker::PhantomData;
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

/// The chosen inputs of a k-block, filled up to whole quads by the last one with a quant of zero.
pub(super) struct Chosen {
    /// Where their codes for the first output begin.
    pub lines: [*const u8; BLOCK],
    /// Their quants, four in an i32 as they lie in memory.
    pub quants: [i32; BLOCK / 4],
    /// Quads.
    pub quads: usize,
    /// -128 times the sum of the quants.
    pub offset: i32,
}

impl Chosen {
    /// # Safety
    /// The lines must be there, and quants of them; 1 to 32 inputs of one k-block.
    #[inline(always)]
    unsafe fn new(lines: &Lines, inputs: &[u32], quants: *const i8) -> Chosen {
        let mut bytes = [0i8; BLOCK];
        // SAFETY: by the contract.
        let (mut chosen, first, stride) = unsafe {
            let (first, stride) = lines.group(k_block(inputs));
            let last = first.add(inputs.last().map_or(0, |i| *i as usize % BLOCK) * stride);
            let quads = inputs.len().min(BLOCK).div_ceil(4);
            (Chosen { lines: [last; BLOCK], quants: [0; BLOCK / 4], quads, offset: 0 }, first, stride)
        };
        for ((line, byte), input) in chosen.lines.iter_mut().zip(&mut bytes).zip(inputs) {
            // SAFETY: by the contract.
            unsafe {
                *line = first.add(*input as usize % BLOCK * stride);
                *byte = *quants.add(*input as usize);
            }
            chosen.offset -= 128 * i32::from(*byte);
        }
        for (quad, four) in chosen.quants.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *quad = i32::from_le_bytes(four.map(|b| b as u8));
        }
        chosen
    }
}

/// Exact dot products of the chosen inputs; the same part of what is needed `later` is asked for meanwhile: its
/// place is known, and no processor guesses it.
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
    unsafe fn dot32(chosen: &Chosen, later: &Chosen, skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // SAFETY: by the contract.
        unsafe {
            // Sums of at most 32 products of 7-bit numbers are exact in f32.
            let mut sums = [Self::L::splat(0.0); 2];
            for i in 0..(4 * chosen.quads).min(BLOCK) {
                Self::L::prefetch(later.lines[i].wrapping_add(skip));
                let [a, b] = Self::C::read::<Self::L>(chosen.lines[i].add(skip), table);
                let x = Self::L::splat(f32::from(chosen.quants[i / 4].to_le_bytes()[i % 4] as i8));
                sums = [sums[0].add(a.mul(x)), sums[1].add(b.mul(x))];
            }
            sums
        }
    }

    /// Of 64 outputs.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn dot64(chosen: &Chosen, later: &Chosen, skip: usize, table: &[i8; 16]) -> [Self::L; 4] {
        // SAFETY: by the contract.
        unsafe {
            let [a, b] = Self::dot32(chosen, later, skip, table);
            let [c, d] = Self::dot32(chosen, later, skip + Self::C::BYTES, table);
            [a, b, c, d]
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
    let (mut inputs, mut rest) = first_block(active);
    if inputs.is_empty() {
        return;
    }
    // SAFETY: by the contract; `inputs` is never empty.
    unsafe {
        let mut chosen = Chosen::new(lines, inputs, x.quants);
        loop {
            let kb = k_block(inputs);
            let (next, behind) = first_block(rest);
            let last = next.is_empty();
            let next = if last { inputs } else { next };
            let later = Chosen::new(lines, next, x.quants);
            let shared = lines.shared(kb).cast::<u16>();
            let soon = lines.shared(k_block(next)).cast::<u16>();
            let add = Add { scale: *x.scales.add(kb), sum: block_sum(chosen.offset), shared, soon, outputs };
            let mut b = blocks.start;
            while b + 2 <= blocks.end {
                let dots = D::dot64(&chosen, &later, b * D::C::BYTES, table);
                add.to::<D::L, 4>(D::C::AFFINE, &dots, b * BLOCK, y.add((b - blocks.start) * BLOCK));
                b += 2;
            }
            if b < blocks.end {
                let dots = D::dot32(&chosen, &later, b * D::C::BYTES, table);
                add.to::<D::L, 2>(D::C::AFFINE, &dots, b * BLOCK, y.add((b - blocks.start) * BLOCK));
            }
            if last {
                return;
            }
            (inputs, chosen, rest) = (next, later, behind);
        }
    }
}

/// The inputs of the first one's k-block, and the others.
fn first_block(inputs: &[u32]) -> (&[u32], &[u32]) {
    let n = inputs.iter().take_while(|i| **i as usize / BLOCK == k_block(inputs)).count();
    inputs.split_at_checked(n).unwrap_or((inputs, &[]))
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
    /// Adds to outputs `at..at + 16 * N`, which begin at `y`.
    ///
    /// # Safety
    /// There must be scales and floats for them; `L`'s features must be there.
    #[inline(always)]
    unsafe fn to<L: Lanes, const N: usize>(&self, affine: bool, dots: &[L; N], at: usize, y: *mut f32) {
        for (i, dot) in dots.iter().enumerate() {
            // SAFETY: by the contract.
            unsafe {
                let at = at + i * LANES;
                L::prefetch(self.soon.wrapping_add(at).cast());
                let (y, scale) = (y.add(i * LANES), L::load_f16(self.shared.add(at)));
                let mut sum = L::load(y).add(dot.mul(scale.mul(L::splat(self.scale))));
                if affine {
                    L::prefetch(self.soon.wrapping_add(self.outputs + at).cast());
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
