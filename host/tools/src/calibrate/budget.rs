//! Dividing a density among layers, and between heads and neurons or among maps. The division follows from the cost of
//! cutting each part alone, measured with the engine itself.
//!
//! A cost is the KL divergence from the dense model. Costs of different parts are assumed to be additive, and the
//! logarithm of a cost to be linear between measured shares. For every density, the division with the least sum is the
//! one at which one more byte would save the same cost in every part (a Lagrange multiplier, found by bisection).

use super::kept::Kept;
use crate::compare::{Dense, Sums, Windows, dense_rows, measure};
use shadowllm_core::image::{Entry, GLOBAL, Image, Role};
use shadowllm_core::sparsity::{Decider, Dial, GRID, Plan, Policy, Slot};
use shadowllm_core::{Serial, Session};
use shadowllm_host::Result;
use shadowllm_host::pool::Pool;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;

/// Shares at which a part's cost is measured.
const SHARES: [f32; 6] = [0.8, 0.6, 0.45, 0.3, 0.2, 0.1];
/// The number of runs of layers, after the first layer, that share a division.
const DEPTHS: usize = 3;
/// The least share in a budget.
const LEAST: f32 = 0.02;

/// Text for measurements with the dense model's predictions for it, and sessions that measure in parallel.
///
/// Each measurement is made by one session on one thread: two of them in parallel are faster than one on two threads,
/// and results do not depend on the number of sessions.
pub struct Probe<'a, 'm> {
    sessions: Vec<Session<'m, 'm>>,
    windows: Vec<&'a [u32]>,
    context: usize,
    dense: Vec<Dense>,
}

/// The result of a measurement.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Mean divergence from the dense model.
    pub kl: f64,
    /// Share of the skippable bytes that was read.
    pub read: f64,
    /// By how much the perplexity grew, as a share of the dense model's.
    pub loss: f64,
}

impl<'a, 'm> Probe<'a, 'm> {
    /// Reads the windows densely.
    ///
    /// # Errors
    /// When no token would be scored; errors of the session, and logits that are not finite.
    pub fn new(mut sessions: Vec<Session<'m, 'm>>, pool: &Pool, windows: &Windows<'a>) -> Result<Self> {
        let all = windows.all()?;
        let session = &mut sessions[0];
        session.set_dial(&Dial::default())?;
        let dense = all.iter().map(|ids| dense_rows(session, pool, ids, windows.context)).collect::<Result<_>>()?;
        Ok(Probe { sessions, windows: all, context: windows.context, dense })
    }

    /// The image.
    pub fn image(&self) -> Image<'m> {
        *self.sessions[0].model().image()
    }

    /// The cost of each of `jobs`, which `set` applies to a session. Costs in `kept` are not measured again.
    ///
    /// # Errors
    /// Errors of a session, and logits that are not finite; when measurements cannot be saved.
    pub fn costs<J: Sync>(
        &mut self,
        kept: &mut Kept,
        jobs: &[J],
        set: &(dyn Fn(&mut Session, &J) -> Result<()> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Cost>> {
        let (windows, dense, context) = (&self.windows, &self.dense, self.context);
        let measured = |session: &mut Session, job: &J| -> Result<Cost> {
            set(session, job)?;
            let mut sums = Sums::default();
            for (ids, dense) in windows.iter().zip(dense) {
                measure(session, &Serial, ids, context, dense, &mut sums)?;
            }
            let skippable = session.model().skippable_bytes(session.policy().by_input()) as f64;
            let tokens = sums.tokens as f64;
            let loss = ((sums.nll - sums.dense_nll) / tokens).exp() - 1.0;
            Ok(Cost { kl: sums.kl / tokens, read: sums.skippable as f64 / tokens / skippable, loss })
        };
        kept.next_search();
        let mut costs: Vec<Option<Cost>> = (0..jobs.len()).map(|i| kept.get(i)).collect();
        let open: Vec<usize> = (0..jobs.len()).filter(|i| costs[*i].is_none()).collect();
        let known = jobs.len() - open.len();
        progress(known);
        let (next, (sender, receiver)) = (AtomicUsize::new(0), mpsc::channel());
        std::thread::scope(|scope| {
            for session in &mut self.sessions {
                let (sender, next, measured, open) = (sender.clone(), &next, &measured, &open);
                scope.spawn(move || {
                    while let Some(&i) = open.get(next.fetch_add(1, Relaxed)) {
                        // The receiver is gone after a measurement has failed.
                        if sender.send((i, measured(session, &jobs[i]))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (done, (i, cost)) in receiver.into_iter().enumerate() {
                let cost = cost?;
                kept.put(i, cost)?;
                costs[i] = Some(cost);
                progress(known + done + 1);
            }
            Ok(costs.into_iter().flatten().collect())
        })
    }
}

/// A slot in a run of layers, and the cost of cutting it alone.
struct Part {
    /// The slot's column in the budget.
    column: usize,
    layers: std::ops::Range<usize>,
    /// Share of the skippable bytes.
    bytes: f64,
    /// (share kept, cost), from 1 downwards.
    costs: Vec<(f64, f64)>,
}

impl Part {
    /// Cost at a share.
    fn cost(&self, share: f64) -> f64 {
        let log = |c: f64| c.max(1e-9).ln();
        let (first, last) = (self.costs[0], self.costs[self.costs.len() - 1]);
        if share >= first.0 {
            // Reading everything costs nothing; near it, the cost is taken as quadratic.
            return first.1 * ((1.0 - share) / (1.0 - first.0)).powi(2);
        }
        let pair = self
            .costs
            .windows(2)
            .find(|w| share >= w[1].0)
            .map_or((self.costs[self.costs.len() - 2], last), |w| (w[0], w[1]));
        let ((s0, c0), (s1, c1)) = pair;
        (log(c0) + (log(c1) - log(c0)) * (share - s0) / (s1 - s0)).exp()
    }

    /// Shares of all slots that cut only this part, [layers, slots].
    fn alone(&self, share: f32, layers: usize, slots: usize) -> Vec<f32> {
        let mut shares = vec![1.0; layers * slots];
        self.layers.clone().for_each(|l| shares[l * slots + self.column] = share);
        shares
    }

    /// The share with the least cost + price * bytes kept.
    fn best(&self, price: f64) -> f64 {
        let steps = ((1.0 - LEAST) / 0.01) as usize;
        let shares = (0..=steps).map(|i| 1.0 - 0.01 * i as f64);
        let total = |s: f64| self.cost(s) + price * self.bytes * s;
        shares.fold(1.0, |best, s| if total(s) < total(best) { s } else { best })
    }
}

/// The map of a matrix's role.
fn map_of(role: Role) -> Option<Slot> {
    match role {
        Role::Q => Some(Slot::Q),
        Role::K => Some(Slot::K),
        Role::V => Some(Slot::V),
        Role::O => Some(Slot::O),
        Role::Gate => Some(Slot::Gate),
        Role::Up => Some(Slot::Up),
        Role::Down => Some(Slot::Down),
        _ => None,
    }
}

/// The slot of a policy's budget that a matrix belongs to.
fn slot_of(plan: &Plan, role: Role) -> Option<Slot> {
    match map_of(role)? {
        map if plan.skips_inputs(map) => Some(map),
        Slot::K | Slot::V => None,
        map if map.in_attention() => Some(Slot::Heads),
        _ => Some(plan.share_of(Slot::Neurons)),
    }
}

/// Whether the policy can cut a slot in this image.
fn can_cut(plan: &Plan, image: &Image, slot: Slot) -> bool {
    let c = image.config();
    if slot == plan.share_of(Slot::Neurons) && plan.neurons != Decider::All {
        return true;
    }
    match slot {
        Slot::Heads => plan.heads != Decider::All,
        slot if !plan.skips_inputs(slot) => false,
        Slot::Gate => c.ffn_by_input && c.gated,
        slot if slot.in_attention() => c.attention_by_input,
        _ => c.ffn_by_input,
    }
}

fn parts(policy: Policy, image: &Image) -> Vec<Part> {
    let plan = policy.plan();
    let layers = image.config().layers;
    let depths = DEPTHS.min(layers - 1);
    let bytes = |slot: Slot, range: &std::ops::Range<usize>| -> f64 {
        // Which experts are read is decided by the router, not by a budget.
        let in_layers = |e: &Entry| e.layer != GLOBAL && range.contains(&(e.layer as usize)) && e.experts == 0;
        let inside = |e: &Entry| in_layers(e) && slot_of(plan, e.role) == Some(slot);
        image.entries().filter(inside).map(|e| e.bytes() as f64).sum()
    };
    let all: f64 = plan.slots.iter().map(|s| bytes(*s, &(1..layers))).sum();
    let mut parts = Vec::new();
    for (column, slot) in plan.slots.iter().copied().enumerate().filter(|(_, s)| can_cut(plan, image, *s)) {
        for depth in 0..depths {
            let bound = |d: usize| 1 + (layers - 1) * d / depths;
            let range = bound(depth)..bound(depth + 1);
            let bytes = bytes(slot, &range);
            if bytes > 0.0 {
                parts.push(Part { column, bytes: bytes / all, layers: range, costs: Vec::new() });
            }
        }
    }
    parts
}

/// The number of measurements that [`search`] makes.
pub fn steps(policy: Policy, image: &Image) -> usize {
    parts(policy, image).len() * SHARES.len()
}

/// Measures every part and divides every density of the grid: [GRID, layers, slots].
///
/// # Errors
/// Errors of the session.
pub fn search(probe: &mut Probe, kept: &mut Kept, policy: Policy, progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
    let image = probe.image();
    let (layers, slots) = (image.config().layers, policy.slots());
    let dial = Dial { policy, ..Dial::default() };
    let mut parts = parts(policy, &image);
    let jobs: Vec<Vec<f32>> =
        parts.iter().flat_map(|part| SHARES.map(|share| part.alone(share, layers, slots))).collect();
    let costs = probe.costs(kept, &jobs, &|session, shares| Ok(session.set_shares(&dial, shares)?), progress)?;
    for (part, costs) in parts.iter_mut().zip(costs.chunks(SHARES.len())) {
        let mut least = 0.0f64;
        for (share, cost) in SHARES.into_iter().zip(costs) {
            // A smaller share cannot cost less, except by noise.
            least = least.max(cost.kl);
            part.costs.push((f64::from(share), least));
        }
    }
    Ok(divide(&parts, layers, slots))
}

fn divide(parts: &[Part], layers: usize, slots: usize) -> Vec<f32> {
    let cuttable: f64 = parts.iter().map(|p| p.bytes).sum();
    let mut table = vec![1.0; GRID * layers * slots];
    for (g, rows) in table.chunks_exact_mut(layers * slots).enumerate() {
        let density = g as f64 / (GRID - 1) as f64;
        let read = |price: f64| 1.0 - cuttable + parts.iter().map(|p| p.bytes * p.best(price)).sum::<f64>();
        let (mut low, mut high) = (1e-9f64, 1e6f64);
        for _ in 0..60 {
            let middle = (low * high).sqrt();
            if read(middle) > density { low = middle } else { high = middle }
        }
        // At that price a part may jump from one share to another, and the density is between the two.
        let (more, less) = (read(low), read(high));
        let mix = if more > less { ((density - less) / (more - less)).clamp(0.0, 1.0) } else { 0.0 };
        if density < 1.0 {
            for p in parts {
                let share = (p.best(high) + mix * (p.best(low) - p.best(high))) as f32;
                p.layers.clone().for_each(|l| rows[l * slots + p.column] = share);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_meets_its_density_and_keeps_costly_layers() {
        let part = |column, bytes, dear: f64| Part {
            column,
            layers: 1..3,
            bytes,
            costs: SHARES.map(|s| (f64::from(s), dear * f64::from(1.0 - s).powi(2))).to_vec(),
        };
        let table = divide(&[part(0, 0.3, 10.0), part(1, 0.7, 1.0)], 3, 2);
        for (g, rows) in table.chunks_exact(6).enumerate() {
            let density = g as f32 / (GRID - 1) as f32;
            let read = 0.3 * rows[2] + 0.7 * rows[3];
            assert!((read - density).abs() < 0.005 || density < 0.05, "{density}: {read}");
            assert!(rows[2] >= rows[3] && rows[0] == 1.0);
        }
    }
}
