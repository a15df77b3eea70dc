//! Products of integer matrices stored by input ([`crate::format::Order::Inputs`]) with chosen inputs of one token.
//!
//! The contract is that of the integer formats, with inputs that are left out as zero: the dot product of a k-block is
//! exact, so in whatever order its inputs are added the bits are the same as from tiles.
//!
//! ```text
//! for every k-block that has active inputs:
//!     collect their lines and quants, filled up to whole quads
//!     for every strip of outputs:
//!         sums = the dot products of the strip's codes with these inputs         (the part an instruction set writes)
//!         outputs += sums * (scale * scale of x)
//! ```

use super::call::Call;
use super::codes::Codes;
use super::gather::InputCodes;
use super::prefetch::DISTANCE;
use super::quantize::block_sum;
use crate::format::{BLOCK, Lines};
use crate::simd::{LANES, Lanes, Proof};
use core::marker::PhantomData;
use core::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

/// The chosen inputs of a k-block.
pub(super) struct Chosen {
    /// Where their codes for the first output begin, filled up to whole quads by the last one, with a quant of zero.
    pub lines: [*const u8; BLOCK],
    /// As many lines of inputs further on: their place is known, and no processor guesses it.
    pub prefetch: [*const u8; BLOCK],
    /// Their quants, four in an i32 as they lie in memory.
    pub quants: [i32; BLOCK / 4],
    /// Quads.
    pub quads: usize,
    /// -128 times the sum of the quants.
    pub offset: i32,
}

impl Chosen {
    /// The first `n` of some inputs; those `ahead` of them are to be prefetched.
    ///
    /// # Safety
    /// All inputs must have lines, and quants; `n` must be 1 to 32, and no more than the inputs.
    #[inline(always)]
    unsafe fn new(lines: &Lines, inputs: &[u32], n: usize, ahead: usize, quants: *const i8) -> Chosen {
        let mut bytes = [0i8; BLOCK];
        let mut chosen = Chosen {
            lines: [core::ptr::null(); BLOCK],
            prefetch: [core::ptr::null(); BLOCK],
            quants: [0; BLOCK / 4],
            quads: n.div_ceil(4),
            offset: 0,
        };
        for (i, byte) in bytes.iter_mut().enumerate().take(n.next_multiple_of(4)) {
            // SAFETY: both places are below the number of inputs, which have lines and quants.
            unsafe {
                let input = |i: usize| *inputs.as_ptr().add(i) as usize;
                let this = input(i.min(n - 1));
                chosen.lines[i] = lines.line(this);
                chosen.prefetch[i] = lines.line(input((i + ahead).min(inputs.len() - 1)));
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

/// Blocks of outputs whose sums are held on the stack at once: lines are read in long runs, at which memory is fastest,
/// but a small machine's stack is small.
const STRIP: usize = if cfg!(target_pointer_width = "64") { 64 } else { 16 };

/// Exact dot products of the chosen inputs, on one instruction set; other lines are prefetched meanwhile.
pub(super) trait InputDot {
    /// The float lanes that go with it; their proof is one of all instructions used here.
    type L: Lanes;
    /// The arrangement of the codes.
    type C: InputCodes;

    /// Of 32 outputs, whose codes lie `skip` bytes after the beginning of the lines.
    ///
    /// # Safety
    /// The lines must have these codes; there must be at most 8 quads.
    #[inline(always)]
    unsafe fn dot32(isa: Proof<Self::L>, chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // Sums of at most 32 products of 7-bit numbers are exact in f32.
        let mut sums = [Self::L::splat(isa, 0.0); 2];
        for i in 0..(4 * chosen.quads).min(BLOCK) {
            Self::L::prefetch(isa, chosen.prefetch[i].wrapping_add(skip));
            // SAFETY: line `i` has these codes.
            let codes = unsafe { &*chosen.lines[i].add(skip).cast() };
            let [a, b] = Self::C::read::<Self::L>(isa, codes, table);
            let x = Self::L::splat(isa, f32::from(chosen.quants[i / 4].to_le_bytes()[i % 4] as i8));
            sums = [sums[0].add(a.mul(x)), sums[1].add(b.mul(x))];
        }
        sums
    }

    /// Of `n` blocks of 32 outputs, at most a strip: to `sums`.
    ///
    /// # Safety
    /// As [`InputDot::dot32`] for all blocks; `sums` must be writable for 32 floats a block.
    #[inline(always)]
    unsafe fn dots(isa: Proof<Self::L>, chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
        for b in 0..n {
            // SAFETY: the lines have the codes of `n` blocks, and `sums` has room for them.
            unsafe {
                let [low, high] = Self::dot32(isa, chosen, skip + b * Self::C::BYTES, table);
                low.store(&mut *sums.add(b * BLOCK).cast());
                high.store(&mut *sums.add(b * BLOCK + LANES).cast());
            }
        }
    }
}

/// [`InputDot`] by lanes alone.
pub(super) struct ByLanes<L, C>(PhantomData<(L, C)>);
impl<L: Lanes, C: InputCodes> InputDot for ByLanes<L, C> {
    type L = L;
    type C = C;
}

/// Adds the active inputs (in order) to blocks of 32 outputs, one token.
///
/// # Safety
/// As [`super::call::MatrixKernel`], for the blocks of outputs.
#[inline(always)]
pub(super) unsafe fn gemv_inputs<D: InputDot>(isa: Proof<D::L>, call: &Call) {
    let (lines, active, blocks) = call.inputs();
    // The table is a copy, which no store to the outputs can change.
    let (x, outputs, table) = (&call.x, lines.blocks() * BLOCK, *call.table);
    let mut sums = MaybeUninit::<[f32; STRIP * BLOCK]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    let ahead = (DISTANCE / (blocks.len() * D::C::BYTES).max(1)).max(BLOCK / 4);
    let mut inputs = active;
    while !inputs.is_empty() {
        let kb = k_block(inputs);
        let n = inputs.iter().take_while(|i| **i as usize / BLOCK == kb).count().min(BLOCK);
        let rest = inputs.get(n..).unwrap_or_default();
        // SAFETY: every active input has a line with all blocks, a quant and a k-block with scales; a strip's sums are
        // written before they are read.
        unsafe {
            let chosen = Chosen::new(lines, inputs, n, ahead, x.quants);
            let shared = lines.shared(kb).cast::<u16>();
            let prefetch = lines.shared(k_block(rest)).cast::<u16>();
            let add = Add { scale: *x.scales.add(kb), sum: block_sum(chosen.offset), shared, prefetch, outputs };
            for first in blocks.clone().step_by(STRIP) {
                let n = STRIP.min(blocks.end - first);
                D::dots(isa, &chosen, first * D::C::BYTES, n, &table, sums);
                for b in 0..n {
                    let at = (first + b) * BLOCK;
                    add.to::<D::L, D::C>(isa, sums.add(b * BLOCK), at, call.out.add(at - blocks.start * BLOCK));
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

/// The numbers that turn dot products of a k-block into outputs.
struct Add {
    /// The inputs' scale.
    scale: f32,
    /// The sum of the inputs' quants.
    sum: f32,
    /// Scales of the outputs, then their minima, `outputs` further on.
    shared: *const u16,
    /// Those of the next k-block.
    prefetch: *const u16,
    outputs: usize,
}

impl Add {
    /// Adds 32 dot products to outputs `at..at + 32`, which begin at `y`.
    ///
    /// # Safety
    /// The outputs must have scales, and minima where the codes are affine; `dots` must be readable and `y` writable for
    /// 32 floats.
    #[inline(always)]
    unsafe fn to<L: Lanes, C: Codes>(&self, isa: Proof<L>, dots: *const f32, at: usize, y: *mut f32) {
        L::prefetch(isa, self.prefetch.wrapping_add(at).cast());
        if C::AFFINE {
            L::prefetch(isa, self.prefetch.wrapping_add(self.outputs + at).cast());
        }
        // SAFETY: 32 dots, and both halves of these outputs.
        unsafe {
            let dots = [L::load(isa, &*dots.cast()), L::load(isa, &*dots.add(LANES).cast())];
            for (i, dot) in dots.into_iter().enumerate() {
                let at = at + i * LANES;
                let y = &mut *y.add(i * LANES).cast();
                let scale = L::load_f16(isa, &*self.shared.add(at).cast());
                let mut sum = L::load(isa, y).add(dot.mul(scale.mul(L::splat(isa, self.scale))));
                if C::AFFINE {
                    let min = L::load_f16(isa, &*self.shared.add(self.outputs + at).cast());
                    sum = sum.add(min.mul(L::splat(isa, self.scale * self.sum)));
                }
                sum.store(y);
            }
        }
    }
}
