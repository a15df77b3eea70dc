//! Mixtures of experts: which experts a token uses, and the sum of their outputs.
//!
//! ```text
//!   for every token:   its router's outputs become scores; the best `used` experts get a share each
//!   for every expert:  for the tokens that use it, together: sum += share * network(x)
//! ```
//! Experts are summed in the order of their numbers, so that a token's sum does not depend on the other tokens of the
//! batch.

use super::buffer::Rows;
use super::feed_forward::{Neurons, Projection, neurons};
use super::for_ranges;
use super::linear::{Product, linear};
use crate::arena::Arena;
use crate::error::Error;
use crate::exec::Executor;
use crate::format::TILE_ROWS;
use crate::image::arch::{Router, Scoring};
use crate::kernels::{Input, Kernels};
use crate::views::Disjoint;

/// The experts that each token of a batch uses.
pub struct Routes<'m> {
    /// [batch, stride]: the router's outputs, then the experts' scores.
    scores: &'m mut [f32],
    /// [batch, used]: the experts' numbers.
    experts: &'m mut [u32],
    /// [batch, used]: their shares, the factors of their outputs.
    shares: &'m mut [f32],
    /// [batch]: the tokens that use the current expert; `weights` has its share for each of them.
    members: &'m mut [u32],
    weights: &'m mut [f32],
    /// Length of a token's row of scores.
    pub stride: usize,
    used: usize,
}

impl<'m> Routes<'m> {
    /// Room for a batch of tokens. `experts` is the largest number of experts of a router, `used` the largest number of them
    /// that a token uses.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`].
    pub fn new(arena: &mut Arena<'m>, batch: usize, experts: usize, used: usize) -> Result<Self, Error> {
        let stride = experts.next_multiple_of(TILE_ROWS);
        Ok(Routes {
            scores: arena.rows(batch, stride)?,
            experts: arena.rows(batch, used)?,
            shares: arena.rows(batch, used)?,
            members: arena.zeros(batch)?,
            weights: arena.zeros(batch)?,
            stride,
            used,
        })
    }

    /// Where the router's outputs go, [batch, stride].
    pub fn outputs(&mut self) -> &mut [f32] {
        self.scores
    }

    /// Chooses the experts of some tokens by the router's outputs; `bias`, one number per expert, affects only the
    /// choice, not the shares.
    pub fn choose(&mut self, router: &Router, bias: Option<&[f32]>, tokens: usize) {
        let rows = self.scores.chunks_exact_mut(self.stride.max(1)).take(tokens);
        let chosen =
            self.experts.chunks_exact_mut(self.used.max(1)).zip(self.shares.chunks_exact_mut(self.used.max(1)));
        for (row, (experts, shares)) in rows.zip(chosen) {
            let used = router.used.min(experts.len());
            let (experts, shares) = (&mut experts[..used], &mut shares[..used]);
            let scores = &mut row[..router.experts];
            match router.scoring {
                Scoring::Softmax => soften(scores),
                Scoring::Sigmoid => scores.iter_mut().for_each(|x| *x = sigmoid(*x)),
                Scoring::SoftmaxOfChosen => {}
            }
            best(scores, bias, experts);
            shares.iter_mut().zip(&*experts).for_each(|(share, expert)| *share = scores[*expert as usize]);
            if router.scoring == Scoring::SoftmaxOfChosen {
                soften(shares);
            }
            let sum: f32 = shares.iter().sum();
            if router.renormalise && sum != 0.0 {
                shares.iter_mut().for_each(|share| *share /= sum);
            }
            shares.iter_mut().for_each(|share| *share *= router.scale);
        }
    }

    /// The experts of some tokens.
    pub fn chosen(&self, tokens: usize) -> &[u32] {
        &self.experts[..tokens * self.used]
    }

    /// Lists the tokens that use an expert, and returns their number.
    pub fn gather(&mut self, expert: usize, used: usize, tokens: usize) -> usize {
        let mut n = 0;
        for t in 0..tokens {
            let row = t * self.used..t * self.used + used.min(self.used);
            if let Some(i) = self.experts[row.clone()].iter().position(|e| *e as usize == expert) {
                (self.members[n], self.weights[n]) = (t as u32, self.shares[row.start + i]);
                n += 1;
            }
        }
        n
    }

    /// Lists all tokens, with shares of 1, or the sigmoid of the first of the router's outputs.
    pub fn gather_all(&mut self, tokens: usize, gated: bool) {
        for t in 0..tokens {
            let share = if gated { sigmoid(self.scores[t * self.stride]) } else { 1.0 };
            (self.members[t], self.weights[t]) = (t as u32, share);
        }
    }

    /// The first `n` listed tokens.
    pub fn members(&self, n: usize) -> &[u32] {
        &self.members[..n]
    }

    /// `sum[token] += share * y[i]` for the first `n` listed tokens, rows of `width` floats.
    pub fn add(&self, exec: &dyn Executor, n: usize, y: &[f32], sum: &mut [f32], width: usize) {
        let sum = Disjoint::new(sum);
        for_ranges(exec, n, &|range| {
            for i in range {
                let (t, share) = (self.members[i] as usize, self.weights[i]);
                // SAFETY: a token is listed once, so no other range of `for_ranges` has its row.
                let row = unsafe { sum.range(t * width..(t + 1) * width) };
                row.iter_mut().zip(&y[i * width..(i + 1) * width]).for_each(|(sum, y)| *sum += share * y);
            }
        });
    }
}

/// The experts with the largest scores (plus bias), in the order of their numbers; of equal scores the first.
fn best(scores: &[f32], bias: Option<&[f32]>, experts: &mut [u32]) {
    let rank = |e: usize| scores[e] + bias.map_or(0.0, |bias| bias[e]);
    for n in 0..experts.len() {
        let (taken, free) = experts.split_at_mut(n);
        let mut left = (0..scores.len()).filter(|e| !taken.contains(&(*e as u32)));
        let Some(first) = left.next() else { return };
        free[0] = left.fold(first, |best, e| if rank(e) > rank(best) { e } else { best }) as u32;
    }
    experts.sort_unstable();
}

/// Soft-max in place.
fn soften(x: &mut [f32]) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = libm::expf(*x - largest));
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}

/// A whole feed-forward network for some tokens: `out` is [tokens, stride], `h` has room for its neurons. Returns the
/// bytes of weights that it reads.
#[allow(clippy::too_many_arguments, reason = "a step's operands")]
pub fn network(
    exec: &dyn Executor,
    kernels: &Kernels,
    ffn: &Neurons,
    down: &Projection,
    x: &Input,
    tokens: usize,
    h: &mut Rows,
    (out, stride): (&mut [f32], usize),
) -> usize {
    let bytes = neurons(exec, kernels, ffn, x, tokens, h, None);
    bytes + linear(exec, kernels, &[Product::new(down.matrix, down.bias, out, stride)], &h.input(), tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Router = Router {
        experts: 4,
        used: 2,
        scoring: Scoring::Softmax,
        renormalise: false,
        scale: 1.0,
        bias: false,
        shared: 0,
        shared_gate: false,
        early: false,
    };

    /// ln 1, ln 2, ln 3, ln 4: shares of a soft-max are tenths.
    const LOGARITHMS: [f32; 4] = [0.0, core::f32::consts::LN_2, 1.098_612_3, 2.0 * core::f32::consts::LN_2];

    fn chosen_of(outputs: [f32; 4], router: &Router, bias: Option<&[f32]>) -> ([u32; 2], [f32; 2]) {
        let mut memory = [core::mem::MaybeUninit::uninit(); 1024];
        let mut routes = Routes::new(&mut Arena::new(&mut memory), 1, 4, 2).unwrap();
        routes.outputs()[..4].copy_from_slice(&outputs);
        routes.choose(router, bias, 1);
        ([routes.experts[0], routes.experts[1]], [routes.shares[0], routes.shares[1]])
    }

    fn chosen(router: &Router, bias: Option<&[f32]>) -> ([u32; 2], [f32; 2]) {
        chosen_of(LOGARITHMS, router, bias)
    }

    /// Hand-computed: soft-max .1 .2 .3 .4; sigmoids 1/2 2/3 3/4 4/5.
    #[test]
    fn shares_follow_the_rules() {
        let near = |(experts, shares): ([u32; 2], [f32; 2]), e: [u32; 2], s: [f32; 2]| {
            assert_eq!(experts, e);
            assert!(shares.iter().zip(s).all(|(a, b)| (a - b).abs() < 1e-6), "{shares:?} for {s:?}");
        };
        near(chosen(&ROUTER, None), [2, 3], [0.3, 0.4]);
        near(chosen(&Router { renormalise: true, scale: 7.0, ..ROUTER }, None), [2, 3], [3.0, 4.0]);
        near(chosen(&Router { scoring: Scoring::SoftmaxOfChosen, ..ROUTER }, None), [2, 3], [3.0 / 7.0, 4.0 / 7.0]);
        let sigmoid = Router { scoring: Scoring::Sigmoid, ..ROUTER };
        near(chosen(&sigmoid, None), [2, 3], [0.75, 0.8]);
        // The bias chooses the first expert, and does not count in its share.
        near(chosen(&sigmoid, Some(&[1.0, 0.0, 0.0, 0.0])), [0, 3], [0.5, 0.8]);
        // Of equal scores the first.
        near(chosen_of([0.0; 4], &sigmoid, None), [0, 1], [0.5, 0.5]);
    }
}
