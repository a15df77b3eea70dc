//! Chance: a baseline.

use super::{Choice, Chooser};
use crate::random::uniform;
use crate::sparsity::plan::Decider;
use crate::sparsity::select::count_of;

pub struct Random;

impl Chooser for Random {
    fn before_token(&self, c: &mut Choice) {
        for layer in 1..c.config.layers {
            for part in c.plan.parts(Decider::Random) {
                // A uniform choice of k out of n in one pass: each part is taken with probability (parts still to take)
                // / (parts left).
                let n = c.count(layer, part);
                let (mut take, mut left) = (count_of(c.share(layer, part), n), n);
                let mut state = c.memory.random;
                c.memory.choose(part, layer, |i| {
                    if i >= n {
                        return false;
                    }
                    let taken = uniform(&mut state) * left as f32 <= take as f32 && take > 0;
                    (take, left) = (take - usize::from(taken), left - 1);
                    taken
                });
                c.memory.random = state;
            }
        }
    }
}
