//! The smallest program with the engine: kernels for one model only ([`Needs`]), no formatting of text, and a panic
//! that is only a status. It writes the same tokens as the full program.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::fmt::Write;
use core::mem::MaybeUninit;
use shadowllm_core::format::Order;
use shadowllm_core::kernels::{Activation, Needs};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Format, Image, Kernels, KvFormat, Model, Serial, Session};
use shadowllm_no_std::{ANSWER, IMAGE, OPTIONS, PROMPTS, likeliest};

#[cfg(target_os = "none")]
#[allow(dead_code, reason = "clocks and the choice of kernels are the full program's")]
mod bare;

/// What the shipped model (OPT, q4_0, layout mixed) and its predictor (q8_0) need.
static KERNELS: Kernels = Kernels::portable(&Needs {
    matrices: &[
        (Format::Q4_0, Order::Rows),
        (Format::Q4_0, Order::Inputs),
        (Format::Q4_0, Order::RowLines),
        (Format::Q4_0, Order::ColumnLines),
        (Format::Q8_0, Order::Rows),
    ],
    kv: &[KvFormat::F16],
    activations: &[Activation::Relu],
    layer_norm: true,
    ..Needs::NOTHING
});

fn run(memory: &mut [MaybeUninit<u8>], out: &mut impl Write) -> Result<(), Error> {
    let model = Model::new(Image::parse(&IMAGE.0)?, &KERNELS);
    let mut session = Session::new(model, OPTIONS, memory)?;
    for (policy, density, name) in [(Policy::Off, 1.0, "off 1"), (Policy::Shadow, 0.5, "shadow 0.5")] {
        for (i, prompt) in PROMPTS.iter().enumerate() {
            session.rewind(0)?;
            session.set_dial(&Dial { policy, density, ..Dial::default() })?;
            let _ = out.write_str(name);
            let _ = out.write_str(" prompt");
            number(i as u32, out);
            let _ = out.write_str(" tokens");
            let mut token = likeliest(session.prefill(&Serial, prompt)?);
            number(token, out);
            for _ in 1..ANSWER {
                token = likeliest(session.decode(&Serial, token)?);
                number(token, out);
            }
            let _ = out.write_str("\n");
        }
    }
    Ok(())
}

/// Writes a space and a number.
fn number(n: u32, out: &mut impl Write) {
    let mut divisor = 1;
    while n / divisor >= 10 {
        divisor *= 10;
    }
    let _ = out.write_str(" ");
    while divisor > 0 {
        let _ = out.write_char((b'0' + (n / divisor % 10) as u8) as char);
        divisor /= 10;
    }
}

#[cfg(target_os = "none")]
fn start(memory: &mut [MaybeUninit<u8>]) -> ! {
    let result = run(memory, &mut bare::Console);
    let (used, there) = bare::stack_used();
    let _ = bare::Console.write_str("# stack used");
    number(used as u32, &mut bare::Console);
    let _ = bare::Console.write_str("\n");
    bare::exit(usize::from(result.is_err() || used >= there))
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    bare::exit(3)
}

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    let (mut memory, mut text) = (vec![MaybeUninit::uninit(); shadowllm_no_std::MEMORY], String::new());
    let result = run(&mut memory, &mut text);
    print!("{text}");
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
