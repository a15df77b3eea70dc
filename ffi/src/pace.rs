//! The dial by speed and by loss of quality.

use crate::args::put;
use crate::message::boundary;
use crate::object::check;
use crate::session::{SessionState, run, sllm_session};
use crate::status::{Failure, Result, SLLM_STATUS_UNSUPPORTED, invalid};
use shadowllm_host::pace::{Ladder, Pace, within};
use std::time::{Duration, Instant};

/// Runs a step of an answer, and keeps to the session's pace.
pub fn paced<T>(s: &mut SessionState, step: impl FnOnce(&mut SessionState) -> Result<T>) -> Result<T> {
    let (start, position) = (Instant::now(), s.session.position());
    let done = step(s)?;
    if let Some(pace) = &mut s.pace {
        pace.follow(&mut s.session, position, start.elapsed())?;
    }
    Ok(done)
}

/// Sets the dial for a speed and a loss; returns the expected seconds of a token, 0 if no speed was given.
fn set(s: &mut SessionState, seconds: f64, loss: f32) -> Result<f64> {
    let model = s.model.model();
    let model = &model.model;
    let (policy, least) = within(model, (loss >= 0.0).then_some(loss))?.ok_or(Failure::Fixed(
        SLLM_STATUS_UNSUPPORTED,
        "the image does not say what skipping costs: calibrate it, or let max_loss be below 0",
    ))?;
    let base = s.session.dial();
    if seconds == 0.0 {
        s.session.set_dial(&base.with(policy, least))?;
        s.pace = None;
        return Ok(0.0);
    }
    let mut ladder = Ladder::new(model, &base, None, least)?;
    ladder.measure(&mut s.session, &s.exec)?;
    let pace = Pace::new(ladder, Duration::from_secs_f64(seconds))?;
    s.session.set_dial(&pace.rung().dial)?;
    let expected = pace.rung().seconds;
    s.pace = Some(pace);
    Ok(expected)
}

/// Sets the dial by speed and loss.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_set_pace(
    session: *mut sllm_session,
    seconds_per_token: f64,
    max_loss: f32,
    expected_seconds: *mut f64,
) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        if !(0.0..1e6).contains(&seconds_per_token) {
            return Err(invalid("seconds_per_token must be 0 or more, and less than a million"));
        }
        if !max_loss.is_finite() {
            return Err(invalid(
                "max_loss must be a number: 0.01 is one percent more perplexity, below 0 is the default",
            ));
        }
        let mut expected = 0.0;
        run(session, |s| {
            expected = set(s, seconds_per_token, max_loss)?;
            Ok(())
        })?;
        if !expected_seconds.is_null() {
            // SAFETY: not NULL, and the caller gives a number's place.
            unsafe { put(expected_seconds, expected) };
        }
        Ok(())
    })
}
