//! Numbers in single precision for programs: with the decimals that people wrote, not those of the nearest `f64`
//! (0.800000011920929 for 0.8).

use serde::ser::{SerializeSeq, Serializer};

/// The number whose shortest decimals are those of `x`.
pub fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// Serializes a number with its shortest decimals.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(x: &f32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(decimal(*x))
}

/// Serializes numbers with their shortest decimals.
///
/// # Errors
/// Those of the serializer.
pub fn serialize_all<S: Serializer>(all: &[f32], to: S) -> Result<S::Ok, S::Error> {
    let mut to = to.serialize_seq(Some(all.len()))?;
    all.iter().try_for_each(|x| to.serialize_element(&decimal(*x)))?;
    to.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_stay() {
        for (x, text) in [(0.8, "0.8"), (0.1, "0.1"), (1.0, "1"), (1e-7, "0.0000001"), (f32::INFINITY, "inf")] {
            assert_eq!(decimal(x).to_string(), text);
            assert_eq!(decimal(x) as f32, x);
        }
        assert!(decimal(f32::NAN).is_nan());
    }
}
