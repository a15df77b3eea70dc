//! Without an operating system: memory from statics, no allocator; text and status leave by semihosting.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
pub mod machine;
#[cfg(target_arch = "arm")]
#[path = "cortex_m.rs"]
pub mod machine;

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use shadowllm_no_std::MEMORY;

#[repr(align(64))]
struct Memory(UnsafeCell<[MaybeUninit<u8>; MEMORY]>);
// SAFETY: there is one thread, and only `main`, which runs once, accesses it.
unsafe impl Sync for Memory {}
#[unsafe(link_section = ".memory")]
static SESSION: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); MEMORY]));

/// What the stack is filled with before it is used.
const PAINT: u32 = 0x5ac4_ba11;

unsafe extern "C" {
    static __stack_low: u32;
    static __stack_top: u32;
}

/// Bytes of stack that were ever used, and the size of the stack.
pub fn stack_used() -> (usize, usize) {
    let (low, top) = (&raw const __stack_low, &raw const __stack_top);
    let mut p = low;
    // SAFETY: `p` is between the linker script's two symbols, where all words are the stack's.
    while p < top && unsafe { p.read_volatile() } == PAINT {
        p = p.wrapping_add(1);
    }
    (top.addr() - p.addr(), top.addr() - low.addr())
}

/// The operations of semihosting that are used (Arm's specification, chapter 6).
mod operation {
    pub const WRITE0: usize = 0x04;
    pub const EXIT_EXTENDED: usize = 0x20;
}

/// The reason "the application ends by itself".
const APPLICATION_EXIT: usize = 0x20026;

/// Ends the emulator with a status.
pub fn exit(status: usize) -> ! {
    // SAFETY: the argument points to the two words that the operation reads.
    unsafe { machine::semihosting(operation::EXIT_EXTENDED, [APPLICATION_EXIT, status].as_ptr().cast()) };
    loop {
        core::hint::spin_loop();
    }
}

/// The debugger's console.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The operation needs a zero at the end of the text.
        for part in text.as_bytes().chunks(63) {
            let mut line = [0; 64];
            line[..part.len()].copy_from_slice(part);
            // SAFETY: the line ends with a zero.
            unsafe { machine::semihosting(operation::WRITE0, line.as_ptr()) };
        }
        Ok(())
    }
}

/// Called by the processor when it reports a fault.
extern "C" fn fault() -> ! {
    let _ = Console.write_str("error: the processor reports a fault\n");
    exit(4)
}

/// Called once, on the painted stack, with statics in place.
extern "C" fn main() -> ! {
    // SAFETY: `main` is called once, and nothing else accesses the session's memory.
    crate::start(unsafe { &mut *SESSION.0.get() })
}
