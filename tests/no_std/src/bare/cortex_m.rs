//! A Cortex-M4F: vector table, start, SysTick (Armv7-M Architecture Reference Manual, B1 and B3).

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};
use shadowllm_core::{Cpu, Kernels};

/// What [`ticks`] counts.
pub const UNIT: &str = "ticks of SysTick";

// Stack, start and the exceptions 2 to 15; the board's interrupts stay off.
global_asm!(
    ".section .vectors, \"a\"",
    ".word __stack_top",
    ".word reset",
    ".rept 13",
    ".word {fault}",
    ".endr",
    ".word {systick}",
    // The floating-point unit on, the stack painted, .data copied, .bss zeroed.
    ".section .text.reset, \"ax\"",
    ".global reset",
    ".thumb_func",
    "reset:",
    "ldr r0, =0xe000ed88", // CPACR: coprocessors 10 and 11
    "ldr r1, [r0]",
    "orr r1, r1, #0xf00000",
    "str r1, [r0]",
    "dsb",
    "isb",
    "ldr r0, =__stack_low",
    "ldr r1, =__stack_top",
    "ldr r2, ={paint}",
    "1: cmp r0, r1",
    "it lo",
    "strlo r2, [r0], #4",
    "blo 1b",
    "ldr r0, =__data",
    "ldr r1, =__data_end",
    "ldr r3, =__data_source",
    "2: cmp r0, r1",
    "ittt lo",
    "ldrlo r2, [r3], #4",
    "strlo r2, [r0], #4",
    "blo 2b",
    "ldr r0, =__bss",
    "ldr r1, =__bss_end",
    "movs r2, #0",
    "3: cmp r0, r1",
    "it lo",
    "strlo r2, [r0], #4",
    "blo 3b",
    "bl {main}",
    "udf #0",
    fault = sym super::fault,
    systick = sym systick,
    main = sym start,
    paint = const super::PAINT,
);

const SYST_CSR: *mut u32 = 0xe000_e010 as *mut u32;
const SYST_RVR: *mut u32 = 0xe000_e014 as *mut u32;
const SYST_CVR: *mut u32 = 0xe000_e018 as *mut u32;
/// The timer has 24 bits.
const PERIOD: u32 = 1 << 24;

/// How many times the timer has wrapped around.
static PERIODS: AtomicU32 = AtomicU32::new(0);

extern "C" fn systick() {
    PERIODS.store(PERIODS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

extern "C" fn start() -> ! {
    // SAFETY: these are the timer's registers, which nothing else uses: processor clock, interrupt, enabled.
    unsafe {
        SYST_RVR.write_volatile(PERIOD - 1);
        SYST_CVR.write_volatile(0);
        SYST_CSR.write_volatile(7);
    }
    super::main()
}

/// Processor clocks since the start.
pub fn ticks() -> u64 {
    loop {
        let periods = PERIODS.load(Ordering::Relaxed);
        // SAFETY: reading the timer has no effect. It counts down.
        let left = unsafe { SYST_CVR.read_volatile() };
        if periods == PERIODS.load(Ordering::Relaxed) {
            return u64::from(periods) * u64::from(PERIOD) + u64::from(PERIOD - 1 - left);
        }
    }
}

/// The kernels to use.
pub fn kernels() -> &'static Kernels {
    Kernels::best(Cpu::detect())
}

/// Calls an operation of the debugger.
///
/// # Safety
/// `argument` must point to the data that the operation reads.
pub unsafe fn semihosting(operation: usize, argument: *const u8) -> usize {
    let result;
    // SAFETY: the debugger reads only the data at `argument`, which the caller guarantees, and changes only r0.
    unsafe { asm!("bkpt #0xab", inout("r0") operation => result, in("r1") argument, options(nostack)) };
    result
}
