//! Every kernel of every instruction set that this processor has: bit for bit what the scalar set computes,
//! and the scalar set within rounding of plain f64 arithmetic. Each test runs all its cases and lists every
//! one that fails.

use half::f16;
use shadowllm_core::format::{Arithmetic, BLOCK, Geometry, Head, Matrix, Order, SUPER, TILE_ROWS};
use shadowllm_core::kernels::{Activate, Activation, Attend, Input, KvFormat, KvView, Outputs};
use shadowllm_core::simd::scalar::ScalarLanes;
use shadowllm_core::simd::{LANES, Lanes, Proof};
use shadowllm_core::{Cpu, Format, Isa, Kernels};

mod floats;
mod lines;
mod matrices;
mod quantize;

/// Unit roundoff of f32: an operation's result is within a factor 1 +- U of the exact one.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Bound on the relative error of `n` roundings in a row (Higham, Accuracy and Stability, lemma 3.1).
fn gamma(n: usize) -> f64 {
    n as f64 * U / (1.0 - n as f64 * U)
}

/// The processor, with the features that only the standard library can detect on Arm.
fn cpu() -> Cpu {
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        // SAFETY: the operating system has reported these features.
        unsafe { Cpu::assume(Isa::of_arm(has!("dotprod"), has!("i8mm"))) }
    }
    #[cfg(not(target_arch = "aarch64"))]
    Cpu::detect()
}

/// All kernel sets that run here; the scalar one first.
fn sets() -> Vec<&'static Kernels> {
    let sets: Vec<_> = Isa::ALL.into_iter().filter_map(|isa| Kernels::for_isa(cpu(), isa)).collect();
    assert!(sets[0].isa() == Isa::Scalar && sets.iter().any(|k| k.isa() == cpu().best()));
    println!("runs: {:?}", sets.iter().map(|k| k.isa().name()).collect::<Vec<_>>());
    sets
}

/// The failures, case by case.
#[derive(Default)]
struct Report {
    cases: usize,
    /// The largest error of a result, as a share of its tolerance.
    worst: f64,
    failures: Vec<String>,
}

impl Report {
    /// Checks for the same bits (any NaN equals any other, since IEEE-754 does not define which one results).
    fn same(&mut self, case: impl Fn() -> String, got: &[f32], want: &[f32]) {
        self.cases += 1;
        let differ = |(g, w): &(&f32, &f32)| g.to_bits() != w.to_bits() && !(g.is_nan() && w.is_nan());
        if got.len() != want.len() {
            self.failures.push(format!("{}: {} outputs for {}", case(), got.len(), want.len()));
        } else if let Some(at) = got.iter().zip(want).position(|p| differ(&p)) {
            let bad = got.iter().zip(want).filter(differ).count();
            self.failures.push(format!("{}: {bad} differ, [{at}] {:e} is not {:e}", case(), got[at], want[at]));
        }
    }

    /// Checks that each number is within its tolerance of the reference.
    fn near(&mut self, case: impl Fn() -> String, got: &[f32], want: &[(f64, f64)]) {
        self.cases += 1;
        assert_eq!(got.len(), want.len());
        for (at, (g, (w, tolerance))) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*g) - w).abs();
            if error <= *tolerance {
                // An exact result may have no tolerance at all.
                self.worst = self.worst.max(error / tolerance.max(f64::MIN_POSITIVE));
            } else {
                self.failures.push(format!("{}: [{at}] {g:e} is not {w:e} +- {tolerance:e}", case()));
                return;
            }
        }
    }

    fn check(&mut self, case: impl Fn() -> String, ok: bool) {
        self.cases += 1;
        if !ok {
            self.failures.push(case());
        }
    }

    fn finish(self) {
        let n = self.failures.len();
        assert!(n == 0, "{n} of {} cases failed:\n{}", self.cases, self.failures.join("\n"));
        println!("{} cases; at most {:.0} % of a tolerance used", self.cases, self.worst * 100.0);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// -1..1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}
