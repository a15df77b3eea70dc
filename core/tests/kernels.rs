//! Every kernel of every instruction set that this processor has: bit for bit what the scalar set computes,
//! and the scalar set within rounding of plain f64 arithmetic. Each test runs all its cases and lists every
//! one that fails.

use half::f16;
use shadowllm_core::format::{Arithmetic, BLOCK, TILE_ROWS};
use shadowllm_core::kernels::{Activation, Attend, Geometry, Input, KvFormat, KvView, Layout, Matrix};
use shadowllm_core::simd::scalar::ScalarLanes;
use shadowllm_core::simd::{LANES, Lanes};
use shadowllm_core::{Cpu, Format, Isa, Kernels};

/// Unit roundoff of f32: an operation's result is within a factor 1 +- U of the exact one.
const U: f64 = 1.0 / (1 << 24) as f64;

/// Bound on the relative error of `n` roundings in a row (Higham, Accuracy and Stability, lemma 3.1).
fn gamma(n: usize) -> f64 {
    n as f64 * U / (1.0 - n as f64 * U)
}

/// The processor, with what the standard library knows on Arm and core cannot.
fn cpu() -> Cpu {
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        // SAFETY: just detected, and this is the architecture.
        return unsafe { Cpu::assume(Isa::NeonDot) };
    }
    Cpu::detect()
}

/// All kernel sets that run here; the scalar one first.
fn sets() -> Vec<&'static Kernels> {
    let sets: Vec<_> = Isa::ALL.into_iter().filter_map(|isa| Kernels::for_isa(cpu(), isa)).collect();
    assert!(sets[0].isa() == Isa::Scalar && sets.iter().any(|k| k.isa() == cpu().best()));
    println!("runs: {:?}", sets.iter().map(|k| k.isa().name()).collect::<Vec<_>>());
    sets
}

/// What went wrong, case by case.
#[derive(Default)]
struct Report {
    cases: usize,
    /// Largest share of its tolerance that a result took.
    worst: f64,
    failures: Vec<String>,
}

impl Report {
    /// The same bits (any NaN equals any other: which one comes out, IEEE-754 leaves open).
    fn same(&mut self, case: impl Fn() -> String, got: &[f32], want: &[f32]) {
        self.cases += 1;
        let differ = |(g, w): &(&f32, &f32)| g.to_bits() != w.to_bits() && !(g.is_nan() && w.is_nan());
        if got.len() != want.len() {
            self.failures.push(format!("{}: {} outputs for {}", case(), got.len(), want.len()));
        } else if let Some(at) = got.iter().zip(want).position(|p| differ(&p)) {
            let bad = got.iter().zip(want).filter(differ).count();
            self.failures.push(format!("{}: {bad} differ, [{at}] {:e} is not {:e}", case(), got[at], want[at]));
        }
    }

    /// Each within its tolerance of the reference.
    fn near(&mut self, case: impl Fn() -> String, got: &[f32], want: &[(f64, f64)]) {
        self.cases += 1;
        assert_eq!(got.len(), want.len());
        for (at, (g, (w, tolerance))) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*g) - w).abs();
            if error <= *tolerance {
                // An exact result may have no tolerance at all.
                self.worst = self.worst.max(error / tolerance.max(f64::MIN_POSITIVE));
            } else {
                self.failures.push(format!("{}: [{at}] {g:e} is not {w:e} +- {tolerance:e}", case()));
                return;
            }
        }
    }

    fn check(&mut self, case: impl Fn() -> String, ok: bool) {
        self.cases += 1;
        if !ok {
            self.failures.push(case());
        }
    }

    fn finish(self) {
        let n = self.failures.len();
        assert!(n == 0, "{n} of {} cases failed:\n{}", self.cases, self.failures.join("\n"));
        println!("{} cases; at most {:.0} % of a tolerance used", self.cases, self.worst * 100.0);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// -1..1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Largest scale, minimum and float weight that [`tiles`] makes.
const LARGEST: f32 = 0.25;

/// Halves up to [`LARGEST`] of either sign; now and then the numbers that conversions get wrong: zeros and
/// subnormals.
fn half(random: &mut Random) -> f16 {
    match random.bits() % 16 {
        0 => f16::from_bits((random.bits() & 0x8000) as u16),
        1 => f16::from_bits((random.bits() & 0x83ff) as u16),
        _ => f16::from_f32(random.unit() * LARGEST),
    }
}

/// `span` bytes of a matrix: any bytes for codes (all 256 values, -128 too), modest numbers for floats. They
/// begin at an odd address: kernels may not count on alignment.
fn tiles(g: &Geometry, random: &mut Random) -> Vec<u8> {
    let span = g.span().expect("possible geometry");
    let mut bytes: Vec<u8> = (0..span + 1).map(|_| random.bits() as u8).collect();
    let group = g.units_per_group * g.unit_bytes();
    let tile = g.format.tile_bytes();
    for start in (0..span).step_by(g.group_stride) {
        for t in (start..start + group).step_by(tile) {
            let tile = &mut bytes[1 + t..1 + t + tile];
            let halves = match g.format.arithmetic() {
                Arithmetic::F32 => {
                    for b in tile.as_chunks_mut::<4>().0 {
                        *b = (random.unit() * LARGEST).to_le_bytes();
                    }
                    0
                }
                Arithmetic::F16 => TILE_ROWS * BLOCK,
                Arithmetic::Int8 | Arithmetic::Table4 => TILE_ROWS,
                Arithmetic::Affine4 => 2 * TILE_ROWS,
            };
            for b in tile[..2 * halves].as_chunks_mut::<2>().0 {
                *b = half(random).to_le_bytes();
            }
        }
    }
    bytes
}

/// Rows of inputs, owned.
struct Rows {
    width: usize,
    values: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

impl Rows {
    /// `n` rows, of different sizes, one block all zeros.
    fn new(width: usize, n: usize, random: &mut Random) -> Rows {
        let mut values = random.units(width * n);
        for (i, row) in values.chunks_mut(width).enumerate() {
            row.iter_mut().for_each(|x| *x *= (i + 1) as f32);
        }
        values[..BLOCK].fill(0.0);
        let blocks = n * width / BLOCK;
        let (mut quants, mut scales, mut offsets) = (vec![0; n * width], vec![0.0; blocks], vec![0; blocks]);
        let scalar = Kernels::for_isa(cpu(), Isa::Scalar).expect("runs everywhere");
        scalar.quantize(&values, &mut quants, &mut scales, &mut offsets);
        Rows { width, values, quants, scales, offsets }
    }

    /// What a matrix of this format reads, the rest left empty.
    fn input(&self, format: Format) -> Input<'_> {
        if format.takes_int8() {
            let (quants, scales, offsets) = (&self.quants, &self.scales, &self.offsets);
            Input { width: self.width, values: &[], quants, scales, offsets }
        } else {
            Input { width: self.width, values: &self.values, quants: &[], scales: &[], offsets: &[] }
        }
    }

    /// Input k of row t as the format sees it.
    fn seen(&self, format: Format, t: usize, k: usize) -> f64 {
        let at = t * self.width + k;
        if format.takes_int8() {
            f64::from(self.quants[at]) * f64::from(self.scales[at / BLOCK])
        } else {
            f64::from(self.values[at])
        }
    }
}

/// Output `row` for token `t` in f64 over k-blocks `kbs`, with the tolerance of the f32 kernels.
///
/// Floats: a product and at most K sums round each term. Integers: the dot product is exact, then at most two
/// products and K/32 sums (twice as many with a minimum) round each block's term. The weights themselves are
/// exact in f32 but for scale * code + minimum, one more rounding; and there the two parts, not the weight,
/// are the terms that round.
fn reference(m: &Matrix, row: usize, rows: &Rows, t: usize, kbs: std::ops::Range<usize>) -> (f64, f64) {
    let (format, roundings) = (m.format(), kbs.len());
    let (mut sum, mut norm) = (0.0, 0.0);
    for kb in kbs {
        for (k, w) in m.block(row, kb).into_iter().enumerate() {
            let (w, x) = (f64::from(w), rows.seen(format, t, kb * BLOCK + k));
            sum += w * x;
            norm +=
                x.abs() * if format.arithmetic() == Arithmetic::Affine4 { 16.0 * f64::from(LARGEST) } else { w.abs() };
        }
    }
    let roundings = match format.arithmetic() {
        Arithmetic::F32 | Arithmetic::F16 => roundings * BLOCK + 1,
        Arithmetic::Int8 | Arithmetic::Table4 => roundings + 2,
        Arithmetic::Affine4 => 2 * roundings + 3,
    };
    (sum, norm * gamma(roundings))
}

/// Panels and k-blocks: one, a pair, odd numbers; where k-blocks are what is grouped, six besides, which make
/// both several groups and several units in a group (2 x 3 and 3 x 2). Units per group: every divisor, an
/// odd number of bytes between groups.
fn geometries() -> Vec<Geometry> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for (layout, lengths) in [(Layout::Rows, &[1, 2, 3, 7][..]), (Layout::Columns, &[1, 2, 3, 6, 7])] {
            for (panels, &k_blocks) in (1..=3).flat_map(|p| lengths.iter().map(move |k| (p, k))) {
                let units: usize = if layout == Layout::Rows { panels } else { k_blocks };
                for units_per_group in (1..=units).filter(|u| units.is_multiple_of(*u)) {
                    let group_width = units_per_group * TILE_ROWS + TILE_ROWS;
                    let mut g =
                        Geometry { format, layout, panels, k_blocks, units_per_group, group_stride: 0, group_width };
                    g.group_stride = units_per_group * g.unit_bytes() + 37;
                    all.push(g);
                }
            }
        }
    }
    all
}

fn describe(k: &Kernels, what: &str, g: &Geometry) -> String {
    format!(
        "{} {what} {} {:?} panels {} k_blocks {} units/group {}",
        k.isa().name(),
        g.format.name(),
        g.layout,
        g.panels,
        g.k_blocks,
        g.units_per_group
    )
}

#[test]
fn gemm() {
    // Around every number of tokens some kernel takes at once (1, 2, 4, 8, 16), and two rounds of the widest.
    const TOKENS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33];
    // Not a multiple of 16, and what lies between must stay as it is.
    const STRIDE: usize = TILE_ROWS + 3;
    const UNTOUCHED: f32 = -77.0;
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(1));
    let inputs: Vec<Rows> = (0..=7).map(|kb: usize| Rows::new(kb.max(1) * BLOCK, 33 + 3, &mut random)).collect();
    for g in geometries() {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let rows = &inputs[g.k_blocks];
        let x = rows.input(g.format);
        for panel in 0..g.panels {
            // One token at a time defines the result: how many are computed together must not show.
            let mut single = vec![UNTOUCHED; 36 * STRIDE];
            for t in 0..36 {
                sets[0].gemm(&m, panel, &x, t, 1, &mut single[t * STRIDE..], STRIDE);
            }
            for t in [0, 1, 35] {
                let want: Vec<_> =
                    (0..TILE_ROWS).map(|r| reference(&m, panel * TILE_ROWS + r, rows, t, 0..g.k_blocks)).collect();
                let case = || format!("{} panel {panel} token {t}", describe(sets[0], "gemm", &g));
                report.near(case, &single[t * STRIDE..][..TILE_ROWS], &want);
            }
            for k in &sets {
                for tokens in TOKENS {
                    // 0 to 3.
                    let first = tokens % 4;
                    let mut out = vec![UNTOUCHED; tokens * STRIDE];
                    k.gemm(&m, panel, &x, first, tokens, &mut out, STRIDE);
                    let case = || format!("{} panel {panel} tokens {first}+{tokens}", describe(k, "gemm", &g));
                    report.same(case, &out, &single[first * STRIDE..][..tokens * STRIDE]);
                }
            }
        }
    }
    report.finish();
}

#[test]
fn gemv_columns() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(2));
    for g in geometries().into_iter().filter(|g| g.layout == Layout::Columns) {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let rows = Rows::new(g.input_width(), 2, &mut random);
        let x = rows.input(g.format);
        // Every run of panels, the empty one too, added to what is there.
        for (from, to) in (0..=g.panels).flat_map(|from| (from..=g.panels).map(move |to| (from, to))) {
            let before = random.units((to - from) * TILE_ROWS);
            for kb in 0..g.k_blocks {
                let mut want = before.clone();
                sets[0].gemv_columns(&m, kb, from, &x, &mut want);
                let exact = before.iter().enumerate().map(|(i, y)| {
                    let (sum, tolerance) = reference(&m, from * TILE_ROWS + i, &rows, 0, kb..kb + 1);
                    let y = f64::from(*y);
                    // What was there goes through all sums.
                    (y + sum, tolerance + y.abs() * gamma(BLOCK))
                });
                let exact: Vec<_> = exact.collect();
                let case = |k| format!("{} panels {from}..{to} block {kb}", describe(k, "gemv_columns", &g));
                report.near(|| case(sets[0]), &want, &exact);
                for k in &sets[1..] {
                    let mut y = before.clone();
                    k.gemv_columns(&m, kb, from, &x, &mut y);
                    report.same(|| case(k), &y, &want);
                }
            }
        }
        // All columns one after the other are the product.
        for k in &sets {
            let mut y = vec![0.0; g.output_width()];
            (0..g.k_blocks).for_each(|kb| k.gemv_columns(&m, kb, 0, &x, &mut y));
            let mut want = vec![0.0; g.output_width()];
            for (panel, out) in want.chunks_mut(TILE_ROWS).enumerate() {
                k.gemm(&m, panel, &x, 0, 1, out, TILE_ROWS);
            }
            report.same(|| describe(k, "gemv_columns, all", &g), &y, &want);
        }
    }
    report.finish();
}

/// The most a signed and an unsigned code can make of a dot product: the 16-bit sums of kernels without a
/// 32-bit dot product are full here, and would overflow with one product more.
#[test]
fn integer_extremes() {
    let (sets, mut report) = (sets(), Report::default());
    for format in Format::ALL.into_iter().filter(|f| f.takes_int8()) {
        let tile = format.tile_bytes();
        let header = if format.arithmetic() == Arithmetic::Affine4 { 64 } else { 32 };
        let g = Geometry {
            format,
            layout: Layout::Columns,
            panels: 1,
            k_blocks: 1,
            units_per_group: 1,
            group_stride: tile,
            group_width: TILE_ROWS,
        };
        // As i8: -128, 127, and mixed; as nibbles: 0, 15, and mixed.
        for code in [0x80, 0x7f, 0x00, 0xff, 0xf0, 0x0f] {
            let mut bytes = vec![code; tile];
            bytes[..header].copy_from_slice(&[f16::ONE.to_le_bytes(); 32].as_flattened()[..header]);
            let m = Matrix::new(g, &bytes).expect("fits");
            for quant in [127i8, -127] {
                for signs in 0..4u32 {
                    // All of one sign, alternating in ones, in twos, in fours.
                    let sign = |k: usize| if signs > 0 && k >> (signs - 1) & 1 == 1 { -1 } else { 1 };
                    let quants: Vec<i8> = (0..BLOCK).map(|k| quant * sign(k)).collect();
                    let sum: i32 = quants.iter().map(|q| i32::from(*q)).sum();
                    let x =
                        Input { width: BLOCK, values: &[], quants: &quants, scales: &[1.0], offsets: &[-128 * sum] };
                    let want: Vec<f32> = (0..TILE_ROWS)
                        .map(|r| m.block(r, 0).iter().zip(&quants).fold(0.0, |sum, (w, q)| sum + w * f32::from(*q)))
                        .collect();
                    for k in &sets {
                        let case = |what| {
                            format!("{} {what} {} {code:#x} x {quant} signs {signs}", k.isa().name(), format.name())
                        };
                        let mut out = vec![0.0; TILE_ROWS];
                        k.gemm(&m, 0, &x, 0, 1, &mut out, TILE_ROWS);
                        report.same(|| case("gemm"), &out, &want);
                        out.fill(0.0);
                        k.gemv_columns(&m, 0, 0, &x, &mut out);
                        report.same(|| case("gemv_columns"), &out, &want);
                    }
                }
            }
        }
    }
    report.finish();
}

#[test]
fn quantize() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(3));
    let mut blocks: Vec<Vec<f32>> = Vec::new();
    // From the smallest number to the largest: 127 / largest must neither overflow nor vanish on the way.
    for exponent in -149..=127 {
        blocks.push(random.units(BLOCK).iter().map(|x| (f64::from(*x) * 2f64.powi(exponent)) as f32).collect());
    }
    blocks.push(vec![0.0; BLOCK]);
    blocks.push(vec![-0.0; BLOCK]);
    // The largest alone, at the ends of both halves, of either sign.
    for at in [0, 15, 16, 31] {
        for x in [1.0, -1.0, f32::MIN_POSITIVE, f32::MAX, -f32::MAX] {
            let mut block = vec![0.0; BLOCK];
            block[at] = x;
            blocks.push(block);
        }
    }
    // With 127 the largest, x is q: halves between two integers must go to the even one.
    blocks.push((0..BLOCK).map(|i| if i == 7 { -127.0 } else { i as f32 - 15.5 }).collect());
    blocks.push((0..BLOCK).map(|i| if i == 0 { 127.0 } else { i as f32 * 4.0 - 0.5 }).collect());
    let x = blocks.concat();
    let n = blocks.len();
    // No block, one, several, all.
    for n in [0, 1, 2, 3, n] {
        let x = &x[x.len() - n * BLOCK..];
        let run = |k: &Kernels| {
            let (mut q, mut scales, mut offsets) = (vec![99i8; n * BLOCK], vec![9.0; n], vec![9; n]);
            k.quantize(x, &mut q, &mut scales, &mut offsets);
            (q, scales, offsets)
        };
        let (q, scales, offsets) = run(sets[0]);
        for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let largest = block.iter().fold(0f32, |a, x| a.max(x.abs()));
            let q = &q[b * BLOCK..][..BLOCK];
            let case = |what| format!("scalar quantize {b} of {n}, largest {largest:e}: {what}, {q:?}");
            report.check(|| case("scale"), scales[b] == largest / 127.0);
            report.check(|| case("offset"), offsets[b] == -128 * q.iter().map(|q| i32::from(*q)).sum::<i32>());
            // Where 127 / largest is no number, nothing is left.
            if largest <= 127.0 / f32::MAX {
                report.check(|| case("not zeros"), q.iter().all(|q| *q == 0));
                continue;
            }
            for (x, q) in block.iter().zip(q) {
                // Two roundings before the last one, each of at most 127 * U.
                let exact = f64::from(*x) * 127.0 / f64::from(largest);
                report.check(|| case("not nearest"), (exact - f64::from(*q)).abs() <= 0.5 + 127.0 * gamma(2));
            }
        }
        for k in &sets[1..] {
            let (q2, scales2, offsets2) = run(k);
            let case = |what: &str| format!("{} quantize {n} blocks: {what} differ", k.isa().name());
            for b in 0..n {
                let range = b * BLOCK..(b + 1) * BLOCK;
                report.check(
                    || case(&format!("quants of block {b} {:?}", &x[range.clone()])),
                    q[range.clone()] == q2[range.clone()],
                );
            }
            report.same(|| case("scales"), &scales2, &scales);
            report.check(|| case("offsets"), offsets2 == offsets);
        }
    }
    report.finish();
}

/// 1 to 40: every tail of a vector of 16, with none, one and two whole ones before it; then real widths.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=40).chain([576, 2048, 4097])
}

#[test]
fn norms() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(4));
    for n in lengths() {
        for (scale, shift, eps) in [(1.0, 0.0, 1e-5f32), (1e-4, 0.0, 1e-6), (30.0, 10.0, 1e-5)] {
            let x: Vec<f32> = random.units(n).iter().map(|x| x * scale + shift).collect();
            let (weight, bias) = (random.units(n), random.units(n));
            let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let (xs, w, b) = (wide(&x), wide(&weight), wide(&bias));
            // Roundings of a term of a sum: its square, its chain, the tree of 16 lanes. 8 more cover the
            // division, epsilon, root, reciprocal and the products after them.
            let roundings = n.div_ceil(LANES) + 5 + 8;
            let mean = xs.iter().sum::<f64>() / n as f64;
            let norm = |v: &[f64]| (v.iter().map(|x| x * x).sum::<f64>() / n as f64 + f64::from(eps)).sqrt();

            let rms: Vec<_> =
                xs.iter().zip(&w).map(|(x, w)| x / norm(&xs) * w).map(|y| (y, y.abs() * gamma(roundings))).collect();

            // The mean is off by delta at most, and with it each difference d; that changes sum(d^2) by at
            // most 2 delta sum|d| + n delta^2, and the norm, its root, by half of that.
            let d: Vec<f64> = xs.iter().map(|x| x - mean).collect();
            let total = |v: &[f64]| v.iter().map(|x| x.abs()).sum::<f64>();
            let largest = d.iter().fold(0f64, |a, d| a.max(d.abs()));
            let delta = gamma(roundings) * total(&xs) / n as f64 + U * largest;
            let squares = norm(&d).powi(2) * n as f64;
            let relative = (delta * total(&d) + n as f64 * delta * delta / 2.0) / squares + gamma(roundings);
            let layer: Vec<_> = (0..n)
                .map(|i| {
                    let y = d[i] / norm(&d) * w[i];
                    (y + b[i], y.abs() * relative + delta / norm(&d) * w[i].abs() + (y + b[i]).abs() * U)
                })
                .map(|(y, tolerance)| (y, tolerance * (1.0 + 1e-3)))
                .collect();

            let run = |k: &Kernels| {
                let (mut a, mut b) = (vec![9.0; n], vec![9.0; n]);
                k.rms_norm(&x, &weight, eps, &mut a);
                k.layer_norm(&x, &weight, &bias, eps, &mut b);
                (a, b)
            };
            let want = run(sets[0]);
            let case = |k: &Kernels, what| format!("{} {what} n {n} x * {scale} + {shift}", k.isa().name());
            report.near(|| case(sets[0], "rms_norm"), &want.0, &rms);
            report.near(|| case(sets[0], "layer_norm"), &want.1, &layer);
            for k in &sets[1..] {
                let got = run(k);
                report.same(|| case(k, "rms_norm"), &got.0, &want.0);
                report.same(|| case(k, "layer_norm"), &got.1, &want.1);
            }
        }
    }
    report.finish();
}

/// The activation in f64 and its tolerance. exp is good to 2 units in the last place, 4 U; below -88 it is
/// held, which leaves at most |x| e^-87 instead of nothing.
fn activation(kind: Activation, x: f32) -> (f64, f64) {
    let x = f64::from(x);
    let held = x.abs() * (-87f64).exp();
    match kind {
        Activation::Silu => {
            let y = x / (1.0 + (-x).exp());
            // e^-x, one sum, one quotient.
            (y, y.abs() * gamma(4 + 2) + held)
        }
        Activation::Relu => (x.max(0.0), 0.0),
        Activation::Relu2 => (x.max(0.0).powi(2), x * x * U),
        Activation::GeluTanh => {
            let u2 = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let y = x / (1.0 + (-u2).exp());
            // u2 has a relative error of 3 products, a sum, a product and 2 constants; e^u2 turns its
            // absolute error into a relative one.
            (y, y.abs() * (gamma(7) * u2.abs().min(90.0) + gamma(4 + 2)) + held)
        }
        Activation::Gelu => {
            // 1 + erf cancels: its error is absolute, an erf of 1 unit (2 U) and a sum; the argument's two
            // roundings move erf by 2 z e^(-z^2) / sqrt(pi) U, less than U.
            (x / 2.0 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)), x.abs() * gamma(4))
        }
    }
}

#[test]
fn activations() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(5));
    // For bits only: numbers that end the ranges of exp, and those that are none.
    let special = [
        0.0f32,
        -0.0,
        87.0,
        -87.0,
        88.0,
        -88.0,
        88.5,
        -88.5,
        104.0,
        -104.0,
        1e-40,
        -1e-40,
        1e19,
        -1e19,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for kind in Activation::ALL {
        for n in (1..=40).chain([1000]) {
            for gated in [false, true] {
                // Up to 20: both tails of every sigmoid are there.
                let x: Vec<f32> = random.units(n).iter().map(|x| x * 20.0).collect();
                let up = random.units(n);
                let run = |k: &Kernels| {
                    let mut h = if gated { up.clone() } else { x.clone() };
                    k.activate(kind, gated.then_some(&x[..]), &mut h);
                    h
                };
                let case = |k: &Kernels| format!("{} {} n {n} gated {gated}", k.isa().name(), kind.name());
                let exact = x.iter().zip(&up).map(|(x, up)| {
                    let (y, tolerance) = activation(kind, *x);
                    let up = f64::from(*up);
                    if gated { (y * up, tolerance * up.abs() + (y * up).abs() * 2.0 * U) } else { (y, tolerance) }
                });
                let want = run(sets[0]);
                report.near(|| case(sets[0]), &want, &exact.collect::<Vec<_>>());
                for k in &sets[1..] {
                    report.same(|| case(k), &run(k), &want);
                }
            }
        }
        for k in &sets[1..] {
            let run = |k: &Kernels| {
                let mut h = special;
                k.activate(kind, None, &mut h);
                h
            };
            let case = || format!("{} {} of special numbers", k.isa().name(), kind.name());
            report.same(case, &run(k), &run(sets[0]));
        }
    }
    report.finish();
}

/// Every 9973rd f32 (a prime: all bits change) between -87 and 88, and the ends.
#[test]
fn exp() {
    let mut report = Report::default();
    let ends = [0.0f32, -0.0, 1.0, -87.0, 88.0].map(f32::to_bits);
    let bits =
        (0..88f32.to_bits()).step_by(9973).chain(((-0f32).to_bits()..(-87f32).to_bits()).step_by(9973)).chain(ends);
    for bits in bits.collect::<Vec<_>>().chunks(LANES) {
        let x: [f32; LANES] = std::array::from_fn(|i| f32::from_bits(*bits.get(i).unwrap_or(&0)));
        // SAFETY: 16 floats; the scalar lanes need no feature.
        let y = unsafe { ScalarLanes::load(x.as_ptr()).exp().to_array() };
        for (x, y) in x.into_iter().zip(y) {
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            report.near(|| format!("exp({x:e})"), &[y], &[(exact, 2.0 * unit)]);
        }
    }
    // Outside it is held.
    for (x, held) in [(-1e30, -87.0), (f32::NEG_INFINITY, -87.0), (1e30, 88.0), (f32::INFINITY, 88.0)] {
        // SAFETY: as above.
        let (y, held) = unsafe { (ScalarLanes::splat(x).exp().to_array(), ScalarLanes::splat(held).exp().to_array()) };
        report.same(|| format!("exp({x:e})"), &y, &held);
    }
    report.finish();
}

/// Queries and a cache with their shape.
struct Attention {
    format: KvFormat,
    width: usize,
    heads: usize,
    tokens: usize,
    first: usize,
    window: usize,
    q: Vec<f32>,
    /// [positions, width], as stored.
    keys: Vec<f32>,
    values: Vec<f32>,
    key_tiles: Vec<u8>,
    value_rows: Vec<u8>,
}

impl Attention {
    const UNTOUCHED: f32 = -77.0;

    /// Positions nobody sees hold NaN: they may not count, nor be multiplied by zero and added.
    fn new(
        format: KvFormat,
        width: usize,
        heads: usize,
        tokens: usize,
        first: usize,
        window: usize,
        r: &mut Random,
    ) -> Self {
        let positions = (first + tokens).next_multiple_of(LANES);
        let seen = (first + 1).saturating_sub(window)..first + tokens;
        let mut number = |p: usize| {
            let x = if seen.contains(&p) { r.unit() } else { f32::NAN };
            if format == KvFormat::F16 { f16::from_f32(x).to_f32() } else { x }
        };
        let keys: Vec<f32> = (0..positions * width).map(|i| number(i / width)).collect();
        let mut values: Vec<f32> = (0..positions * width).map(|i| number(i / width)).collect();
        if format == KvFormat::F32 {
            // So large that even e^-87 of it would show where a neighbouring query may not look.
            values[seen.start * width] = 1e38;
            values[(seen.end - 1) * width + 1] = -1e38;
        }
        let store = |x: f32| match format {
            KvFormat::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            KvFormat::F32 => x.to_le_bytes().to_vec(),
        };
        let tiled = (0..positions * width).map(|i| {
            let (tile, d, lane) = (i / LANES / width, i / LANES % width, i % LANES);
            keys[(tile * LANES + lane) * width + d]
        });
        let key_tiles = tiled.flat_map(store).collect();
        let value_rows = values.iter().copied().flat_map(store).collect();
        let mut a =
            Attention { format, width, heads, tokens, first, window, q: vec![], keys, values, key_tiles, value_rows };
        // Sharp enough that soft-max is no mean: scores of some units.
        a.q = r.units(a.outputs()).iter().map(|q| q * 2.0).collect();
        a
    }

    /// Heads and tokens lie apart.
    fn head_stride(&self) -> usize {
        self.width + 16
    }

    fn token_stride(&self) -> usize {
        self.heads * self.head_stride() + 5
    }

    fn outputs(&self) -> usize {
        self.tokens * self.token_stride()
    }

    fn place(&self, t: usize, h: usize) -> usize {
        t * self.token_stride() + h * self.head_stride()
    }

    fn run(&self, k: &Kernels, (tokens, from): (usize, usize), (heads, head): (usize, usize)) -> Vec<f32> {
        let mut out = vec![Self::UNTOUCHED; self.outputs()];
        let at = self.place(from, head);
        let a = Attend {
            q: self.q[at..].as_ptr(),
            token_stride: self.token_stride(),
            head_stride: self.head_stride(),
            tokens,
            heads,
            head_width: self.width,
            first: self.first + from,
            window: self.window,
            kv: KvView { format: self.format, keys: self.key_tiles.as_ptr(), values: self.value_rows.as_ptr() },
        };
        // SAFETY: queries and outputs of these tokens and heads lie inside, and the cache holds all positions
        // up to the last token's.
        unsafe { k.attend(&a, out[at..].as_mut_ptr()) };
        out
    }

    /// Soft-max attention of one query, in the usual two passes, with the tolerance of the f32 kernel.
    ///
    /// A score is off by gamma(d + 1) |q||k| at most, its distance to the largest by twice that and a
    /// rounding; e^ makes that relative and adds 4 U. Every block of 64 rescales what came before (e^ again,
    /// a product) and each weight and value passes n sums at most. Numerator and denominator both.
    fn reference(&self, t: usize, h: usize) -> Vec<(f64, f64)> {
        let end = self.first + t + 1;
        let seen = end.saturating_sub(self.window)..end;
        let q = &self.q[self.place(t, h)..][..self.width];
        let row = |v: &[f32], p: usize, d: usize| f64::from(v[p * self.width + d]);
        let (mut scores, mut norm) = (Vec::new(), 0f64);
        for p in seen.clone() {
            let terms = (0..self.width).map(|d| f64::from(q[d]) * row(&self.keys, p, d));
            norm = norm.max(terms.clone().map(f64::abs).sum());
            scores.push(terms.sum::<f64>());
        }
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let blocks = seen.len() / 64 + 2;
        let relative = 2.0 * norm * gamma(self.width + 1) + 2.0 * norm * U + gamma(4 + 6 * blocks + seen.len() + 3);
        (0..self.width)
            .map(|d| {
                let terms = seen.clone().zip(&weights).map(|(p, w)| w / sum * row(&self.values, p, d));
                (terms.clone().sum(), terms.map(f64::abs).sum::<f64>() * 2.0 * relative)
            })
            .collect()
    }
}

/// Widths: one vector and several. Queries (tokens * heads): around the four taken at once. First position:
/// at, before and after the edges of a tile of 16 and of a soft-max block of 64, and in the third block.
/// Windows: one position, less than a tile, one block, a block and one, and none at all.
#[test]
fn attend() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(6));
    for format in [KvFormat::F16, KvFormat::F32] {
        for (width, heads, tokens) in
            [(16, 1, 1), (32, 3, 1), (16, 1, 3), (64, 2, 2), (16, 3, 3), (48, 1, 5), (16, 9, 1)]
        {
            for first in [0, 1, 14, 15, 16, 31, 60, 63, 64, 65, 127, 130] {
                for window in [usize::MAX, 1, 7, 64, 65] {
                    let a = Attention::new(format, width, heads, tokens, first, window, &mut random);
                    let case = |k: &Kernels, what: &str| {
                        let name = k.isa().name();
                        format!(
                            "{name} attend{what} {format:?} width {width} heads {heads} tokens {first}+{tokens} window {window}"
                        )
                    };
                    let all = ((tokens, 0), (heads, 0));
                    let want = a.run(sets[0], all.0, all.1);
                    // Query by query: the same bits, near the reference, and nothing else written.
                    let mut single = vec![Attention::UNTOUCHED; a.outputs()];
                    for (t, h) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                        let at = a.place(t, h)..a.place(t, h) + width;
                        single[at.clone()].copy_from_slice(&a.run(sets[0], (1, t), (1, h))[at.clone()]);
                        report.near(|| case(sets[0], &format!(" ({t}, {h})")), &want[at], &a.reference(t, h));
                    }
                    report.same(|| case(sets[0], " one by one"), &single, &want);
                    for k in &sets[1..] {
                        report.same(|| case(k, ""), &a.run(k, all.0, all.1), &want);
                    }
                }
            }
        }
    }
    report.finish();
}
