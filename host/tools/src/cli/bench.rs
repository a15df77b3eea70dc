//! `shadowllm bench`: prefill and decode speed, in the manner of llama-bench.

use crate::bandwidth::read_bandwidth;
use crate::batch::{self, Batch};
use crate::dial::{DialOptions, skips};
use crate::print;
use crate::setup::{MACHINE, ModelOptions, go_to, session_options};
use clap::Args;
use serde_json::{Value, json};
use shadowllm_core::sparsity::Policy;
use shadowllm_core::{Executor, Session, SessionOptions};
use shadowllm_host::generate::peak_memory;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::text::{Text, read};
use shadowllm_host::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
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
    /// Also measure passes over this number of tokens at once, as verification needs them: 2,4,8.
    #[arg(long, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Positions already in the cache when decoding begins.
    #[arg(short, long, default_value_t = 0)]
    depth: usize,
    /// Thread counts to measure, such as 1,2,4.
    #[arg(short, long, value_delimiter = ',', help_heading = MACHINE)]
    threads: Vec<usize>,
    /// Repetitions.
    #[arg(short, default_value_t = 5)]
    repetitions: usize,
    #[command(flatten)]
    dial: DialOptions,
    /// Text to decode, UTF-8, in place of random ids, because skipping depends on the text.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Result as JSON.
    #[arg(long)]
    json: bool,
    /// Result as CSV.
    #[arg(long, conflicts_with_all = ["json", "batch"])]
    csv: bool,
}

/// One row of the result.
struct Row {
    test: String,
    threads: usize,
    rates: Vec<f64>,
    bytes: usize,
    /// The memory bandwidth of the same threads, bytes per second.
    bandwidth: f64,
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
               "gb_per_second": self.mean() * self.bytes as f64 / 1e9, "read_bandwidth": self.bandwidth / 1e9,
               "bandwidth_share": self.share()})
    }

    /// Share of the bandwidth that the best repetition reached.
    fn share(&self) -> f64 {
        self.best() * self.bytes as f64 / self.bandwidth
    }
}

/// Runs the command.
pub fn bench(o: &Options) -> Result<()> {
    if o.repetitions == 0 || (o.prompt == 0 && o.n == 0 && o.batch.is_empty()) {
        return Err(Error::Usage("nothing to measure: -r and one of -p, -n and --batch must be above 0".into()));
    }
    let threads = if o.threads.is_empty() { vec![Pool::cores()] } else { o.threads.clone() };
    let pools = threads.iter().map(|t| Pool::new(*t)).collect::<Result<Vec<_>>>()?;
    let model = o.model.open_for(o.dial.skipping())?;
    let pools = pools.into_iter().map(|pool| o.model.within(pool, &model)).collect::<Result<Vec<_>>>()?;
    batch::check(&o.batch, model.model().config().max_positions.saturating_sub(o.depth))?;
    let most = o.batch.iter().max().map_or(0, |n| n * batch::PASSES);
    let context = o.depth.saturating_add(o.n.max(most)).max(o.prompt);
    let options = session_options(&model, context, o.model.kv, "a smaller -p, or -d and -n")?;
    let dial = o.dial.one_for(&model)?;
    let options = SessionOptions { sparsity: skips(&[dial]), ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    session.set_dial(&dial)?;
    let ids = ids(o, &model, context)?;
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for (pool, &threads) in pools.iter().zip(&threads) {
        if o.prompt > 0 {
            let run = |s: &mut Session| Ok((prefill(s, pool, &ids[..o.prompt])?, 0));
            rows.push(measure(o, &mut session, format!("pp{}", o.prompt), threads, o.prompt, run)?);
        }
        if o.n > 0 {
            let depth = if o.depth > 0 { format!("@d{}", o.depth) } else { String::new() };
            let policy = if session.policy() == Policy::Off { "" } else { session.policy().name() };
            let name = format!("tg{}{depth} {policy}", o.n);
            let run = |s: &mut Session| decode(s, pool, o.depth, &ids[..o.depth + o.n]);
            rows.push(measure(o, &mut session, name.trim().to_owned(), threads, o.n, run)?);
        }
        batches.extend(batch::measure(&mut session, (pool, threads), o.depth, &ids, &o.batch, o.repetitions)?);
    }
    let peak = peak_memory();
    // Only rows are compared with the bandwidth.
    let pools = if rows.is_empty() { &[] } else { pools.as_slice() };
    for (pool, threads) in pools.iter().zip(&threads) {
        let bandwidth = read_bandwidth(pool);
        rows.iter_mut().filter(|r| r.threads == *threads).for_each(|r| r.bandwidth = bandwidth);
    }
    report(o, &model, &rows, &batches, peak)
}

/// Ids of the text, or random ones that do not depend on the machine.
fn ids(o: &Options, model: &LoadedModel, n: usize) -> Result<Vec<u32>> {
    let Some(path) = &o.text else {
        let vocab = model.model().config().vocab as u32;
        return Ok((0..n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab).collect());
    };
    let ids = Text::of(model)?.encode(&read(path)?, true)?;
    if ids.len() < n {
        return Err(Error::file(path, format!("has {} tokens, but {n} are needed: give a longer text", ids.len())));
    }
    Ok(ids)
}

fn prefill(session: &mut Session, pool: &Pool, ids: &[u32]) -> Result<f64> {
    session.rewind(0)?;
    let start = Instant::now();
    session.prefill(pool, ids)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds, and bytes read by all tokens.
fn decode(session: &mut Session, pool: &Pool, depth: usize, ids: &[u32]) -> Result<(f64, usize)> {
    go_to(session, pool, &ids[..depth])?;
    let exec: &dyn Executor = pool;
    let mut bytes = 0;
    let start = Instant::now();
    for id in &ids[depth..] {
        session.decode(exec, *id)?;
        bytes += session.traffic().weights
            + session.model().kv_bytes_per_token(session.options().kv, session.position() - 1);
    }
    Ok((start.elapsed().as_secs_f64(), bytes))
}

/// One warm-up, then the repetitions.
fn measure(
    o: &Options,
    session: &mut Session,
    test: String,
    threads: usize,
    tokens: usize,
    mut run: impl FnMut(&mut Session) -> Result<(f64, usize)>,
) -> Result<Row> {
    run(session)?;
    let (mut rates, mut bytes) = (Vec::new(), 0);
    for _ in 0..o.repetitions {
        let (seconds, read) = run(session)?;
        rates.push(tokens as f64 / seconds);
        bytes = read / tokens;
    }
    Ok(Row { test, threads, rates, bytes, bandwidth: f64::NAN })
}

fn report(o: &Options, model: &LoadedModel, rows: &[Row], batches: &[Batch], peak: Option<u64>) -> Result<()> {
    if o.json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        return print::json(&json!({
            "model": model.path().to_string_lossy(), "image_bytes": model.file_bytes(), "isa": model.model().kernels().isa().name(),
            "load_seconds": model.load_time().as_secs_f64(), "peak_memory_bytes": peak, "rows": rows,
            "batches": batches.iter().map(Batch::json).collect::<Vec<_>>(),
        }));
    }
    if o.csv {
        return print::csv(&rows.iter().map(Row::json).collect::<Vec<_>>());
    }
    if !rows.is_empty() {
        print::line(format_args!(
            "{:<16} {:>7} {:>10} {:>8} {:>10} {:>9} {:>7} {:>8}",
            "test", "threads", "mean t/s", "+-", "best t/s", "MB/token", "GB/s", "of roof"
        ))?;
    }
    for r in rows {
        let or_nothing = |text: String| if r.bytes > 0 { text } else { String::new() };
        let mb = or_nothing(format!("{:.1}", r.bytes as f64 / 1e6));
        let rate = or_nothing(format!("{:.2}", r.mean() * r.bytes as f64 / 1e9));
        let share = or_nothing(format!("{:.0} %", 100.0 * r.share()));
        print::line(format_args!(
            "{:<16} {:>7} {:>10.2} {:>8.2} {:>10.2} {mb:>9} {rate:>7} {share:>8}",
            r.test,
            r.threads,
            r.mean(),
            r.deviation(),
            r.best()
        ))?;
    }
    batch::print(batches)?;
    let peak = peak.map_or(String::new(), |b| format!(", peak memory {:.0} MB", b as f64 / 1e6));
    let (isa, load) = (model.model().kernels().isa().name(), model.load_time().as_secs_f64());
    let roofs: Vec<String> = rows
        .iter()
        .map(|r| (r.threads, r.bandwidth))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .map(|(threads, bandwidth)| {
            format!("{threads} thread{} {:.1} GB/s", if threads == 1 { "" } else { "s" }, bandwidth / 1e9)
        })
        .collect();
    let roof = if roofs.is_empty() { String::new() } else { format!(", roof of reading memory: {}", roofs.join(", ")) };
    print::line(format_args!("{isa}, load {load:.4} s{peak}{roof}"))
}
