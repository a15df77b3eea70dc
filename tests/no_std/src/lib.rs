//! One program for every machine. It parses its model, tries every size of memory, generates from three prompts,
//! densely and at half density, and writes tokens and logits. The output must not depend on the machine, except for
//! lines that begin with `#`. (`least.rs` is a separate program.)
#![no_std]

use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Image, Kernels, KvFormat, Model, Serial, Session, SessionOptions};

const FILE: &[u8] = include_bytes!("../../../host/models/story.sllm");

/// The model that ships with the program, at an address with the alignment of its weights. Boards have a section for
/// it.
#[cfg_attr(target_os = "none", unsafe(link_section = ".image"))]
pub static IMAGE: Aligned<[u8; FILE.len()]> = Aligned(*include_bytes!("../../../host/models/story.sllm"));

/// A value at an address that is a multiple of 64.
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// Bytes of memory that are enough for the shipped model and these options.
pub const MEMORY: usize = 768 * 1024;

/// The options of the session.
pub const OPTIONS: SessionOptions =
    SessionOptions { context: 48, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: true };

/// "Tell me a story about a dog.", "What color is the sky?" and "Once upon a time, there was a little girl" in the
/// shipped model's tokens, the first two in the form of its chat template.
pub const PROMPTS: [&[u32]; 3] = [
    &[1, 335, 27, 735, 416, 260, 438, 424, 260, 632, 15, 200, 336, 27],
    &[1, 335, 27, 404, 1718, 312, 263, 787, 32, 200, 336, 27],
    &[1, 703, 757, 260, 482, 13, 397, 283, 260, 390, 581],
];

/// Tokens generated from each prompt.
pub const ANSWER: usize = 10;

/// Steps between the sizes of memory that are tried.
const STEP: usize = 4093;

/// The parts that a machine provides.
pub struct Machine<'a> {
    /// The kernels to use.
    pub kernels: &'static Kernels,
    /// Receives the text.
    pub out: &'a mut dyn Write,
    /// A count that rises with time.
    pub ticks: fn() -> u64,
    /// The unit of the count.
    pub unit: &'a str,
}

/// Why the program failed.
#[derive(Debug)]
pub enum Failure {
    /// The engine refused.
    Engine(Error),
    /// A size of memory that had to be refused was not, or the other way round.
    Memory {
        /// Bytes given.
        given: usize,
    },
    /// The text could not be written.
    Output,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Engine(e)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Failure::Output
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Engine(e) => write!(f, "{e}"),
            Failure::Memory { given } => write!(f, "a session in {given} bytes of memory: wrongly made or refused"),
            Failure::Output => f.write_str("the text could not be written"),
        }
    }
}

/// Runs the program on an image in `memory`.
///
/// # Errors
/// See [`Failure`].
pub fn run(image: &[u8], memory: &mut [MaybeUninit<u8>], machine: &mut Machine) -> Result<(), Failure> {
    let model = Model::new(Image::parse(image)?, machine.kernels);
    writeln!(machine.out, "# kernels {}", machine.kernels.isa().name())?;
    let c = model.config();
    writeln!(machine.out, "model {} layers, {} wide, {} tokens", c.layers, c.d_model, c.vocab)?;
    let needed = every_size(model, memory, machine)?;
    let mut session = Session::new(model, OPTIONS, &mut memory[..needed])?;
    let calibrated = model.predictor()?.is_some();
    for (policy, density) in [(Policy::Off, 1.0), (Policy::Random, 0.5), (Policy::Prompt, 0.5), (Policy::Shadow, 0.5)] {
        if policy.calibrated() && !calibrated {
            continue;
        }
        let dial = Dial { policy, density, ..Dial::default() };
        for (i, prompt) in PROMPTS.iter().enumerate() {
            session.rewind(0)?;
            session.set_dial(&dial)?;
            write!(machine.out, "{} {density} prompt {i}", policy.name())?;
            generate(&mut session, prompt, machine)?;
        }
    }
    Ok(())
}

/// Tries sizes of memory from 0 on, and returns the smallest that is enough: for every smaller size, the engine must
/// say what it needs.
fn every_size(model: Model, memory: &mut [MaybeUninit<u8>], machine: &mut Machine) -> Result<usize, Failure> {
    let needed = Session::memory_required(&model, &OPTIONS)?.size();
    if memory.len() < needed {
        return Err(Error::MemoryTooSmall { needed, given: memory.len() }.into());
    }
    let mut sizes = 0;
    for given in (0..needed).step_by(STEP).chain([needed - 1]) {
        let refused = Session::new(model, OPTIONS, &mut memory[..given]).err();
        if refused != Some(Error::MemoryTooSmall { needed, given }) {
            return Err(Failure::Memory { given });
        }
        sizes += 1;
    }
    // Whatever the address.
    let room = memory.len() - needed;
    for shift in [0, 1, 4, 63].map(|s: usize| s.min(room)) {
        Session::new(model, OPTIONS, &mut memory[shift..shift + needed])?;
    }
    // This line is not compared, because sessions store addresses, whose size depends on the machine.
    writeln!(machine.out, "# memory {needed} bytes; {sizes} smaller sizes refused")?;
    Ok(needed)
}

/// Generates the likeliest tokens; writes them, a checksum of all logits, the last token's likeliest logit, and the
/// bytes of weights that were read.
fn generate(session: &mut Session, prompt: &[u32], machine: &mut Machine) -> Result<(), Failure> {
    let start = (machine.ticks)();
    let mut token = likeliest(session.prefill(&Serial, prompt)?);
    let prefilled = (machine.ticks)();
    let (mut sum, mut bytes) = (Checksum::new(), 0);
    sum.add(session.logits());
    write!(machine.out, " tokens {token}")?;
    let mut ticks = 0;
    for _ in 1..ANSWER {
        let before = (machine.ticks)();
        token = likeliest(session.decode(&Serial, token)?);
        ticks += (machine.ticks)().wrapping_sub(before);
        sum.add(session.logits());
        bytes += session.traffic().weights;
        write!(machine.out, " {token}")?;
    }
    let best = session.logits()[token as usize];
    writeln!(machine.out, " logits {:016x} last {best:?} bytes {}", sum.0, bytes / (ANSWER - 1))?;
    let prefill = prefilled.wrapping_sub(start) / prompt.len() as u64;
    writeln!(machine.out, "# {} a token: prefill {prefill}, decode {}", machine.unit, ticks / (ANSWER as u64 - 1))?;
    Ok(())
}

/// The first of the largest logits.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// FNV-1a over the bits of floats.
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Checksum(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|x| x.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
