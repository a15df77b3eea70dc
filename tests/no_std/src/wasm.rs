//! Inside a WebAssembly host, which receives the text and provides a clock.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use shadowllm_core::{Cpu, Isa, Kernels};
use shadowllm_no_std::{MEMORY, Machine, run};

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    fn write(text: *const u8, len: usize);
    fn nanoseconds() -> u64;
}

struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the host reads the string's bytes during the call.
        unsafe { write(text.as_ptr(), text.len()) };
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let _ = fmt::Write::write_fmt(&mut Console, format_args!("error: {info}\n"));
    core::arch::wasm32::unreachable()
}

struct Memory(UnsafeCell<[MaybeUninit<u8>; MEMORY]>);
// SAFETY: there is one thread, and each call of `probe` ends before the next.
unsafe impl Sync for Memory {}
static SESSION: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); MEMORY]));

fn ticks() -> u64 {
    // SAFETY: the host's function has no requirements.
    unsafe { nanoseconds() }
}

/// Runs the program with the instruction set of this place in [`Isa::ALL`]; 0 when it went well, 1 when it failed, 2
/// when there are no such kernels here.
#[unsafe(no_mangle)]
pub extern "C" fn probe(isa: usize) -> u32 {
    let kernels = Isa::ALL.get(isa).and_then(|isa| Kernels::for_isa(Cpu::detect(), *isa));
    let Some(kernels) = kernels else { return 2 };
    // SAFETY: there is one thread, and only one call of `probe` at a time.
    let memory = unsafe { &mut *SESSION.0.get() };
    let mut machine = Machine { kernels, out: &mut Console, ticks, unit: "nanoseconds" };
    match run(&crate::IMAGE.0, memory, &mut machine) {
        Ok(()) => 0,
        Err(e) => {
            let _ = fmt::Write::write_fmt(&mut Console, format_args!("error: {e}\n"));
            1
        }
    }
}
