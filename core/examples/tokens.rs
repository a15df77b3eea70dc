//! A model's answer in token ids, as a device computes it: memory from a static, one thread, no allocation by the engine.
//!
//! ```sh
//! cargo run --release -p shadowllm-core --example tokens -- host/models/story.sllm 1 703 757 260 482 13
//! ```
//! The numbers are the prompt's tokens: "Once upon a time," for the story model.

use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::{Error, KvFormat, Model, Serial, Session, SessionOptions};
use std::mem::MaybeUninit;

/// Enough for the story model. A larger model needs more: the error says how much.
const MEMORY: usize = 1024 * 1024;
static mut MEMORY_OF_THE_SESSION: [MaybeUninit<u8>; MEMORY] = [MaybeUninit::uninit(); MEMORY];

/// Writes at most `out.len()` tokens that follow `prompt`, and returns their number.
fn answer(image: &[u8], memory: &mut [MaybeUninit<u8>], prompt: &[u32], out: &mut [u32]) -> Result<usize, Error> {
    let model = Model::parse(image)?;
    let options = SessionOptions { context: 64, batch: 8, logit_rows: 1, ahead: 0, kv: KvFormat::F16, sparsity: false };
    let mut session = Session::new(model, options, memory)?;
    let mut greedy = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
    session.prefill(&Serial, prompt)?;
    for (written, slot) in out.iter_mut().enumerate() {
        *slot = session.sample(&mut greedy)?;
        if model.config().eos().contains(slot) {
            return Ok(written);
        }
        session.decode(&Serial, *slot)?;
    }
    Ok(out.len())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: tokens MODEL.sllm TOKEN...")?;
    let prompt = arguments.map(|a| a.parse()).collect::<Result<Vec<u32>, _>>()?;

    // A device has the image in flash. Here it is read into memory, whose address must be a multiple of four.
    let bytes = std::fs::read(path)?;
    let mut place = vec![0_u8; bytes.len() + 64];
    let start = place.as_ptr().align_offset(64);
    let image = &mut place[start..start + bytes.len()];
    image.copy_from_slice(&bytes);

    let memory = &raw mut MEMORY_OF_THE_SESSION;
    // SAFETY: `main` runs once, and nothing else uses this static.
    let memory = unsafe { &mut *memory };
    let mut out = [0; 24];
    let written = answer(image, memory, &prompt, &mut out)?;
    println!("{:?}", &out[..written]);
    Ok(())
}
