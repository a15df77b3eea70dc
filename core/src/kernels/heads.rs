//! The heads of 16 outputs' blocks, with which a tile begins ([`crate::format::Head`]).
//!
//! ```text
//! weight = scale * code (+ minimum)
//! in super-blocks:   scale = d * integer of the block     exact: 11 bits times at most 8
//!                    minimum = -(dmin * integer)
//! in halves:         code = integer of the half * stored code, so that a dot product of 32 is still an exact integer
//!                    below 2^24 (128 * 32 * 127 * 32)
//! ```

use crate::format::TILE_ROWS;
use crate::simd::{LANES, Lanes, Proof, eight, floats};

/// The heads of 16 outputs.
///
/// # Safety
/// The type must consist of bytes alone: then it can be read at any address and with any contents.
pub(super) unsafe trait Heads: Copy + 'static {
    /// Numbers that super-blocks share.
    const SUPERS: usize = 0;
    /// Whether blocks have a minimum.
    const AFFINE: bool = false;
    /// Whether the halves of a block have integers of their own.
    const HALVED: bool = false;

    /// The scales; `supers` are the numbers of the super-blocks.
    fn scales<L: Lanes>(&self, isa: Proof<L>, supers: &[L; 2]) -> L;

    /// The minima, where blocks have one.
    #[inline(always)]
    fn minima<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        L::splat(isa, 0.0)
    }

    /// The integers of the first and of the second halves, where halves have one.
    #[inline(always)]
    fn halves<L: Lanes>(&self, isa: Proof<L>) -> [L; 2] {
        [L::splat(isa, 0.0); 2]
    }

    /// Parts of the heads that are stored apart from each other.
    const PARTS: usize = 1;

    /// Where the parts of the heads of outputs `16 * panel..` are, in a matrix stored by input whose heads of all `outputs` of a
    /// k-block begin at `at`.
    #[inline(always)]
    fn places(at: *const u8, _outputs: usize, panel: usize) -> [*const u8; 2] {
        [at.wrapping_add(panel * size_of::<Self>()); 2]
    }

    /// These heads.
    ///
    /// # Safety
    /// The heads of all outputs must be readable at `at`, and `16 * panel + 16` must be at most `outputs`.
    #[inline(always)]
    unsafe fn of_panel(at: *const u8, outputs: usize, panel: usize) -> Self {
        // SAFETY: these heads are packed by 16, so the caller's readable heads are an array of `Self` with an element
        // `panel`.
        unsafe { Self::places(at, outputs, panel)[0].cast::<Self>().read_unaligned() }
    }
}

/// The numbers of 16 super-blocks at `at`: 16 of each.
///
/// # Safety
/// The numbers must be readable at `at`, if `H` has any.
#[inline(always)]
pub(super) unsafe fn read_supers<L: Lanes, H: Heads>(isa: Proof<L>, at: *const u8) -> [L; 2] {
    let mut numbers = [L::splat(isa, 0.0); 2];
    for (i, number) in numbers.iter_mut().enumerate().take(H::SUPERS) {
        // SAFETY: the caller gives `H::SUPERS` times 16 readable numbers, and `i` is below `H::SUPERS`.
        *number = L::load_f16(isa, unsafe { &*at.add(2 * TILE_ROWS * i).cast() });
    }
    // The shared factor of minima is subtracted from zero once here, not with every block.
    if H::AFFINE {
        numbers[1] = L::splat(isa, 0.0).sub(numbers[1]);
    }
    numbers
}

/// The empty head of floats.
#[derive(Clone, Copy)]
pub(super) struct NoHeads;

// SAFETY: the type has no bytes.
unsafe impl Heads for NoHeads {
    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        L::splat(isa, 1.0)
    }
}

/// A scale.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Scales([u8; 32]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for Scales {
    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        L::load_f16(isa, &self.0)
    }
}

/// A scale and a minimum.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct ScalesAndMinima([u8; 32], [u8; 32]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for ScalesAndMinima {
    const AFFINE: bool = true;
    const PARTS: usize = 2;

    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        L::load_f16(isa, &self.0)
    }

    #[inline(always)]
    fn minima<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        L::load_f16(isa, &self.1)
    }

    /// The scales of all outputs, then their minima, two bytes each.
    #[inline(always)]
    fn places(at: *const u8, outputs: usize, panel: usize) -> [*const u8; 2] {
        let scales = at.wrapping_add(2 * panel * TILE_ROWS);
        [scales, scales.wrapping_add(2 * outputs)]
    }

    #[inline(always)]
    unsafe fn of_panel(at: *const u8, outputs: usize, panel: usize) -> Self {
        let places = Self::places(at, outputs, panel);
        // SAFETY: the caller's heads are readable, 32 bytes at either place.
        unsafe {
            ScalesAndMinima(
                places[0].cast::<[u8; 32]>().read_unaligned(),
                places[1].cast::<[u8; 32]>().read_unaligned(),
            )
        }
    }
}

/// A power of two.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Powers([u8; LANES]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for Powers {
    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, _supers: &[L; 2]) -> L {
        // `block::power_of_two` without its branch, which would keep the compiler from using vectors.
        let mut bits = [0u32; LANES];
        for (bits, exponent) in bits.iter_mut().zip(self.0) {
            let exponent = u32::from(exponent);
            *bits = (exponent.saturating_sub(1) << 23).max(0x0020_0000 << exponent.min(1));
        }
        L::load(isa, &bits.map(f32::from_bits))
    }
}

/// An integer for each half of a block, and a scale of the super-block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Halves([[i8; LANES]; 2]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for Halves {
    const SUPERS: usize = 1;
    const HALVED: bool = true;

    #[inline(always)]
    fn scales<L: Lanes>(&self, _isa: Proof<L>, supers: &[L; 2]) -> L {
        supers[0]
    }

    #[inline(always)]
    fn halves<L: Lanes>(&self, isa: Proof<L>) -> [L; 2] {
        [L::load_i8(isa, &self.0[0]), L::load_i8(isa, &self.0[1])]
    }
}

/// The lower and the upper halves of eight bytes.
#[inline(always)]
fn nibbles(bytes: [u8; 8]) -> [u64; 2] {
    let bytes = u64::from_le_bytes(bytes);
    [bytes & eight(15), bytes >> 4 & eight(15)]
}

/// A scale of six bits less 32, and one of the super-block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct SixBitScales([u8; 8], [u8; 4]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for SixBitScales {
    const SUPERS: usize = 1;

    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, supers: &[L; 2]) -> L {
        let (low, high) = (nibbles(self.0), u64::from(u32::from_le_bytes(self.1)));
        // Outputs 0..4 and 4..8, then 8..12 and 12..16.
        let two = |shift: u32| (high >> shift | high >> (shift + 2) << 32) & eight(3);
        let integers: L = floats(isa, [low[0] | two(0) << 4, low[1] | two(4) << 4]);
        supers[0].mul(integers.sub(L::splat(isa, 32.0)))
    }
}

/// A scale and a minimum of six bits, and both of the super-block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct SixBitScalesAndMinima([u8; 16], [u8; 8]);

// SAFETY: the type consists of arrays of bytes.
unsafe impl Heads for SixBitScalesAndMinima {
    const SUPERS: usize = 2;
    const AFFINE: bool = true;

    #[inline(always)]
    fn scales<L: Lanes>(&self, isa: Proof<L>, supers: &[L; 2]) -> L {
        supers[0].mul(L::load_six_bits(isa, &self.0, &self.1)[0])
    }

    #[inline(always)]
    fn minima<L: Lanes>(&self, isa: Proof<L>, supers: &[L; 2]) -> L {
        supers[1].mul(L::load_six_bits(isa, &self.0, &self.1)[1])
    }
}
