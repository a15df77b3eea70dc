//! A 64-bit Arm at EL1: start, identity map, cycle counter (Arm Architecture Reference Manual for A-profile, D).

use core::arch::{asm, global_asm};
use shadowllm_core::{Cpu, Isa, Kernels};

/// What [`ticks`] counts.
pub const UNIT: &str = "cycles";

// Without a memory map, memory is treated as device memory, from which vectors cannot be read at any address.
global_asm!(
    ".section .vectors, \"ax\"",
    ".balign 2048",
    "vectors:",
    ".rept 16",
    "b {fault}",
    ".balign 128",
    ".endr",
    ".section .text.reset, \"ax\"",
    ".global reset",
    "reset:",
    "adrp x0, vectors",
    "add x0, x0, :lo12:vectors",
    "msr vbar_el1, x0",
    // Advanced SIMD on.
    "mov x0, #0x300000",
    "msr cpacr_el1, x0",
    // Attribute 0: a device's memory; 1: write-back. 39-bit addresses, 4 KB granule, tables in shared write-back memory.
    "mov x0, #0xff00",
    "msr mair_el1, x0",
    "ldr x0, =0x100803519",
    "msr tcr_el1, x0",
    "adrp x0, {table}",
    "add x0, x0, :lo12:{table}",
    "msr ttbr0_el1, x0",
    "dsb sy",
    "tlbi vmalle1",
    "dsb sy",
    "isb",
    "mrs x0, sctlr_el1",
    "mov x1, #0x1005", // caches and map on
    "orr x0, x0, x1",
    "bic x0, x0, #2", // alignment checks off
    "msr sctlr_el1, x0",
    "isb",
    "adrp x0, __stack_low",
    "add x0, x0, :lo12:__stack_low",
    "adrp x1, __stack_top",
    "add x1, x1, :lo12:__stack_top",
    "mov sp, x1",
    "ldr w2, ={paint}",
    "1: str w2, [x0], #4",
    "cmp x0, x1",
    "b.lo 1b",
    "adrp x0, __bss",
    "add x0, x0, :lo12:__bss",
    "adrp x1, __bss_end",
    "add x1, x1, :lo12:__bss_end",
    "2: cmp x0, x1",
    "b.hs 3f",
    "str xzr, [x0], #8",
    "b 2b",
    "3: bl {main}",
    "b .",
    fault = sym super::fault,
    table = sym TABLE,
    main = sym start,
    paint = const super::PAINT,
);

#[repr(align(4096))]
struct Table([u64; 512]);

/// Blocks of 1 GB at their own addresses: the first holds devices, the second memory.
static TABLE: Table = {
    const BLOCK: u64 = 0b01 | 1 << 10; // valid, accessed
    const SHARED_WRITE_BACK: u64 = 0b11 << 8 | 1 << 2;
    let mut table = [0; 512];
    table[0] = BLOCK;
    table[1] = 1 << 30 | BLOCK | SHARED_WRITE_BACK;
    Table(table)
};

extern "C" fn start() -> ! {
    // SAFETY: enables the cycle counter, which has no other effect.
    unsafe {
        asm!(
            "msr pmccfiltr_el0, xzr", "msr pmcntenset_el0, {all}", "msr pmcr_el0, {on}", "isb",
            all = in(reg) 1u64 << 31, on = in(reg) 0x45u64, options(nomem, nostack)
        );
    }
    super::main()
}

/// Cycles since the start.
pub fn ticks() -> u64 {
    let cycles;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, pmccntr_el0", out(reg) cycles, options(nomem, nostack)) };
    cycles
}

/// The kernels to use. Without an operating system, the features are read from the processor itself.
pub fn kernels() -> &'static Kernels {
    let (first, second): (u64, u64);
    // SAFETY: reads identification registers, as EL1 may.
    unsafe {
        asm!(
            "mrs {}, id_aa64isar0_el1", "mrs {}, id_aa64isar1_el1",
            out(reg) first, out(reg) second, options(nomem, nostack)
        );
    }
    let isa = Isa::of_arm(first >> 44 & 15 != 0, second >> 52 & 15 != 0);
    // SAFETY: the identification registers have shown these features.
    Kernels::best(unsafe { Cpu::assume(isa) })
}

/// Calls an operation of the debugger.
///
/// # Safety
/// `argument` must point to the data that the operation reads.
pub unsafe fn semihosting(operation: usize, argument: *const u8) -> usize {
    let result;
    // SAFETY: the debugger reads only the data at `argument`, which the caller guarantees, and changes only x0.
    unsafe { asm!("hlt #0xf000", inout("x0") operation => result, in("x1") argument, options(nostack)) };
    result
}
