//! Quantization and selection of inputs.

use super::matrices::offset_of;
use super::*;

/// Blocks of every magnitude, and those whose conversion goes wrong most easily.
fn blocks(random: &mut Random) -> Vec<Vec<f32>> {
    let mut blocks: Vec<Vec<f32>> = Vec::new();
    // From the smallest number to the largest: 127 / largest must neither overflow nor vanish on the way.
    for exponent in -149..=127 {
        blocks.push(random.units(BLOCK).iter().map(|x| (f64::from(*x) * 2f64.powi(exponent)) as f32).collect());
    }
    blocks.push(vec![0.0; BLOCK]);
    blocks.push(vec![-0.0; BLOCK]);
    // A single number that is not zero, at the ends of both halves, of either sign.
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
    blocks
}

#[test]
fn quantize() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(3));
    let blocks = blocks(&mut random);
    let x = blocks.concat();
    let n = blocks.len();
    // No block, one, several, all.
    for n in [0, 1, 2, 3, n] {
        let x = &x[x.len() - n * BLOCK..];
        let run = |k: &Kernels| {
            let (mut q, mut scales, mut offsets) = (vec![99i8; n * BLOCK], vec![[9.0; 2]; n], vec![[9; 2]; n]);
            k.quantize(x, &mut q, &mut scales, &mut offsets);
            (q, scales, offsets)
        };
        let (q, scales, offsets) = run(sets[0]);
        for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let largest = block.iter().fold(0f32, |a, x| a.max(x.abs()));
            let q = &q[b * BLOCK..][..BLOCK];
            let case = |what| format!("scalar quantize {b} of {n}, largest {largest:e}: {what}, {q:?}");
            report.check(|| case("scale"), scales[b][0] == largest / 127.0);
            let sum = q.iter().map(|q| f32::from(*q)).sum::<f32>();
            report.check(|| case("scaled sum"), scales[b][1] == scales[b][0] * sum);
            report.check(|| case("offset"), offsets[b] == offset_of(q));
            // If 127 / largest is infinite, all quants are zero.
            if largest <= 127.0 / f32::MAX {
                report.check(|| case("not zeros"), q.iter().all(|q| *q == 0));
                continue;
            }
            for (x, q) in block.iter().zip(q) {
                // There are two roundings before the last one, each of at most 127 * U.
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
            report.same(|| case("scales"), scales2.as_flattened(), scales.as_flattened());
            report.check(|| case("offsets"), offsets2 == offsets);
        }
    }
    report.finish();
}

/// A block with a number that is not finite has the same quants everywhere, and products that are NaN.
#[test]
fn what_is_not_finite_is_not_a_number() {
    for others in [0.0, 1.0, 1e10, f32::MAX] {
        for at in 0..BLOCK {
            for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut block = [others; BLOCK];
                block[at] = x;
                for k in sets() {
                    let (mut q, mut scales, mut offsets) = ([9; BLOCK], [[9.0; 2]], [[9; 2]]);
                    k.quantize(&block, &mut q, &mut scales, &mut offsets);
                    let name = k.isa().name();
                    assert!(scales[0].iter().all(|s| s.is_nan()), "{name}: {x} at {at} beside {others}: {scales:?}");
                    assert_eq!((q, offsets), ([1; BLOCK], [offset_of(&[1; BLOCK])]), "{name}: {x} at {at}");
                }
            }
        }
    }
}

#[test]
fn select_inputs() {
    let (sets, mut report, mut random) = (sets(), Report::default(), Random(11));
    for n in (0..70).chain([576, 1536]) {
        let mut x = random.units(n);
        let mut quants: Vec<i8> = random.units(n).iter().map(|x| (x * 4.0) as i8).collect();
        // A NaN is kept; zeros of either sign, and inputs with a quant of zero, are not.
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
