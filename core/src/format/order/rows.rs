//! All tiles of a panel together: a skipped panel is one skipped run of bytes, and a product reads its weights in one
//! stream.

use super::{Order, PanelTiles, Place, Rules, Shape, Unit};
use crate::format::{Format, Geometry, Matrix, TILE_ROWS};

pub(super) const RULES: Rules = Rules {
    order: Order::Rows,
    name: "rows",
    unit: Unit::Outputs(TILE_ROWS),
    along_outputs: false,
    shares_scales: false,
    packs: true,
    shapes: [Shape::Panel; 2],
    int8_shapes: [Shape::Panel; 2],
    place,
    panel: Some(panel),
};

/// Bytes of the tiles of a super-block, after its numbers; those of a tile where there are no super-blocks.
fn together(format: Format) -> usize {
    TILE_ROWS * format.super_bytes() + format.blocks_together() * format.tile_bytes()
}

fn place(g: &Geometry, output: usize, kb: usize) -> Place {
    let (format, n) = (g.format, g.format.blocks_together());
    let supers = g.unit_offset(output / TILE_ROWS) + kb / n * together(format);
    let tile = supers + TILE_ROWS * format.super_bytes() + kb % n * format.tile_bytes();
    Place::in_tile(format, supers, tile, output % TILE_ROWS)
}

fn panel(m: &Matrix, panel: usize) -> PanelTiles {
    let (g, supers) = (m.geometry(), m.unit_start(panel));
    let format = g.format;
    let (outer, inner) = match format.blocks_together() {
        1 => (1, g.k_blocks),
        n => (g.k_blocks / n, n),
    };
    PanelTiles {
        start: supers.wrapping_add(TILE_ROWS * format.super_bytes()),
        supers,
        outer,
        outer_stride: together(format),
        inner,
        inner_stride: format.tile_bytes(),
    }
}
