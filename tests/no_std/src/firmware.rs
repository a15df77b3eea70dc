//! The program on a board: text, stack and status leave by semihosting.

use crate::bare::{Console, exit, machine, stack_used};
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use shadowllm_no_std::{Machine, run};

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let _ = writeln!(Console, "error: {info}");
    exit(3)
}

pub fn start(memory: &mut [MaybeUninit<u8>]) -> ! {
    let mut console = Console;
    let (kernels, unit) = (machine::kernels(), machine::UNIT);
    let result = run(&crate::IMAGE.0, memory, &mut Machine { kernels, out: &mut console, ticks: machine::ticks, unit });
    let (used, there) = stack_used();
    let _ = writeln!(console, "# stack used {used} bytes of {there}");
    match result {
        Ok(()) if used < there => exit(0),
        Ok(()) => {
            let _ = writeln!(console, "error: the stack was outgrown");
            exit(1)
        }
        Err(e) => {
            let _ = writeln!(console, "error: {e}");
            exit(1)
        }
    }
}
