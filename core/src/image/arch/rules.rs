//! Limits that the numbers of a description must keep to.

use crate::error::Error;

/// This bound is far above any model's numbers, and keeps products of three of them within 64 bits.
pub(super) fn small(n: usize) -> bool {
    (1..=1 << 20).contains(&n)
}

pub(super) fn magnitude(x: f32) -> bool {
    x.is_finite() && x >= 0.0
}

/// Returns an error that names the first field whose condition is false.
pub(super) fn first_wrong(fields: &[(bool, &'static str)]) -> Result<(), Error> {
    match fields.iter().find(|(holds, _)| !holds) {
        Some((_, name)) => Err(Error::Malformed(name)),
        None => Ok(()),
    }
}
