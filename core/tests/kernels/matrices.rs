//! Matrix kernels over tiles of 16 outputs, and the code that all tests of matrix kernels share.

use super::*;

/// Largest scale, minimum and float weight that [`tiles`] makes.
const LARGEST: f32 = 0.25;

/// Random f16 up to [`LARGEST`] of either sign; sometimes zeros and subnormals, which conversions get wrong most
/// easily.
fn half(random: &mut Random) -> f16 {
    match random.bits() % 16 {
        0 => f16::from_bits((random.bits() & 0x8000) as u16),
        1 => f16::from_bits((random.bits() & 0x83ff) as u16),
        _ => f16::from_f32(random.unit() * LARGEST),
    }
}

/// `span` bytes of a matrix: any bytes for codes (all 256 values, -128 too) and for integers of blocks, modest numbers
/// for floats. The first byte is unused, so that the matrix begins at an odd address: kernels must not rely on
/// alignment.
pub(super) fn tiles(g: &Geometry, random: &mut Random) -> Vec<u8> {
    let span = g.span().expect("possible geometry");
    let mut bytes: Vec<u8> = (0..span + 1).map(|_| random.bits() as u8).collect();
    let format = g.format;
    let (shared, group) = (g.shared_bytes(), g.units_per_group * g.unit_bytes());
    // The heads of all blocks of a line, or of the 16 of a tile, come first. The numbers of super-blocks are before
    // their tiles in a panel, else before the group.
    let tiled = matches!(g.order, Order::Rows | Order::Columns);
    let together = if tiled { TILE_ROWS } else { g.unit_bytes() / format.block_bytes() };
    let supers = if g.order == Order::Rows { TILE_ROWS * format.super_bytes() } else { 0 };
    let piece = if supers > 0 { supers + SUPER * format.tile_bytes() } else { heads_and_codes(format, together) };
    for start in (0..span).step_by(g.group_stride) {
        write_halves(&mut bytes[1 + start..1 + start + shared], random);
        for t in (start + shared..start + shared + group).step_by(piece) {
            let piece = &mut bytes[1 + t..1 + t + piece];
            if supers > 0 {
                write_halves(&mut piece[..supers], random);
                continue;
            }
            match (format.arithmetic(), format.head()) {
                (Arithmetic::F32, _) => {
                    for b in piece.as_chunks_mut::<4>().0 {
                        *b = (random.unit() * LARGEST).to_le_bytes();
                    }
                }
                (Arithmetic::Bf16, _) => {
                    for b in piece.as_chunks_mut::<2>().0 {
                        *b = half::bf16::from_f32(random.unit() * LARGEST).to_le_bytes();
                    }
                }
                (Arithmetic::F16, _) => write_halves(piece, random),
                (_, Head::Numbers(n)) => write_halves(&mut piece[..2 * n * together], random),
                // Powers of two from 2^-22 to 2^-2.
                (_, Head::Exponent) => {
                    piece[..together].iter_mut().for_each(|b| *b = 106 + (random.bits() % 21) as u8);
                }
                (_, Head::SixBits(_) | Head::Halves) => {}
            }
        }
    }
    bytes
}

/// Bytes of some blocks whose heads are packed together.
fn heads_and_codes(format: Format, blocks: usize) -> usize {
    format.head().bytes_of(blocks) + blocks * format.code_bytes()
}

pub(super) fn write_halves(bytes: &mut [u8], random: &mut Random) {
    for b in bytes.as_chunks_mut::<2>().0 {
        *b = half(random).to_le_bytes();
    }
}

/// Rows of inputs, owned.
pub(super) struct Rows {
    width: usize,
    pub(super) values: Vec<f32>,
    pub(super) quants: Vec<i8>,
    scales: Vec<[f32; 2]>,
    offsets: Vec<[i32; 2]>,
}

/// -128 times the sum of a block's quants, and of those of its first half.
pub(super) fn offset_of(quants: &[i8]) -> [i32; 2] {
    [BLOCK, BLOCK / 2].map(|n| -128 * quants[..n].iter().map(|q| i32::from(*q)).sum::<i32>())
}

impl Rows {
    /// `n` rows, of different sizes, one block all zeros.
    pub(super) fn new(width: usize, n: usize, random: &mut Random) -> Rows {
        let mut values = random.units(width * n);
        for (i, row) in values.chunks_mut(width).enumerate() {
            row.iter_mut().for_each(|x| *x *= (i + 1) as f32);
        }
        values[..BLOCK].fill(0.0);
        let blocks = n * width / BLOCK;
        let (mut quants, mut scales, mut offsets) = (vec![0; n * width], vec![[0.0; 2]; blocks], vec![[0; 2]; blocks]);
        let scalar = Kernels::for_isa(cpu(), Isa::Scalar).expect("runs everywhere");
        scalar.quantize(&values, &mut quants, &mut scales, &mut offsets);
        Rows { width, values, quants, scales, offsets }
    }

    /// Recomputes the sums after quants were changed.
    pub(super) fn weigh(&mut self) {
        let sums = self.scales.iter_mut().zip(&mut self.offsets);
        for (([scale, sum], offset), block) in sums.zip(self.quants.as_chunks::<BLOCK>().0) {
            *offset = offset_of(block);
            *sum = *scale * block.iter().map(|q| f32::from(*q)).sum::<f32>();
        }
    }

    /// The arrays that this matrix reads; the others are empty.
    pub(super) fn input(&self, g: &Geometry) -> Input<'_> {
        if g.takes_int8() {
            let (quants, scales, offsets) = (&self.quants, &self.scales, &self.offsets);
            Input { width: self.width, values: &[], quants, scales, offsets }
        } else {
            Input { width: self.width, values: &self.values, quants: &[], scales: &[], offsets: &[] }
        }
    }

    /// Input k of row t as the kernels see it, quantized or not.
    fn seen(&self, g: &Geometry, t: usize, k: usize) -> f64 {
        let at = t * self.width + k;
        if g.takes_int8() {
            f64::from(self.quants[at]) * f64::from(self.scales[at / BLOCK][0])
        } else {
            f64::from(self.values[at])
        }
    }
}

/// Output `row` for token `t` in f64 over k-blocks `kbs`, with the tolerance of the f32 kernels.
///
/// Floats (and lines of inputs, which are decoded to floats): each term is rounded by a product and at most K sums.
/// Integers: the dot product is exact, then each block's term is rounded by at most two products and K/32 sums (twice
/// that with a minimum). The weights are exact in f32, except for scale * code + minimum, which is rounded once more;
/// there the two parts, and not the weight, are the terms that are rounded.
pub(super) fn reference(m: &Matrix, row: usize, rows: &Rows, t: usize, kbs: std::ops::Range<usize>) -> (f64, f64) {
    let (format, roundings) = (m.format(), kbs.len());
    let (mut sum, mut norm) = (0.0, 0.0);
    for kb in kbs {
        for (k, w) in m.block(row, kb).into_iter().enumerate() {
            let (w, x) = (f64::from(w), rows.seen(m.geometry(), t, kb * BLOCK + k));
            sum += w * x;
            // A bound from the largest code, integer of the block, scale and minimum.
            let largest = f64::from(LARGEST) * if format.supers() > 0 { 63.0 } else { 1.0 };
            let affine = format.arithmetic().has_minimum();
            norm += x.abs() * if affine { 32.0 * largest } else { w.abs() };
        }
    }
    let roundings = match format.arithmetic() {
        _ if !m.geometry().takes_int8() => roundings * BLOCK + 2,
        arithmetic if arithmetic.has_minimum() => 2 * roundings + 3,
        _ => roundings + 2,
    };
    (sum, norm * gamma(roundings))
}

/// Panels and k-blocks: one, two, odd numbers; if k-blocks are grouped, also six, which give several groups of several
/// units (2 x 3 and 3 x 2). Units per group: every divisor, an odd number of bytes between groups.
fn geometries() -> Vec<Geometry> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for (order, lengths) in [(Order::Rows, &[1, 2, 3, 7][..]), (Order::Columns, &[1, 2, 3, 6, 7])] {
            // One, two and three super-blocks.
            let lengths = if format.supers() > 0 { &[8, 16, 24] } else { lengths };
            for (panels, &k_blocks) in (1..=3).flat_map(|p| lengths.iter().map(move |k| (p, k))) {
                let units: usize = if order == Order::Rows { panels } else { k_blocks };
                let fits = |u: &usize| units.is_multiple_of(*u) && order.group_units(format).is_none_or(|n| n == *u);
                for units_per_group in (1..=units).filter(fits) {
                    let group_width = units_per_group * TILE_ROWS + TILE_ROWS;
                    let mut g =
                        Geometry { format, order, panels, k_blocks, units_per_group, group_stride: 0, group_width };
                    g.group_stride = g.shared_bytes() + units_per_group * g.unit_bytes() + 37;
                    all.push(g);
                }
            }
        }
    }
    all
}

pub(super) fn describe(k: &Kernels, what: &str, g: &Geometry) -> String {
    format!(
        "{} {what} {} {:?} panels {} k_blocks {} units/group {}",
        k.isa().name(),
        g.format.name(),
        g.order,
        g.panels,
        g.k_blocks,
        g.units_per_group
    )
}

/// Safe functions refuse numbers whose products wrap, whichever they are, before anything is read or written.
#[test]
#[cfg_attr(not(panic = "unwind"), ignore = "it catches panics, which end the program here")]
fn numbers_that_wrap_are_refused() {
    let g = Geometry {
        format: Format::F32,
        order: Order::Rows,
        panels: 2,
        k_blocks: 1,
        units_per_group: 2,
        group_stride: 2 * TILE_ROWS * BLOCK * 4,
        group_width: 2 * TILE_ROWS,
    };
    let bytes = vec![0; g.span().unwrap()];
    let m = Matrix::new(g, &bytes).unwrap();
    let values = vec![1.0; 4 * BLOCK];
    let x = Input { width: BLOCK, values: &values, quants: &[], scales: &[], offsets: &[] };
    let lines = Geometry { order: Order::ColumnLines, panels: 2, k_blocks: 1, units_per_group: 1, ..g };
    let lines = Geometry { group_stride: lines.unit_bytes(), group_width: 0, ..lines };
    let line_bytes = vec![0; lines.span().unwrap()];
    let by_input = Matrix::new(lines, &line_bytes).unwrap();
    let refused = |what: &str, call: &dyn Fn(&Kernels)| {
        for k in sets() {
            let call = std::panic::AssertUnwindSafe(|| call(k));
            assert!(std::panic::catch_unwind(call).is_err(), "{}: {what}", k.isa().name());
        }
    };
    // Three times the first stride is 2 more than a multiple of the word, so that 18 floats would do.
    for stride in [usize::MAX / 3 + 1, usize::MAX, usize::MAX - 15, 1 << (usize::BITS - 1)] {
        refused("stride", &|k| k.gemm(&m, 0, &x, 0..4, &mut [0.0; 18], stride));
    }
    for tokens in [usize::MAX / BLOCK..usize::MAX / BLOCK + 2, usize::MAX - 1..usize::MAX, 4..5] {
        refused("tokens", &|k| k.gemm(&m, 0, &x, tokens.clone(), &mut [0.0; 64], TILE_ROWS));
    }
    for panel in [2, usize::MAX / TILE_ROWS + 1, usize::MAX] {
        refused("panel", &|k| k.gemm(&m, panel, &x, 0..1, &mut [0.0; 64], TILE_ROWS));
    }
    for block in [1, usize::MAX / BLOCK + 1, usize::MAX] {
        refused("block", &|k| k.gemv_inputs(&by_input, &[0], block, &x, &mut [0.0; BLOCK]));
    }
    for k in sets() {
        k.gemm(&m, 1, &x, 0..4, &mut [0.0; 4 * TILE_ROWS], TILE_ROWS);
        k.gemv_inputs(&by_input, &[0, 31], 0, &x, &mut [0.0; BLOCK]);
    }
    // A k-block with 32 inputs counts as a whole one.
    for inputs in [&[1, 0][..], &[0; BLOCK], &[32]] {
        refused("inputs", &|k| k.gemv_inputs(&by_input, inputs, 0, &x, &mut [0.0; BLOCK]));
    }
}

#[test]
fn gemm() {
    // Numbers around those that some kernel computes at once (1, 2, 4, 8, 16), and more than two rounds of the largest.
    const TOKENS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33];
    // Not a multiple of 16; the floats between outputs must not change.
    const STRIDE: usize = TILE_ROWS + 3;
    const UNTOUCHED: f32 = -77.0;
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(1));
    let inputs: Vec<Rows> = (0..=24).map(|kb: usize| Rows::new(kb.max(1) * BLOCK, 33 + 3, &mut random)).collect();
    for g in geometries() {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let rows = &inputs[g.k_blocks];
        let x = rows.input(&g);
        for panel in 0..g.panels {
            // Results are defined by one token at a time, and must not depend on how many are computed together.
            let mut single = vec![UNTOUCHED; 36 * STRIDE];
            for t in 0..36 {
                sets[0].gemm(&m, panel, &x, t..t + 1, &mut single[t * STRIDE..], STRIDE);
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
                    k.gemm(&m, panel, &x, first..first + tokens, &mut out, STRIDE);
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
    for g in geometries().into_iter().filter(|g| g.order == Order::Columns) {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let rows = Rows::new(g.input_width(), 7, &mut random);
        let x = rows.input(&g);
        // Every run of panels, also an empty one, added to numbers that are not zero.
        for (from, to) in (0..=g.panels).flat_map(|from| (from..=g.panels).map(move |to| (from, to))) {
            let before = random.units((to - from) * TILE_ROWS);
            for kb in 0..g.k_blocks {
                let mut want = before.clone();
                sets[0].gemv_columns(&m, &[kb], from, &x, &mut want);
                let exact = before.iter().enumerate().map(|(i, y)| {
                    let (sum, tolerance) = reference(&m, from * TILE_ROWS + i, &rows, 0, kb..kb + 1);
                    let y = f64::from(*y);
                    // The earlier number takes part in all sums.
                    (y + sum, tolerance + y.abs() * gamma(BLOCK))
                });
                let exact: Vec<_> = exact.collect();
                let case = |k| format!("{} panels {from}..{to} block {kb}", describe(k, "gemv_columns", &g));
                report.near(|| case(sets[0]), &want, &exact);
                for k in &sets[1..] {
                    let mut y = before.clone();
                    k.gemv_columns(&m, &[kb], from, &x, &mut y);
                    report.same(|| case(k), &y, &want);
                }
            }
        }
        // Adding all columns in order gives the product.
        for k in &sets {
            let mut y = vec![0.0; g.output_width()];
            let all: Vec<usize> = (0..g.k_blocks).collect();
            k.gemv_columns(&m, &all, 0, &x, &mut y);
            let mut want = vec![0.0; g.output_width()];
            for (panel, out) in want.chunks_mut(TILE_ROWS).enumerate() {
                k.gemm(&m, panel, &x, 0..1, out, TILE_ROWS);
            }
            report.same(|| describe(k, "gemv_columns, all", &g), &y, &want);
            y.fill(1.0);
            k.gemv(&m, 0, &x, &mut y);
            report.same(|| describe(k, "gemv", &g), &y, &want);
            // The same for several tokens, in rows that are longer than the outputs.
            let (width, stride) = (g.output_width(), g.output_width() + 3);
            for tokens in [2, 3, 4, 7] {
                let (mut y, mut want) = (vec![0.0; tokens * stride], vec![0.0; tokens * stride]);
                // SAFETY: `y` has `stride` floats for every token.
                unsafe { k.columns_shared(&m, &all, m.unit_start(0), 0..g.panels, &x, tokens, y.as_mut_ptr(), stride) };
                for panel in 0..g.panels {
                    k.gemm(&m, panel, &x, 0..tokens, &mut want[panel * TILE_ROWS..], stride);
                }
                report.same(|| format!("{} {tokens} of {width}", describe(k, "columns", &g)), &y, &want);
            }
        }
    }
    report.finish();
}

/// One panel, of one block or super-block of inputs.
fn one_panel(format: Format) -> Geometry {
    let k_blocks = format.blocks_together();
    let mut g = Geometry {
        format,
        order: Order::Columns,
        panels: 1,
        k_blocks,
        units_per_group: k_blocks,
        group_stride: 0,
        group_width: TILE_ROWS,
    };
    g.group_stride = g.shared_bytes() + k_blocks * g.unit_bytes();
    g
}

/// The largest dot products of signed and unsigned codes: the 16-bit sums of kernels without a 32-bit dot product are
/// full here, and would overflow with one more product.
#[test]
fn integer_extremes() {
    let (sets, mut report) = (sets(), Report::default());
    for format in Format::ALL.into_iter().filter(|f| f.takes_int8()) {
        let g = one_panel(format);
        let k_blocks = g.k_blocks;
        // As i8: -128, 127, and mixed; as nibbles: 0, 15, and mixed. As integers of blocks: the least, the largest, zero
        // and -1.
        for code in [0x80, 0x7f, 0x00, 0xff, 0xf0, 0x0f] {
            let mut bytes = vec![code; g.group_stride];
            let ones = [f16::ONE.to_le_bytes(); 2 * TILE_ROWS];
            let head = if let Head::Numbers(n) = format.head() { 2 * n * TILE_ROWS } else { 0 };
            for at in [g.shared_bytes(), head] {
                bytes[..at].copy_from_slice(&ones.as_flattened()[..at]);
            }
            if format.head() == Head::Exponent {
                bytes[..TILE_ROWS].fill(127);
            }
            let m = Matrix::new(g, &bytes).expect("fits");
            for quant in [127i8, -127] {
                for signs in 0..4u32 {
                    // All inputs of one sign, or with signs alternating after one, two or four inputs.
                    let sign = |k: usize| if signs > 0 && k >> (signs - 1) & 1 == 1 { -1 } else { 1 };
                    // The other blocks of a super-block are zeros.
                    let mut quants: Vec<i8> = (0..BLOCK).map(|k| quant * sign(k)).collect();
                    quants.resize(k_blocks * BLOCK, 0);
                    let (mut scales, mut offsets) = (vec![[1.0, 0.0]; k_blocks], vec![[0; 2]; k_blocks]);
                    offsets[0] = offset_of(&quants[..BLOCK]);
                    scales[0][1] = quants.iter().map(|q| f32::from(*q)).sum();
                    let x = Input {
                        width: k_blocks * BLOCK,
                        values: &[],
                        quants: &quants,
                        scales: &scales,
                        offsets: &offsets,
                    };
                    let want: Vec<f32> = (0..TILE_ROWS)
                        .map(|r| m.block(r, 0).iter().zip(&quants).fold(0.0, |sum, (w, q)| sum + w * f32::from(*q)))
                        .collect();
                    for k in &sets {
                        let case = |what| {
                            format!("{} {what} {} {code:#x} x {quant} signs {signs}", k.isa().name(), format.name())
                        };
                        let mut out = vec![0.0; TILE_ROWS];
                        k.gemm(&m, 0, &x, 0..1, &mut out, TILE_ROWS);
                        report.same(|| case("gemm"), &out, &want);
                        out.fill(0.0);
                        k.gemv_columns(&m, &[0], 0, &x, &mut out);
                        report.same(|| case("gemv_columns"), &out, &want);
                    }
                }
            }
        }
    }
    report.finish();
}
