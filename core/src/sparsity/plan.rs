//! The policies: the row of each says who decides what is read, and which tables of calibration that needs.
//!
//! A new policy is a row here and, if it decides in a new way, a [`Decider`] with a file in `chooser/`.

use super::slot::Slot;
use super::tables::Table;
use crate::image::Config;

/// The ways to choose heads, neurons or inputs; each has its file in `chooser/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// Nobody chooses: all are read.
    All,
    /// By the caller, through [`crate::Session::units`].
    Given,
    /// By their mean importance in calibration, once for all tokens.
    Static,
    /// By chance.
    Random,
    /// By statistics of the tokens read so far.
    Prompt,
    /// By the predictor after the first layer.
    Shadow,
    /// By a predictor in each layer, for the layer after it.
    PerLayer,
    /// By the gate's activations, or without a gate by those of the neurons.
    Gate,
    /// Inputs above a constant threshold.
    Constant,
    /// A fixed share of the largest inputs.
    Top,
    /// Inputs above a threshold taken from the inputs seen so far.
    Observed,
    /// By their true magnitudes, computed densely.
    Oracle,
}

impl Decider {
    /// Whether it scores heads and neurons by maps that calibration trains.
    pub fn is_trained(self) -> bool {
        matches!(self, Decider::Shadow | Decider::PerLayer)
    }
}

/// What calibration writes for a policy.
#[derive(Clone, Copy, Debug)]
pub struct Calibrated {
    /// The scores that shares of each slot reach.
    pub quantiles: Table,
    /// The table with the neurons' quantiles, if another policy's predictor scores them: its columns are heads and
    /// neurons.
    pub neurons: Option<Table>,
    /// The shares of each slot at each density.
    pub budget: Table,
}

/// A policy's row.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The policy.
    pub policy: Policy,
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// One sentence for users.
    pub description: &'static str,
    /// Who decides about heads.
    pub heads: Decider,
    /// Who decides about groups of neurons.
    pub neurons: Decider,
    /// Who decides about the inputs of maps that are stored by input.
    pub inputs: Decider,
    /// The slots that its budget has columns for.
    pub slots: &'static [Slot],
    /// Whether it is refused without calibration.
    pub needs_calibration: bool,
    /// Whether reports measure it for comparison although it needs no calibration.
    pub baseline: bool,
    /// Its tables in the predictor section, if calibration writes any.
    pub calibrated: Option<Calibrated>,
    /// Tables that are read to make a new choice.
    pub reads: &'static [Table],
}

/// The base of all rows: everything is read.
const DENSE: Plan = Plan {
    policy: Policy::Off,
    name: "",
    description: "",
    heads: Decider::All,
    neurons: Decider::All,
    inputs: Decider::All,
    slots: &Slot::PARTS,
    needs_calibration: false,
    baseline: false,
    calibrated: None,
    reads: &[],
};

const fn calibrated(quantiles: Table, budget: Table) -> Option<Calibrated> {
    Some(Calibrated { quantiles, neurons: None, budget })
}

macro_rules! policies {
    ($($code:literal $policy:ident $name:literal $(#[doc = $doc:literal])* { $($field:ident: $value:expr),* })*) => {
        /// Who decides what a token reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Policy { $($(#[doc = $doc])* $policy = $code,)* }

        const COUNT: usize = [$($code),*].len();
        static PLANS: [Plan; COUNT] = [$(Plan {
            policy: Policy::$policy, name: $name, description: concat!($($doc),*), $($field: $value,)* ..DENSE
        }),*];

        impl Policy {
            /// All, in the order of their codes.
            pub const ALL: [Policy; COUNT] = [$(Policy::$policy),*];
        }
    };
}

policies! {
    0 Off "off"
    /// Everything is read.
    { slots: &Slot::PARTS }

    1 Given "given"
    /// The caller lists heads and neurons, through [`crate::Session::units`].
    { heads: Decider::Given, neurons: Decider::Given }

    2 Static "static"
    /// The mean importance measured in calibration.
    {
        heads: Decider::Static, neurons: Decider::Static, needs_calibration: true,
        calibrated: calibrated(Table::StaticQuantiles, Table::StaticBudget)
    }

    3 Random "random"
    /// Chance (a baseline).
    { heads: Decider::Random, neurons: Decider::Random, baseline: true }

    4 Prompt "prompt"
    /// Statistics of the prompt and of the tokens decoded so far.
    { heads: Decider::Prompt, neurons: Decider::Prompt, baseline: true, reads: &[Table::NeuronNorms] }

    5 Shadow "shadow"
    /// One predictor at the first layer for all layers (ShadowLLM, arXiv 2406.16635).
    {
        heads: Decider::Shadow, neurons: Decider::Shadow, needs_calibration: true,
        calibrated: calibrated(Table::ShadowQuantiles, Table::ShadowBudget),
        reads: &[
            Table::ShadowIn, Table::ShadowInBias, Table::ShadowNeurons, Table::ShadowNeuronBias, Table::ShadowHeads,
            Table::ShadowHeadBias
        ]
    }

    6 PerLayer "per-layer"
    /// One predictor a layer, fed by the layer before (DejaVu, arXiv 2310.17157).
    {
        heads: Decider::PerLayer, neurons: Decider::PerLayer, needs_calibration: true,
        calibrated: calibrated(Table::PerLayerQuantiles, Table::PerLayerBudget),
        reads: &[
            Table::LayerIn, Table::LayerInBias, Table::LayerNeurons, Table::LayerNeuronBias, Table::LayerHeads,
            Table::LayerHeadBias
        ]
    }

    7 Gate "gate"
    /// The gate, computed first (CATS, arXiv 2404.08763); without a gate, the activation itself.
    {
        neurons: Decider::Gate, needs_calibration: true,
        calibrated: calibrated(Table::GateQuantiles, Table::GateBudget), reads: &[Table::GateWeights]
    }

    8 Input "input"
    /// Constant thresholds on the inputs of every linear map (TEAL, arXiv 2408.14690).
    {
        inputs: Decider::Constant, slots: &Slot::MAPS, needs_calibration: true,
        calibrated: calibrated(Table::InputQuantiles, Table::InputBudget)
    }

    9 InputTop "input-top"
    /// A fixed share of the largest inputs of every linear map and token.
    { inputs: Decider::Top, slots: &Slot::MAPS }

    10 Oracle "oracle"
    /// The true magnitudes, computed densely first: for evaluation, it saves nothing.
    { heads: Decider::Oracle, neurons: Decider::Oracle, baseline: true }

    11 Auto "auto"
    /// The policy that calibration found best for the density.
    { needs_calibration: true }

    12 Mixed "mixed"
    /// Constant thresholds on the inputs of attention's maps, the shadow predictor for the neurons: for images that
    /// store attention by input and neurons as bundles.
    {
        neurons: Decider::Shadow, inputs: Decider::Constant, slots: &Slot::MAPS, needs_calibration: true,
        calibrated: Some(Calibrated {
            quantiles: Table::InputQuantiles, neurons: Some(Table::ShadowQuantiles), budget: Table::MixedBudget
        }),
        reads: &[Table::ShadowIn, Table::ShadowInBias, Table::ShadowNeurons, Table::ShadowNeuronBias]
    }

    13 PromptInput "prompt-input"
    /// Thresholds on the inputs of every linear map with which the prompt and the tokens decoded so far would have met
    /// the density: no calibration needed.
    { inputs: Decider::Observed, slots: &Slot::MAPS }

    14 Output "output"
    /// Everything is read but the output matrix: of that, the rows of likely tokens, found by its sketch (every other
    /// policy does that too).
    { slots: &Slot::PARTS }
}

impl Policy {
    /// Its row.
    pub fn plan(self) -> &'static Plan {
        &PLANS[self as usize]
    }

    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        self.plan().name
    }

    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<Policy> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The policy with this code.
    pub fn from_code(code: u8) -> Option<Policy> {
        Self::ALL.get(code as usize).copied()
    }

    /// Whether it skips inputs of linear maps, and not heads and neurons.
    pub fn by_input(self) -> bool {
        self.plan().inputs != Decider::All
    }

    /// Whether it is refused without calibration.
    pub fn calibrated(self) -> bool {
        self.plan().needs_calibration
    }

    /// Columns of a layer in its budget.
    pub fn slots(self) -> usize {
        self.plan().slots.len()
    }
}

impl Plan {
    /// Whether it lists the neurons to compute before they are computed.
    pub fn lists_units(&self) -> bool {
        !matches!(self.neurons, Decider::All | Decider::Oracle)
    }

    /// The slot whose share is used for heads or neurons: if the budget is divided among maps, neurons use the share of
    /// `up`.
    pub fn share_of(&self, part: Slot) -> Slot {
        if part == Slot::Neurons && self.inputs != Decider::All { Slot::Up } else { part }
    }

    /// Whether the budget's table belongs to it: of policies that share a table, to the first.
    pub fn owns_budget(&self) -> bool {
        let budget = |plan: &Plan| plan.calibrated.map(|tables| tables.budget);
        let owner = PLANS.iter().find(|plan| budget(plan) == budget(self));
        self.calibrated.is_some() && owner.is_some_and(|plan| plan.policy == self.policy)
    }

    /// Whether calibration prepares it directly, and not through another policy.
    pub fn is_prepared(&self) -> bool {
        self.owns_budget() && self.calibrated.is_some_and(|tables| tables.neurons.is_none())
    }

    /// Whether it scores by maps that calibration trains.
    pub fn is_trained(&self) -> bool {
        self.heads.is_trained() || self.neurons.is_trained()
    }

    /// Whether it chooses neurons only.
    pub fn only_neurons(&self) -> bool {
        self.neurons != Decider::All && self.heads == Decider::All && self.inputs == Decider::All
    }

    /// Whether it learns from the tokens that are read, so that a rewind cannot take them back one by one.
    pub fn learns(&self) -> bool {
        [self.heads, self.neurons, self.inputs].iter().any(|d| matches!(d, Decider::Prompt | Decider::Observed))
    }

    /// Whether it saves reads by a choice of its own: not if everything is computed, nor if it stands for another
    /// policy.
    pub fn saves(&self) -> bool {
        let all = [self.heads, self.neurons, self.inputs];
        all.iter().any(|d| *d != Decider::All) && !all.contains(&Decider::Oracle)
    }

    /// Column of a slot in the budget.
    pub fn column(&self, slot: Slot) -> Option<usize> {
        self.slots.iter().position(|s| *s == slot)
    }

    /// Whether it skips inputs of a map that is stored by input: not of the feed-forward network's maps if it chooses
    /// neurons.
    pub fn skips_inputs(&self, slot: Slot) -> bool {
        self.inputs != Decider::All && (slot.in_attention() || self.neurons == Decider::All)
    }

    /// Whether it can skip anything in images of this arrangement.
    pub fn suits(&self, c: &Config) -> bool {
        let stored = |slot: &Slot| if slot.in_attention() { c.attention_by_input } else { c.ffn_by_input };
        self.inputs == Decider::All || Slot::MAPS.iter().any(|slot| stored(slot) && self.skips_inputs(*slot))
    }

    /// The deciders about any part, each once.
    pub(super) fn deciders(&self) -> impl Iterator<Item = Decider> {
        let all = [self.heads, self.neurons, self.inputs];
        (0..all.len()).filter(move |i| !all[..*i].contains(&all[*i])).map(move |i| all[i])
    }

    /// The parts (heads, neurons) that this decider decides about.
    pub(super) fn parts(&self, decider: Decider) -> impl Iterator<Item = Slot> + use<> {
        let parts = [(Slot::Heads, self.heads), (Slot::Neurons, self.neurons)];
        parts.into_iter().filter(move |(_, by)| *by == decider).map(|(part, _)| part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_at_its_code() {
        for (code, policy) in Policy::ALL.into_iter().enumerate() {
            let plan = policy.plan();
            assert!(policy as usize == code && plan.policy == policy && !plan.name.is_empty(), "{policy:?}");
            assert_eq!(Policy::from_name(plan.name), Some(policy));
            assert!(plan.column(plan.share_of(Slot::Neurons)).is_some() || plan.neurons == Decider::All, "{policy:?}");
            assert!(plan.calibrated.is_none() || plan.needs_calibration, "{policy:?}");
        }
    }
}
