//! The predictor section of an image: low-rank predictors, thresholds and budgets, as calibration wrote them.
//! `image/FORMAT.md` is its specification.
//!
//! The section does not depend on the rest of the image, so that it can be moved between images of the same model
//! packed in different number formats; a [`fingerprint`] of the model keeps it from others.

use super::plan::{Plan, Policy};
use super::select::interpolate;
use super::slot::Slot;
use super::tables::{GRID, HEADER_LEN, MAGIC, QUANTILES, RANKS, Table, Tap, VERSION};
use crate::error::Error;
use crate::format::{BLOCK, Format, Geometry, Matrix, Order, TILE_ROWS};
use crate::image::head::u32_at;
use crate::image::table::{ENTRY_LEN, Entry, Storage, find, vector};
use crate::image::{Config, Image, Role, crc32};

/// What calibration measured for a policy.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    plan: &'static Plan,
    /// [layers, slots, QUANTILES].
    quantiles: &'a [f32],
    /// Those of heads and neurons, [layers, 2, QUANTILES], where another policy's predictor scores the neurons.
    neurons: Option<&'a [f32]>,
    /// [GRID, layers, slots].
    pub(crate) budget: &'a [f32],
}

impl Calibration<'_> {
    /// The score that a share of a layer's slot reaches; the least score if the budget has no such slot.
    pub(crate) fn threshold(&self, layer: usize, slot: Slot, share: f32) -> f32 {
        let (all, slots, slot) = match self.neurons {
            Some(scores) if slot == self.plan.share_of(Slot::Neurons) => {
                (scores, Slot::PARTS.as_slice(), Slot::Neurons)
            }
            _ => (self.quantiles, self.plan.slots, slot),
        };
        match slots.iter().position(|s| *s == slot) {
            Some(column) => threshold_of(&all[(layer * slots.len() + column) * QUANTILES..][..QUANTILES], share),
            None => f32::NEG_INFINITY,
        }
    }
}

/// The score that a share `kept` of a slot reaches: `quantiles[i]` is reached by a share
/// `i / (QUANTILES - 1)`.
pub fn threshold_of(quantiles: &[f32], kept: f32) -> f32 {
    debug_assert!(quantiles.len() == QUANTILES);
    if kept >= 1.0 {
        f32::NEG_INFINITY
    } else if kept <= 0.0 {
        f32::INFINITY
    } else {
        interpolate(quantiles, kept)
    }
}

/// Weights of a predictor's output, and its bias.
pub(crate) type Output<'a> = (Matrix<'a>, Option<&'a [f32]>);

/// The parsed section.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    bytes: &'a [u8],
    /// Its entries.
    table: &'a [u8],
    layers: usize,
    tap: Tap,
    ranks: bool,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32_at(bytes, at) as usize
}

/// A number that differs between models and does not depend on the number format of the weights: CRC-32 of the shape
/// and of the first norms, which are never quantized.
pub fn fingerprint(image: &Image) -> u32 {
    let c = image.config();
    let mut crc = 0;
    for n in [c.d_model, c.layers, c.heads, c.kv_heads, c.head_dim, c.ffn, c.vocab] {
        crc = crc32(&(n as u32).to_le_bytes(), crc);
    }
    for layer in [0, c.layers - 1] {
        for role in [Role::AttnNorm, Role::AttnStreamNorm, Role::FfnNorm, Role::FfnStreamNorm] {
            for x in image.vector(role, layer).unwrap_or(&[]) {
                crc = crc32(&x.to_le_bytes(), crc);
            }
        }
    }
    crc
}

impl<'a> Predictor<'a> {
    /// Parses and checks the section `bytes` for the model of `image`.
    ///
    /// # Errors
    /// [`Error::ForeignPredictor`] when it was made for another model, [`Error::BadPredictor`] when it is
    /// damaged.
    pub fn parse(bytes: &'a [u8], image: &Image) -> Result<Self, Error> {
        let c = image.config();
        if bytes.len() < HEADER_LEN || bytes[..MAGIC.len()] != MAGIC || word(bytes, 8) != VERSION as usize {
            return Err(Error::BadPredictor("its header"));
        }
        let shape = [c.layers, c.heads, c.neuron_groups()];
        if word(bytes, 12) != fingerprint(image) as usize || (0..3).any(|i| word(bytes, 16 + 4 * i) != shape[i]) {
            return Err(Error::ForeignPredictor);
        }
        let rows = word(bytes, 32).checked_mul(ENTRY_LEN).and_then(|n| HEADER_LEN.checked_add(n));
        let table = rows.and_then(|end| bytes.get(HEADER_LEN..end)).ok_or(Error::BadPredictor("its table"))?;
        let (tap, ranks) = (Tap(word(bytes, 28) as u32), word(bytes, 36) as u32 & RANKS != 0);
        let p = Predictor { bytes, table, layers: c.layers, tap, ranks };
        let (mut before, mut left) = (None, bytes.len() as u64);
        for entry in p.entries() {
            let entry = entry.filter(|e| before.replace(e.key()).is_none_or(|key| key < e.key()));
            let entry = entry.ok_or(Error::BadPredictor("its table"))?;
            p.check(&entry, c)?;
            left = left.checked_sub(entry.bytes_in_all()).ok_or(Error::BadPredictor("its tables overlap"))?;
        }
        Ok(p)
    }

    /// The entries of all tables, in order; `None` for a table that this version does not know.
    fn entries(&self) -> impl Iterator<Item = Option<Entry<Table>>> + use<'a> {
        self.table.as_chunks::<ENTRY_LEN>().0.iter().map(Entry::parse)
    }

    /// A vector of floats.
    pub fn vector(&self, table: Table, layer: usize) -> Option<&'a [f32]> {
        vector(&find(self.table, table, layer)?, self.bytes)
    }

    /// A layer's row of a vector that holds `width` numbers for each layer.
    pub(crate) fn layer_vector(&self, table: Table, layer: usize, width: usize) -> Option<&'a [f32]> {
        self.vector(table, 0)?.get(layer * width..(layer + 1) * width)
    }

    /// A matrix.
    pub fn matrix(&self, table: Table, layer: usize) -> Option<Matrix<'a>> {
        self.matrix_of(&find(self.table, table, layer)?)
    }

    fn matrix_of(&self, entry: &Entry<Table>) -> Option<Matrix<'a>> {
        let Storage::Tiles(g) = entry.storage else { return None };
        let matrix = Matrix::new(g, self.bytes.get(entry.offset..)?).ok()?;
        (g == Self::geometry(g.format, g.output_width(), g.input_width())).then_some(matrix)
    }

    /// The map after the hidden units: weights and, if the section has one, a bias.
    pub(crate) fn output(&self, [weights, bias]: [Table; 2], layer: usize) -> Option<Output<'a>> {
        Some((self.matrix(weights, layer)?, self.vector(bias, layer)))
    }

    /// All matrices.
    pub fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> + '_ {
        self.entries().flatten().filter_map(|entry| self.matrix_of(&entry))
    }

    /// Order of a matrix of these (padded) outputs and inputs.
    pub fn geometry(format: Format, outputs: usize, inputs: usize) -> Geometry {
        let (panels, k_blocks) = (outputs / TILE_ROWS, inputs / BLOCK);
        let (units_per_group, group_width) = (panels, panels * TILE_ROWS);
        let mut g =
            Geometry { format, order: Order::Rows, panels, k_blocks, units_per_group, group_stride: 0, group_width };
        // Sizes beyond any memory get a stride of 0, which `Matrix::new` refuses.
        if panels.saturating_mul(k_blocks) < isize::MAX as usize / (TILE_ROWS * BLOCK * 4) {
            g.group_stride = panels * g.unit_bytes();
        }
        g
    }

    /// Refuses a table that cannot be read or has the wrong length; a table may be missing.
    fn check(&self, entry: &Entry<Table>, c: &Config) -> Result<(), Error> {
        let (table, layer) = (entry.role, usize::from(entry.layer));
        if !entry.is_numbered() || table.in_layers() && layer >= c.layers || entry.experts != 0 {
            return Err(Error::BadPredictor("its table"));
        }
        let pad = |n: usize| n.next_multiple_of(TILE_ROWS);
        let (groups, later) = (c.neuron_groups(), c.layers - 1);
        let neurons = c.layers.saturating_mul(c.neuron_width());
        let quantiles = |slots: usize| (c.layers * slots * QUANTILES, 0);
        let budget = |slots: usize| (c.layers * slots * GRID, 0);
        let rank = |table, layer| self.matrix(table, layer).map_or(0, |m| m.geometry().panels * TILE_ROWS);
        // Length of a vector, or outputs and inputs of a matrix (0 outputs: any).
        let (len, inputs) = match table {
            Table::ShadowIn => (0, self.tap.width(c)),
            Table::ShadowInBias => (rank(Table::ShadowIn, 0), 0),
            Table::ShadowNeurons => (later.saturating_mul(pad(groups)), rank(Table::ShadowIn, 0)),
            Table::ShadowNeuronBias => (later.saturating_mul(pad(groups)), 0),
            Table::ShadowHeads => (later.saturating_mul(pad(c.heads)), rank(Table::ShadowIn, 0)),
            Table::ShadowHeadBias => (later.saturating_mul(pad(c.heads)), 0),
            Table::StaticNeurons => (c.layers.saturating_mul(groups), 0),
            Table::StaticHeads => (c.layers.saturating_mul(c.heads), 0),
            Table::NeuronNorms | Table::GateWeights | Table::NeuronMeans => (neurons, 0),
            Table::StaticQuantiles | Table::ShadowQuantiles | Table::PerLayerQuantiles | Table::GateQuantiles => {
                quantiles(2)
            }
            Table::InputQuantiles => quantiles(Slot::MAPS.len()),
            Table::StaticBudget | Table::ShadowBudget | Table::PerLayerBudget | Table::GateBudget => budget(2),
            Table::InputBudget | Table::MixedBudget => budget(Slot::MAPS.len()),
            Table::DownMeans => (c.layers.saturating_mul(c.d_model), 0),
            Table::Auto => (GRID, 0),
            Table::Quality => (GRID * 2, 0),
            Table::LayerIn => (0, c.d_model.next_multiple_of(BLOCK)),
            Table::LayerInBias => (rank(Table::LayerIn, layer), 0),
            Table::LayerNeurons => (pad(groups), rank(Table::LayerIn, layer)),
            Table::LayerNeuronBias => (pad(groups), 0),
            Table::LayerHeads => (pad(c.heads), rank(Table::LayerIn, layer)),
            Table::LayerHeadBias => (pad(c.heads), 0),
        };
        let fits = if inputs > 0 {
            self.matrix(table, layer).is_some_and(|m| {
                let g = m.geometry();
                let rank_ok = len > 0 || (g.output_width().is_multiple_of(BLOCK) && g.output_width() <= 4096);
                g.input_width() == inputs && rank_ok && (len == 0 || g.output_width() == len)
            })
        } else {
            len > 0 && self.vector(table, layer).is_some_and(|v| v.len() == len)
        };
        if fits { Ok(()) } else { Err(Error::BadPredictor("a table")) }
    }

    /// Whether the same number of parts of a layer is kept for every token, and not all parts above a threshold.
    pub fn ranks(&self) -> bool {
        self.ranks
    }

    /// The input of the shadow predictor.
    pub fn tap(&self) -> Tap {
        self.tap
    }

    /// Rank of the shadow predictor, or the largest of the layers' own; 0 without any.
    pub fn rank(&self) -> usize {
        let outputs = |m: Option<Matrix>| m.map_or(0, |m| m.geometry().output_width());
        let layers = (0..self.layers).map(|l| outputs(self.matrix(Table::LayerIn, l)));
        layers.max().unwrap_or(0).max(outputs(self.matrix(Table::ShadowIn, 0)))
    }

    /// Quantiles and budget of a calibrated policy, if the section has them.
    pub fn calibration(&self, policy: Policy) -> Option<Calibration<'a>> {
        let tables = policy.plan().calibrated?;
        let neurons = match tables.neurons {
            Some(table) => Some(self.vector(table, 0)?),
            None => None,
        };
        let (quantiles, budget) = (self.vector(tables.quantiles, 0)?, self.vector(tables.budget, 0)?);
        Some(Calibration { plan: policy.plan(), quantiles, neurons, budget })
    }

    /// The best policy at a density.
    pub fn best(&self, density: f32) -> Option<Policy> {
        let codes = self.vector(Table::Auto, 0)?;
        // There is no best policy at density 0: the least density that was tried stands for all densities below it.
        let at = ((density.clamp(0.0, 1.0) * (GRID - 1) as f32 + 0.5) as usize).max(1);
        Policy::from_code(*codes.get(at)? as u8)
    }

    /// By how much policy `auto` raised the perplexity at a density, as a share of the dense model's, on calibration's own
    /// text; `None` if calibration did not measure it.
    pub fn loss(&self, density: f32) -> Option<f32> {
        let rows = self.vector(Table::Quality, 0)?.as_chunks::<2>().0;
        let at = density.clamp(0.0, 1.0) * (GRID - 1) as f32;
        let (below, above) = (rows.get(at as usize)?[0], rows.get((at as usize + 1).min(GRID - 1))?[0]);
        Some(below + (above - below) * (at - at as usize as f32))
    }

    /// The least density at which policy `auto` raises the perplexity by at most this share, by [`Predictor::loss`]; it
    /// holds at all higher densities too. 1 if even the highest density below 1 that was measured loses more.
    pub fn density_within(&self, loss: f32) -> Option<f32> {
        let rows = self.vector(Table::Quality, 0)?.as_chunks::<2>().0;
        // Nothing is measured at density 0.
        let within = rows.iter().enumerate().skip(1).rev().take_while(|(_, row)| row[0] <= loss);
        Some(within.last().map_or(1.0, |(i, _)| i as f32 / (GRID - 1) as f32))
    }

    /// Bytes of a policy's predictor that are read to make a new choice.
    pub fn bytes(&self, policy: Policy) -> usize {
        let size = |table: Table| {
            let layers = if table.in_layers() { 1..self.layers } else { 0..1 };
            let matrix = |l| self.matrix(table, l).map(|m| m.geometry().weight_bytes());
            layers.map(|l| matrix(l).or(self.vector(table, l).map(|v| 4 * v.len())).unwrap_or(0)).sum::<usize>()
        };
        policy.plan().reads.iter().map(|table| size(*table)).sum()
    }
}
