//! Calibration of contextual sparsity: which heads, neurons and inputs are important for which token (ShadowLLM, [arXiv
//! 2406.16635](https://arxiv.org/abs/2406.16635)).
//!
//! ```text
//!   text ─> windows ─> autograd (values and gradients) ─┬─> statistics (means, quantiles of inputs)
//!                                                       └─> train (predictors)
//!           held-out windows ─> thresholds (quantiles of the predictors' scores), how good they are
//!           held-out windows ─> budget (the engine itself, one part cut at a time), the best policy
//!   all of it ─> section ─> image
//! ```
//! Of the windows, only sums are kept, and the last two dozen, from which training steps draw rows.

pub mod autograd;
mod budget;
mod checkpoint;
pub mod criteria;
mod dense;
pub mod failure;
mod histogram;
mod kept;
mod loss;
mod mlp;
pub mod observed;
mod parts;
mod quality;
mod section;
mod statistics;
mod tables;
mod train;

pub use quality::{LayerQuality, Quality};
pub use train::{Shape, Target};

use crate::compare::Windows;
use crate::predictor::attach;
use crate::shipped::{BUDGETS, COSTS};
use autograd::{Differentiable, Trace};
use budget::{Cost, Probe};
use checkpoint::Checkpoint;
use criteria::Criterion;
use kept::Kept;
use observed::Observed;
use section::Section;
use shadowllm_core::Image;
use shadowllm_core::image::{Config, SectionKind};
use shadowllm_core::sparsity::{Decider, Dial, GRID, Policy, Table};
use shadowllm_core::{KvFormat, Serial, SessionOptions};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pool::Pool;
use shadowllm_host::{Error, Result};
use statistics::Statistics;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tables::HeldOut;
use train::Training;

/// How much more than its density a policy may read and still count as the best. Policies read more or less than the
/// density because heads and groups are whole, and because thresholds come from other text.
const OVERDRAFT: f64 = 0.03;

/// What an earlier calibration leaves to the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The predictors: budgets and policies are searched again, after packing in another layout.
    Predictors,
    /// The budgets too: the best policies are found again, and what they cost.
    Budgets,
}

/// How to calibrate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policies to calibrate, from [`Options::all_policies`].
    pub policies: Vec<Policy>,
    /// Tokens per window.
    pub window: usize,
    /// The criterion of static importance; `None` for [`Criterion::Plainact`], or for its approximation if there are no
    /// gradients.
    pub criterion: Option<Criterion>,
    /// The predictors.
    pub shape: Shape,
    /// Windows of the search for budgets; with 0, all parts get the same share.
    pub budget_windows: usize,
    /// How often the state of an unfinished calibration is saved.
    pub keep_every: Duration,
    /// Threads.
    pub threads: usize,
}

impl Options {
    /// The policies that calibration can prepare.
    pub fn all_policies() -> Vec<Policy> {
        Policy::ALL.into_iter().filter(|p| p.plan().is_prepared()).collect()
    }

    /// The options in the words of the command line.
    fn described(&self) -> String {
        let (s, names) = (&self.shape, self.policies.iter().map(|p| p.name()).collect::<Vec<_>>().join(","));
        let criterion = self.criterion.map_or(String::new(), |c| format!(" --criterion {}", c.name()));
        format!(
            "--policies {names} --window {} --rank {} --layer-rank {} --steps {} --rate {} --seed {} --budget-windows {}{criterion}",
            self.window, s.rank, s.layer_rank, s.steps, s.rate, s.seed, self.budget_windows
        )
    }

    /// Whether predictors are trained.
    fn trains(&self) -> bool {
        self.policies.iter().any(|p| p.plan().is_trained())
    }
}

/// Shows progress to the user.
pub trait Progress {
    /// The number of seconds that the whole calibration is expected to take.
    fn expect(&mut self, seconds: f64);
    /// A stage begins: the number of its steps, and the number of seconds that each is expected to take.
    fn stage(&mut self, name: &str, steps: usize, seconds: f64);
    /// This number of its steps are done.
    fn done(&mut self, steps: usize);
}

/// The path of the state of an unfinished calibration.
pub fn state_path(out: &Path) -> PathBuf {
    beside(out, ".calibration")
}

/// The path of the measurements of an unfinished search for budgets.
fn costs_path(out: &Path) -> PathBuf {
    beside(out, ".costs")
}

/// The path with something added to its name.
fn beside(out: &Path, suffix: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    out.with_file_name(name)
}

/// Calibrates `model` on `ids` and writes a copy of it with predictors, thresholds and budgets to `out`. Every
/// [`Options::window`] tokens are read by themselves, so each such window should begin as the model's texts do
/// ([`crate::eval::begin_windows`]).
///
/// # Errors
/// A text that is too short, a model with only one layer, files that cannot be read or written.
pub fn calibrate(
    model: &LoadedModel,
    ids: &[u32],
    o: &Options,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Quality> {
    let windows: Vec<&[u32]> = ids.chunks_exact(o.window).collect();
    let held = (windows.len() / 12).clamp(2, 16);
    let least = 16 + held;
    if windows.len() < least {
        return Err(Error::Usage(format!(
            "the text has {} tokens to learn from, and calibration needs {} at least: give more --text, a larger --tokens, \
             or a smaller --window",
            ids.len(),
            least * o.window
        )));
    }
    let c = *model.model().config();
    if c.layers < 2 {
        return Err(Error::Usage("the model has only one layer, and the first layer is never skipped".into()));
    }
    let (text, held) = windows.split_at(windows.len() - held);
    let arch = model.model().image().arch();
    let neurons = (1..c.layers).any(|layer| arch.layer(layer).mlp().is_some_and(|m| m.router.is_none()));
    let mut o = o.clone();
    // If every layer has experts, there are no neurons to choose.
    o.policies.retain(|policy| neurons || !policy.plan().only_neurons());
    let o = &o;
    let (sections, quality, pace) = learn(model, text, held, o, &state_path(out), progress)?;
    let section = budgets(model, sections, held, (o, Keep::Nothing), out, (pace.cost, progress))?;
    let record = serde_json::json!({"tokens": text.len() * o.window, "options": o.described(), "quality": quality});
    attach(model.path(), &section, &record, out)?;
    // Not earlier: what was measured would be lost if the output cannot be written.
    forget(&costs_path(out))?;
    forget(&state_path(out))?;
    Ok(quality)
}

/// Removes a file, if it exists.
fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Searches the budgets of the predictor in `model` again, on `ids`, or only the best policies, and writes a copy to
/// `out`: the costs of parts depend on the layout of the image. Returns the number of tokens that it measured on.
///
/// # Errors
/// An image without a predictor, a text that is too short, files that cannot be read or written.
pub fn rebudget(
    model: &LoadedModel,
    ids: &[u32],
    (o, keep): (&Options, Keep),
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<usize> {
    let bytes = model.model().image().section(SectionKind::Predictor);
    if bytes.is_empty() {
        return Err(Error::file(model.path(), "has no predictor to keep: calibrate without --keep first"));
    }
    let (section, tap) = Section::read(bytes)?;
    let windows: Vec<&[u32]> = ids.chunks_exact(o.window).collect();
    if windows.is_empty() {
        let (tokens, window) = (ids.len(), o.window);
        return Err(Error::Usage(format!(
            "the text has {tokens} tokens, and a window has {window}: give more --text, a larger --tokens, or a smaller --window"
        )));
    }
    let o = Options { shape: Shape { tap, ..o.shape }, ..o.clone() };
    let pace = Pace::of(model, &windows, 0.0, &o)?;
    progress.expect(pace.cost * measurements(&o, model, keep) as f64);
    let section = budgets(model, section, &windows, (&o, keep), out, (pace.cost, progress))?;
    // What is known of the kept predictors stays known.
    let mut record = crate::report::provenance(model)?["calibration"].take();
    if !record.is_object() {
        record = serde_json::json!({});
    }
    let tokens = measured_on(&windows, &o);
    note_measured(&mut record, keep, tokens);
    attach(model.path(), &section, &record, out)?;
    forget(&costs_path(out))?;
    Ok(tokens)
}

/// The number of tokens that [`budgets`] measures on.
fn measured_on(windows: &[&[u32]], o: &Options) -> usize {
    windows.len().min(o.budget_windows) * scored_window(o)
}

/// Notes in the record of a calibration on how many tokens what it did not keep was measured again.
fn note_measured(record: &mut serde_json::Value, keep: Keep, tokens: usize) {
    let Some(record) = record.as_object_mut().filter(|_| tokens > 0) else { return };
    // Where budgets are searched, costs are measured too.
    record.remove(COSTS);
    match keep {
        Keep::Nothing => None,
        Keep::Predictors => record.insert(BUDGETS.into(), tokens.into()),
        Keep::Budgets => record.insert(COSTS.into(), tokens.into()),
    };
}

/// The state of learning.
struct Learning {
    statistics: Statistics,
    training: Training,
    done: usize,
}

impl Learning {
    fn save(&self, path: &Path, key: &str) -> Result<()> {
        let mut kept = Checkpoint::default();
        kept.put_u32("done".into(), &[self.done as u32]);
        self.statistics.save(&mut kept);
        self.training.save(&mut kept)?;
        kept.write(path, key)
    }

    fn restore(&mut self, kept: &Checkpoint) -> Result<()> {
        self.done = kept.u32("done")?.first().map_or(0, |n| *n as usize);
        self.statistics.restore(kept)?;
        self.training.restore(kept)
    }
}

/// Names a model with its layout and weights, by the checksums in its image.
fn model_key(image: &Image) -> String {
    let kinds = [SectionKind::Architecture, SectionKind::Tensors, SectionKind::Weights];
    kinds.map(|kind| format!("{:08x}", image.section_info(kind).crc)).join(" ")
}

/// Names a calibration: an interrupted one is continued only with the same model, text and options, of which some do not
/// change its result.
fn key(model: &LoadedModel, text: &[&[u32]], o: &Options) -> String {
    let o = Options { keep_every: Duration::ZERO, threads: 0, ..o.clone() };
    let crc = text.iter().flat_map(|w| w.iter()).fold(crc32fast::Hasher::new(), |mut h, id| {
        h.update(&id.to_le_bytes());
        h
    });
    format!("{} {:08x} {} {o:?}", model_key(model.model().image()), crc.finalize(), text.len())
}

/// Trains on the text, then measures on the held-out windows.
fn learn(
    model: &LoadedModel,
    text: &[&[u32]],
    held: &[&[u32]],
    o: &Options,
    state: &Path,
    progress: &mut dyn Progress,
) -> Result<(Section, Quality, Pace)> {
    let c = *model.model().config();
    let tracer = Tracer::of(model, o)?;
    let mut learning = Learning {
        statistics: Statistics::new(&c, o.criterion.unwrap_or(Criterion::Plainact)),
        training: Training::new(&c, o.shape),
        done: 0,
    };
    let key = key(model, text, o);
    if let Some(kept) = Checkpoint::read(state, &key)? {
        learning.restore(&kept)?;
    }
    let pace = Pace::of(model, held, tracer.seconds(held, o.threads)?, o)?;
    let windows = text.len() - learning.done + held.len();
    progress.expect(pace.window * windows as f64 + pace.cost * measurements(o, model, Keep::Nothing) as f64);
    progress.stage(tracer.stage(), text.len(), pace.window);
    progress.done(learning.done);
    let mut saved = Instant::now();
    let first = learning.done;
    tracer.trace_each(&text[first..], o.threads, &mut |trace| {
        learning.statistics.add(&trace);
        if o.trains() {
            learning.training.learn(&trace, learning.done as f64 / text.len() as f64)?;
        }
        learning.done += 1;
        progress.done(learning.done);
        if saved.elapsed() >= o.keep_every {
            learning.save(state, &key)?;
            saved = Instant::now();
        }
        Ok(())
    })?;
    learning.save(state, &key)?;
    progress.stage("held-out text", held.len(), pace.window);
    let mut held_out = HeldOut::new(model.model().image(), &learning.statistics);
    let mut n = 0;
    tracer.trace_each(held, o.threads, &mut |trace| {
        let sample = learning.training.sample(&trace);
        held_out.add(&trace, &sample, learning.training.scores(&sample)?);
        n += 1;
        progress.done(n);
        Ok(())
    })?;
    let mut section = tables::section(&c, &o.policies, &learning.statistics, &learning.training, &held_out)?;
    if o.trains() && tables::centring_pays(&c, o.shape.target) {
        tables::centre(&mut section, model.model().image(), &learning.statistics);
    }
    Ok((section, held_out.quality(), pace))
}

/// The way to trace windows of text.
enum Tracer<'a> {
    /// By automatic differentiation, with gradients.
    Differentiable(Differentiable),
    /// By the engine, without gradients: the model has no differentiable copy, for the reason given.
    Observed(Observed<'a>),
}

impl<'a> Tracer<'a> {
    /// The tracer for a model.
    ///
    /// # Errors
    /// When the user chose a criterion that needs gradients, and the model has no differentiable copy.
    fn of(model: &'a LoadedModel, o: &Options) -> Result<Self> {
        match autograd::obstacle(model.model()) {
            None => Ok(Tracer::Differentiable(Differentiable::new(model.model())?)),
            Some(what) if o.criterion.is_some_and(Criterion::needs_gradients) => Err(Error::Usage(format!(
                "this criterion needs gradients, which are not available for models with {what}: leave --criterion out, \
                 or take {}",
                Criterion::L2Norm.name()
            ))),
            Some(_) => Ok(Tracer::Observed(Observed::new(model, o.threads)?)),
        }
    }

    /// The name of the first stage.
    fn stage(&self) -> &'static str {
        match self {
            Tracer::Differentiable(_) => "reading the text",
            Tracer::Observed(_) => "reading the text (without gradients)",
        }
    }

    /// Seconds per window with `threads` threads in parallel.
    fn seconds(&self, windows: &[&[u32]], threads: usize) -> Result<f64> {
        let some = &windows[..windows.len().min(threads)];
        let start = Instant::now();
        self.trace_each(some, threads, &mut |_| Ok(()))?;
        Ok(start.elapsed().as_secs_f64() / some.len().max(1) as f64)
    }

    /// Calls `each` with the traces of windows, in order.
    fn trace_each(&self, windows: &[&[u32]], threads: usize, each: &mut dyn FnMut(Trace) -> Result<()>) -> Result<()> {
        match self {
            Tracer::Differentiable(model) => in_order(model, windows, threads, each),
            Tracer::Observed(model) => model.trace_each(windows, each),
        }
    }
}

/// Passes on traces in the order of the windows, because training depends on it, whatever the order in which they are
/// finished.
fn in_order(
    model: &Differentiable,
    windows: &[&[u32]],
    threads: usize,
    each: &mut dyn FnMut(Trace) -> Result<()>,
) -> Result<()> {
    let (mut next, mut waiting) = (0, BTreeMap::new());
    model.trace_each(windows, true, threads, &mut |i, trace| {
        waiting.insert(i, trace);
        while let Some(trace) = waiting.remove(&next) {
            each(trace)?;
            next += 1;
        }
        Ok(())
    })?;
    Ok(())
}

/// The speed of this machine with this model.
struct Pace {
    /// Seconds to trace a window.
    window: f64,
    /// Seconds to measure the cost of a part.
    cost: f64,
}

impl Pace {
    /// Measures `cost` on a few tokens; `window` was measured by the caller.
    fn of(model: &LoadedModel, windows: &[&[u32]], window: f64, o: &Options) -> Result<Pace> {
        let ids: Vec<u32> = windows.iter().flat_map(|w| w.iter()).copied().take(8).collect();
        let options = SessionOptions { batch: 1, ..SessionOptions::of(model.model()) }.within(ids.len().max(1));
        let mut memory = model.memory(&options)?;
        let mut session = model.session(options, &mut memory)?;
        let start = Instant::now();
        for id in &ids {
            session.decode(&Serial, *id)?;
        }
        let token = start.elapsed().as_secs_f64() / ids.len().max(1) as f64;
        let tokens = (o.budget_windows * scored_window(o)) as f64;
        Ok(Pace { window, cost: token * tokens / o.threads.max(1) as f64 })
    }
}

/// Tokens per window of the search for budgets.
fn scored_window(o: &Options) -> usize {
    o.window.min(192)
}

/// The first `len` tokens of each window, so that shorter windows begin as these do.
fn beginnings(windows: &[&[u32]], len: usize) -> Vec<u32> {
    windows.iter().flat_map(|w| &w[..len.min(w.len())]).copied().collect()
}

/// The approximate number of measurements for budgets and for the choice of the best policies.
fn measurements(o: &Options, model: &LoadedModel, keep: Keep) -> usize {
    let image = model.model().image();
    if o.budget_windows == 0 {
        return 0;
    }
    let needs = |p: &Policy| match p {
        Policy::Mixed => o.policies.contains(&Policy::Input) && o.policies.contains(&Policy::Shadow),
        Policy::InputTop => o.policies.contains(&Policy::Input),
        p => o.policies.contains(p),
    };
    let found = Policy::ALL.into_iter().filter(|p| needs(p) && pays(*p, image.config()));
    let steps = |policy| if keep == Keep::Budgets { 0 } else { budget::steps(policy, image) };
    found.map(|policy| steps(policy) + GRID - 1).sum()
}

/// Searches budgets with the engine itself, and for every density the best policy; returns the section.
fn budgets(
    model: &LoadedModel,
    mut section: Section,
    held: &[&[u32]],
    (o, keep): (&Options, Keep),
    out: &Path,
    (seconds, progress): (f64, &mut dyn Progress),
) -> Result<Vec<u8>> {
    let image = *model.model().image();
    let (tap, c) = (o.shape.tap, *image.config());
    if o.budget_windows == 0 {
        return Ok(section.bytes(&image, tap));
    }
    // Named after the output, so that the next calibration overwrites and removes what a killed one has left.
    let draft = beside(out, ".draft");
    let draft = tempfile::TempPath::try_from_path(&draft).map_err(|e| Error::io("write to", &draft, e))?;
    let ids = beginnings(held, scored_window(o));
    let pool = Pool::new(o.threads)?;
    let kv = if model.model().is_f32() { KvFormat::F32 } else { KvFormat::F16 };
    let windows =
        Windows { ids: &ids, window: scored_window(o), context: scored_window(o) / 3, most: o.budget_windows };
    let policies: Vec<Policy> = Policy::ALL.into_iter().filter(|p| section.has(*p) && pays(*p, &c)).collect();
    let options = SessionOptions { context: windows.window, batch: 64, logit_rows: 16, ahead: 0, kv, sparsity: true };
    let mut sum = crc32fast::Hasher::new();
    sum.update(&section.bytes(&image, tap));
    ids.iter().for_each(|id| sum.update(&id.to_le_bytes()));
    // What is kept decides which search is the first. The last number is that of the numbers kept of a measurement.
    let (of, sum) = (model_key(&image), sum.finalize());
    let key = format!("{of} {sum:08x} {} {} {keep:?} 3", windows.window, windows.most);
    let mut kept = Kept::open(&costs_path(out), key, o.keep_every)?;
    // The first pass finds the budgets; the second uses them to find the best policies.
    for pass in usize::from(keep == Keep::Budgets)..2 {
        attach(model.path(), &section.bytes(&image, tap), &serde_json::Value::Null, &draft)?;
        let trial = LoadedModel::open(&draft, None)?;
        let mut memories = (0..o.threads).map(|_| trial.memory(&options)).collect::<Result<Vec<_>>>()?;
        let sessions = memories.iter_mut().map(|memory| trial.session(options, memory)).collect::<Result<_>>()?;
        let mut probe = Probe::new(sessions, &pool, &windows)?;
        if pass == 0 {
            for policy in policies.iter().filter(|p| p.plan().owns_budget()) {
                progress.stage(&format!("budget of {}", policy.name()), budget::steps(*policy, &image), seconds);
                let table = budget::search(&mut probe, &mut kept, *policy, &mut |n| progress.done(n))?;
                if let Some(calibrated) = policy.plan().calibrated {
                    section.set_vector(calibrated.budget, &table);
                }
            }
        } else {
            let (best, quality) = best(&mut probe, &mut kept, &policies, (seconds, progress))?;
            section.set_vector(Table::Auto, &best);
            section.set_vector(Table::Quality, &quality);
        }
    }
    Ok(section.bytes(&image, tap))
}

/// Whether a policy can skip in images of this arrangement and saves by it: if it chooses neurons, these should be
/// stored together.
fn pays(policy: Policy, c: &Config) -> bool {
    let plan = policy.plan();
    let bundles = plan.inputs == Decider::All || plan.neurons == Decider::All || !c.ffn_by_input;
    plan.suits(c) && bundles
}

/// Code of the best policy for every density of the grid: of the policies that read no more than the density allows,
/// the one with the least divergence. Some policies cannot reach low densities: a gate that decides is itself read
/// whole. The second table is what these policies cost ([`Table::Quality`]).
fn best(
    probe: &mut Probe,
    kept: &mut Kept,
    policies: &[Policy],
    (seconds, progress): (f64, &mut dyn Progress),
) -> Result<(Vec<f32>, Vec<f32>)> {
    let density = |g: usize| g as f32 / (GRID - 1) as f32;
    let dial = |g: usize, policy: Policy| Dial { policy, density: density(g), ..Dial::default() };
    let dials: Vec<Dial> = (1..GRID).flat_map(|g| policies.iter().map(move |p| dial(g, *p))).collect();
    progress.stage("best policies", dials.len(), seconds);
    let costs = probe.costs(kept, &dials, &|session, dial| Ok(session.set_dial(dial)?), &mut |n| progress.done(n))?;
    let (mut codes, mut quality) = (vec![0.0; GRID], vec![0.0; GRID * 2]);
    for (g, costs) in costs.chunks(policies.len().max(1)).enumerate().map(|(i, costs)| (i + 1, costs)) {
        let over = |cost: &Cost| (cost.read - f64::from(density(g)) - OVERDRAFT).max(0.0);
        let mut least = (f64::INFINITY, f64::INFINITY);
        for (policy, cost) in policies.iter().zip(costs) {
            if (over(cost), cost.kl) < least {
                (least, codes[g]) = ((over(cost), cost.kl), f32::from(*policy as u8));
                quality[2 * g..2 * g + 2].copy_from_slice(&[cost.loss as f32, cost.kl as f32]);
            }
        }
    }
    Ok((codes, quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_windows_begin_as_the_longer_ones() {
        let windows = [[9, 1, 2, 3], [9, 4, 5, 6]];
        let windows: Vec<&[u32]> = windows.iter().map(|w| &w[..]).collect();
        assert_eq!(beginnings(&windows, 3), [9, 1, 2, 9, 4, 5]);
        assert_eq!(beginnings(&windows, 4), windows.concat());
    }
}
