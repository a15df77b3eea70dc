//! Matrix kernels and the quantization of their inputs.

use super::*;

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

/// `span` bytes of a matrix: any bytes for codes (all 256 values, -128 too) and for integers of blocks, modest numbers
/// for floats. They begin at an odd address: kernels may not count on alignment.
fn tiles(g: &Geometry, random: &mut Random) -> Vec<u8> {
    let span = g.span().expect("possible geometry");
    let mut bytes: Vec<u8> = (0..span + 1).map(|_| random.bits() as u8).collect();
    let format = g.format;
    let (shared, group) = (g.shared_bytes(), g.units_per_group * g.unit_bytes());
    // The blocks of a line share its front, and the 16 of a tile; the numbers of super-blocks stand before their tiles
    // in a panel, else before the group.
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

fn write_halves(bytes: &mut [u8], random: &mut Random) {
    for b in bytes.as_chunks_mut::<2>().0 {
        *b = half(random).to_le_bytes();
    }
}

/// Rows of inputs, owned.
struct Rows {
    width: usize,
    values: Vec<f32>,
    quants: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<[i32; 2]>,
}

/// -128 times the sum of a block's quants, and of those of its first half.
fn offset_of(quants: &[i8]) -> [i32; 2] {
    [BLOCK, BLOCK / 2].map(|n| -128 * quants[..n].iter().map(|q| i32::from(*q)).sum::<i32>())
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
        let (mut quants, mut scales, mut offsets) = (vec![0; n * width], vec![0.0; blocks], vec![[0; 2]; blocks]);
        let scalar = Kernels::for_isa(cpu(), Isa::Scalar).expect("runs everywhere");
        scalar.quantize(&values, &mut quants, &mut scales, &mut offsets);
        Rows { width, values, quants, scales, offsets }
    }

    /// The offsets of quants that were changed.
    fn weigh(&mut self) {
        for (offset, block) in self.offsets.iter_mut().zip(self.quants.as_chunks::<BLOCK>().0) {
            *offset = offset_of(block);
        }
    }

    /// What a matrix reads, the rest left empty.
    fn input(&self, g: &Geometry) -> Input<'_> {
        if g.takes_int8() {
            let (quants, scales, offsets) = (&self.quants, &self.scales, &self.offsets);
            Input { width: self.width, values: &[], quants, scales, offsets }
        } else {
            Input { width: self.width, values: &self.values, quants: &[], scales: &[], offsets: &[] }
        }
    }

    /// Input k of row t as the matrix sees it.
    fn seen(&self, g: &Geometry, t: usize, k: usize) -> f64 {
        let at = t * self.width + k;
        if g.takes_int8() {
            f64::from(self.quants[at]) * f64::from(self.scales[at / BLOCK])
        } else {
            f64::from(self.values[at])
        }
    }
}

/// Output `row` for token `t` in f64 over k-blocks `kbs`, with the tolerance of the f32 kernels.
///
/// Floats (and what is stored by input, decoded first): a product and at most K sums round each term. Integers: the dot product is exact, then at most two
/// products and K/32 sums (twice as many with a minimum) round each block's term. The weights themselves are
/// exact in f32 but for scale * code + minimum, one more rounding; and there the two parts, not the weight,
/// are the terms that round.
fn reference(m: &Matrix, row: usize, rows: &Rows, t: usize, kbs: std::ops::Range<usize>) -> (f64, f64) {
    let (format, roundings) = (m.format(), kbs.len());
    let (mut sum, mut norm) = (0.0, 0.0);
    for kb in kbs {
        for (k, w) in m.block(row, kb).into_iter().enumerate() {
            let (w, x) = (f64::from(w), rows.seen(m.geometry(), t, kb * BLOCK + k));
            sum += w * x;
            // The largest code (and integer of the block) and scale, and minimum.
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

/// Panels and k-blocks: one, a pair, odd numbers; where k-blocks are what is grouped, six besides, which make
/// both several groups and several units in a group (2 x 3 and 3 x 2). Units per group: every divisor, an
/// odd number of bytes between groups.
fn geometries() -> Vec<Geometry> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for (order, lengths) in [(Order::Rows, &[1, 2, 3, 7][..]), (Order::Columns, &[1, 2, 3, 6, 7])] {
            // Of super-blocks one, two and three.
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

fn describe(k: &Kernels, what: &str, g: &Geometry) -> String {
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

#[test]
fn gemm() {
    // Around every number of tokens some kernel takes at once (1, 2, 4, 8, 16), and two rounds of the widest.
    const TOKENS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33];
    // Not a multiple of 16, and what lies between must stay as it is.
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
            // One token at a time defines the result: how many are computed together must not show.
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
        // Every run of panels, the empty one too, added to numbers that are not zero.
        for (from, to) in (0..=g.panels).flat_map(|from| (from..=g.panels).map(move |to| (from, to))) {
            let before = random.units((to - from) * TILE_ROWS);
            for kb in 0..g.k_blocks {
                let mut want = before.clone();
                sets[0].gemv_columns(&m, kb, [m.unit_start(kb); 2], from, &x, &mut want);
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
                    k.gemv_columns(&m, kb, [m.unit_start(kb); 2], from, &x, &mut y);
                    report.same(|| case(k), &y, &want);
                }
            }
        }
        // All columns one after the other are the product.
        for k in &sets {
            let mut y = vec![0.0; g.output_width()];
            (0..g.k_blocks).for_each(|kb| k.gemv_columns(&m, kb, [m.unit_start(kb); 2], 0, &x, &mut y));
            let mut want = vec![0.0; g.output_width()];
            for (panel, out) in want.chunks_mut(TILE_ROWS).enumerate() {
                k.gemm(&m, panel, &x, 0..1, out, TILE_ROWS);
            }
            report.same(|| describe(k, "gemv_columns, all", &g), &y, &want);
            // And of several tokens, in rows that are longer than the outputs.
            let (width, stride) = (g.output_width(), g.output_width() + 3);
            for tokens in [2, 3, 4, 7] {
                let (mut y, mut want) = (vec![0.0; tokens * stride], vec![0.0; tokens * stride]);
                for kb in 0..g.k_blocks {
                    let (prefetch, out) = ([m.unit_start(kb); 2], y.as_mut_ptr());
                    // SAFETY: `y` has `stride` floats for every token.
                    unsafe { k.columns_shared(&m, kb, prefetch, 0..g.panels, &x, tokens, out, stride) };
                }
                for panel in 0..g.panels {
                    k.gemm(&m, panel, &x, 0..tokens, &mut want[panel * TILE_ROWS..], stride);
                }
                report.same(|| format!("{} {tokens} of {width}", describe(k, "columns", &g)), &y, &want);
            }
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
                    // All of one sign, alternating in ones, in twos, in fours.
                    let sign = |k: usize| if signs > 0 && k >> (signs - 1) & 1 == 1 { -1 } else { 1 };
                    // The other blocks of a super-block are zeros.
                    let mut quants: Vec<i8> = (0..BLOCK).map(|k| quant * sign(k)).collect();
                    quants.resize(k_blocks * BLOCK, 0);
                    let (scales, mut offsets) = (vec![1.0; k_blocks], vec![[0; 2]; k_blocks]);
                    offsets[0] = offset_of(&quants[..BLOCK]);
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
                        k.gemv_columns(&m, 0, [m.unit_start(0); 2], 0, &x, &mut out);
                        report.same(|| case("gemv_columns"), &out, &want);
                    }
                }
            }
        }
    }
    report.finish();
}

/// Lines of 1 to 48 outputs or 32 to 64, alone, by fours and all together.
fn lines(order: Order) -> Vec<Geometry> {
    let mut all = Vec::new();
    for format in Format::ALL.into_iter().filter(|f| order.holds(*f)) {
        for (panels, k_blocks) in (1..=4).flat_map(|p| [1, 2, 5].map(|k| (p, k))) {
            if order == Order::ColumnLines && panels % 2 == 1 {
                continue;
            }
            let units = if order == Order::RowLines { panels * TILE_ROWS } else { k_blocks * BLOCK };
            for units_per_group in [1, 4, units] {
                let mut g = Geometry {
                    format,
                    order,
                    panels,
                    k_blocks,
                    units_per_group,
                    group_stride: 0,
                    group_width: units_per_group,
                };
                g.group_stride = units_per_group * g.unit_bytes() + 5;
                all.push(g);
            }
        }
    }
    all
}

#[test]
fn gemm_rows() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(5));
    for g in lines(Order::RowLines) {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let rows = Rows::new(g.input_width(), 17, &mut random);
        let x = rows.input(&g);
        // Any sixteen outputs, in any order, some twice; hints of outputs that are not there do no harm.
        let chosen: [u32; TILE_ROWS] = std::array::from_fn(|_| random.bits() as u32 % g.units() as u32);
        let later = chosen.map(|c| c * 7);
        let want: Vec<_> = chosen.iter().map(|r| reference(&m, *r as usize, &rows, 0, 0..g.k_blocks)).collect();
        let mut single = vec![0.0; 17 * TILE_ROWS];
        for t in 0..17 {
            sets[0].gemm_rows(
                &m,
                Outputs { rows: &chosen, prefetch: &later },
                &x,
                t..t + 1,
                &mut single[t * TILE_ROWS..],
                TILE_ROWS,
            );
        }
        report.near(|| describe(sets[0], "gemm_rows", &g), &single[..TILE_ROWS], &want);
        for k in &sets {
            for tokens in [1, 2, 5, 17] {
                let mut out = vec![0.0; tokens * TILE_ROWS];
                k.gemm_rows(&m, Outputs { rows: &chosen, prefetch: &later }, &x, 0..tokens, &mut out, TILE_ROWS);
                report.same(|| describe(k, "gemm_rows", &g), &out, &single[..tokens * TILE_ROWS]);
            }
            // A panel is sixteen neighbours.
            let these = std::array::from_fn(|r| ((g.panels - 1) * TILE_ROWS + r) as u32);
            let (mut a, mut b) = (vec![0.0; TILE_ROWS], vec![0.0; TILE_ROWS]);
            k.gemm_rows(&m, Outputs { rows: &these, prefetch: &these }, &x, 3..4, &mut a, TILE_ROWS);
            k.gemm(&m, g.panels - 1, &x, 3..4, &mut b, TILE_ROWS);
            report.same(|| describe(k, "gemm of lines", &g), &b, &a);
        }
    }
    report.finish();
}

#[test]
fn products_by_input() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(6));
    for g in lines(Order::ColumnLines) {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let mut rows = Rows::new(g.input_width(), 13, &mut random);
        let outputs = g.output_width();
        let dense = |k: &Kernels, rows: &Rows, t: usize, n: usize| {
            let mut out = vec![0.0; n * outputs];
            for block in 0..outputs / BLOCK {
                // SAFETY: `out` has `outputs` floats for every token, the block 32 of them.
                unsafe {
                    k.gemm_inputs(&m, block, &rows.input(&g), t..t + n, out.as_mut_ptr().add(block * BLOCK), outputs)
                }
            }
            out
        };
        let all: Vec<u32> = (0..g.units() as u32).collect();
        let full = dense(sets[0], &rows, 0, 13);
        for t in [0, 12] {
            let want: Vec<_> = (0..outputs).map(|r| reference(&m, r, &rows, t, 0..g.k_blocks)).collect();
            report.near(|| describe(sets[0], "gemm_inputs", &g), &full[t * outputs..(t + 1) * outputs], &want);
        }
        for k in &sets {
            report.same(|| describe(k, "gemm_inputs", &g), &dense(k, &rows, 0, 13), &full);
            let mut y = vec![0.0; outputs];
            k.gemv_inputs(&m, &all, 0, &rows.input(&g), &mut y);
            report.same(|| describe(k, "gemv_inputs, all", &g), &y, &full[..outputs]);
        }
        // At every density, what is left out counts as zero, exactly; parts of the outputs alone, too.
        for density in [0, 5, 50, 95] {
            let chosen: Vec<u32> = all.iter().copied().filter(|_| random.bits() % 100 < density).collect();
            let before = rows.values.clone();
            for i in all.iter().filter(|i| !chosen.contains(i)) {
                rows.values[*i as usize] = 0.0;
            }
            let want = dense(sets[0], &rows, 0, 1);
            rows.values = before;
            for k in &sets {
                for first in 0..outputs / BLOCK {
                    let mut y = vec![0.0; outputs - first * BLOCK];
                    k.gemv_inputs(&m, &chosen, first, &rows.input(&g), &mut y);
                    let case = || format!("{} density {density} from {first}", describe(k, "gemv_inputs", &g));
                    report.same(case, &y, &want[first * BLOCK..outputs]);
                }
            }
        }
    }
    report.finish();
}

/// Codes of integers stored by input, after the numbers of each k-block or super-block: any bytes, or all of them
/// `code`, as integers of blocks too.
fn by_input(g: &Geometry, code: Option<u8>, random: &mut Random) -> Vec<u8> {
    let span = g.span().expect("possible geometry");
    let mut bytes: Vec<u8> = (0..span + 1).map(|_| code.unwrap_or(random.bits() as u8)).collect();
    let supers = g.outputs() * g.format.super_bytes();
    for start in (0..span).step_by(g.group_stride) {
        let shared = &mut bytes[1 + start..1 + start + g.shared_bytes()];
        write_halves(&mut shared[..supers], random);
        match g.format.head() {
            Head::Numbers(_) => write_halves(&mut shared[supers..], random),
            // Powers of two from 2^-22 to 2^-2.
            Head::Exponent => shared[supers..].iter_mut().for_each(|b| *b = 106 + (random.bits() % 21) as u8),
            Head::SixBits(_) | Head::Halves => {}
        }
    }
    bytes
}

#[test]
fn codes_by_input() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(8));
    let codes = [None, None, Some(0x80), Some(0x7f), Some(0x00), Some(0xff), Some(0xf0), Some(0x0f)];
    for format in Format::ALL.into_iter().filter(|f| f.takes_int8()) {
        for (panels, k_blocks, code) in
            [(2, 1), (4, 3), (6, 9), (12, 2), (134, 1)].into_iter().flat_map(|(p, k)| codes.map(|c| (p, k, c)))
        {
            let together = format.blocks_together();
            let k_blocks = usize::next_multiple_of(k_blocks, together);
            let mut g = Geometry {
                format,
                order: Order::Inputs,
                panels,
                k_blocks,
                units_per_group: BLOCK * together,
                group_stride: 0,
                group_width: 0,
            };
            g.group_stride = BLOCK * together * g.unit_bytes() + g.shared_bytes() + 5;
            let bytes = by_input(&g, code, &mut random);
            let m = Matrix::new(g, &bytes[1..]).expect("fits");
            let mut rows = Rows::new(g.input_width(), 17, &mut random);
            if code.is_some() {
                // The most that a dot product can be, of one sign or of both.
                let one_sign = random.bits() % 2 == 0;
                rows.quants.iter_mut().for_each(|q| *q = if one_sign || *q > 0 { 127 } else { -127 });
                rows.weigh();
            }
            let outputs = g.output_width();
            let dense = |k: &Kernels, rows: &Rows, n: usize| {
                let mut out = vec![0.0; n * outputs];
                for block in 0..outputs / BLOCK {
                    // SAFETY: `out` has `outputs` floats for every token, the block 32 of them.
                    unsafe {
                        k.gemm_inputs(&m, block, &rows.input(&g), 0..n, out.as_mut_ptr().add(block * BLOCK), outputs)
                    }
                }
                out
            };
            let full = dense(sets[0], &rows, 17);
            for t in [0, 16] {
                let want: Vec<_> = (0..outputs).map(|r| reference(&m, r, &rows, t, 0..k_blocks)).collect();
                report.near(|| describe(sets[0], "gemm_inputs", &g), &full[t * outputs..(t + 1) * outputs], &want);
            }
            for k in &sets {
                for tokens in [1, 2, 7, 17] {
                    report.same(|| describe(k, "gemm_inputs", &g), &dense(k, &rows, tokens), &full[..tokens * outputs]);
                }
            }
            // What is left out counts as zero, exactly; parts of the outputs alone, too.
            for density in [0, 5, 50, 95, 100] {
                let chosen: Vec<u32> = (0..g.units() as u32).filter(|_| random.bits() % 100 < density).collect();
                let kept = rows.quants.clone();
                for i in (0..g.units() as u32).filter(|i| !chosen.contains(i)) {
                    rows.quants[i as usize] = 0;
                }
                rows.weigh();
                let want = dense(sets[0], &rows, 1);
                rows.quants = kept;
                rows.weigh();
                for k in &sets {
                    for first in 0..outputs / BLOCK {
                        let mut y = vec![0.0; outputs - first * BLOCK];
                        k.gemv_inputs(&m, &chosen, first, &rows.input(&g), &mut y);
                        let case = || {
                            format!("{} density {density} from {first} code {code:?}", describe(k, "gemv_inputs", &g))
                        };
                        report.same(case, &y, &want[first * BLOCK..outputs]);
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
            let (mut q, mut scales, mut offsets) = (vec![99i8; n * BLOCK], vec![9.0; n], vec![[9; 2]; n]);
            k.quantize(x, &mut q, &mut scales, &mut offsets);
            (q, scales, offsets)
        };
        let (q, scales, offsets) = run(sets[0]);
        for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let largest = block.iter().fold(0f32, |a, x| a.max(x.abs()));
            let q = &q[b * BLOCK..][..BLOCK];
            let case = |what| format!("scalar quantize {b} of {n}, largest {largest:e}: {what}, {q:?}");
            report.check(|| case("scale"), scales[b] == largest / 127.0);
            report.check(|| case("offset"), offsets[b] == offset_of(q));
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

#[test]
fn select_inputs() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(11));
    for n in (0..70).chain([576, 1536]) {
        let mut x = random.units(n);
        let mut quants: Vec<i8> = random.units(n).iter().map(|x| (x * 4.0) as i8).collect();
        // What is no number is kept, zeros of either sign are not, and a quant of zero counts as one.
        for (i, x) in x.iter_mut().enumerate() {
            match i % 23 {
                3 => *x = f32::NAN,
                7 => *x = -0.0,
                11 => *x = 0.5,
                13 => *x = f32::NEG_INFINITY,
                _ => {}
            }
        }
        quants.iter_mut().step_by(5).for_each(|q| *q = -128);
        for threshold in [0.0, 0.5, 0.99, f32::INFINITY] {
            for quants in [None, Some(&quants[..])] {
                let kept = |i: &u32| {
                    let i = *i as usize;
                    (x[i].is_nan() || x[i].abs() > threshold) && quants.is_none_or(|q| q[i] != 0)
                };
                let want: Vec<u32> = (0..n as u32).filter(kept).collect();
                for k in &sets {
                    let mut list = vec![99; n];
                    let count = k.select_inputs(&x, quants, threshold, &mut list);
                    report.check(
                        || format!("{} select n {n} threshold {threshold}: {:?}", k.isa().name(), &list[..count]),
                        list[..count] == want[..],
                    );
                }
            }
        }
    }
    report.finish();
}
