//! All tiles of a k-block together: where 32 inputs are zero, one run of bytes is skipped.

use super::{Order, PanelTiles, Place, Rules, Shape, Unit};
use crate::format::{BLOCK, Geometry, TILE_ROWS};

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

fn panel(g: &Geometry, start: *const u8, panel: usize) -> PanelTiles {
    PanelTiles {
        start: start.wrapping_add(g.unit_offset(0) + panel * g.format.tile_bytes()),
        supers: start.wrapping_add(supers(g, 0, panel)),
        outer: g.k_blocks / g.units_per_group,
        outer_stride: g.group_stride,
        inner: g.units_per_group,
        inner_stride: g.unit_bytes(),
    }
}
