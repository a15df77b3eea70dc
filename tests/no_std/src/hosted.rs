//! With an operating system: `shadowllm-no-std [INSTRUCTION-SET]`.

use shadowllm_core::{Cpu, Isa, Kernels};
use shadowllm_no_std::{MEMORY, Machine, run};
use std::fmt;
use std::io::Write;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

struct Stdout;

impl fmt::Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        std::io::stdout().write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

fn nanoseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// The processor, with the features that only the operating system can report on Arm.
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

pub fn main() -> ExitCode {
    let cpu = cpu();
    let kernels = match std::env::args().nth(1) {
        None => Some(Kernels::best(cpu)),
        Some(name) => Isa::from_name(&name).and_then(|isa| Kernels::for_isa(cpu, isa)),
    };
    let Some(kernels) = kernels else {
        eprintln!("error: no such instruction set here");
        return ExitCode::from(2);
    };
    let mut memory = vec![MaybeUninit::uninit(); MEMORY];
    let mut machine = Machine { kernels, out: &mut Stdout, ticks: nanoseconds, unit: "nanoseconds" };
    match run(&crate::IMAGE.0, &mut memory, &mut machine) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
