//! Rotary frequencies and their scalings, as Hugging Face's `modeling_rope_utils` computes them.

use super::config::Config;
use serde_json::Value;
use std::f64::consts::PI;

/// The known scalings, for messages.
pub const SCALINGS: &str = "default, linear, llama3, yarn and longrope";

/// Parameters that only a scaling has.
const SCALES: &[&str] = &["factor", "short_factor", "long_factor", "low_freq_factor"];

/// A table of inverse frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// One for each pair of rotated dimensions.
    pub frequencies: Vec<f64>,
    /// Factor of rotated queries, and of rotated keys.
    pub factor: f64,
    /// The number of positions that the frequencies are valid for, if it is less than the model's.
    pub positions: Option<usize>,
}

/// theta^(-2i/dim) for i in 0..dim/2, scaled as `parameters` say (an object like `rope_parameters`).
///
/// # Errors
/// A sentence that names the value that is missing or not supported.
pub fn table(c: &Config, parameters: &Config, theta: f64, dim: usize) -> Result<Table, String> {
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(format!("{} {theta} is not positive", c.name("rope_theta")));
    }
    let plain: Vec<f64> = (0..dim / 2).map(|i| f64::from(theta.powf(-(2.0 * i as f64) / dim as f64) as f32)).collect();
    let table = |frequencies| Table { frequencies, factor: 1.0, positions: None };
    let said = parameters.text("rope_type").or_else(|| parameters.text("type"));
    let kind = said.unwrap_or("default");
    if let (None, Some(key)) = (said, SCALES.iter().find(|key| parameters.value(key).is_some())) {
        return Err(format!("the RoPE parameters have {} and no rope_type ({SCALINGS} are supported)", c.name(key)));
    }
    let number = |key: &str| {
        let found = parameters.maybe_number(key)?;
        found.ok_or_else(|| format!("RoPE scaling of type {kind} needs a number {}", c.name(key)))
    };
    let positive = |key: &str| match number(key)? {
        x if x > 0.0 => Ok(x),
        x => Err(format!("RoPE scaling of type {kind} has {} {x}, which is not positive", c.name(key))),
    };
    let table = match kind {
        // For text, the multi-axis rotation of models with pictures is the plain one.
        "default" | "mrope" => table(plain),
        "linear" => {
            let factor = number("factor")?;
            table(plain.iter().map(|f| f / factor).collect())
        }
        "llama3" => {
            let (factor, low) = (number("factor")?, number("low_freq_factor")?);
            let (high, trained) = (number("high_freq_factor")?, positive("original_max_position_embeddings")?);
            if !(0.0 < low && low < high) {
                return Err(format!(
                    "RoPE scaling of type llama3 needs a low_freq_factor {low} below its high one, {high}"
                ));
            }
            table(plain.iter().map(|f| llama3(*f, factor, low, high, trained)).collect())
        }
        "yarn" => {
            let trained = positive("original_max_position_embeddings")?;
            let factor = match parameters.maybe_number("factor")? {
                Some(factor) => factor,
                None => c.count("max_position_embeddings")? as f64 / trained,
            };
            let frequencies = yarn(parameters, &plain, theta, factor, trained)?;
            Table { frequencies, factor: yarn_factor(parameters, factor)?, positions: None }
        }
        "longrope" | "su" => longrope(c, parameters, &plain)?,
        other => return Err(format!("RoPE scaling of type {other} is not supported ({SCALINGS} are)")),
    };
    // No frequency of a model is above 1, and no factor far from it.
    let possible = |x: f64| x > 0.0 && x < 1e6;
    if let Some(x) = table.frequencies.iter().copied().chain([table.factor]).find(|x| !possible(*x)) {
        return Err(format!("RoPE scaling of type {kind} gives {x}, by which no position can be rotated"));
    }
    Ok(table)
}

/// Llama 3.1's rule: low frequencies are divided by `factor`, high ones kept, and those between are blended.
fn llama3(f: f64, factor: f64, low: f64, high: f64, trained: f64) -> f64 {
    let wave = 2.0 * PI / f;
    if wave > trained / low {
        f / factor
    } else if wave < trained / high {
        f
    } else {
        let smooth = (trained / wave - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// YaRN (arXiv 2309.00071): dimensions that rotate many times within the trained context are kept, slow ones are
/// interpolated.
fn yarn(p: &Config, plain: &[f64], theta: f64, factor: f64, trained: f64) -> Result<Vec<f64>, String> {
    let dim = 2.0 * plain.len() as f64;
    let turns = |n: f64| dim * (trained / (n * 2.0 * PI)).ln() / (2.0 * theta.ln());
    // Zero stands for the default.
    let or = |x: f64, default: f64| if x == 0.0 { default } else { x };
    let (mut low, mut high) =
        (turns(or(p.number("beta_fast", 32.0)?, 32.0)), turns(or(p.number("beta_slow", 1.0)?, 1.0)));
    if p.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    let width = if low == high { 0.001 } else { high - low };
    let blend = |(i, f): (usize, &f64)| {
        let slow = ((i as f64 - low) / width).clamp(0.0, 1.0);
        f / factor * slow + f * (1.0 - slow)
    };
    Ok(plain.iter().enumerate().map(blend).collect())
}

/// YaRN's factor of rotated queries and keys.
fn yarn_factor(p: &Config, factor: f64) -> Result<f64, String> {
    if let Some(given) = p.maybe_number("attention_factor")? {
        return Ok(given);
    }
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let (one, all) = (p.number("mscale", 0.0)?, p.number("mscale_all_dim", 0.0)?);
    Ok(if one != 0.0 && all != 0.0 { scale(one) / scale(all) } else { scale(1.0) })
}

/// LongRoPE (arXiv 2402.13753): a divisor for each pair, with one set for texts up to the trained context and one for
/// longer texts. The image uses the first set, and ends at the trained context, unless a longer context was chosen.
fn longrope(c: &Config, p: &Config, plain: &[f64]) -> Result<Table, String> {
    let key = "original_max_position_embeddings";
    let most = c.count("max_position_embeddings")?;
    let trained = p.maybe_count(key)?.or(c.maybe_count(key)?).unwrap_or(most);
    let factor = p.number("factor", most as f64 / trained.max(1) as f64)?;
    let given = p.maybe_number("attention_factor")?;
    let computed = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (trained as f64).ln()).sqrt() };
    let long = c.context().is_some_and(|n| n > trained);
    let set = if long { "long_factor" } else { "short_factor" };
    let divisors = p.list(set, 0)?.ok_or_else(|| p.lacks(set))?;
    if divisors.len() != plain.len() {
        return Err(format!("{} has {} entries, {} are needed", c.name(set), divisors.len(), plain.len()));
    }
    let divisors: Option<Vec<f64>> = divisors.iter().map(Value::as_f64).collect();
    let divisors = divisors.filter(|d| d.iter().all(|d| *d != 0.0));
    let divisors = divisors.ok_or_else(|| format!("{} is not a list of divisors", c.name(set)))?;
    let frequencies = plain.iter().zip(&divisors).map(|(f, d)| f / d).collect();
    Ok(Table {
        frequencies,
        factor: given.unwrap_or(computed),
        positions: (trained < most && !long).then_some(trained),
    })
}
