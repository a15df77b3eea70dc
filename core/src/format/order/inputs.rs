//! For each k-block the scales of all outputs, then a line of codes for each of its 32 inputs: single inputs can be
//! left out, and blocks along the inputs keep integer products and a GGUF's own blocks.

use super::{Order, Place, Rules, Shape, Spread, Unit};
use crate::format::{BLOCK, Geometry, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Inputs,
    name: "inputs",
    unit: Unit::Inputs(1),
    along_outputs: false,
    shares_scales: true,
    // Floats have no scales, and their lines are those of any order by input.
    shapes: [Shape::Inputs, Shape::AllInputs],
    int8_shapes: [Shape::Codes, Shape::AllCodes],
    place,
    panel: None,
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let scales = g.unit_offset(kb * BLOCK) - g.shared_bytes();
    Place {
        header: scales + 2 * output,
        header_step: 2 * g.panels * TILE_ROWS,
        codes: scales + g.shared_bytes() + output / BLOCK * g.format.code_bytes(),
        spread: Spread::Across { at: output % BLOCK, step: g.unit_bytes() },
    }
}
