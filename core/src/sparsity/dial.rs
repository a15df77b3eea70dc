//! What a caller asks for: a policy and how much it may read.

/// Linear maps of a layer whose inputs may be skipped: Q, K, V, O, gate, up, down.
pub const MAPS: usize = 7;
/// What a budget is divided among in a layer: heads and neurons, or maps.
pub const SLOTS: usize = MAPS;

/// Who decides what a token needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// Nobody: everything is read.
    #[default]
    Off = 0,
    /// The caller, through [`crate::Session::units`].
    Given = 1,
    /// The mean importance measured in calibration.
    Static = 2,
    /// Chance (a baseline).
    Random = 3,
    /// Statistics of the prompt and of the tokens decoded so far.
    Prompt = 4,
    /// One predictor at the first layer for all layers (ShadowLLM).
    Shadow = 5,
    /// One predictor a layer, fed by the layer before (DejaVu, arXiv 2310.17157).
    PerLayer = 6,
    /// The gate, computed first (CATS, arXiv 2404.08763); without a gate, the activation itself.
    Gate = 7,
    /// Constant thresholds on the inputs of every linear map (TEAL, arXiv 2408.14690).
    Input = 8,
    /// A fixed share of the largest inputs of every linear map and token.
    InputTop = 9,
    /// The true magnitudes, computed densely first: for evaluation, it saves nothing.
    Oracle = 10,
    /// The policy that calibration found best for the density.
    Auto = 11,
    /// Constant thresholds on the inputs of attention's maps, the shadow predictor for the neurons: for images that
    /// store attention by input and neurons as bundles.
    Mixed = 12,
    /// Thresholds on the inputs of every linear map that the prompt and the tokens decoded so far would have kept to
    /// the density: no calibration needed.
    PromptInput = 13,
}

impl Policy {
    /// All, in the order of their codes.
    pub const ALL: [Policy; 14] = [
        Policy::Off,
        Policy::Given,
        Policy::Static,
        Policy::Random,
        Policy::Prompt,
        Policy::Shadow,
        Policy::PerLayer,
        Policy::Gate,
        Policy::Input,
        Policy::InputTop,
        Policy::Oracle,
        Policy::Auto,
        Policy::Mixed,
        Policy::PromptInput,
    ];

    /// Name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Off => "off",
            Policy::Given => "given",
            Policy::Static => "static",
            Policy::Random => "random",
            Policy::Prompt => "prompt",
            Policy::Shadow => "shadow",
            Policy::PerLayer => "per-layer",
            Policy::Gate => "gate",
            Policy::Input => "input",
            Policy::InputTop => "input-top",
            Policy::Oracle => "oracle",
            Policy::Auto => "auto",
            Policy::Mixed => "mixed",
            Policy::PromptInput => "prompt-input",
        }
    }

    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<Policy> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The policy with this code.
    pub fn from_code(code: u8) -> Option<Policy> {
        Self::ALL.get(code as usize).copied()
    }

    /// Whether it skips inputs of linear maps (else heads).
    pub const fn by_input(self) -> bool {
        matches!(self, Policy::Input | Policy::InputTop | Policy::Mixed | Policy::PromptInput)
    }

    /// Whether it lists the neurons to compute, before they are.
    pub const fn lists_neurons(self) -> bool {
        !matches!(self, Policy::Off | Policy::Input | Policy::InputTop | Policy::PromptInput | Policy::Oracle)
    }

    /// Whether it asks the predictor at the first layer.
    pub const fn asks_shadow(self) -> bool {
        matches!(self, Policy::Shadow | Policy::Mixed)
    }

    /// Slots of a layer that its budget is divided among: heads and neurons, or the maps.
    pub const fn slots(self) -> usize {
        if self.by_input() { MAPS } else { 2 }
    }

    /// The slot of the neurons: where the budget is divided among maps, that of up.
    pub const fn neuron_slot(self) -> usize {
        if self.by_input() { 5 } else { 1 }
    }

    /// Whether it needs calibrated tables.
    pub const fn calibrated(self) -> bool {
        matches!(
            self,
            Policy::Static
                | Policy::Shadow
                | Policy::PerLayer
                | Policy::Gate
                | Policy::Input
                | Policy::Mixed
                | Policy::Auto
        )
    }
}

/// How a budget is divided among layers, and between heads and neurons or among maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// As calibration found best.
    #[default]
    Global,
    /// Every layer and part alike.
    Local,
    /// The mean of both: no layer goes without.
    Hybrid,
}

/// What to skip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dial {
    /// Who decides.
    pub policy: Policy,
    /// Share of the skippable weight bytes that is read, above 0 and at most 1; 1 is dense.
    pub density: f32,
    /// Tokens decoded with one choice of heads and neurons: 1 chooses anew for every token, 0 once after each
    /// prefill.
    pub refresh: usize,
    /// How the density is divided.
    pub allocation: Allocation,
    /// Shares of single slots in place of the budget's: heads, neurons; or q, k, v, o, gate, up, down.
    pub fixed: [Option<f32>; SLOTS],
    /// Start of the random policy's choices.
    pub seed: u64,
}

impl Default for Dial {
    fn default() -> Self {
        Dial {
            policy: Policy::Off,
            density: 1.0,
            refresh: 1,
            allocation: Allocation::Global,
            fixed: [None; SLOTS],
            seed: 0,
        }
    }
}
