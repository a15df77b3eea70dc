//! `shadowllm roofline`: what limits decoding here. The time of a token by density, predicted from measurements at a few
//! densities (as `run --target` does) and measured, and how near the kernels of each kind of matrix are to the bandwidth of
//! the memory.
//!
//! The model is that of S. Williams, A. Waterman and D. Patterson, Roofline: an insightful visual performance model,
//! CACM 52(4), 2009, for reading memory alone: for one token, every weight is used once.

use crate::bandwidth::read_bandwidth;
use crate::dial::DialOptions;
use crate::print;
use crate::setup::{MACHINE, ModelOptions, pool, session_options};
use clap::Args;
use serde_json::{Value, json};
use shadowllm_core::format::{BLOCK, Geometry, Matrix};
use shadowllm_core::image::Role;
use shadowllm_core::kernels::Input;
use shadowllm_core::ops::linear::{Product, linear};
use shadowllm_core::random::uniform;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Executor, KvFormat, SessionOptions};
use shadowllm_host::Result;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_tools::times::{LEAST, Time, conclusion, times};
use std::time::Instant;

/// Kernels that reach less than this share of the bandwidth are marked.
const LOW: f64 = 0.6;
/// Passes over all layers, of which the fastest counts.
const ROUNDS: usize = 3;

/// Options of `roofline`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    dial: DialOptions,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
    threads: Option<usize>,
    /// The table as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn roofline(o: &Options) -> Result<()> {
    let dials = o.dial.paced(true);
    dials.one()?;
    let model = o.model.open_for(dials.skipping())?;
    let dial = dials.one_for(&model)?;
    let pool = o.model.within(pool(o.threads)?, &model)?;
    let bandwidth = read_bandwidth(&pool);
    let least = if dial.density < 1.0 { dial.density } else { LEAST };
    let named = dials.named().filter(|p| *p != Policy::Off);
    let tokens = tokens(&model, &pool, o.model.kv, &dial, named, least)?;
    let kernels = kernels(&model, &pool);
    let threads = pool.size();
    if o.json {
        return print::json(&json!({
            "model": model.path(), "isa": model.model().kernels().isa().name(), "threads": threads,
            "bandwidth": bandwidth, "tokens": tokens,
            "kernels": kernels.iter().map(|k| k.json(bandwidth)).collect::<Vec<_>>(),
        }));
    }
    let isa = model.model().kernels().isa().name();
    print::line(format_args!(
        "{isa}, {threads} thread{}, memory read at {:.1} GB/s",
        if threads == 1 { "" } else { "s" },
        bandwidth / 1e9
    ))?;
    show_tokens(&tokens)?;
    show_kernels(&kernels, bandwidth)
}

/// Predicts and measures the time of a token at every density.
fn tokens(
    model: &LoadedModel,
    pool: &Pool,
    kv: Option<KvFormat>,
    base: &Dial,
    named: Option<Policy>,
    least: f32,
) -> Result<Vec<Time>> {
    let options = session_options(model, 64, kv, "another model")?;
    let options = SessionOptions { sparsity: true, ..options };
    let mut memory = model.memory(&options)?;
    let mut session = model.session(options, &mut memory)?;
    times(&mut session, pool, base, named, least)
}

fn show_tokens(tokens: &[Time]) -> Result<()> {
    print::line(format_args!(
        "\n{:<14} {:>8} {:>9} {:>12} {:>12} {:>7}",
        "policy", "density", "MB/token", "predicted", "measured", "error"
    ))?;
    for t in tokens {
        let (predicted, measured) = (1.0 / t.predicted_seconds, 1.0 / t.measured_seconds);
        let error = format!("{:+.0} %{}", 100.0 * t.error(), if t.fitted { "" } else { " *" });
        let mb = t.bytes as f64 / 1e6;
        print::line(format_args!(
            "{:<14} {:>8.2} {mb:>9.1} {predicted:>8.1} t/s {measured:>8.1} t/s {error:>9}",
            t.policy, t.density
        ))?;
    }
    for sentence in conclusion(tokens) {
        let mark = if sentence.starts_with("predicted") { "* " } else { "" };
        print::line(format_args!("{mark}{sentence}"))?;
    }
    Ok(())
}

/// The matrices of one kind in all layers.
struct Kernel {
    role: &'static str,
    format: &'static str,
    order: &'static str,
    rows: usize,
    cols: usize,
    /// Share of the inputs that was read, where single inputs can be left out.
    density: Option<f32>,
    bytes: usize,
    seconds: f64,
}

impl Kernel {
    /// What is the same for all matrices of the kind.
    fn kind(&self) -> (&'static str, &'static str, [usize; 2], Option<u32>) {
        (self.role, self.format, [self.rows, self.cols], self.density.map(f32::to_bits))
    }

    fn share(&self, bandwidth: f64) -> f64 {
        self.bytes as f64 / self.seconds / bandwidth
    }

    fn json(&self, bandwidth: f64) -> Value {
        json!({"matrix": self.role, "format": self.format, "order": self.order, "rows": self.rows, "cols": self.cols,
               "density": self.density, "bytes": self.bytes, "seconds": self.seconds, "share": self.share(bandwidth)})
    }
}

/// Densities at which matrices stored by input are read.
const DENSITIES: [f32; 3] = [1.0, 0.8, 0.5];

/// Every kind of matrix of the layers, and the output matrix; those stored by input also at some densities. Matrices are
/// read in the order in which a token reads them, so that they are in the caches as they are for a token.
fn kernels(model: &LoadedModel, pool: &Pool) -> Vec<Kernel> {
    let image = model.model().image();
    let in_layers = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];
    let layers = (0..image.config().layers).flat_map(|layer| in_layers.map(|role| (role, image.matrix(role, layer))));
    let output = image.matrix(Role::Output, 0).map(|m| (Role::Output, Some(m)));
    let output = output.unwrap_or((Role::Embed, image.matrix(Role::Embed, 0)));
    let last = [output, (Role::OutputSketch, image.matrix(Role::OutputSketch, 0))];
    let matrices: Vec<(Role, Matrix)> = layers.chain(last).filter_map(|(role, m)| Some((role, m?))).collect();
    let by_input = matrices.iter().any(|(_, m)| m.geometry().is_by_input());
    let mut best: Vec<Kernel> = Vec::new();
    for density in &DENSITIES[..if by_input { DENSITIES.len() } else { 1 }] {
        for _ in 0..ROUNDS {
            for kernel in pass(model, pool, &matrices, *density) {
                match best.iter_mut().find(|k| k.kind() == kernel.kind()) {
                    Some(k) => k.seconds = k.seconds.min(kernel.seconds),
                    None => best.push(kernel),
                }
            }
        }
    }
    best.sort_by_key(|k| matrices.iter().position(|(role, _)| role.name() == k.role));
    best
}

/// Times every matrix once, and returns the sums for each kind.
fn pass(model: &LoadedModel, pool: &Pool, matrices: &[(Role, Matrix)], density: f32) -> Vec<Kernel> {
    let (kernels, exec): (_, &dyn Executor) = (model.model().kernels(), pool);
    let mut sums: Vec<Kernel> = Vec::new();
    let most = |width: fn(&Geometry) -> usize| matrices.iter().map(|(_, m)| width(m.geometry())).max().unwrap_or(0);
    let (cols, rows) = (most(Geometry::input_width), most(Geometry::output_width));
    let mut state = 1;
    let values: Vec<f32> = (0..cols).map(|_| 2.0 * uniform(&mut state) - 1.0).collect();
    let chosen: Vec<u32> = (0..cols as u32).filter(|_| uniform(&mut state) < density).collect();
    let (mut quants, mut scales, mut offsets) =
        (vec![0; cols], vec![[0.0; 2]; cols / BLOCK], vec![[0; 2]; cols / BLOCK]);
    kernels.quantize(&values, &mut quants, &mut scales, &mut offsets);
    let mut out = vec![0.0; rows];
    for (role, m) in matrices {
        let g = m.geometry();
        let by_input = g.is_by_input();
        if !by_input && density < 1.0 {
            // It was read for density 1.
            continue;
        }
        let (cols, rows, blocks) = (g.input_width(), g.output_width(), g.input_width() / BLOCK);
        let x = Input {
            width: cols,
            values: &values[..cols],
            quants: &quants[..cols],
            scales: &scales[..blocks],
            offsets: &offsets[..blocks],
        };
        let product = Product::new(*m, None, &mut out, rows);
        let inputs = &chosen[..chosen.partition_point(|i| (*i as usize) < cols)];
        let product = if by_input { product.inputs(inputs) } else { product };
        let start = Instant::now();
        let bytes = linear(exec, kernels, &[product], &x, 1);
        let seconds = start.elapsed().as_secs_f64();
        let (role, format, order, density) =
            (role.name(), g.format.name(), g.order.name(), by_input.then_some(density));
        let kernel = Kernel { role, format, order, rows, cols, density, bytes, seconds };
        match sums.iter_mut().find(|k| k.kind() == kernel.kind()) {
            Some(k) => (k.bytes, k.seconds) = (k.bytes + bytes, k.seconds + seconds),
            None => sums.push(kernel),
        }
    }
    sums
}

fn show_kernels(kernels: &[Kernel], bandwidth: f64) -> Result<()> {
    print::line(format_args!(
        "\n{:<14} {:<7} {:<8} {:>15} {:>8} {:>7} {:>14}",
        "matrix", "format", "order", "rows x inputs", "density", "GB/s", "of bandwidth"
    ))?;
    for k in kernels {
        let (size, rate) = (format!("{} x {}", k.rows, k.cols), k.bytes as f64 / k.seconds / 1e9);
        let density = k.density.map_or(String::new(), |d| format!("{d:.1}"));
        let share = k.share(bandwidth);
        let mark = if share < LOW { " low" } else { "" };
        print::line(format_args!(
            "{:<14} {:<7} {:<8} {size:>15} {density:>8} {rate:>7.1} {:>12.0} %{mark}",
            k.role,
            k.format,
            k.order,
            100.0 * share
        ))?;
    }
    print::line(format_args!(
        "low: below {:.0} % of the bandwidth, so limited by instructions or by short runs; a small model is read from caches",
        100.0 * LOW
    ))
}
