//! Formats and orders: tests of every row of both tables, which also cover new rows.

use half::f16;
use shadowllm_core::Format;
use shadowllm_core::format::{BLOCK, Geometry, Head, Matrix, Order, TILE_ROWS, block};
use std::collections::BTreeSet;

/// A small generator (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Between 0 and 1, both excluded.
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }

    fn block(&mut self) -> [f32; BLOCK] {
        std::array::from_fn(|_| self.normal() as f32)
    }
}

/// Shapes of every order that holds the format: one and several panels and k-blocks, in one group, in two, and unit by
/// unit, with odd numbers of bytes between the groups.
fn geometries(format: Format) -> Vec<Geometry> {
    let mut all = Vec::new();
    for order in Order::ALL.into_iter().filter(|order| order.holds(format)) {
        for (outputs, k_blocks) in [(32, 1), (32, 2), (96, 2), (64, 6)] {
            let mut g = Geometry {
                format,
                order,
                panels: outputs / TILE_ROWS,
                k_blocks: k_blocks * format.blocks_together(),
                units_per_group: 1,
                group_stride: 0,
                group_width: 0,
            };
            let units = g.units();
            for units_per_group in [1, units / 2, units] {
                g.units_per_group = order.group_units(format).unwrap_or(units_per_group.max(1));
                g.group_width = g.units_per_group * order.unit_outputs();
                g.group_stride = g.shared_bytes() + g.units_per_group * g.unit_bytes() + 37;
                if g.span().is_some() && !all.contains(&g) {
                    all.push(g);
                }
            }
        }
    }
    all
}

/// A block of these numbers, or any block if the format has no encoder; the blocks of a super-block share their
/// numbers.
fn block(format: Format, x: &[f32; BLOCK], i: usize, random: &mut Random) -> block::Block {
    if format.has_encoder() {
        return block::encode(format, x);
    }
    let together = i / format.blocks_together();
    let mut header: Vec<u8> =
        (0..format.supers()).flat_map(|n| f16::from_f32(0.01 * (together + n + 1) as f32).to_le_bytes()).collect();
    // Integers have at most six bits, and are not 0 (or 32), which would make the super-block's numbers irrelevant.
    let own = |bits: u64| match format.head() {
        Head::SixBits(1) => (bits % 31) as u8 + 33,
        Head::SixBits(_) => (bits % 63) as u8 + 1,
        _ => (bits % 127) as u8 + 1,
    };
    header.extend((0..format.head().bytes()).map(|_| own(random.bits())));
    let mask = (1 << format.code_bits()) - 1;
    // Code 0 may stand for zero, code 1 never does.
    let codes: [u32; BLOCK] = std::array::from_fn(|_| (random.bits() & mask).max(1) as u32);
    block::from_parts(format, &header, |k| codes[k])
}

/// Random blocks, by line.
fn encoded(g: &Geometry, random: &mut Random) -> Vec<Vec<block::Block>> {
    let mut one = |i| {
        let x = random.block();
        block(g.format, &x, i, random)
    };
    let n = g.line_blocks();
    (0..g.lines()).map(|line| (line * n..(line + 1) * n).map(&mut one).collect()).collect()
}

/// The bytes of a matrix of these blocks; the others are `fill`.
fn written(g: &Geometry, lines: &[Vec<block::Block>], fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; g.span().expect("a possible geometry")];
    for (line, blocks) in lines.iter().enumerate() {
        blocks.iter().enumerate().for_each(|(i, block)| g.write_block(&mut bytes, line, i, block));
    }
    bytes
}

#[test]
fn every_block_is_read_back_from_its_place() {
    for (format, random) in Format::ALL.into_iter().zip(1..) {
        let mut random = Random(random);
        let all = geometries(format);
        let held = Order::ALL.into_iter().filter(|order| order.holds(format));
        assert!(held.clone().count() >= 3, "{format:?}");
        for order in held {
            assert!(all.iter().filter(|g| g.order == order).count() >= 3, "{format:?} {order:?}");
        }
        for g in all {
            let lines = encoded(&g, &mut random);
            let bytes = written(&g, &lines, 0);
            let m = Matrix::new(g, &bytes).expect("fits");
            for row in 0..g.outputs() {
                for kb in 0..g.k_blocks {
                    let want: Vec<f32> = (0..BLOCK)
                        .map(|k| match g.order.is_along_outputs() {
                            true => block::decode(format, &lines[kb * BLOCK + k][row / BLOCK])[row % BLOCK],
                            false => block::decode(format, &lines[row][kb])[k],
                        })
                        .collect();
                    assert_eq!(m.block(row, kb)[..], want, "{g:?} row {row} k-block {kb}");
                }
            }
            for (line, blocks) in lines.iter().enumerate() {
                for (i, block) in blocks.iter().enumerate() {
                    assert_eq!(m.read_block(line, i), *block, "{g:?} line {line} block {i}");
                }
            }
        }
    }
}

#[test]
fn the_bytes_of_a_matrix_are_those_of_its_blocks() {
    for format in Format::ALL {
        for g in geometries(format) {
            let lines = encoded(&g, &mut Random(7));
            // A byte that does not depend on the value before was written.
            let (zeros, ones) = (written(&g, &lines, 0), written(&g, &lines, 0xff));
            let touched = zeros.iter().zip(&ones).filter(|(a, b)| a == b).count();
            assert_eq!(touched, g.weight_bytes(), "{g:?}");
        }
    }
}

/// Bytes of the matrix that any of these weights depend on.
fn bytes_that_matter(g: &Geometry, bytes: &[u8], outputs: &BTreeSet<usize>, inputs: &BTreeSet<usize>) -> usize {
    let (lines, along) = if g.order.is_along_outputs() { (inputs, outputs) } else { (outputs, inputs) };
    let blocks: BTreeSet<usize> = along.iter().map(|i| i / BLOCK).collect();
    let weights = |bytes: &[u8]| {
        let m = Matrix::new(*g, bytes).expect("fits");
        let mut all = Vec::new();
        for (line, i) in lines.iter().flat_map(|line| blocks.iter().map(move |i| (*line, *i))) {
            let block = block::decode(g.format, &m.read_block(line, i));
            all.extend((0..BLOCK).filter(|k| along.contains(&(i * BLOCK + k))).map(|k| block[k].to_bits()));
        }
        all
    };
    let (before, mut changed) = (weights(bytes), bytes.to_vec());
    let matters = |i: &usize| {
        changed[*i] = !bytes[*i];
        let matters = weights(&changed) != before;
        changed[*i] = bytes[*i];
        matters
    };
    (0..bytes.len()).filter(matters).count()
}

#[test]
fn the_bytes_counted_for_a_choice_are_those_it_depends_on() {
    // Sizes depend on the arithmetic only, so one format of each is tested.
    let first = |f: &Format| Format::ALL.into_iter().find(|g| g.arithmetic() == f.arithmetic()) == Some(*f);
    for format in Format::ALL.into_iter().filter(first) {
        for order in Order::ALL.into_iter().filter(|order| order.holds(format)) {
            // Two blocks, or two super-blocks if they can be left out.
            let blocks =
                if order.unit_inputs() > 0 { 2 * format.blocks_together() } else { format.blocks_together().max(2) };
            let shape = (order, 2, blocks);
            let g = geometries(format).into_iter().find(|g| (g.order, g.panels, g.k_blocks) == shape);
            let g = g.expect("every order has such a shape");
            // Weights that are neither zero nor the smallest of their block, so that each depends on the scale; the
            // first two of a block are exceptions, and are not chosen singly below.
            let mut random = Random(3);
            let mut one = |i| {
                let mut x = random.block().map(|x| x.signum() * (0.3 + x.abs().min(0.5)));
                [x[0], x[1]] = [-1.0, 1.0];
                block(format, &x, i, &mut random)
            };
            let n = g.line_blocks();
            let lines: Vec<Vec<_>> =
                (0..g.lines()).map(|line| (line * n..(line + 1) * n).map(&mut one).collect()).collect();
            let bytes = written(&g, &lines, 0);
            // The smallest choices that a product in this order can make: one unit of inputs and an odd number of
            // single inputs (in both halves of their blocks); one output, or one panel or block of outputs.
            let inputs: BTreeSet<usize> = match order.unit_inputs() {
                0 => (0..g.input_width()).collect(),
                1 => BTreeSet::from([3, 4, 20, 45, 50]),
                n => (n..2 * n).collect(),
            };
            let outputs: BTreeSet<usize> = match order.unit_outputs() {
                1 => BTreeSet::from([5]),
                _ => (0..order.output_multiple()).collect(),
            };
            let parts = |size: usize| inputs.iter().map(|i| i / size).collect::<BTreeSet<_>>().len();
            let (k_blocks, supers) = (parts(BLOCK), parts(BLOCK * format.blocks_together()));
            let counted = g.bytes_read(outputs.len(), inputs.len(), k_blocks, supers);
            assert_eq!(counted, bytes_that_matter(&g, &bytes, &outputs, &inputs), "{g:?}");
        }
    }
}

#[test]
fn names_and_codes_are_those_of_one_row() {
    for (i, format) in Format::ALL.into_iter().enumerate() {
        assert_eq!(Format::from_code(i as u8), Some(format));
        assert_eq!(Format::from_name(format.name()), Some(format));
    }
    for (i, order) in Order::ALL.into_iter().enumerate() {
        assert_eq!(Order::from_code(i as u8), Some(order));
        assert_eq!(Order::ALL.iter().filter(|o| o.name() == order.name()).count(), 1);
    }
    assert_eq!(Format::from_code(Format::ALL.len() as u8), None);
    assert_eq!(Order::from_code(Order::ALL.len() as u8), None);
}

/// Student-t(5) by the ratio of a normal to a chi.
fn samples(n: usize) -> Vec<f32> {
    let mut random = Random(1);
    (0..n)
        .map(|_| {
            let chi: f64 = (0..5).map(|_| random.normal().powi(2)).sum();
            (random.normal() / (chi / 5.0).sqrt()) as f32
        })
        .collect()
}

fn relative_error(format: Format, x: &[f32]) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    for chunk in x.as_chunks::<BLOCK>().0 {
        for (v, w) in chunk.iter().zip(block::decode(format, &block::encode(format, chunk))) {
            error += f64::from(v - w).powi(2);
            power += f64::from(*v).powi(2);
        }
    }
    100.0 * error / power
}

/// Relative errors on Student-t(5), blocks of 32, without a search of the clip, published with the formats' tables: our
/// encoder searches the clip, so its errors must be smaller, but not by an implausible amount.
#[test]
fn table_errors_are_below_the_published_ones_without_clip() {
    let x = samples(320_000);
    let published = [
        (Format::Int4, 1.4976),
        (Format::Nf4, 0.8601),
        (Format::Sf4, 0.9514),
        (Format::E2m1, 1.0354),
        (Format::E2m1Sr, 0.9609),
        (Format::E2m1Sp, 0.9271),
        (Format::Apot4, 1.0545),
    ];
    for (format, error) in published {
        let ours = relative_error(format, &x);
        assert!(ours < error && ours > 0.6 * error, "{}: {ours} against {error}", format.name());
    }
}

#[test]
fn zero_blocks_stay_zero() {
    for format in Format::ALL.into_iter().filter(|f| f.has_encoder()) {
        let block = block::encode(format, &[0.0; BLOCK]);
        assert_eq!(block::decode(format, &block), [0.0; BLOCK], "{}", format.name());
        let numbers = block[..format.header_bytes()].as_chunks::<2>().0;
        assert!(numbers.iter().all(|n| f16::from_le_bytes(*n) == f16::ZERO), "{}", format.name());
    }
}
