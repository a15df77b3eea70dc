//! What numbers of a description must keep.

use crate::error::Error;

/// Bounds far above any model keep products of three of them inside 64 bits.
pub(super) fn small(n: usize) -> bool {
    (1..=1 << 20).contains(&n)
}

pub(super) fn magnitude(x: f32) -> bool {
    x.is_finite() && x >= 0.0
}

/// Names the first field that does not hold.
pub(super) fn first_wrong(fields: &[(bool, &'static str)]) -> Result<(), Error> {
    match fields.iter().find(|(holds, _)| !holds) {
        Some((_, name)) => Err(Error::Malformed(name)),
        None => Ok(()),
    }
}
