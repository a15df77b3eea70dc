//! Norms, activations, the exponential, attention.

use super::*;

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

/// The activation in f64 and its tolerance. exp is good to 2 units in the last place, 4 U; below -88 its argument is
/// clamped, which gives at most |x| e^-87 instead of 0.
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
        Activation::FatRelu => (if x > f64::from(PARAMETER) { x } else { 0.0 }, 0.0),
        Activation::ClampedSwiglu => {
            let x = x.min(f64::from(CLAMP));
            let y = x / (1.0 + (-f64::from(PARAMETER) * x).exp());
            // As Silu, and a product before e^.
            (y, y.abs() * gamma(4 + 3 + (f64::from(PARAMETER) * x).abs() as usize) + held)
        }
    }
}

const PARAMETER: f32 = 1.702;
const CLAMP: f32 = 7.0;

/// The factor of the activated gates.
fn factor(kind: Activation, up: f32) -> f64 {
    let up = f64::from(up);
    if kind == Activation::ClampedSwiglu { up.clamp(-f64::from(CLAMP), f64::from(CLAMP)) + 1.0 } else { up }
}

/// Numbers at the ends of the ranges of exp, and values that are not numbers: only their bits are compared.
const SPECIAL: [f32; 19] = [
    0.0,
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

#[test]
fn activations() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(5));
    for kind in Activation::ALL {
        let activate = Activate { kind, parameter: PARAMETER, clamp: CLAMP };
        for n in (1..=40).chain([1000]) {
            // This activation needs a gate.
            for gated in [false, true].into_iter().filter(|gated| *gated || kind != Activation::ClampedSwiglu) {
                // Numbers up to 20 reach both tails of every sigmoid.
                let x: Vec<f32> = random.units(n).iter().map(|x| x * 20.0).collect();
                let up: Vec<f32> = random.units(n).iter().map(|x| x * 10.0).collect();
                let run = |k: &Kernels| {
                    let mut h = if gated { up.clone() } else { x.clone() };
                    k.activate(&activate, gated.then_some(&x[..]), &mut h);
                    h
                };
                let case = |k: &Kernels| format!("{} {} n {n} gated {gated}", k.isa().name(), kind.name());
                let exact = x.iter().zip(&up).map(|(x, up)| {
                    let (y, tolerance) = activation(kind, *x);
                    let up = factor(kind, *up);
                    if gated { (y * up, tolerance * up.abs() + (y * up).abs() * 3.0 * U) } else { (y, tolerance) }
                });
                let want = run(sets[0]);
                report.near(|| case(sets[0]), &want, &exact.collect::<Vec<_>>());
                for k in &sets[1..] {
                    report.same(|| case(k), &run(k), &want);
                }
            }
        }
        for k in &sets[1..] {
            let gate = (kind == Activation::ClampedSwiglu).then_some(&SPECIAL[..]);
            let run = |k: &Kernels| {
                let mut h = SPECIAL;
                k.activate(&activate, gate, &mut h);
                h
            };
            let case = || format!("{} {} of SPECIAL numbers", k.isa().name(), kind.name());
            report.same(case, &run(k), &run(sets[0]));
        }
    }
    report.finish();
}

/// Every 9973rd f32 (a prime: all bits change) between -87 and 88, and the ends.
#[test]
fn exp() {
    const PORTABLE: Proof<ScalarLanes> = Proof::PORTABLE;
    let mut report = Report::default();
    let ends = [0.0f32, -0.0, 1.0, -87.0, 88.0].map(f32::to_bits);
    let bits =
        (0..88f32.to_bits()).step_by(9973).chain(((-0f32).to_bits()..(-87f32).to_bits()).step_by(9973)).chain(ends);
    for bits in bits.collect::<Vec<_>>().chunks(LANES) {
        let x: [f32; LANES] = std::array::from_fn(|i| f32::from_bits(*bits.get(i).unwrap_or(&0)));
        let y = ScalarLanes::load(PORTABLE, &x).exp().to_array();
        for (x, y) in x.into_iter().zip(y) {
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            report.near(|| format!("exp({x:e})"), &[y], &[(exact, 2.0 * unit)]);
        }
    }
    // Outside this range the argument is clamped.
    for (x, held) in [(-1e30, -87.0), (f32::NEG_INFINITY, -87.0), (1e30, 88.0), (f32::INFINITY, 88.0)] {
        let exp = |x| ScalarLanes::splat(PORTABLE, x).exp().to_array();
        let (y, held) = (exp(x), exp(held));
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
    /// 0 for none.
    cap: f32,
    /// Of every head, or of none.
    sinks: Vec<f32>,
    q: Vec<f32>,
    /// [positions, width], as stored.
    keys: Vec<f32>,
    values: Vec<f32>,
    key_tiles: Vec<u8>,
    value_rows: Vec<u8>,
}

impl Attention {
    const UNTOUCHED: f32 = -77.0;

    /// Positions that no token sees hold NaN, so that a test fails if they are used, even multiplied by zero.
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
            // So large that it would show, even times e^-87, in a query that does not see it.
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
        let mut a = Attention {
            format,
            width,
            heads,
            tokens,
            first,
            window,
            cap: 0.0,
            sinks: vec![],
            q: vec![],
            keys,
            values,
            key_tiles,
            value_rows,
        };
        // Scores of a few units, so that soft-max differs clearly from a mean.
        a.q = r.units(a.outputs()).iter().map(|q| q * 2.0).collect();
        a
    }

    /// There is unused space between heads and between tokens.
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
            picked: None,
            head_width: self.width,
            first: self.first + from,
            window: self.window,
            cap: self.cap,
            sinks: self.sinks.get(head..).filter(|sinks| !sinks.is_empty()),
            kv: KvView {
                format: self.format,
                keys: self.key_tiles.as_ptr(),
                values: self.value_rows.as_ptr(),
                ring: usize::MAX,
            },
        };
        // SAFETY: the queries and outputs of these tokens and heads are inside their buffers, and the cache has all
        // positions up to the last token's.
        unsafe { k.attend(&a, out[at..].as_mut_ptr()) };
        out
    }

    /// Runs the heads with these numbers.
    fn run_picked(&self, k: &Kernels, picked: &[u32]) -> Vec<f32> {
        let mut out = vec![Self::UNTOUCHED; self.outputs()];
        let a = Attend {
            q: self.q.as_ptr(),
            token_stride: self.token_stride(),
            head_stride: self.head_stride(),
            tokens: self.tokens,
            heads: picked.len(),
            picked: Some(picked),
            head_width: self.width,
            first: self.first,
            window: self.window,
            cap: self.cap,
            sinks: self.sinks.get(..).filter(|sinks| !sinks.is_empty()),
            kv: KvView {
                format: self.format,
                keys: self.key_tiles.as_ptr(),
                values: self.value_rows.as_ptr(),
                ring: usize::MAX,
            },
        };
        // SAFETY: queries, outputs and cache are those of `run`, and the numbers are below the number of heads.
        unsafe { k.attend(&a, out.as_mut_ptr()) };
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
            let score = terms.sum::<f64>();
            let cap = f64::from(self.cap);
            scores.push(if cap == 0.0 { score } else { cap * (score / cap).tanh() });
        }
        let sink = self.sinks.get(h).map_or(f64::NEG_INFINITY, |s| f64::from(*s));
        let largest = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum::<f64>() + (sink - largest).exp();
        let blocks = seen.len() / 64 + 2;
        // A cap's e^, sums and quotients are relative to the cap.
        let capped = f64::from(self.cap) * gamma(10) * 2.0;
        let relative =
            2.0 * norm * gamma(self.width + 1) + 2.0 * norm * U + capped + gamma(4 + 6 * blocks + seen.len() + 3);
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
                    let mut a = Attention::new(format, width, heads, tokens, first, window, &mut random);
                    // Caps, sinks and windows are combined in turn with every width.
                    a.cap = [0.0, 0.0, 2.0][(first + tokens) % 3];
                    a.sinks =
                        if first % 2 == 0 { vec![] } else { random.units(heads).iter().map(|x| x * 8.0).collect() };
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
                    // Every other head: these have the same bits, and nothing else is written.
                    let picked: Vec<u32> = (0..heads as u32).step_by(2).collect();
                    let mut some = vec![Attention::UNTOUCHED; a.outputs()];
                    for (t, h) in (0..tokens).flat_map(|t| picked.iter().map(move |h| (t, *h as usize))) {
                        let at = a.place(t, h)..a.place(t, h) + width;
                        some[at.clone()].copy_from_slice(&want[at]);
                    }
                    for k in &sets {
                        report.same(|| case(k, " every other"), &a.run_picked(k, &picked), &some);
                    }
                    for k in &sets[1..] {
                        report.same(|| case(k, ""), &a.run(k, all.0, all.1), &want);
                    }
                }
            }
        }
    }
    report.finish();
}
