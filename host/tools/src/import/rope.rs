//! RoPE inverse frequencies and their scalings, as Hugging Face's `modeling_rope_utils` computes them.

use serde_json::Value;

/// theta^(-2i/dim) for i in 0..dim/2.
pub fn frequencies(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| theta.powf(-(2.0 * i as f64) / dim as f64) as f32).collect()
}

/// Applies a `rope_scaling` / `rope_parameters` object.
pub fn scale(mut frequencies: Vec<f32>, parameters: &Value) -> Result<Vec<f32>, String> {
    let kind =
        parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str).unwrap_or("default");
    let number = |key: &str| {
        let found = parameters.get(key).and_then(Value::as_f64);
        found.ok_or_else(|| format!("RoPE scaling of type {kind} needs a number {key}"))
    };
    match kind {
        "default" => {}
        "linear" => {
            let factor = number("factor")?;
            frequencies.iter_mut().for_each(|f| *f = (f64::from(*f) / factor) as f32);
        }
        "llama3" => {
            let (factor, low) = (number("factor")?, number("low_freq_factor")?);
            let (high, trained) = (number("high_freq_factor")?, number("original_max_position_embeddings")?);
            for f in &mut frequencies {
                *f = llama3(f64::from(*f), factor, low, high, trained) as f32;
            }
        }
        other => {
            return Err(format!("RoPE scaling of type {other} is not supported (default, linear and llama3 are)"));
        }
    }
    Ok(frequencies)
}

/// Llama 3.1's rule: long waves are slowed by `factor`, short ones kept, between them it is blended.
fn llama3(f: f64, factor: f64, low: f64, high: f64, trained: f64) -> f64 {
    let wave = 2.0 * std::f64::consts::PI / f;
    if wave > trained / low {
        f / factor
    } else if wave < trained / high {
        f
    } else {
        let smooth = (trained / wave - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}
