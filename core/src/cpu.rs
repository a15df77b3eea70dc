//! What the processor can do, detected once.
//!
//! A [`Cpu`] is the proof that its features are there: only [`Cpu::detect`] and the unsafe
//! [`Cpu::assume`] make one, and kernels are only handed out against it.

use core::ffi::CStr;

/// The levels of instruction sets that have a kernel table, from plain to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code; runs everywhere and defines every result.
    Scalar,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// 64-bit Arm, Advanced SIMD.
    Neon,
    /// 64-bit Arm with the dot-product instructions (`FEAT_DotProd`).
    NeonDot,
    /// 64-bit Arm with the dot-product and the matrix instructions (`FEAT_I8MM`).
    NeonI8mm,
    /// WebAssembly with 128-bit lanes, if they were compiled in.
    Simd128,
}

impl Isa {
    /// All levels.
    pub const ALL: [Isa; 7] =
        [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm, Isa::Simd128];

    /// Name in reports, as a C string.
    pub const fn c_name(self) -> &'static CStr {
        match self {
            Isa::Scalar => c"scalar",
            Isa::Avx2 => c"avx2",
            Isa::Avx512 => c"avx512",
            Isa::Neon => c"neon",
            Isa::NeonDot => c"neon-dotprod",
            Isa::NeonI8mm => c"neon-i8mm",
            Isa::Simd128 => c"simd128",
        }
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or("")
    }

    /// The level of a 64-bit Arm with these features, as its operating system (or its identification registers) reports
    /// them.
    pub const fn of_arm(dotprod: bool, i8mm: bool) -> Isa {
        match (dotprod, i8mm) {
            (true, true) => Isa::NeonI8mm,
            (true, false) => Isa::NeonDot,
            (false, _) => Isa::Neon,
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::ALL.into_iter().find(|i| i.name() == name)
    }
}

/// The detected features of the processor this code runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    best: Isa,
}

impl Cpu {
    /// Detects the processor's features: on x86-64 with CPUID and XGETBV. Every 64-bit Arm has Advanced SIMD; only the
    /// operating system knows whether it also has dot products and matrix instructions: see [`Isa::of_arm`] and
    /// [`Cpu::assume`].
    pub fn detect() -> Cpu {
        #[cfg(target_arch = "x86_64")]
        let best = x86::best();
        #[cfg(target_arch = "aarch64")]
        let best = Isa::of_arm(cfg!(target_feature = "dotprod"), cfg!(target_feature = "i8mm"));
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        let best = Isa::Simd128;
        #[cfg(not(any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            all(target_arch = "wasm32", target_feature = "simd128")
        )))]
        let best = Isa::Scalar;
        Cpu { best }
    }

    /// A processor of this level, as the caller asserts (on Arm, the operating system reports it).
    ///
    /// # Safety
    /// The processor must have every feature of `isa`, and `isa` must be one of this architecture's.
    pub const unsafe fn assume(isa: Isa) -> Cpu {
        Cpu { best: isa }
    }

    /// The fastest level.
    pub const fn best(self) -> Isa {
        self.best
    }

    /// Whether code of this level may run here.
    pub const fn supports(self, isa: Isa) -> bool {
        matches!(
            (self.best, isa),
            (_, Isa::Scalar)
                | (Isa::Avx2, Isa::Avx2)
                | (Isa::Avx512, Isa::Avx2 | Isa::Avx512)
                | (Isa::Neon, Isa::Neon)
                | (Isa::NeonDot, Isa::Neon | Isa::NeonDot)
                | (Isa::NeonI8mm, Isa::Neon | Isa::NeonDot | Isa::NeonI8mm)
                | (Isa::Simd128, Isa::Simd128)
        )
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Isa;
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// Intel SDM vol. 1, 13.3 and 14.3, 15.2: a feature of the chip (CPUID leaves 1 and 7) counts only if the operating
    /// system saves its registers (XCR0: bits 1 and 2 for AVX; also 5, 6 and 7 for AVX-512).
    pub(super) fn best() -> Isa {
        let (max_leaf, leaf1) = (__cpuid(0).eax, __cpuid(1));
        let has = |word: u32, bits: &[u32]| bits.iter().all(|b| word >> b & 1 == 1);
        // 23 POPCNT, 27 OSXSAVE, 28 AVX, 29 F16C.
        if max_leaf < 7 || !has(leaf1.ecx, &[23, 27, 28, 29]) {
            return Isa::Scalar;
        }
        // SAFETY: OSXSAVE is set, so XGETBV exists.
        let (xcr0, leaf7) = (unsafe { xcr0() }, __cpuid_count(7, 0));
        if xcr0 & 0x6 != 0x6 || !has(leaf7.ebx, &[5]) {
            return Isa::Scalar;
        }
        // ebx: 16 F, 30 BW, 31 VL; ecx: 11 VNNI.
        if xcr0 & 0xe6 == 0xe6 && has(leaf7.ebx, &[16, 30, 31]) && has(leaf7.ecx, &[11]) {
            return Isa::Avx512;
        }
        Isa::Avx2
    }

    /// # Safety
    /// The processor must have XGETBV (OSXSAVE).
    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller has checked OSXSAVE; register 0 always exists.
        unsafe { _xgetbv(0) }
    }
}
