//! For each k-block the scales of all outputs, then a line of codes for each of its 32 inputs: single inputs can be
//! left out, and since blocks still run along the inputs, products stay integer and a GGUF's own blocks can be kept.

use super::{Order, Place, Rules, Shape, Spread, Unit};
use crate::format::{BLOCK, Geometry, Head, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Inputs,
    name: "inputs",
    unit: Unit::Inputs(1),
    along_outputs: false,
    shares_scales: true,
    packs: true,
    // Floats have no scales, so their lines are the same as in the other order by input.
    shapes: [Shape::Inputs, Shape::AllInputs],
    int8_shapes: [Shape::Codes, Shape::AllCodes],
    place,
    panel: None,
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let (format, panel) = (g.format, output / TILE_ROWS);
    let (group, within) = (kb / format.blocks_together(), kb % format.blocks_together());
    let supers = group * g.group_stride;
    let heads = supers + g.outputs() * format.super_bytes() + within * format.head().bytes_of(g.outputs());
    // [`Head::Numbers`] of all outputs follow each other; other heads are packed by 16.
    let (head, lane) = match format.head() {
        Head::Numbers(_) => (heads, output),
        head => (heads + panel * head.bytes_of(TILE_ROWS), output % TILE_ROWS),
    };
    Place {
        supers: supers + panel * TILE_ROWS * format.super_bytes() + 2 * (output % TILE_ROWS),
        head,
        lane,
        head_step: 2 * g.outputs(),
        codes: g.unit_offset(kb * BLOCK) + output / BLOCK * format.code_bytes(),
        spread: Spread::Across { at: output % BLOCK, step: g.unit_bytes() },
    }
}
