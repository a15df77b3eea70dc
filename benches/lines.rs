//! The kernels that skip: matrices whose lines are single outputs or inputs, of which every call reads another random
//! share.

use super::{BLOCK, Bench, PANELS, Random, Row, TILE_ROWS, WIDTH};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use shadowllm_core::Format;
use shadowllm_core::format::{Geometry, Order};
use shadowllm_core::kernels::Outputs;
use std::hint::black_box;

/// One format of each arithmetic; other formats differ only in their tables.
const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q4_1];

/// Shares of the lines that are read.
const DENSITIES: [f64; 5] = [1.0, 0.75, 0.5, 0.3, 0.1];

/// A matrix of lines, in which groups of outputs or of inputs are stored as in bundles of neurons, with the groups of
/// two other matrices between them.
fn geometry(format: Format, order: Order, group: usize) -> Geometry {
    let (k_blocks, bytes) = (WIDTH / BLOCK, WIDTH / BLOCK * format.block_bytes());
    let by_input = order == Order::Inputs;
    Geometry {
        format,
        order,
        panels: PANELS,
        k_blocks,
        units_per_group: if by_input { BLOCK } else { group },
        group_stride: if by_input { BLOCK * bytes } else { 3 * group * bytes },
        group_width: if order == Order::RowLines { group } else { WIDTH },
    }
}

/// Lines of whole groups, in order; each group is chosen with the same probability.
fn chosen(group: usize, density: f64, random: &mut Random) -> Vec<u32> {
    let groups = (0..(WIDTH / group) as u32).filter(|_| (random.next() >> 11) as f64 / ((1u64 << 53) as f64) < density);
    groups.flat_map(|g| g * group as u32..(g + 1) * group as u32).collect()
}

impl Bench {
    /// Sixteen chosen outputs at a time, as for the neurons of one token: bytes of their lines a second.
    fn rows(&self, b: &mut BenchmarkGroup<WallTime>, name: &str, row: Row, group: usize, density: f64) {
        let (g, mut random) = (geometry(row.format, Order::RowLines, group), Random(3));
        let lists: Vec<_> = (0..64).map(|_| chosen(group, density, &mut random)).collect();
        let mean = lists.iter().map(Vec::len).sum::<usize>() / lists.len();
        b.throughput(Throughput::BytesDecimal((mean * g.unit_bytes()) as u64));
        let mut out = [0.0; TILE_ROWS];
        b.bench_function(name, |b| {
            let mut lists = lists.iter().cycle();
            b.iter(|| {
                let (m, list) = (self.matrix(g, &mut random), lists.next().expect("a cycle"));
                let at = |i: usize| list[i.min(list.len() - 1)];
                for first in (0..list.len()).step_by(TILE_ROWS) {
                    let these = std::array::from_fn(|i| at(first + i));
                    let next = std::array::from_fn(|i| at(first + TILE_ROWS + i));
                    let outputs = Outputs { rows: &these, prefetch: &next };
                    row.kernels.gemm_rows(&m, outputs, &self.inputs.view(), 0..1, &mut out, TILE_ROWS);
                    black_box(&mut out);
                }
            });
        });
    }

    /// Chosen inputs of one token: bytes of their lines (and the scales that they share) a second.
    fn inputs(&self, b: &mut BenchmarkGroup<WallTime>, name: &str, row: Row, g: Geometry, group: usize, density: f64) {
        let (mut random, mut y) = (Random(3), vec![0.0; WIDTH]);
        let lists: Vec<_> = (0..64).map(|_| chosen(group, density, &mut random)).collect();
        let mean = lists.iter().map(Vec::len).sum::<usize>() / lists.len();
        b.throughput(Throughput::BytesDecimal((mean * g.unit_bytes() + g.k_blocks * g.shared_bytes()) as u64));
        b.bench_function(name, |b| {
            let mut lists = lists.iter().cycle();
            b.iter(|| {
                let (m, list) = (self.matrix(g, &mut random), lists.next().expect("a cycle"));
                y.fill(0.0);
                row.kernels.gemv_inputs(&m, list, 0, &self.inputs.view(), &mut y);
                black_box(&mut y);
            });
        });
    }

    /// All rows of this file: `rows8/0.3/q4_0/avx512`.
    pub fn lines(&self, c: &mut Criterion) {
        for group in [1, 8] {
            self.sweep(c, &format!("rows{group}"), |b, name, row, density| self.rows(b, name, row, group, density));
            self.sweep(c, &format!("columns{group}"), |b, name, row, density| {
                let g = geometry(row.format, Order::ColumnLines, group);
                self.inputs(b, name, row, g, group, density);
            });
        }
        self.sweep(c, "inputs", |b, name, row, density| {
            if row.format.takes_int8() {
                self.inputs(b, name, row, geometry(row.format, Order::Inputs, 1), 1, density);
            }
        });
    }

    /// A group of rows: every density, one format of each arithmetic, every instruction set.
    fn sweep(&self, c: &mut Criterion, shape: &str, run: impl Fn(&mut BenchmarkGroup<WallTime>, &str, Row, f64)) {
        for density in DENSITIES {
            self.group(c, &format!("{shape}/{density}"), &FORMATS, |b, name, row| run(b, name, row, density));
        }
    }
}
