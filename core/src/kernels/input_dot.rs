//! Products of integer matrices stored by input ([`crate::format::Order::Inputs`]) with chosen inputs of one token.
//!
//! The contract is that of the integer formats, with inputs that are left out counting as zero. The dot product of a
//! k-block is exact, so the bits are the same as from tiles, whatever the order in which its inputs are added.
//!
//! ```text
//! for every k-block that has active inputs:
//!     collect their lines and quants, filled up to whole quads
//!     for every strip of outputs:
//!         sums = the dot products of the strip's codes with these inputs         (the part an instruction set writes)
//!         outputs += sums * (scale * scale of x)
//! ```

use super::call::Call;
use super::codes::Codes as _;
use super::gather::InputCodes;
use super::heads::{Heads, read_supers};
use super::prefetch::DISTANCE;
use super::quantize::block_sum;
use super::tile_dot::weigh;
use crate::format::{BLOCK, Lines, TILE_ROWS};
use crate::simd::{LANES, Lanes, Proof};
use core::marker::PhantomData;
use core::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

/// The chosen inputs of a k-block.
pub(super) struct Chosen {
    /// The addresses of the inputs' lines. The last line is repeated, with quants of zero, to fill whole quads.
    pub lines: [*const u8; BLOCK],
    /// The lines of later inputs, to be prefetched: no hardware prefetcher can predict which inputs are chosen.
    pub prefetch: [*const u8; BLOCK],
    /// The inputs' quants, four in an i32 in their order in memory.
    pub quants: [i32; BLOCK / 4],
    /// Quads.
    pub quads: usize,
    /// -128 times the sum of the quants.
    pub offset: i32,
}

impl Chosen {
    /// The first `n` of `inputs`; the inputs `ahead` places after them are prefetched.
    ///
    /// # Safety
    /// All inputs must have lines and quants; `n` must be at most 32 and at most the number of inputs.
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
            // SAFETY: both indices are below the number of inputs, all of which have lines and quants, as the caller
            // promises.
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
    /// The dot products of 32 outputs, whose codes begin `skip` bytes after the beginning of the lines.
    ///
    /// # Safety
    /// The lines must have codes of 32 outputs at `skip`; `chosen` must have at most 8 quads.
    #[inline(always)]
    unsafe fn dot32(isa: Proof<Self::L>, chosen: &Chosen, skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // Sums of at most 32 products of 7-bit numbers are exact in f32.
        let mut sums = [Self::L::splat(isa, 0.0); 2];
        for i in 0..(4 * chosen.quads).min(BLOCK) {
            Self::L::prefetch(isa, chosen.prefetch[i].wrapping_add(skip));
            // SAFETY: the caller's lines have the codes of 32 outputs at `skip`.
            let codes = unsafe { &*chosen.lines[i].add(skip).cast() };
            let [a, b] = Self::C::read::<Self::L>(isa, codes, table);
            let x = Self::L::splat(isa, f32::from(chosen.quants[i / 4].to_le_bytes()[i % 4] as i8));
            sums = [sums[0].add(a.mul(x)), sums[1].add(b.mul(x))];
        }
        sums
    }

    /// Writes the dot products of `n` blocks of 32 outputs, at most a strip, to `sums`.
    ///
    /// # Safety
    /// As [`InputDot::dot32`] for all blocks; `sums` must be writable for 32 floats a block, of the next multiple of four
    /// blocks.
    #[inline(always)]
    unsafe fn dots(isa: Proof<Self::L>, chosen: &Chosen, skip: usize, n: usize, table: &[i8; 16], sums: *mut f32) {
        for b in 0..n {
            // SAFETY: the caller's lines have the codes of `n` blocks, and `sums` is writable for 32 floats of each.
            unsafe {
                let [low, high] = Self::dot32(isa, chosen, skip + b * Self::C::BYTES, table);
                low.store(&mut *sums.add(b * BLOCK).cast());
                high.store(&mut *sums.add(b * BLOCK + LANES).cast());
            }
        }
    }
}

/// [`InputDot`] in terms of float lanes only, for instruction sets without faster code of their own.
pub(super) struct ByLanes<L, C>(PhantomData<(L, C)>);
impl<L: Lanes, C: InputCodes> InputDot for ByLanes<L, C> {
    type L = L;
    type C = C;
}

/// Adds the products of the active inputs (in order) to blocks of 32 outputs, for one token.
///
/// # Safety
/// As [`super::call::MatrixKernel`], for the blocks of outputs.
#[inline(always)]
pub(super) unsafe fn gemv_inputs<H: Heads, D: InputDot>(isa: Proof<D::L>, call: &Call) {
    let (lines, active, blocks) = call.inputs();
    // A local copy of the table, so that the compiler knows that stores to the outputs do not change it.
    let (x, outputs, table) = (&call.x, lines.blocks() * BLOCK, *call.table);
    let mut sums = MaybeUninit::<[[f32; STRIP * BLOCK]; 2]>::uninit();
    let sums = sums.as_mut_ptr().cast::<[f32; STRIP * BLOCK]>();
    let sums = [sums.cast::<f32>(), sums.wrapping_add(1).cast::<f32>()];
    let distance = DISTANCE / (blocks.len() * D::C::BYTES).max(1);
    let mut inputs = active;
    while !inputs.is_empty() {
        let kb = k_block(inputs);
        let n = inputs.iter().take_while(|i| **i as usize / BLOCK == kb).count().min(BLOCK);
        let (these, rest) = (inputs, inputs.get(n..).unwrap_or_default());
        // Where halves of a block have integers of their own, the inputs of the second half are summed separately.
        let first =
            if H::HALVED { these.iter().take(n).filter(|i| **i as usize % BLOCK < BLOCK / 2).count() } else { n };
        // All of a k-block's lines are read side by side, so that nearer ones are read already.
        let ahead = distance.max(n);
        // SAFETY: the caller's active inputs have lines with all blocks, quants, and k-blocks with heads; a strip's
        // sums are written before they are read.
        unsafe {
            let chosen = Chosen::new(lines, these, first, ahead, x.quants);
            let second = Chosen::new(lines, these.get(first..).unwrap_or_default(), n - first, ahead, x.quants);
            let (heads, supers) = (lines.heads(kb), lines.supers(kb));
            let prefetch = lines.heads(k_block(rest));
            let ([scale, _], sum) = (*x.scales.add(kb), block_sum(chosen.offset + second.offset));
            let add = Add { scale, sum, heads, supers, prefetch, outputs };
            for at in blocks.clone().step_by(STRIP) {
                let n = STRIP.min(blocks.end - at);
                D::dots(isa, &chosen, at * D::C::BYTES, n, &table, sums[0]);
                if H::HALVED {
                    D::dots(isa, &second, at * D::C::BYTES, n, &table, sums[1]);
                }
                for b in 0..n {
                    let dots = sums.map(|sums| sums.wrapping_add(b * BLOCK).cast_const());
                    let panel = (at + b) * (BLOCK / TILE_ROWS);
                    add.to::<D::L, H>(isa, dots, panel, call.out.add((at + b - blocks.start) * BLOCK));
                }
            }
        }
        inputs = rest;
    }
}

/// The k-block that these inputs are in.
fn k_block(inputs: &[u32]) -> usize {
    inputs.first().map_or(0, |i| *i as usize / BLOCK)
}

/// The numbers that turn dot products of a k-block into outputs.
struct Add {
    /// The inputs' scale.
    scale: f32,
    /// The sum of the inputs' quants.
    sum: f32,
    /// Heads of all outputs.
    heads: *const u8,
    /// Numbers of their super-blocks.
    supers: *const u8,
    /// Heads of the next k-block.
    prefetch: *const u8,
    outputs: usize,
}

impl Add {
    /// Adds 32 dot products (of both halves, where these have integers) to the outputs of panels `panel` and
    /// `panel + 1`, which begin at `y`.
    ///
    /// # Safety
    /// The heads and super-blocks' numbers of both panels must be readable, each of `dots` readable for 32 floats, and
    /// `y` readable and writable for 32.
    #[inline(always)]
    unsafe fn to<L: Lanes, H: Heads>(&self, isa: Proof<L>, dots: [*const f32; 2], panel: usize, y: *mut f32) {
        L::prefetch(isa, self.prefetch.wrapping_add(size_of::<H>() * panel));
        if H::AFFINE {
            L::prefetch(isa, self.prefetch.wrapping_add(2 * (self.outputs + panel * TILE_ROWS)));
        }
        for i in 0..BLOCK / TILE_ROWS {
            // SAFETY: the caller gives 32 dot products and 32 outputs, which are the two panels, and their heads.
            unsafe {
                let dot = |part: usize| L::load(isa, &*dots[part].add(i * LANES).cast());
                let heads = H::of_panel(self.heads, self.outputs, panel + i);
                let supers = self.supers.wrapping_add(2 * TILE_ROWS * H::SUPERS * (panel + i));
                let supers = read_supers::<L, H>(isa, supers);
                let dot = if H::HALVED { weigh([dot(0), dot(1)], &heads.halves(isa)) } else { dot(0) };
                let y = &mut *y.add(i * LANES).cast();
                let scales = heads.scales(isa, &supers);
                let mut sum = L::load(isa, y).add(dot.mul(scales.mul(L::splat(isa, self.scale))));
                if H::AFFINE {
                    sum = sum.add(heads.minima(isa, &supers).mul(L::splat(isa, self.scale * self.sum)));
                }
                sum.store(y);
            }
        }
    }
}
