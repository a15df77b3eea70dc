//! Continues a text, dense and then with three quarters of the skippable weights:
//! `cargo run --release -p shadowllm-host --example generate -- model.sllm "Once upon a time"`.

use shadowllm_host::{Dial, Model, Options, Policy, Result, SamplerOptions};

fn main() -> Result<()> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/story.sllm");
    let mut arguments = std::env::args().skip(1);
    let model = Model::open(arguments.next().unwrap_or_else(|| shipped.into()))?;
    let prompt = arguments.next().unwrap_or_else(|| "A dog found a red ball.".into());

    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    let mut session = model.session(Options { max_tokens: 64, sampling: greedy, ..Options::default() })?;
    for density in [1.0, 0.75] {
        session.rewind(0)?;
        session.set_dial(&Dial { policy: Policy::Auto, density, ..Dial::default() })?;
        let answer = session.generate(&prompt)?.complete()?;
        println!("{prompt}{}", answer.text);
        println!("[{:.1} MB read per token]\n", answer.figures.bytes_per_token as f64 / 1e6);
    }
    Ok(())
}
