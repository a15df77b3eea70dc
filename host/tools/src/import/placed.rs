//! Checks that every tensor of a model has a place in the description: one without a place would be left out silently,
//! and the model would be a different one.

use super::Spec;
use super::names::{Part, Wanted};
use shadowllm_core::image::roles::{Place, ROLES};
use shadowllm_core::image::{Positions, Role};
use std::collections::HashSet;

/// Ends of the names of tensors that are not weights.
const NO_WEIGHTS: &[&str] = &[
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "attention.bias",
    "attention.masked_bias",
    "attn_rot_embd.weight",
    // Divisors of rotary frequencies, which are read with the configuration.
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
];

/// Where a tensor of the model is.
#[derive(Clone, Copy, Debug)]
pub enum In {
    /// In this layer.
    Layer(usize),
    /// Beside the layers.
    Model,
    /// In another model or part, such as one for pictures.
    Elsewhere,
}

impl In {
    /// The place of a tensor with this name: the number of its layer is found by `layer`, and the names of tensors beside
    /// the layers begin with `prefix`. They have one more word: names of several words belong to other parts.
    pub fn of(name: &str, layer: Option<usize>, prefix: &str) -> In {
        let word =
            name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".weight").or(rest.strip_suffix(".bias")));
        match (layer, word) {
            (Some(layer), _) => In::Layer(layer),
            (None, Some(word)) if !word.contains('.') => In::Model,
            _ => In::Elsewhere,
        }
    }
}

/// Checks that the description has a place for every tensor.
///
/// `names` are those of all tensors, with where they are; `layers` is the file's name for the number of layers.
///
/// # Errors
/// A sentence that names the first tensor without a place.
pub fn all_placed<'n>(
    spec: &Spec,
    find: &dyn Fn(Wanted) -> Option<(String, Part)>,
    names: impl Iterator<Item = (&'n str, In)>,
    layers: &str,
) -> Result<(), String> {
    let wanted = wanted(spec, find);
    let count = spec.layers.len();
    for (name, place) in names {
        let known = || wanted.contains(name) || NO_WEIGHTS.iter().any(|end| name.ends_with(end));
        let place = match place {
            In::Layer(layer) if layer >= count => {
                let why = "are the weights and the configuration those of one model?";
                return Err(format!("tensor {name} is of none of the {count} layers ({layers}); {why}"));
            }
            In::Layer(layer) if !known() => format!("in layer {layer}"),
            In::Model if !known() => "beside the layers".into(),
            _ => continue,
        };
        let known = format!("a model of the family {} has no such tensor {place}", spec.family);
        return Err(format!("tensor {name} has no place: {known}, or the configuration does not mention it"));
    }
    if spec.globals.positions == Positions::Rope
        && find(Wanted { role: Role::EmbedPositions, layer: 0, expert: 0 }).is_some()
    {
        return Err("the model has learned positions, which its family does not have".into());
    }
    Ok(())
}

/// The names of all tensors that the description has a place for.
fn wanted(spec: &Spec, find: &dyn Fn(Wanted) -> Option<(String, Part)>) -> HashSet<String> {
    let mut wanted = HashSet::new();
    for row in ROLES.iter().filter(|row| !row.role.in_layers()) {
        let place = Place { globals: &spec.globals, block: None, rotated: 0 };
        if row.role.needed(&place) != Some(false) {
            wanted.extend(find(Wanted { role: row.role, layer: 0, expert: 0 }).map(|(name, _)| name));
        }
    }
    for (number, layer) in spec.layers.iter().enumerate() {
        for row in ROLES.iter().filter(|row| row.role.in_layers()) {
            let place = Place { globals: &spec.globals, block: row.role.block(layer), rotated: 0 };
            if place.block.is_some() && row.role.needed(&place) != Some(false) {
                let experts = 0..row.role.experts(&place).max(1);
                let names = experts.filter_map(|expert| find(Wanted { role: row.role, layer: number, expert }));
                wanted.extend(names.map(|(name, _)| name));
            }
        }
    }
    wanted
}
