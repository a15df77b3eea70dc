//! Matrix kernels over lines: single outputs, or single inputs.

use super::matrices::{Rows, describe, reference, tiles, write_halves};
use super::*;
use std::ops::Range;

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
        // Any sixteen outputs, in any order, some twice; prefetch hints may be out of range.
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

/// All outputs of a matrix stored by input, for tokens `tokens`.
fn all_outputs(k: &Kernels, m: &Matrix, rows: &Rows, tokens: Range<usize>) -> Vec<f32> {
    let outputs = m.geometry().output_width();
    let mut out = vec![0.0; tokens.len() * outputs];
    for block in 0..outputs / BLOCK {
        let x = rows.input(m.geometry());
        // SAFETY: `out` has `outputs` floats for every token, of which the block writes 32 from `block * BLOCK` on.
        unsafe { k.gemm_inputs(m, block, &x, tokens.clone(), out.as_mut_ptr().add(block * BLOCK), outputs) }
    }
    out
}

#[test]
fn products_by_input() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(6));
    for g in lines(Order::ColumnLines) {
        let bytes = tiles(&g, &mut random);
        let m = Matrix::new(g, &bytes[1..]).expect("fits");
        let mut rows = Rows::new(g.input_width(), 13, &mut random);
        let outputs = g.output_width();
        let dense = |k: &Kernels, rows: &Rows, t: usize, n: usize| all_outputs(k, &m, rows, t..t + n);
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
        // At every density, inputs that are left out count as zero exactly, also when only a part of the outputs is
        // computed.
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

/// Integers stored by input: the numbers of each k-block or super-block, then codes. Codes, and integers of blocks, are
/// random bytes, or all equal to `code`.
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

/// Single inputs of a matrix of integers, `k_blocks` rounded up to whole super-blocks.
fn inputs(format: Format, panels: usize, k_blocks: usize) -> Geometry {
    let together = format.blocks_together();
    let k_blocks = k_blocks.next_multiple_of(together);
    let units_per_group = BLOCK * together;
    let order = Order::Inputs;
    let mut g = Geometry { format, order, panels, k_blocks, units_per_group, group_stride: 0, group_width: 0 };
    g.group_stride = units_per_group * g.unit_bytes() + g.shared_bytes() + 5;
    g
}

#[test]
fn codes_by_input() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(8));
    let codes = [None, None, Some(0x80), Some(0x7f), Some(0x00), Some(0xff), Some(0xf0), Some(0x0f)];
    for format in Format::ALL.into_iter().filter(|f| f.takes_int8()) {
        for (panels, k_blocks, code) in
            [(2, 1), (4, 3), (6, 9), (12, 2), (134, 1)].into_iter().flat_map(|(p, k)| codes.map(|c| (p, k, c)))
        {
            let g = inputs(format, panels, k_blocks);
            let bytes = by_input(&g, code, &mut random);
            let m = Matrix::new(g, &bytes[1..]).expect("fits");
            let mut rows = Rows::new(g.input_width(), 17, &mut random);
            if code.is_some() {
                // The largest dot products, with inputs of one sign or of both.
                let one_sign = random.bits() % 2 == 0;
                rows.quants.iter_mut().for_each(|q| *q = if one_sign || *q > 0 { 127 } else { -127 });
                rows.weigh();
            }
            let outputs = g.output_width();
            let dense = |k: &Kernels, rows: &Rows, n: usize| all_outputs(k, &m, rows, 0..n);
            let full = dense(sets[0], &rows, 17);
            for t in [0, 16] {
                let want: Vec<_> = (0..outputs).map(|r| reference(&m, r, &rows, t, 0..g.k_blocks)).collect();
                report.near(|| describe(sets[0], "gemm_inputs", &g), &full[t * outputs..(t + 1) * outputs], &want);
            }
            for k in &sets {
                for tokens in [1, 2, 7, 17] {
                    report.same(|| describe(k, "gemm_inputs", &g), &dense(k, &rows, tokens), &full[..tokens * outputs]);
                }
            }
            // Inputs that are left out count as zero exactly, also when only a part of the outputs is computed.
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
