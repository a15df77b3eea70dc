//! The dial in units that people have: tokens per second, and the loss of quality.

use crate::dial::{DialOptions, SKIPPING};
use crate::print;
use clap::Args;
use shadowllm_core::Model;
use shadowllm_core::sparsity::{Dial, Policy};
use shadowllm_host::pace::{Ladder, within};
use shadowllm_host::{Error, Result, Session};
use shadowllm_tools::cache::Skipping;
use std::time::Duration;

/// Options that choose the density.
#[derive(Args, Clone, Default)]
pub struct PaceOptions {
    /// Read as much as this speed allows (20t/s) or this time of a token (50ms): times at several densities are measured
    /// first, and the density follows the actual times. Not below --density, or what --max-loss allows (5 % by default; a
    /// model without calibration then skips only in the output matrix).
    #[arg(long, value_parser = time, value_name = "SPEED", help_heading = SKIPPING)]
    target: Option<Duration>,
    /// Read as little as this loss of perplexity allows (1%), as calibration measured it on its own text.
    #[arg(long, value_parser = loss, value_name = "SHARE", conflicts_with_all = ["density", "policy"], help_heading = SKIPPING)]
    max_loss: Option<f32>,
}

/// The time of a token, from "20t/s" or "50ms".
fn time(text: &str) -> std::result::Result<Duration, String> {
    let number = |rest: &str| rest.trim().parse::<f64>().ok().filter(|x| *x > 0.0 && x.is_finite());
    // Units of speed are inverted.
    let units = [("tok/s", None), ("t/s", None), ("ms", Some(0.001)), ("s", Some(1.0))];
    let seconds = units.into_iter().find_map(|(unit, factor)| {
        let number = number(text.strip_suffix(unit)?)?;
        Some(factor.map_or(1.0 / number, |factor| number * factor))
    });
    let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|t| !t.is_zero());
    time.ok_or_else(|| "a speed such as 20t/s, or the time of a token such as 50ms".into())
}

/// A share, from "1%" or "0.01".
fn loss(text: &str) -> std::result::Result<f32, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f32>().map(|x| x / 100.0),
        None => text.parse(),
    };
    let share = number.ok().filter(|x| *x >= 0.0 && x.is_finite());
    let share = share.ok_or("a share such as 1% or 0.01")?;
    // Who writes 1 means one percent, not a perplexity twice as large.
    if share >= 1.0 && !text.ends_with('%') {
        return Err(format!("{text} is {0:.0}%: write {text}% for a hundredth of it, or {0:.0}%", 100.0 * share));
    }
    Ok(share)
}

/// A share as a percentage of four digits, however small it is.
fn percent(share: f32) -> f32 {
    let percent = 100.0 * share;
    format!("{percent:.3e}").parse().unwrap_or(percent)
}

impl PaceOptions {
    /// Whether something may be skipped because of them.
    pub fn skips(&self) -> bool {
        self.target.is_some() || self.max_loss.is_some()
    }

    /// What will be skipped of a model that is packed on the way, beside what the dial says.
    pub fn skipping(&self, dial: Skipping) -> Skipping {
        let paced = match (self.max_loss, self.target) {
            (Some(_), _) => Skipping::Layers,
            (None, Some(_)) => Skipping::Output,
            (None, None) => Skipping::Nothing,
        };
        dial.max(paced)
    }

    /// Refuses what does not go together.
    pub fn check(&self, exact: bool) -> Result<()> {
        if exact && self.skips() {
            let name = if self.target.is_some() { "--target" } else { "--max-loss" };
            return Err(Error::Usage(format!(
                "{name} chooses what is skipped, and --exact gives the text of the dense \
                 model: leave one of them out"
            )));
        }
        Ok(())
    }

    /// The dial to begin with: `dial`, unless a loss was given.
    pub fn dial(&self, model: &Model, dial: Dial) -> Result<Dial> {
        let Some(loss) = self.max_loss else { return Ok(dial) };
        let unknown = || {
            Error::Other(
                "the model does not say what skipping costs, because it was not calibrated, or by an earlier version: give \
                 --density in place of --max-loss, or calibrate it first (shadowllm calibrate; with --keep=budgets, only this is \
                 measured)"
                    .into(),
            )
        };
        let (policy, density) = within(model, Some(loss))?.ok_or_else(unknown)?;
        if self.target.is_none() {
            print::note(match policy {
                Policy::Off => "[everything is read: calibration measured no density that costs so little]".to_owned(),
                _ => {
                    format!("[density {density:.2}: at most {} % more perplexity on calibration's text]", percent(loss))
                }
            });
        }
        Ok(dial.with(policy, density))
    }

    /// Makes a session keep to the target.
    pub fn set(&self, session: &mut Session, dials: &DialOptions) -> Result<()> {
        let Some(target) = self.target else { return Ok(()) };
        let dial = session.options().dial;
        let (named, model) = (dials.named(), session.model().clone());
        let model = model.file().model();
        let least = if self.max_loss.is_some() || dial.density < 1.0 {
            dial.density
        } else {
            within(model, None)?.map_or(1.0, |(_, density)| density)
        };
        let ladder = Ladder::new(model, &dial, named, least)?;
        let pace = session.set_pace(ladder, target)?;
        let (rung, wanted) = (pace.rung(), 1.0 / target.as_secs_f64());
        let what = match rung.dial.policy {
            Policy::Off => "everything is read".to_owned(),
            Policy::Output => "the output matrix is skipped in part".to_owned(),
            policy => format!("policy {} at density {:.2}", policy.name(), rung.dial.density),
        };
        let fast = 1.0 / rung.seconds;
        print::note(if pace.reached() {
            format!("[{what}: {fast:.1} tokens/s expected]")
        } else {
            format!(
                "[{wanted:.1} tokens/s are out of reach: {fast:.1} expected, {what}; --density says how little may be read]"
            )
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, seconds) in [("20t/s", 0.05), ("20 tok/s", 0.05), ("50ms", 0.05), ("0.5 s", 0.5)] {
            assert!((time(text).unwrap().as_secs_f64() - seconds).abs() < 1e-9, "{text}");
        }
        for text in ["20", "t/s", "0t/s", "-1ms", "infs", "nan ms", "1e400ms", "1e-30ms", "1e30s"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(loss("1%").unwrap() == 0.01 && loss("0.02").unwrap() == 0.02 && loss("0").unwrap() == 0.0);
        assert!(loss("150%").unwrap() == 1.5, "a sign shows what is meant");
        for text in ["0", "0.0001", "0.01", "0.3", "1", "2.5", "33.33", "150", "100000000"] {
            assert_eq!(percent(loss(&format!("{text}%")).unwrap()).to_string(), text);
        }
        assert!(loss("1").unwrap_err().contains("write 1%"));
        assert!(["-1%", "x", "nan", "%", "inf", "1", "5"].iter().all(|text| loss(text).is_err()));
    }
}
