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
use core::ops::Range;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

/// Chosen inputs of a k-block.
pub(super) struct Chosen {
    /// The addresses of the inputs' lines. The last line is repeated, with quants of zero, to fill whole quads.
    pub lines: [*const u8; BLOCK],
    /// The inputs' quants, four in an i32 in their order in memory.
    pub quants: [i32; BLOCK / 4],
    /// Quads.
    pub quads: usize,
    /// -128 times the sum of the quants.
    pub offset: i32,
}

impl Chosen {
    const NONE: Chosen = Chosen { lines: [core::ptr::null(); BLOCK], quants: [0; BLOCK / 4], quads: 0, offset: 0 };

    /// Prefetches the strip at block `at` of the lines of all quads from `quad` on.
    #[inline(always)]
    fn prefetch_strip<D: InputDot>(
        &self,
        isa: Proof<D::L>,
        quad: usize,
        at: usize,
        prefetch: impl Fn(Proof<D::L>, *const u8),
    ) {
        for i in 4 * quad..4 * self.quads.min(BLOCK / 4) {
            for line in 0..const { (STRIP * D::C::BYTES).div_ceil(64) } {
                prefetch(isa, self.lines[i].wrapping_add(at * D::C::BYTES + 64 * line));
            }
        }
    }

    /// Prefetches these bytes of the lines.
    #[inline(always)]
    fn prefetch_at<L: Lanes>(&self, isa: Proof<L>, at: usize) {
        for line in &self.lines[..4 * self.quads.min(BLOCK / 4)] {
            L::prefetch(isa, line.wrapping_add(at));
        }
    }

    /// Makes it these inputs of one k-block, whose lines begin at `first`, each `step` bytes after the one before it.
    ///
    /// # Safety
    /// There must be 32 quants at `quants`.
    unsafe fn set(&mut self, inputs: &[u32], (first, step): (*const u8, usize), quants: *const i8) {
        let mut bytes = [0i8; BLOCK];
        if inputs.len() == BLOCK {
            for (i, line) in self.lines.iter_mut().enumerate() {
                *line = first.wrapping_add(i * step);
            }
            // SAFETY: the caller gives 32 quants.
            bytes = unsafe { quants.cast::<[i8; BLOCK]>().read_unaligned() };
        } else {
            for ((line, byte), input) in self.lines.iter_mut().zip(&mut bytes).zip(inputs) {
                let place = *input as usize % BLOCK;
                *line = first.wrapping_add(place * step);
                // SAFETY: the caller gives 32 quants, and `place` is below 32.
                *byte = unsafe { *quants.add(place) };
            }
            let last = inputs.len().clamp(1, BLOCK) - 1;
            let line = self.lines[last];
            for i in last..BLOCK {
                self.lines[i] = line;
            }
        }
        let mut sum = 0;
        for byte in bytes {
            sum += i32::from(byte);
        }
        for (quad, four) in self.quants.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *quad = i32::from_le_bytes(four.map(|b| b as u8));
        }
        (self.quads, self.offset) = (inputs.len().min(BLOCK).div_ceil(4), -128 * sum);
    }
}

/// The chosen inputs of a k-block; where halves of a block have integers of their own, those of either half.
struct KBlock {
    number: usize,
    halves: [Chosen; 2],
}

impl KBlock {
    const NONE: KBlock = KBlock { number: 0, halves: [Chosen::NONE; 2] };

    /// Makes it the inputs of the next k-block that has active ones, and takes them off the list.
    ///
    /// # Safety
    /// `lines` and `quants` must be those of all these inputs.
    // One function for all formats and instruction sets, for the library's size.
    #[inline(never)]
    unsafe fn take(&mut self, inputs: &mut &[u32], lines: &Lines, quants: *const i8, halved: bool) {
        self.number = inputs.first().map_or(0, |i| *i as usize / BLOCK);
        let begin = (self.number * BLOCK) as u32;
        let at_most = inputs.get(..BLOCK).unwrap_or(inputs);
        let below = |end: usize| at_most.partition_point(|i| *i - begin < end as u32);
        let first = below(if halved { BLOCK / 2 } else { BLOCK });
        let n = if halved { below(BLOCK) } else { first };
        let (these, rest) = inputs.split_at_checked(n).unwrap_or((inputs, &[]));
        let (first, second) = these.split_at_checked(first).unwrap_or((these, &[]));
        // SAFETY: the k-block is one of the caller's inputs, and so has lines and 32 quants.
        unsafe {
            let (place, quants) = (lines.of_block(self.number), quants.add(self.number * BLOCK));
            self.halves[0].set(first, place, quants);
            if halved {
                self.halves[1].set(second, place, quants);
            }
        }
        *inputs = rest;
    }
}

/// Blocks of outputs whose sums are computed before they are added: sums, outputs and heads then stay in the first cache.
const STRIP: usize = 4;

/// K-blocks whose lines are known: the one that is read, and those up to the one that is prefetched.
const RING: usize = 4;

/// Exact dot products of the chosen inputs, on one instruction set; the lines of the next inputs are prefetched meanwhile: no
/// hardware prefetcher can predict which these are.
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
    unsafe fn dot32(isa: Proof<Self::L>, [chosen, next]: [&Chosen; 2], skip: usize, table: &[i8; 16]) -> [Self::L; 2] {
        // Sums of at most 32 products of 7-bit numbers are exact in f32.
        let mut sums = [Self::L::splat(isa, 0.0); 2];
        for i in 0..(4 * chosen.quads).min(BLOCK) {
            Self::L::prefetch(isa, next.lines[i].wrapping_add(skip));
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
    unsafe fn dots(
        isa: Proof<Self::L>,
        [chosen, next]: [&Chosen; 2],
        skip: usize,
        n: usize,
        table: &[i8; 16],
        sums: *mut f32,
    ) {
        for b in 0..n {
            // SAFETY: the caller's lines have the codes of `n` blocks, and `sums` is writable for 32 floats of each.
            unsafe {
                let [low, high] = Self::dot32(isa, [chosen, next], skip + b * Self::C::BYTES, table);
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
    let (lines, mut inputs, blocks) = call.inputs();
    let mut ring = [KBlock::NONE; RING];
    let ahead = (DISTANCE / (blocks.len() * D::C::BYTES * BLOCK).max(1)).clamp(1, RING - 1);
    // K-blocks that were added, and those that were taken off the list.
    let (mut done, mut taken) = (0usize, 0usize);
    loop {
        while taken - done <= ahead && !inputs.is_empty() {
            // SAFETY: the caller's inputs have lines and quants.
            unsafe { ring[taken % RING].take(&mut inputs, lines, call.x.quants, H::HALVED) };
            taken += 1;
        }
        if done == taken {
            return;
        }
        let (this, later) = (&ring[done % RING], &ring[(done + ahead).min(taken - 1) % RING]);
        // SAFETY: these k-blocks were taken off the caller's list, whose requirements are those of `add`.
        unsafe { add::<H, D>(isa, call, this, later) };
        done += 1;
    }
}

/// Adds the products of a k-block's inputs to the outputs; a later k-block is prefetched.
///
/// # Safety
/// As [`gemv_inputs`], for these k-blocks.
#[inline(always)]
unsafe fn add<H: Heads, D: InputDot>(isa: Proof<D::L>, call: &Call, this: &KBlock, later: &KBlock) {
    let (lines, _, blocks) = call.inputs();
    // A local copy of the table, so that the compiler knows that stores to the outputs do not change it.
    let (outputs, table) = (lines.blocks() * BLOCK, *call.table);
    let mut sums = MaybeUninit::<[[f32; STRIP * BLOCK]; 2]>::uninit();
    let sums = sums.as_mut_ptr().cast::<[f32; STRIP * BLOCK]>();
    let sums = [sums.cast::<f32>(), sums.wrapping_add(1).cast::<f32>()];
    // SAFETY: the caller's k-blocks have lines with all blocks, quants and heads; a strip's sums are written before they
    // are read.
    unsafe {
        let add = Add {
            scale: (*call.x.scales.add(this.number))[0],
            sum: block_sum(this.halves[0].offset + this.halves[1].offset),
            heads: lines.heads(this.number),
            supers: lines.supers(this.number),
            prefetch: [lines.heads(later.number), lines.supers(later.number)],
            outputs,
        };
        let own = blocks.start * D::C::BYTES..blocks.end * D::C::BYTES;
        let in_runs = Ahead::in_runs::<H, D>(lines.of_block(later.number).1, own.len());
        let mut ahead = [Ahead::new(&later.halves[0], in_runs, &own), Ahead::new(&later.halves[1], in_runs, &own)];
        for at in blocks.clone().step_by(STRIP) {
            let n = STRIP.min(blocks.end - at);
            let halves = this.halves.iter().zip(&mut ahead).zip(sums);
            for ((this, ahead), sums) in halves.take(if H::HALVED { 2 } else { 1 }) {
                this.prefetch_strip::<D>(isa, 0, at + STRIP, D::L::prefetch_near);
                D::dots(isa, [this, ahead.of_strip::<D>(this.quads, at)], at * D::C::BYTES, n, &table, sums);
                ahead.rest::<D>(isa, this.quads, at, at + n == blocks.end);
            }
            for b in 0..n {
                let dots = sums.map(|sums| sums.wrapping_add(b * BLOCK).cast_const());
                let panel = (at + b) * (BLOCK / TILE_ROWS);
                add.to::<D::L, H>(isa, dots, panel, call.out.add((at + b - blocks.start) * BLOCK));
            }
        }
    }
}

/// What is prefetched of later lines while strips are computed: as much of every line as a strip reads or, of long lines, runs
/// of one line after the other, which memory gives faster where lines lie at multiples of kilobytes (Zen 4, one and two
/// threads: 7B q4_0 1.2 and 1.06, 1.1B q4_0 1.15 and 0.98, SmolLM2 1.02 and 1.00).
struct Ahead<'a> {
    lines: &'a Chosen,
    /// Whether there are runs.
    in_runs: bool,
    /// The bytes of every line that are read.
    own: &'a Range<usize>,
    /// The line of the next run, and where in it that begins.
    line: usize,
    at: usize,
    /// A run for each quad of a strip.
    runs: Chosen,
}

impl<'a> Ahead<'a> {
    /// Bytes of a run: a cache line for each input of a quad.
    const RUN: usize = 4 * 64;
    /// Bytes of a line that are prefetched as runs.
    const LONG: usize = 512;

    #[inline(always)]
    fn new(lines: &'a Chosen, in_runs: bool, own: &'a Range<usize>) -> Ahead<'a> {
        Ahead { lines, in_runs, own, line: 0, at: own.start, runs: Chosen::NONE }
    }

    /// Whether lines are prefetched in runs, of which `bytes` are read, with `step` from line to line: long ones, a strip of which
    /// is a cache line. Those of K-quants, whose kernels have more to compute, only where they lie at multiples of a kilobyte
    /// (Qwen 1.5B, whose lines do not, is slower by 1 to 5 %).
    #[inline(always)]
    fn in_runs<H: Heads, D: InputDot>(step: usize, bytes: usize) -> bool {
        STRIP * D::C::BYTES == 64 && bytes >= Self::LONG && (H::SUPERS == 0 || step.is_multiple_of(1024))
    }

    /// Where the next run begins.
    #[inline(always)]
    fn next(&mut self) -> *const u8 {
        let run = self.lines.lines[self.line.min(BLOCK - 1)].wrapping_add(self.at);
        self.at += Self::RUN;
        if self.at >= self.own.end {
            (self.line, self.at) = (self.line + 1, self.own.start);
        }
        run
    }

    /// The lines to prefetch with `quads` quads of the strip at block `at`, as [`InputDot`] takes them.
    #[inline(always)]
    fn of_strip<D: InputDot>(&mut self, quads: usize, at: usize) -> &Chosen {
        if !self.in_runs {
            return self.lines;
        }
        for quad in 0..quads.min(BLOCK / 4) {
            // A strip's kernel adds its own place to the address.
            let run = self.next().wrapping_sub(at * D::C::BYTES);
            for i in 0..4 {
                self.runs.lines[4 * quad + i] = run.wrapping_add(64 * i);
            }
        }
        &self.runs
    }

    /// Prefetches what a strip with `quads` quads, the last one of a k-block or not, did not.
    #[inline(always)]
    fn rest<D: InputDot>(&mut self, isa: Proof<D::L>, quads: usize, at: usize, last: bool) {
        if !self.in_runs {
            self.lines.prefetch_strip::<D>(isa, quads, at, D::L::prefetch);
            if last {
                // Lines may end in a cache line in which no strip begins.
                self.lines.prefetch_at(isa, self.own.end - 1);
            }
            return;
        }
        while last && self.line < 4 * self.lines.quads {
            let run = self.next();
            for i in 0..4 {
                D::L::prefetch(isa, run.wrapping_add(64 * i));
            }
        }
    }
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
    /// Heads of the next k-block, and the numbers of its super-block.
    prefetch: [*const u8; 2],
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
        let [heads, supers] = self.prefetch;
        for place in 0..H::PARTS {
            L::prefetch(isa, H::places(heads, self.outputs, panel)[place]);
            L::prefetch_near(isa, H::places(self.heads, self.outputs, panel + STRIP * (BLOCK / TILE_ROWS))[place]);
        }
        if H::SUPERS > 0 && supers != self.supers {
            for i in 0..H::SUPERS {
                L::prefetch(isa, supers.wrapping_add(2 * TILE_ROWS * (H::SUPERS * panel + 2 * i)));
            }
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
