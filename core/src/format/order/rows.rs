//! All tiles of a panel together: a skipped panel is a skipped run of bytes, and a product reads one stream.

use super::{Order, PanelTiles, Place, Rules, Shape, Unit};
use crate::format::{Geometry, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Rows,
    name: "rows",
    unit: Unit::Outputs(TILE_ROWS),
    along_outputs: false,
    shares_scales: false,
    shapes: [Shape::Panel; 2],
    int8_shapes: [Shape::Panel; 2],
    place,
    panel: Some(panel),
};

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let tile = g.unit_offset(output / TILE_ROWS) + kb * g.format.tile_bytes();
    Place::in_tile(g.format, tile, output % TILE_ROWS)
}

fn panel(g: &Geometry, start: *const u8, panel: usize) -> PanelTiles {
    PanelTiles {
        start: start.wrapping_add(g.unit_offset(panel)),
        outer: 1,
        outer_stride: 0,
        inner: g.k_blocks,
        inner_stride: g.format.tile_bytes(),
    }
}
