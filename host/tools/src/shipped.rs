//! Predictors that ship with the program, found by the model that they are of.

use crate::import::Source;
use serde_json::Value;
use shadowllm_core::image::Role;

/// A predictor that ships.
pub struct Shipped {
    /// The model, as people call it.
    pub model: &'static str,
    /// CRC-32 of its last norm's weights (f32, little-endian), which files of every number format hold alike.
    final_norm: u32,
    /// The predictor section, for images that are stored by input.
    pub section: &'static [u8],
}

/// What the provenance of an image with one of them says of its calibration.
pub const SHIPPED: &str = "shipped";
/// The entry for the tokens on which the budgets of kept predictors were searched.
pub(crate) const BUDGETS: &str = "budgets";
/// The entry for the tokens on which the costs of kept budgets were measured.
pub(crate) const COSTS: &str = "costs";

/// All of them (host/models/README.md says how they are made).
static ALL: [Shipped; 1] = [Shipped {
    model: "SmolLM2-135M-Instruct",
    final_norm: 0xc681_1e6c,
    section: include_bytes!("../../models/smollm2.predictor"),
}];

/// The predictor of a source's model, where one ships.
pub fn of(source: &dyn Source) -> Option<&'static Shipped> {
    let norm = source.tensor(Role::FinalNorm, 0).ok()??.vector().ok()?;
    let bytes: Vec<u8> = norm.iter().flat_map(|x| x.to_le_bytes()).collect();
    let crc = crc32fast::hash(&bytes);
    ALL.iter().find(|shipped| shipped.final_norm == crc)
}

/// What an image's provenance says of its calibration, in words; `report` shows the quality of its predictors.
pub fn calibration(record: &Value) -> String {
    // Packed with a predictor that was made before.
    if let Some(how) = record.as_str() {
        let shipped = "by the predictor that ships with the program for this model";
        return if how == SHIPPED { shipped.into() } else { how.to_owned() };
    }
    let again =
        [BUDGETS, COSTS].map(|what| Some(format!("{what} measured again on {} tokens", record[what].as_u64()?)));
    let again: Vec<String> = again.into_iter().flatten().collect();
    let Some(tokens) = record["tokens"].as_u64() else {
        let earlier = format!("predictors of an earlier calibration, {}", again.join(", "));
        return if again.is_empty() { "not recorded how".into() } else { earlier };
    };
    let options = record["options"].as_str().unwrap_or_default();
    // Earlier versions wrote Rust's debug format.
    let options = if options.starts_with("Options {") { "" } else { options };
    let first = format!("on {tokens} tokens {options}");
    std::iter::once(first.trim_end()).chain(again.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_said_of_every_calibration() {
        let said = [
            (json!({"tokens": 96, "options": "--rank 8", "quality": {}}), "on 96 tokens --rank 8"),
            (json!({"tokens": 96, "options": "Options { rank: 8 }"}), "on 96 tokens"),
            (json!({"budgets": 96}), "predictors of an earlier calibration, budgets measured again on 96 tokens"),
            (json!({"tokens": 96, "budgets": 48}), "on 96 tokens, budgets measured again on 48 tokens"),
            (json!({"tokens": 96, "costs": 24}), "on 96 tokens, costs measured again on 24 tokens"),
            (
                json!({"tokens": 96, "budgets": 48, "costs": 24}),
                "on 96 tokens, budgets measured again on 48 tokens, costs measured again on 24 tokens",
            ),
            (json!("from p.predictor"), "from p.predictor"),
            (json!(SHIPPED), "by the predictor that ships with the program for this model"),
            (Value::Null, "not recorded how"),
        ];
        said.iter().for_each(|(record, words)| assert_eq!(calibration(record), *words));
    }
}
