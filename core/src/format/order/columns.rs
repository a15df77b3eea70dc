//! All tiles of a k-block together: 32 inputs that are zero are a skipped run of bytes.

use super::{Order, PanelTiles, Place, Rules, Shape, Unit};
use crate::format::{BLOCK, Geometry, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Columns,
    name: "columns",
    unit: Unit::Inputs(BLOCK),
    along_outputs: false,
    shares_scales: false,
    shapes: [Shape::Columns, Shape::Panel],
    int8_shapes: [Shape::Columns, Shape::Panel],
    place,
    panel: Some(panel),
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let tile = g.unit_offset(kb) + output / TILE_ROWS * g.format.tile_bytes();
    Place::in_tile(g.format, tile, output % TILE_ROWS)
}

fn panel(g: &Geometry, start: *const u8, panel: usize) -> PanelTiles {
    PanelTiles {
        start: start.wrapping_add(panel * g.format.tile_bytes()),
        outer: g.k_blocks / g.units_per_group,
        outer_stride: g.group_stride,
        inner: g.units_per_group,
        inner_stride: g.unit_bytes(),
    }
}
