//! The matrix kernels, one row for each shape, format and instruction set: `gemv/q4_0/avx512`, and for shapes that skip
//! lines also for each density: `rows8/0.3/q4_0/avx512`.
//!
//! One thread. The weights of each call come from a random page of a region much larger than the caches, on
//! pages of 4 KiB as those of a mapped image: a decode never finds its weights in the cache either.

mod lines;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use memmap2::MmapMut;
use shadowllm_core::format::{BLOCK, Geometry, Matrix, Order, TILE_ROWS};
use shadowllm_core::kernels::Input;
use shadowllm_core::{Format, Isa, Kernels};
use shadowllm_host::model::{cpu, isas};
use std::hint::black_box;
use std::time::Duration;

/// Inputs and outputs of the matrix: the hidden width of a model of 1.1 billion weights.
const WIDTH: usize = 2048;
const PANELS: usize = WIDTH / TILE_ROWS;
/// The most tokens.
const TOKENS: usize = 128;
/// Panels that fit in the second-level cache.
const CACHED: usize = 4;
const REGION: usize = 256 << 20;
const PAGE: usize = 4096;

/// A small generator, so that every run sees the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that are valid weights in every format, wherever a tile begins: each 16-bit word is a normal f16 (magnitude
/// 2^-4 to 2^-3), each 32-bit word a normal f32, and the codes of an integer format may be anything.
fn weights() -> MmapMut {
    let mut region = MmapMut::map_anon(REGION).expect("256 MiB of memory");
    // This fails if the kernel does not have huge pages, which does not matter.
    #[cfg(target_os = "linux")]
    let _ = region.advise(memmap2::Advice::NoHugePage);
    let mut random = Random(1);
    for chunk in region.as_chunks_mut::<8>().0 {
        *chunk = (random.next() & 0x83ff_83ff_83ff_83ff | 0x2c00_2c00_2c00_2c00).to_le_bytes();
    }
    region
}

/// Inputs of [`TOKENS`] tokens, as floats and quantized.
struct Inputs {
    values: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<[f32; 2]>,
    offsets: Vec<[i32; 2]>,
}

impl Inputs {
    fn new(kernels: &Kernels) -> Inputs {
        let (n, blocks) = (TOKENS * WIDTH, TOKENS * WIDTH / BLOCK);
        let mut random = Random(2);
        let values: Vec<f32> = (0..n).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
        let mut new =
            Inputs { values, quants: vec![0; n], scales: vec![[0.0; 2]; blocks], offsets: vec![[0; 2]; blocks] };
        kernels.quantize(&new.values, &mut new.quants, &mut new.scales, &mut new.offsets);
        new
    }

    fn view(&self) -> Input<'_> {
        Input { width: WIDTH, values: &self.values, quants: &self.quants, scales: &self.scales, offsets: &self.offsets }
    }
}

fn geometry(format: Format, order: Order) -> Geometry {
    let k_blocks = WIDTH / BLOCK;
    let units = if order == Order::Rows { PANELS } else { k_blocks };
    let units_per_group = order.group_units(format).unwrap_or(units);
    let mut g =
        Geometry { format, order, panels: PANELS, k_blocks, units_per_group, group_stride: 0, group_width: WIDTH };
    g.group_stride = g.shared_bytes() + units_per_group * g.unit_bytes();
    g
}

/// The data that all rows share.
struct Bench {
    weights: MmapMut,
    inputs: Inputs,
}

/// The kernels and the format of a row.
#[derive(Clone, Copy)]
struct Row {
    kernels: &'static Kernels,
    format: Format,
}

impl Bench {
    /// The matrix of this geometry at a random page.
    fn matrix(&self, geometry: Geometry, random: &mut Random) -> Matrix<'_> {
        let span = geometry.span().expect("a possible geometry");
        let pages = (REGION - span) / PAGE;
        let at = (random.next() % pages as u64) as usize * PAGE;
        Matrix::new(geometry, &self.weights[at..]).expect("a matrix inside the region")
    }

    /// One token, the whole matrix in rows: bytes of weights a second.
    fn gemv(&self, group: &mut BenchmarkGroup<WallTime>, name: &str, row: Row) {
        let (g, mut random, mut y) = (geometry(row.format, Order::Rows), Random(3), vec![0.0; WIDTH]);
        group.throughput(Throughput::BytesDecimal(g.weight_bytes() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let m = self.matrix(g, &mut random);
                row.kernels.gemv(&m, 0, &self.inputs.view(), &mut y);
                black_box(&mut y);
            });
        });
    }

    /// One token, the whole matrix in columns: bytes of weights a second.
    fn gemv_columns(&self, group: &mut BenchmarkGroup<WallTime>, name: &str, row: Row) {
        let (g, mut random, mut y) = (geometry(row.format, Order::Columns), Random(3), vec![0.0; WIDTH]);
        let all: Vec<usize> = (0..g.k_blocks).collect();
        group.throughput(Throughput::BytesDecimal(g.weight_bytes() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let m = self.matrix(g, &mut random);
                y.fill(0.0);
                row.kernels.gemv_columns(&m, &all, 0, &self.inputs.view(), &mut y);
                black_box(&mut y);
            });
        });
    }

    /// Several tokens, one panel of 16 outputs (a task of a prefill is a run of them): multiply-adds a second.
    fn gemm(&self, group: &mut BenchmarkGroup<WallTime>, name: &str, row: Row, tokens: usize) {
        let (g, mut random) = (geometry(row.format, Order::Rows), Random(3));
        let mut out = vec![0.0; tokens * TILE_ROWS];
        group.throughput(Throughput::Elements((tokens * TILE_ROWS * WIDTH) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let panel = random.next() as usize % PANELS;
                let m = self.matrix(g, &mut random);
                row.kernels.gemm(&m, panel, &self.inputs.view(), 0..tokens, &mut out, TILE_ROWS);
                black_box(&mut out);
            });
        });
    }

    /// One token, the same few panels again and again: these come from the second-level cache, which shows the speed of
    /// the kernel itself.
    fn cached(&self, group: &mut BenchmarkGroup<WallTime>, name: &str, row: Row) {
        let (g, mut y) = (geometry(row.format, Order::Rows), [0.0; TILE_ROWS]);
        let m = Matrix::new(g, &self.weights).expect("a matrix inside the region");
        let bytes = CACHED * g.k_blocks * g.format.tile_bytes();
        group.throughput(Throughput::BytesDecimal(bytes as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                for panel in 0..CACHED {
                    row.kernels.gemm(&m, panel, &self.inputs.view(), 0..1, &mut y, TILE_ROWS);
                    black_box(&mut y);
                }
            });
        });
    }

    /// A group of rows: one shape, these formats on every instruction set.
    fn group(
        &self,
        c: &mut Criterion,
        shape: &str,
        formats: &[Format],
        run: impl Fn(&mut BenchmarkGroup<WallTime>, &str, Row),
    ) {
        let mut group = c.benchmark_group(shape);
        for format in formats.iter().copied() {
            for isa in isas() {
                let row = Row { kernels: kernels(isa), format };
                run(&mut group, &format!("{}/{}", format.name(), isa.name()), row);
            }
        }
        group.finish();
    }
}

fn kernels(isa: Isa) -> &'static Kernels {
    Kernels::for_isa(cpu(), isa).expect("an instruction set of this processor")
}

fn main() {
    let mut c = Criterion::default()
        .without_plots()
        .sample_size(10)
        .nresamples(2000)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let bench = Bench { weights: weights(), inputs: Inputs::new(Kernels::best(cpu())) };
    bench.group(&mut c, "gemv", &Format::ALL, |g, name, row| bench.gemv(g, name, row));
    bench.group(&mut c, "gemv_columns", &Format::ALL, |g, name, row| bench.gemv_columns(g, name, row));
    bench.group(&mut c, "cached", &Format::ALL, |g, name, row| bench.cached(g, name, row));
    for tokens in [4, 16, TOKENS] {
        bench.group(&mut c, &format!("gemm{tokens}"), &Format::ALL, |g, name, row| bench.gemm(g, name, row, tokens));
    }
    bench.lines(&mut c);
    c.final_summary();
}
