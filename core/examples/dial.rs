//! The effect of the dial: bytes of weights read per token, and how many tokens stay the same, at several densities.
//!
//! ```sh
//! cargo run --release -p shadowllm-core --example dial -- host/models/story.sllm 1 703 757 260 482 13
//! ```
//! The numbers are the prompt's tokens: "Once upon a time," for the story model.

use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Error, Model, Serial, Session, SessionOptions};
use std::mem::MaybeUninit;

const TOKENS: usize = 24;

/// `TOKENS` tokens that follow `prompt`, and the mean bytes of weights that one token read.
fn answer(session: &mut Session, dial: &Dial, prompt: &[u32]) -> Result<(Vec<u32>, u64), Error> {
    session.rewind(0)?;
    session.set_dial(dial)?;
    session.prefill(&Serial, prompt)?;
    let mut greedy = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
    let (mut tokens, mut bytes) = (Vec::new(), 0);
    for _ in 0..TOKENS {
        let token = session.sample(&mut greedy)?;
        tokens.push(token);
        session.decode(&Serial, token)?;
        bytes += session.traffic().weights as u64;
    }
    Ok((tokens, bytes / TOKENS as u64))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: dial MODEL.sllm TOKEN...")?;
    let prompt = arguments.map(|a| a.parse()).collect::<Result<Vec<u32>, _>>()?;
    let bytes = std::fs::read(path)?;
    let mut place = vec![0_u8; bytes.len() + 64];
    let start = place.as_ptr().align_offset(64);
    let image = &mut place[start..start + bytes.len()];
    image.copy_from_slice(&bytes);

    let model = Model::parse(image)?;
    let options = SessionOptions { context: prompt.len() + TOKENS + 1, sparsity: true, ..SessionOptions::default() };
    let mut memory = vec![MaybeUninit::uninit(); Session::memory_required(&model, &options)?.size()];
    let mut session = Session::new(model, options, &mut memory)?;

    let (dense, whole) = answer(&mut session, &Dial::default(), &prompt)?;
    println!("density  bytes/token  of dense  same tokens");
    println!("  dense  {whole:11}     100 %           {TOKENS}");
    let policy = if model.predictor()?.is_some() { Policy::Auto } else { Policy::Prompt };
    for density in [0.75, 0.5, 0.25] {
        let (tokens, read) = answer(&mut session, &Dial { policy, density, ..Dial::default() }, &prompt)?;
        let same = tokens.iter().zip(&dense).take_while(|(a, b)| a == b).count();
        println!("{density:7}  {read:11}  {:6} %  {same:11}", read * 100 / whole);
    }
    Ok(())
}
