//! What is skipped, on the command line.

use crate::print;
use clap::Args;
use shadowllm_core::sparsity::{Allocation, Dial, Policy, SLOTS};
use shadowllm_host::model::LoadedModel;
use shadowllm_host::pace;
use shadowllm_host::{Error, Result};
use shadowllm_tools::cache::Skipping;
use shadowllm_tools::report::idle;

/// Heading of options about skipping.
pub const SKIPPING: &str = "Skipping";

/// Options of every command that decodes.
#[derive(Args, Clone)]
pub struct DialOptions {
    // Its help lists the policies.
    #[arg(long, value_delimiter = ',', value_parser = policy, help_heading = SKIPPING, help = "How what is read is chosen", long_help = policies_help())]
    policy: Vec<Policy>,
    /// Share of the skippable weight bytes that is read, above 0 and at most 1 (0.8, or 80%); without --policy, the policy is auto,
    /// or for a model that is not calibrated one that needs no calibration.
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, value_parser = density, help_heading = SKIPPING)]
    density: Vec<f32>,
    /// Choose heads and neurons once in this number of tokens; 0 chooses once per prompt.
    #[arg(long, default_value_t = 1, help_heading = SKIPPING)]
    refresh: usize,
    /// How the density is divided among layers: global (as calibrated), local (evenly) or hybrid.
    #[arg(long, default_value = "global", value_parser = allocation, help_heading = SKIPPING)]
    allocation: Allocation,
    /// Shares in place of the calibrated ones, of the parts that --policy has: such as heads=1,neurons=0.5 or
    /// q=0.8,down=0.5 (maps q k v o gate up down).
    #[arg(long, value_delimiter = ',', value_parser = share, help_heading = SKIPPING)]
    share: Vec<(String, f32)>,
    /// Where something is skipped and the image has a sketch of its output matrix: rows are read whose logits are
    /// estimated at most this far below the largest one; inf reads all rows.
    #[arg(long, default_value_t = Dial::WINDOW, allow_negative_numbers = true, help_heading = SKIPPING)]
    output_window: f32,
    /// Whether other options choose the density ([`DialOptions::paced`]).
    #[arg(skip)]
    paced: bool,
}

/// The policies that users can choose.
fn choosable() -> impl Iterator<Item = Policy> {
    Policy::ALL.into_iter().filter(|p| *p != Policy::Given)
}

fn policies_help() -> String {
    let row = |p: Policy| format!("  {:<12} {}", p.name(), p.plan().description.trim());
    let rows: Vec<String> = choosable().map(row).collect();
    format!("Who decides what is read (eval and report take several, separated by commas):\n{}", rows.join("\n"))
}

/// The policy of a name, or all names as an error.
pub fn policy(name: &str) -> std::result::Result<Policy, String> {
    let names: Vec<&str> = choosable().map(Policy::name).collect();
    choosable().find(|p| p.name() == name).ok_or_else(|| format!("one of {}", names.join(", ")))
}

/// Whether a policy reads the same at every density.
fn is_fixed(policy: Policy) -> bool {
    matches!(policy, Policy::Off | Policy::Output)
}

/// A density, from "0.8" or "80%"; its range is checked where it is used.
pub fn density(text: &str) -> std::result::Result<f32, String> {
    let density = match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(|x: f32| x / 100.0),
        None => text.parse(),
    };
    density.map_err(|_| "a share such as 0.8 or 80%".into())
}

fn allocation(name: &str) -> std::result::Result<Allocation, String> {
    match name {
        "global" => Ok(Allocation::Global),
        "local" => Ok(Allocation::Local),
        "hybrid" => Ok(Allocation::Hybrid),
        _ => Err("global, local or hybrid".into()),
    }
}

fn share(text: &str) -> std::result::Result<(String, f32), String> {
    let parts = text.split_once('=').and_then(|(name, share)| Some((name.to_owned(), share.parse().ok()?)));
    parts.ok_or_else(|| "a part and its share, such as neurons=0.5".into())
}

impl DialOptions {
    /// Every given policy at every given density; once if it does not depend on the density.
    pub fn all(&self) -> Result<Vec<Dial>> {
        if let Some(density) = self.density.iter().find(|d| !(**d > 0.0 && **d <= 1.0)) {
            return Err(Error::Usage(format!(
                "--density {density}: a density must be above 0 and at most 1 (1 reads everything)"
            )));
        }
        let all_read = self.density.iter().all(|d| *d == 1.0);
        let fallback = if all_read { Policy::Off } else { Policy::Auto };
        let policies = if self.policy.is_empty() { vec![fallback] } else { self.policy.clone() };
        if policies.iter().all(|p| is_fixed(*p)) && !self.paced {
            self.refuse_without_density(policies.contains(&Policy::Output))?;
        }
        let densities = if self.density.is_empty() { &[1.0][..] } else { &self.density[..] };
        let of = |p: &Policy| if is_fixed(*p) { &[1.0][..] } else { densities };
        let pairs = policies.iter().flat_map(|p| of(p).iter().map(move |d| (*p, *d)));
        pairs.map(|(policy, density)| self.dial(policy, density)).collect()
    }

    /// Where nothing is skipped, options that say how to skip are a mistake; where only rows of the output matrix are
    /// (`output`), those that say how to skip in layers.
    fn refuse_without_density(&self, output: bool) -> Result<()> {
        let given = [
            ("--share", !self.share.is_empty()),
            ("--refresh", self.refresh != 1),
            ("--output-window", !output && self.output_window != Dial::WINDOW),
            ("--allocation", self.allocation != Allocation::Global),
            ("--density", !self.policy.is_empty() && self.density.iter().any(|d| *d < 1.0)),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) if output => Err(Error::Usage(format!(
                "{name} says how to skip in the layers, of which policy output reads everything: leave it out, or give \
                 another --policy"
            ))),
            Some((name, _)) => Err(Error::Usage(format!(
                "{name} says how to skip, and nothing is skipped: give a --policy, or a --density below 1"
            ))),
            None => Ok(()),
        }
    }

    /// [`DialOptions::all`], with a policy that the model supports if none was named.
    pub fn all_for(&self, model: &LoadedModel) -> Result<Vec<Dial>> {
        let mut dials = self.all()?;
        if let Some(why) = dials.iter().find_map(|d| idle(model.model(), d.policy)) {
            return Err(Error::file(model.path(), why));
        }
        if !self.policy.is_empty() {
            return Ok(dials);
        }
        for dial in &mut dials {
            dial.policy = suited(model, None, dial.density)?;
        }
        let uncalibrated = |d: &&Dial| matches!(d.policy, Policy::PromptInput | Policy::Prompt);
        if let Some(dial) = dials.iter().find(uncalibrated) {
            let (file, policy) = (model.path().display(), dial.policy.name());
            let costs = match dial.policy {
                Policy::Prompt => {
                    ", which costs models with a gated FFN (most) much quality: pack --layout input allows prompt-input, \
                     and shadowllm calibrate finds better"
                }
                _ => "; shadowllm calibrate finds better",
            };
            print::note(format_args!("{file} is not calibrated: policy {policy} is used{costs}"));
        }
        Ok(dials)
    }

    /// What is skipped.
    pub fn skipping(&self) -> Skipping {
        let in_layers = |p: &Policy| !matches!(p, Policy::Off | Policy::Output);
        if self.policy.iter().any(in_layers) || self.density.iter().any(|d| *d < 1.0) {
            Skipping::Layers
        } else if self.policy.contains(&Policy::Output) {
            Skipping::Output
        } else {
            Skipping::Nothing
        }
    }

    /// The one policy that was named, if any.
    pub fn named(&self) -> Option<Policy> {
        self.policy.first().copied()
    }

    /// The one policy and density.
    pub fn one(&self) -> Result<Dial> {
        Self::only(&self.all()?)
    }

    /// [`DialOptions::one`], with a policy that the model supports if none was named.
    pub fn one_for(&self, model: &LoadedModel) -> Result<Dial> {
        Self::only(&self.all_for(model)?)
    }

    fn only(dials: &[Dial]) -> Result<Dial> {
        match *dials {
            [dial] => Ok(dial),
            _ => Err(Error::Usage(
                "this command takes one --policy and one --density; eval --text and --exercises compare several".into(),
            )),
        }
    }

    fn dial(&self, policy: Policy, density: f32) -> Result<Dial> {
        let names: Vec<&str> = policy.plan().slots.iter().map(|slot| slot.name()).collect();
        let mut fixed = [None; SLOTS];
        for (name, share) in &self.share {
            if matches!(policy, Policy::Auto | Policy::Off) {
                return Err(Error::Usage(format!(
                    "--share {name}: policies have different parts, so name the --policy that it is for, and not {}",
                    policy.name()
                )));
            }
            let slot = names.iter().position(|n| n == name).ok_or_else(|| {
                Error::Usage(format!(
                    "--share {name}: policy {} divides its budget among {}",
                    policy.name(),
                    names.join(", ")
                ))
            })?;
            if !(0.0..=1.0).contains(share) {
                return Err(Error::Usage(format!("--share {name}={share}: a share must be at least 0 and at most 1")));
            }
            fixed[slot] = Some(*share);
        }
        if self.output_window.is_nan() || self.output_window < 0.0 {
            let window = self.output_window;
            return Err(Error::Usage(format!("--output-window {window}: it must be 0 or more (inf reads all rows)")));
        }
        let (refresh, allocation, window) = (self.refresh, self.allocation, self.output_window);
        Ok(Dial { policy, density, refresh, allocation, fixed, window, ..Dial::default() })
    }
}

impl DialOptions {
    /// The same where other options may choose the density: then what is given here says how to skip, also without a
    /// density.
    pub fn paced(&self, paced: bool) -> Self {
        DialOptions { paced, ..self.clone() }
    }

    /// The same, with these policies if none were given, and these densities where policies depend on it.
    pub fn or(&self, policies: &[Policy], densities: &[f32]) -> Self {
        let mut filled = self.clone();
        if filled.policy.is_empty() {
            filled.policy = policies.to_vec();
        }
        if filled.density.is_empty() && !filled.policy.iter().all(|p| is_fixed(*p)) {
            filled.density = densities.to_vec();
        }
        filled
    }

    /// Itself as options and their values.
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        fn list<T>(all: &[T], name: impl Fn(&T) -> String) -> String {
            all.iter().map(name).collect::<Vec<_>>().join(",")
        }
        let allocation = match self.allocation {
            Allocation::Global => "global",
            Allocation::Local => "local",
            Allocation::Hybrid => "hybrid",
        };
        let mut arguments = vec![
            ("policy", list(&self.policy, |p| p.name().to_owned())),
            ("refresh", self.refresh.to_string()),
            ("allocation", allocation.to_owned()),
            ("output-window", self.output_window.to_string()),
        ];
        if !self.density.is_empty() {
            arguments.push(("density", list(&self.density, f32::to_string)));
        }
        if !self.share.is_empty() {
            arguments.push(("share", list(&self.share, |(name, share)| format!("{name}={share}"))));
        }
        arguments
    }
}

/// The policy for a density: the named one, else the one that calibration found best, or for a model that is not
/// calibrated one that needs no calibration.
pub fn suited(model: &LoadedModel, named: Option<Policy>, density: f32) -> Result<Policy> {
    named.map_or_else(|| pace::suited(model.model(), density), Ok)
}

/// Whether any of the dials skips.
pub fn skips(dials: &[Dial]) -> bool {
    dials.iter().any(|d| d.policy != Policy::Off)
}
