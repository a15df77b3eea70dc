//! Listing the inputs that are not skipped.

use crate::simd::{LANES, Lanes, Proof};

/// See [`super::Kernels::select_inputs`].
///
/// ```text
/// for every chunk of 16 inputs:
///     write the numbers of its large ones at list[n..n + 16], n += the number of them
/// for the inputs that remain: the same, one by one
/// ```
#[inline(always)]
pub(super) fn select_inputs<L: Lanes>(
    isa: Proof<L>,
    x: &[f32],
    quants: Option<&[i8]>,
    threshold: f32,
    list: &mut [u32],
) -> usize {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut n = match quants {
        None => select_chunks(isa, chunks.iter().map(|x| (x, None)), threshold, list),
        Some(quants) => {
            let pairs = chunks.iter().zip(quants.as_chunks().0).map(|(x, q)| (x, Some(q)));
            select_chunks(isa, pairs, threshold, list)
        }
    };
    for (i, value) in (x.len() - tail.len()..).zip(tail) {
        let zero = quants.and_then(|q| q.get(i)) == Some(&0);
        if value.abs() <= threshold || zero {
            continue;
        }
        if let Some(to) = list.get_mut(n) {
            *to = i as u32;
            n += 1;
        }
    }
    n
}

/// The whole chunks.
#[inline(always)]
fn select_chunks<'a, L: Lanes>(
    isa: Proof<L>,
    chunks: impl Iterator<Item = (&'a [f32; LANES], Option<&'a [i8; LANES]>)>,
    threshold: f32,
    list: &mut [u32],
) -> usize {
    let (mut n, mut first) = (0, 0);
    for (x, quants) in chunks {
        // `n` is at most the number of inputs before this chunk, so a whole chunk fits.
        let Some(room) = list.get_mut(n..).and_then(|list| list.first_chunk_mut()) else { break };
        n += L::select(isa, x, quants, threshold, first, room);
        first += LANES as u32;
    }
    n
}
