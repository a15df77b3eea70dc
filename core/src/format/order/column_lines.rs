//! All blocks of an input together, along the outputs: single inputs can be left out, in groups of any size. Products
//! take floats, because all 32 weights of a block are multiplied by the same input.

use super::{Order, Place, Rules, Shape, Unit};
use crate::format::Geometry;

pub(super) const RULES: Rules = Rules {
    order: Order::ColumnLines,
    name: "column-lines",
    unit: Unit::Inputs(1),
    along_outputs: true,
    shares_scales: false,
    packs: false,
    shapes: [Shape::Inputs, Shape::AllInputs],
    int8_shapes: [Shape::Inputs, Shape::AllInputs],
    place,
    panel: None,
};

fn place(g: &Geometry, input: usize, i: usize) -> Place {
    Place::in_line(g.format, g.unit_offset(input), i, g.line_blocks())
}
