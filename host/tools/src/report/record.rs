//! Calibration's record of quality, which is stored in the image's provenance.

use crate::decimal;

/// One layer's figures, by scorer ([`Quality::scorers`]).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LayerQuality {
    /// Share of the layer's importance in the best-scored neurons, for each share of neurons in
    /// [`Quality::captured_at`].
    pub captured: [[f64; 4]; 4],
    /// Spearman's rank correlation of scores and importance over a layer's neurons.
    pub rank: [f64; 4],
    /// Share of neurons that are not zero.
    pub active: f64,
    /// Mean importance of each head, as a share of the layer's sum.
    pub heads: Vec<f64>,
    /// Mean importance of the neurons, sorted and summed in 32 equal runs, as shares of the layer's sum.
    pub neurons: Vec<f64>,
}

/// All layers after the first.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Quality {
    /// Shares of the neurons for which `captured` was measured.
    #[serde(serialize_with = "decimal::serialize_all")]
    pub captured_at: Vec<f32>,
    /// Names of the scorers.
    pub scorers: Vec<String>,
    /// The layers from 1 on.
    pub layers: Vec<LayerQuality>,
}

impl Quality {
    /// The record in an image's provenance; `None` if it is missing or damaged.
    pub fn of(provenance: &serde_json::Value) -> Option<Quality> {
        serde::Deserialize::deserialize(&provenance["calibration"]["quality"]).ok()
    }

    /// The number of a scorer, if it scored anything: a predictor that was not trained has only zeros.
    pub fn scorer(&self, name: &str) -> Option<usize> {
        let found = self.scorers.iter().take(4).position(|s| s == name)?;
        self.layers.iter().any(|l| l.captured[found].iter().any(|c| *c != 0.0)).then_some(found)
    }

    /// Mean over the layers.
    pub fn mean(&self, of: impl Fn(&LayerQuality) -> f64) -> f64 {
        self.layers.iter().map(of).sum::<f64>() / self.layers.len() as f64
    }
}
