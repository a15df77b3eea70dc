//! A chat on standard input and output: `cargo run --release -p shadowllm-host --example chat -- model.sllm`.

use shadowllm_host::{Model, Options, Result};
use std::io::{BufRead, Write};

fn main() -> Result<()> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/story.sllm");
    let model = Model::open(std::env::args().nth(1).unwrap_or_else(|| shipped.into()))?;
    let mut chat = model.chat(Options::default())?;
    for question in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
        let mut answer = chat.ask(&question)?;
        for piece in &mut answer {
            print!("{}", piece?);
            // A closed standard output is noticed by the next piece.
            let _ = std::io::stdout().flush();
        }
        println!("\n[{:.1} tokens per second]", answer.figures().tokens_per_second);
    }
    Ok(())
}
