//! All blocks of an output together: single outputs can be left out.

use super::{Order, Place, Rules, Shape, Unit};
use crate::format::Geometry;

pub(super) const RULES: Rules = Rules {
    order: Order::RowLines,
    name: "row-lines",
    unit: Unit::Outputs(1),
    along_outputs: false,
    shares_scales: false,
    packs: false,
    shapes: [Shape::Rows; 2],
    int8_shapes: [Shape::Rows; 2],
    place,
    panel: None,
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    Place::in_line(g.format, g.unit_offset(output), kb, g.k_blocks)
}
