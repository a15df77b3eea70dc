//! Checks that every tensor of a model's layers has a place in the description: one without a place would be left out
//! silently, and the model would be a different one.

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
];

/// Checks that the description has a place for every tensor of a layer.
///
/// `names` are those of the tensors with the numbers of their layers.
///
/// # Errors
/// A sentence that names the first tensor without a place.
pub fn all_placed<'n>(
    spec: &Spec,
    find: &dyn Fn(Wanted) -> Option<(String, Part)>,
    names: impl Iterator<Item = (&'n str, usize)>,
) -> Result<(), String> {
    let mut wanted = HashSet::new();
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
    for (name, layer) in names.filter(|(_, layer)| *layer < spec.layers.len()) {
        if !wanted.contains(name) && !NO_WEIGHTS.iter().any(|end| name.ends_with(end)) {
            let known = format!("a model of the family {} has no such tensor in layer {layer}", spec.family);
            return Err(format!("tensor {name} has no place: {known}, or the configuration does not mention it"));
        }
    }
    if spec.globals.positions == Positions::Rope
        && find(Wanted { role: Role::EmbedPositions, layer: 0, expert: 0 }).is_some()
    {
        return Err("the model has learned positions, which its family does not have".into());
    }
    Ok(())
}
