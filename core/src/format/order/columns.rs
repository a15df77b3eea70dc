//! All tiles of a k-block together: where 32 inputs are zero, one run of bytes is skipped.

use super::{Order, PanelTiles, Place, Rules, Shape, Unit};
use crate::format::{BLOCK, Geometry, Matrix, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Columns,
    name: "columns",
    unit: Unit::Inputs(BLOCK),
    along_outputs: false,
    shares_scales: false,
    packs: true,
    shapes: [Shape::Columns, Shape::Panel],
    int8_shapes: [Shape::Columns, Shape::Panel],
    place,
    panel: Some(panel),
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let panel = output / TILE_ROWS;
    let tile = g.unit_offset(kb) + panel * g.format.tile_bytes();
    Place::in_tile(g.format, supers(g, kb / g.units_per_group, panel), tile, output % TILE_ROWS)
}

/// Place of the numbers of a panel's super-block in a group, which is the 8 k-blocks of a super-block.
pub(in crate::format) const fn supers(g: &Geometry, group: usize, panel: usize) -> usize {
    group * g.group_stride + panel * TILE_ROWS * g.format.super_bytes()
}

fn panel(m: &Matrix, panel: usize) -> PanelTiles {
    let g = m.geometry();
    PanelTiles {
        start: m.unit_start(0).wrapping_add(panel * g.format.tile_bytes()),
        supers: m.address(supers(g, 0, panel)),
        outer: g.k_blocks / g.units_per_group,
        outer_stride: g.group_stride,
        inner: g.units_per_group,
        inner_stride: m.unit_bytes(),
    }
}
