//! `shadowllm bench`: prefill and decode speed, in the manner of llama-bench.

use crate::{ModelOptions, print, print_json, session_options};
use clap::Args;
use serde_json::{Value, json};
use shadowllm_core::{Executor, Session};
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use std::time::Instant;

/// Options of `bench`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Tokens of the prefill; 0 leaves it out.
    #[arg(short, long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode; 0 leaves it out.
    #[arg(short, default_value_t = 128)]
    n: usize,
    /// Positions already in the cache when decoding begins.
    #[arg(short, long, default_value_t = 0)]
    depth: usize,
    /// Numbers of threads, each measured.
    #[arg(short, long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions.
    #[arg(short, default_value_t = 5)]
    repetitions: usize,
    /// Result as JSON.
    #[arg(long)]
    json: bool,
}

/// One row of the result.
struct Row {
    test: String,
    threads: usize,
    rates: Vec<f64>,
    bytes: usize,
}

impl Row {
    fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len() as f64
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let sum: f64 = self.rates.iter().map(|r| (r - mean).powi(2)).sum();
        (sum / (self.rates.len().max(2) - 1) as f64).sqrt()
    }

    fn best(&self) -> f64 {
        self.rates.iter().fold(0.0, |m, r| r.max(m))
    }

    fn json(&self) -> Value {
        json!({"test": self.test, "threads": self.threads, "mean": self.mean(), "deviation": self.deviation(),
               "best": self.best(), "rates": self.rates, "bytes_per_token": self.bytes,
               "gb_per_second": self.mean() * self.bytes as f64 / 1e9})
    }
}

/// Runs the command.
pub fn bench(o: &Options) -> Result<()> {
    if o.repetitions == 0 || (o.prompt == 0 && o.n == 0) {
        return Err(Error::Usage("nothing to measure: -r and one of -p and -n must be above 0".into()));
    }
    let threads = if o.threads.is_empty() { vec![Pool::cores()] } else { o.threads.clone() };
    let pools = threads.iter().map(|t| Pool::new(*t)).collect::<Result<Vec<_>>>()?;
    let model = o.model.open()?;
    let context = o.depth.saturating_add(o.n).max(o.prompt);
    let options = session_options(&model, context, o.model.kv(&model), "a smaller -p, or -d and -n")?;
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    let mut rows = Vec::new();
    for (pool, threads) in pools.iter().zip(threads) {
        if o.prompt > 0 {
            let run = |s: &mut Session| prefill(s, pool, o.prompt);
            rows.push(measure(o, &mut session, format!("pp{}", o.prompt), threads, o.prompt, 0, run)?);
        }
        if o.n > 0 {
            let name = if o.depth > 0 { format!("tg{}@d{}", o.n, o.depth) } else { format!("tg{}", o.n) };
            let depth = o.depth + o.n / 2;
            let bytes = model.model().weight_bytes_per_token() + model.model().kv_bytes_per_token(options.kv, depth);
            let run = |s: &mut Session| decode(s, pool, o.depth, o.n);
            rows.push(measure(o, &mut session, name, threads, o.n, bytes, run)?);
        }
    }
    report(o, &model, &rows)
}

/// Random ids that do not depend on the machine.
fn ids(session: &Session, n: usize) -> Vec<u32> {
    let vocab = session.model().config().vocab as u64;
    (0..n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab as u32).collect()
}

fn prefill(session: &mut Session, pool: &Pool, n: usize) -> Result<f64> {
    let ids = ids(session, n);
    session.rewind(0)?;
    let start = Instant::now();
    session.prefill(pool, &ids)?;
    Ok(start.elapsed().as_secs_f64())
}

fn decode(session: &mut Session, pool: &Pool, depth: usize, n: usize) -> Result<f64> {
    let ids = ids(session, n.max(depth));
    if session.position() < depth || depth == 0 {
        session.rewind(0)?;
    }
    if depth > 0 && session.position() < depth {
        session.prefill(pool, &ids[..depth])?;
    }
    session.rewind(depth)?;
    let exec: &dyn Executor = pool;
    let start = Instant::now();
    for id in &ids[..n] {
        session.decode(exec, *id)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// One warm-up, then the repetitions.
fn measure(
    o: &Options,
    session: &mut Session,
    test: String,
    threads: usize,
    tokens: usize,
    bytes: usize,
    mut run: impl FnMut(&mut Session) -> Result<f64>,
) -> Result<Row> {
    run(session)?;
    let mut rates = Vec::new();
    for _ in 0..o.repetitions {
        rates.push(tokens as f64 / run(session)?);
    }
    Ok(Row { test, threads, rates, bytes })
}

fn report(o: &Options, model: &LoadedModel, rows: &[Row]) -> Result<()> {
    if o.json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        return print_json(&json!({
            "model": model.path().to_string_lossy(), "image_bytes": model.file_bytes(), "isa": model.model().kernels().isa().name(),
            "load_seconds": model.load_time().as_secs_f64(), "peak_memory_bytes": peak_memory(), "rows": rows,
        }));
    }
    print::line(format_args!(
        "{:<12} {:>7} {:>10} {:>8} {:>10} {:>9} {:>7}",
        "test", "threads", "mean t/s", "+-", "best t/s", "MB/token", "GB/s"
    ))?;
    for r in rows {
        let (mb, rate) = (r.bytes as f64 / 1e6, r.mean() * r.bytes as f64 / 1e9);
        print::line(format_args!(
            "{:<12} {:>7} {:>10.2} {:>8.2} {:>10.2} {mb:>9.1} {rate:>7.2}",
            r.test,
            r.threads,
            r.mean(),
            r.deviation(),
            r.best()
        ))?;
    }
    let peak = peak_memory().map_or(String::new(), |b| format!(", peak memory {:.0} MB", b as f64 / 1e6));
    let (isa, load) = (model.model().kernels().isa().name(), model.load_time().as_secs_f64());
    print::line(format_args!("{isa}, load {load:.4} s{peak}"))
}
