//! The dial in units that people have: a time that a token may take, and how much of the quality it may cost.
//!
//! A [`Ladder`] is a list of dials, from reading everything to reading little. The time of a token is measured at a few of
//! them when a session begins, and taken to be linear in the density between these: a token's time is that of reading its
//! weights, and a constant. A [`Pace`] then chooses the first dial that is fast enough, and corrects the measured times
//! while an answer is made, since contexts grow and other programs come and go.
//!
//! On some processors some dials are no faster than reading everything (short runs that are skipped save no time there).
//! Measuring shows it, so that such a dial is not chosen.

use crate::error::{Error, Result};
use shadowllm_core::image::Role;
use shadowllm_core::sample::{Sampler, SamplerOptions};
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_core::{Executor, Model, Session};
use std::time::{Duration, Instant};

/// Tokens of the text that is read for measuring, and tokens decoded at each measured dial after it.
const TEXT: usize = 8;
const DECODED: usize = 5;
/// The weight of a new time in the running mean of corrections.
const NEW: f64 = 0.1;
/// Tokens between two choices of a dial.
const EVERY: usize = 8;
/// The share by which perplexity may rise where no other share is given, in a model whose calibration measured such rises.
pub const LOSS: f32 = 0.05;
/// How much faster than the target a dial that reads more must be, so that the choice does not go back and forth.
const ROOM: f64 = 0.95;

/// A dial, and how long a token takes with it.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// The dial.
    pub dial: Dial,
    /// Seconds of a token; measured, or between measured ones.
    pub seconds: f64,
    /// Whether the time was measured.
    pub measured: bool,
    /// Bytes of weights that a token reads on average, where measured.
    pub bytes: usize,
}

/// Dials from reading everything to reading little, with the times of a token.
#[derive(Clone, Debug)]
pub struct Ladder(Vec<Rung>);

/// The policy that suits a model at a density if none is named: the one that calibration found best, or for a model that
/// is not calibrated one that needs no calibration.
///
/// # Errors
/// When the predictor section is damaged.
pub fn suited(model: &Model, density: f32) -> Result<Policy> {
    Ok(match density {
        1.0 => Policy::Off,
        _ if model.predictor()?.is_some() => Policy::Auto,
        _ if Policy::PromptInput.plan().suits(model.config()) => Policy::PromptInput,
        _ => Policy::Prompt,
    })
}

/// The policy and the density that read as little as a loss of perplexity allows (.01 is one percent), as calibration
/// measured it. Without a loss, [`LOSS`] where calibration measured any; else only rows of the output matrix are skipped, if
/// the image has a sketch of it. `None` for a loss in an image without such measurements.
///
/// # Errors
/// When the loss is not 0 or more, or the predictor section is damaged.
pub fn within(model: &Model, loss: Option<f32>) -> Result<Option<(Policy, f32)>> {
    let most = loss.unwrap_or(LOSS);
    if !(most >= 0.0 && most.is_finite()) {
        return Err(Error::Usage(format!(
            "a loss of {most}: it must be 0 or more; 0.01 is one percent more perplexity"
        )));
    }
    Ok(match model.predictor()?.and_then(|p| p.density_within(most)) {
        Some(density) if density < 1.0 => Some((Policy::Auto, density)),
        None if loss.is_some() => None,
        None if has_sketch(model) => Some((Policy::Output, 1.0)),
        _ => Some((Policy::Off, 1.0)),
    })
}

/// Whether rows of the output matrix can be skipped.
fn has_sketch(model: &Model) -> bool {
    model.image().matrix(Role::OutputSketch, 0).is_some()
}

impl Ladder {
    /// Positions that a session needs for measuring.
    pub const CONTEXT: usize = TEXT + DECODED;

    /// Dials down to density `least` of `policy` (by default the one that [`suited`] names), not measured yet. All else is
    /// as in `base` ([`Dial::with`]).
    ///
    /// # Errors
    /// When a density is out of range, or the predictor section is damaged.
    pub fn new(model: &Model, base: &Dial, policy: Option<Policy>, least: f32) -> Result<Ladder> {
        if !(least > 0.0 && least <= 1.0) {
            return Err(shadowllm_core::Error::BadDensity.into());
        }
        let mut dials = vec![base.with(Policy::Off, 1.0)];
        if has_sketch(model) {
            dials.push(base.with(Policy::Output, 1.0));
        }
        if policy != Some(Policy::Output) && policy != Some(Policy::Off) {
            // Also a density that is nearer to 1 than a step has a dial.
            let steps = (((1.0 - least) / 0.05 + 0.5) as usize).max(usize::from(least < 1.0));
            for step in 1..=steps {
                let density = if step == steps { least } else { 1.0 - 0.05 * step as f32 };
                let policy = policy.map_or_else(|| suited(model, density), Ok)?;
                dials.push(base.with(policy, density));
            }
        }
        let rung = |dial| Rung { dial, seconds: f64::INFINITY, measured: false, bytes: 0 };
        Ok(Ladder(dials.into_iter().map(rung).collect()))
    }

    /// The rungs, from reading everything to reading little.
    pub fn rungs(&self) -> &[Rung] {
        &self.0
    }

    /// The rungs to be measured: those without a density, and the ends and the middle of the others.
    fn chosen(&self) -> Vec<usize> {
        let first = self.0.iter().position(|r| r.dial.density < 1.0).unwrap_or(self.0.len());
        let mut chosen: Vec<usize> = (0..first).collect();
        if let Some(last) = self.0.len().checked_sub(1).filter(|last| *last >= first) {
            chosen.extend([first, first.midpoint(last), last]);
        }
        chosen.dedup();
        chosen
    }

    /// Measures the time of a token at a few dials on a session that has read nothing, and leaves it so, with the dial that
    /// it had. Returns how long that took.
    ///
    /// # Errors
    /// When the session has read something, is exact, or has a context shorter than [`Ladder::CONTEXT`]; errors of the session.
    pub fn measure(&mut self, session: &mut Session, exec: &dyn Executor) -> Result<Duration> {
        self.measure_at(session, exec, &self.chosen())
    }

    /// Measures at all dials.
    ///
    /// # Errors
    /// As [`Ladder::measure`].
    pub fn measure_all(&mut self, session: &mut Session, exec: &dyn Executor) -> Result<Duration> {
        self.measure_at(session, exec, &(0..self.0.len()).collect::<Vec<_>>())
    }

    fn measure_at(&mut self, session: &mut Session, exec: &dyn Executor, chosen: &[usize]) -> Result<Duration> {
        if session.position() > 0 {
            return Err(Error::Usage("times are measured before a session has read anything".into()));
        }
        if session.options().ahead > 0 {
            let why = "an exact session checks several tokens in a pass, so its answers do not take the measured times";
            return Err(Error::Usage(why.into()));
        }
        let (start, before) = (Instant::now(), session.dial());
        let measured = self.measure_rungs(session, exec, chosen);
        // Also after an error.
        session.rewind(0)?;
        session.set_dial(&before)?;
        measured?;
        self.fill();
        Ok(start.elapsed())
    }

    fn measure_rungs(&mut self, session: &mut Session, exec: &dyn Executor, chosen: &[usize]) -> Result<()> {
        let text = text(session, exec)?;
        for i in chosen {
            let rung = &mut self.0[*i];
            session.rewind(0)?;
            session.set_dial(&rung.dial)?;
            session.prefill(exec, &text[..TEXT])?;
            // The first token finds other weights in the caches, and does not count.
            session.decode(exec, text[TEXT])?;
            let (mut times, mut bytes) = ([f64::INFINITY; DECODED - 1], 0);
            for (time, token) in times.iter_mut().zip(&text[TEXT + 1..]) {
                let start = Instant::now();
                session.decode(exec, *token)?;
                *time = start.elapsed().as_secs_f64();
                bytes += session.traffic().weights;
            }
            (rung.seconds, rung.bytes, rung.measured) = (median(&mut times), bytes / times.len(), true);
        }
        Ok(())
    }

    /// Sets the times of rungs that were not measured, from the measured ones on both sides.
    fn fill(&mut self) {
        let measured: Vec<(f32, f64)> =
            self.0.iter().filter(|r| r.measured && r.dial.density < 1.0).map(|r| (r.dial.density, r.seconds)).collect();
        for rung in self.0.iter_mut().filter(|r| !r.measured) {
            let at = rung.dial.density;
            let above = measured.iter().rfind(|(d, _)| *d >= at);
            let below = measured.iter().find(|(d, _)| *d <= at);
            rung.seconds = match (above, below) {
                (Some((da, a)), Some((db, b))) if da > db => b + (a - b) * f64::from((at - db) / (da - db)),
                (Some((_, seconds)), _) | (_, Some((_, seconds))) => *seconds,
                _ => f64::INFINITY,
            };
        }
    }
}

/// The median, which of an even number of values is the mean of the two in the middle; sorts them.
///
/// # Panics
/// When there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, odd) = (values.len() / 2, values.len() % 2 == 1);
    if odd { values[half] } else { values[half - 1].midpoint(values[half]) }
}

/// Tokens that the model itself writes after its first token, so that policies see usual activations.
fn text(session: &mut Session, exec: &dyn Executor) -> Result<Vec<u32>> {
    session.rewind(0)?;
    session.set_dial(&Dial::default())?;
    let first = session.model().config().bos.unwrap_or(0);
    let mut text = vec![first];
    let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })?;
    while text.len() < TEXT + DECODED {
        session.decode(exec, text[text.len() - 1])?;
        text.push(session.sample(&mut sampler)?);
    }
    Ok(text)
}

/// Keeps the time of a token near a target.
#[derive(Clone, Debug)]
pub struct Pace {
    ladder: Ladder,
    /// Seconds of a token.
    target: f64,
    at: usize,
    /// Actual times over measured ones, a running mean.
    factor: f64,
    since: usize,
}

impl Pace {
    /// Chooses the first dial of a measured ladder that is fast enough, or the fastest.
    ///
    /// # Errors
    /// When the target is not above 0.
    pub fn new(ladder: Ladder, target: Duration) -> Result<Pace> {
        let target = target.as_secs_f64();
        if target <= 0.0 {
            return Err(Error::Usage("a token's time must be above 0".into()));
        }
        let mut pace = Pace { ladder, target, at: 0, factor: 1.0, since: 0 };
        pace.at = pace.suited(1.0);
        Ok(pace)
    }

    /// The chosen rung.
    pub fn rung(&self) -> &Rung {
        &self.ladder.0[self.at]
    }

    /// The measured ladder.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Whether the chosen dial is expected to be fast enough.
    pub fn reached(&self) -> bool {
        self.rung().seconds * self.factor <= self.target
    }

    /// The first rung that is fast enough, with this share of the target for rungs that read more than the present one;
    /// else the fastest.
    fn suited(&self, room: f64) -> usize {
        let rungs = &self.ladder.0;
        let enough =
            |(i, r): &(usize, &Rung)| r.seconds * self.factor <= self.target * if *i < self.at { room } else { 1.0 };
        let fastest = || rungs.iter().enumerate().min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        rungs.iter().enumerate().find(enough).or_else(fastest).map_or(0, |(i, _)| i)
    }

    /// Takes the time that a step took since the session was at `position`, and sets the session's dial anew if the time
    /// asks for it. Steps that read no token or several say nothing about the time of one.
    ///
    /// # Errors
    /// As [`Session::set_dial`].
    pub fn follow(&mut self, session: &mut Session, position: usize, time: Duration) -> Result<()> {
        if session.position() == position + 1
            && let Some(dial) = self.took(time)
        {
            session.set_dial(&dial)?;
        }
        Ok(())
    }

    /// Takes the time of a decoded token, and from time to time chooses a dial anew; returns it if it is another one.
    pub fn took(&mut self, time: Duration) -> Option<Dial> {
        let factor = time.as_secs_f64() / self.rung().seconds;
        self.factor += NEW * (factor.clamp(0.1, 10.0) - self.factor);
        self.since += 1;
        if self.since < EVERY {
            return None;
        }
        self.since = 0;
        let at = self.suited(ROOM);
        (std::mem::replace(&mut self.at, at) != at).then(|| self.rung().dial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(times: &[(f32, f64)]) -> Ladder {
        let rung = |(density, seconds): &(f32, f64)| Rung {
            dial: Dial { policy: Policy::Input, density: *density, ..Dial::default() },
            seconds: *seconds,
            measured: seconds.is_finite(),
            bytes: 0,
        };
        Ladder(times.iter().map(rung).collect())
    }

    #[test]
    fn times_between_measured_ones_are_linear() {
        let mut l = ladder(&[(1.0, 2.0), (0.9, 1.8), (0.7, f64::INFINITY), (0.5, 1.0), (0.4, f64::INFINITY)]);
        l.fill();
        assert!((l.0[2].seconds - 1.4).abs() < 1e-6, "{}", l.0[2].seconds);
        assert_eq!(l.0[4].seconds, 1.0, "not guessed beyond the measured ones");
        assert_eq!(ladder(&[(1.0, 1.0), (0.9, 1.0), (0.8, 1.0), (0.7, 1.0), (0.6, 1.0)]).chosen(), [0, 1, 2, 4]);
    }

    #[test]
    fn medians_of_even_and_odd_numbers() {
        assert_eq!([median(&mut [3.0]), median(&mut [4.0, 2.0]), median(&mut [9.0, 1.0, 2.0])], [3.0, 3.0, 2.0]);
        assert_eq!(median(&mut [8.0, 1.0, 2.0, 4.0]), 3.0);
    }

    fn story(test: impl FnOnce(&mut Session)) {
        let model = crate::model::LoadedModel::open("models/story.sllm".as_ref(), None).unwrap();
        let options =
            shadowllm_core::SessionOptions { sparsity: true, ..shadowllm_core::SessionOptions::of(model.model()) };
        let mut memory = model.memory(&options).unwrap();
        test(&mut model.session(options, &mut memory).unwrap());
    }

    /// A density near 1 is not left out because it is less than a step below it.
    #[test]
    fn every_density_below_1_has_a_dial() {
        story(|session| {
            let densities = |least: f32| -> Vec<f32> {
                let ladder = Ladder::new(session.model(), &Dial::default(), Some(Policy::Random), least).unwrap();
                ladder.rungs().iter().map(|r| r.dial.density).filter(|d| *d < 1.0).collect()
            };
            assert_eq!([densities(0.98), densities(0.999), densities(1.0)], [vec![0.98], vec![0.999], vec![]]);
            assert_eq!(densities(0.88), [0.95, 0.88]);
        });
    }

    /// Tokens differ in the bytes that they read.
    #[test]
    fn the_bytes_of_a_dial_are_those_of_a_mean_token() {
        story(|session| {
            let exec = &shadowllm_core::Serial;
            let dial = Dial { policy: Policy::Random, density: 0.5, ..Dial::default() };
            let mut ladder = Ladder::new(session.model(), &dial, Some(Policy::Random), 0.5).unwrap();
            ladder.measure(session, exec).unwrap();
            let rung = *ladder.rungs().last().unwrap();
            let text = text(session, exec).unwrap();
            session.rewind(0).unwrap();
            session.set_dial(&rung.dial).unwrap();
            session.prefill(exec, &text[..TEXT]).unwrap();
            let bytes = |id: &u32| {
                session.decode(exec, *id).unwrap();
                session.traffic().weights
            };
            let bytes: Vec<usize> = text[TEXT..].iter().map(bytes).collect();
            assert_eq!(rung.bytes, bytes[1..].iter().sum::<usize>() / (DECODED - 1), "{bytes:?}");
            assert_ne!(rung.bytes, bytes[DECODED - 1], "{bytes:?}");
        });
    }

    #[test]
    fn the_dial_follows_the_times() {
        let l = ladder(&[(1.0, 1.0), (0.8, 0.8), (0.6, 0.6)]);
        let mut pace = Pace::new(l.clone(), Duration::from_secs_f64(0.9)).unwrap();
        assert_eq!(pace.rung().dial.density, 0.8);
        // The machine becomes slower: the next dial is taken, and no other one is left after it.
        let slow = (0..40).find_map(|_| pace.took(Duration::from_secs_f64(1.2))).unwrap();
        assert_eq!(slow.density, 0.6);
        assert!((0..40).all(|_| pace.took(Duration::from_secs_f64(3.0)).is_none()) && !pace.reached());
        // It becomes fast again.
        let fast: Vec<f32> = (0..80)
            .filter_map(|_| pace.took(Duration::from_secs_f64(pace.rung().seconds * 0.5)))
            .map(|d| d.density)
            .collect();
        assert_eq!(fast.last(), Some(&1.0), "{fast:?}");
        // Nothing is fast enough: the fastest, which may be the one that reads most.
        let pace = Pace::new(ladder(&[(1.0, 1.0), (0.8, 1.2)]), Duration::from_secs_f64(0.5)).unwrap();
        assert!(pace.rung().dial.density == 1.0 && !pace.reached());
    }
}
