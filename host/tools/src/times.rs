//! The time of a token by density: measured, and predicted from a few measurements as `run --target` does.

use crate::decimal;
use shadowllm_core::Session;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_host::Result;
use shadowllm_host::pace::{Ladder, Rung};
use shadowllm_host::pool::Pool;

/// The least density that is timed by default.
pub const LEAST: f32 = 0.3;

/// The time of a token under a dial.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Time {
    /// The policy that was set.
    pub policy: &'static str,
    /// The density that was set.
    #[serde(serialize_with = "decimal::serialize")]
    pub density: f32,
    /// Bytes of weights that a token reads.
    pub bytes: usize,
    /// Seconds of a token, predicted from measurements at a few dials.
    pub predicted_seconds: f64,
    /// Seconds of a token, measured.
    pub measured_seconds: f64,
    /// Whether one of these few measurements was at this very dial.
    pub fitted: bool,
}

impl Time {
    fn of(predicted: &Rung, measured: &Rung) -> Time {
        Time {
            policy: measured.dial.policy.name(),
            density: measured.dial.density,
            bytes: measured.bytes,
            predicted_seconds: predicted.seconds,
            measured_seconds: measured.seconds,
            fitted: predicted.measured,
        }
    }

    /// By how much the predicted time is too long, as a share of the measured one.
    pub fn error(&self) -> f64 {
        self.predicted_seconds / self.measured_seconds - 1.0
    }
}

/// Times from reading everything down to density `least` of a policy (see [`Ladder::new`]), on a session that has read
/// nothing; its dial stays.
///
/// # Errors
/// As [`Ladder::new`] and [`Ladder::measure`].
pub fn times(session: &mut Session, pool: &Pool, base: &Dial, named: Option<Policy>, least: f32) -> Result<Vec<Time>> {
    let ladder = Ladder::new(session.model(), base, named, least)?;
    let (mut fit, mut all) = (ladder.clone(), ladder);
    fit.measure(session, pool)?;
    all.measure_all(session, pool)?;
    Ok(fit.rungs().iter().zip(all.rungs()).map(|(predicted, measured)| Time::of(predicted, measured)).collect())
}

/// How good the predictions are, and how many dials save no time: sentences for people.
pub fn conclusion(times: &[Time]) -> Vec<String> {
    // Times that cannot be have no error; a cut at a thousand million keeps sums finite.
    let errors = times.iter().filter(|t| !t.fitted).map(|t| t.error().abs()).filter(|e| e.is_finite());
    let held_out: Vec<f64> = errors.map(|e| e.min(1e9)).collect();
    let mean = held_out.iter().sum::<f64>() / held_out.len() as f64;
    let most = held_out.iter().copied().fold(0.0, f64::max);
    let error = (!held_out.is_empty()).then(|| {
        format!("predicted from other densities: error {:.0} % on average, {:.0} % at most", 100.0 * mean, 100.0 * most)
    });
    let dense = times.first().map_or(f64::NAN, |t| t.measured_seconds);
    let useless = times.iter().skip(1).filter(|t| t.measured_seconds > dense).count();
    let slower = (useless > 0).then(|| format!("{useless} of these dials are slower here than reading everything"));
    error.into_iter().chain(slower).collect()
}
