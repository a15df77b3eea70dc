//! Where every tensor of a model goes in the weights section: the order that FORMAT.md describes.

use super::Formats;
use crate::import::{Source, SourceTensor, Spec};
use shadowllm_core::format::Format;
use shadowllm_core::image::arch::Layer;
use shadowllm_core::image::roles::{Place, ROLES, Row, Scope};
use shadowllm_core::image::{Architecture, Entry, GLOBAL, Role, Storage};
use std::collections::HashSet;

/// Layers start at multiples of this.
pub const PAGE: usize = 4096;
/// Tensors start at multiples of this.
pub const LINE: usize = 64;

/// A part of the weights section that is made and written as one: what the model has once, or a layer.
pub struct Part {
    /// First byte in the section.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// What it holds; offsets are from the section's start.
    pub entries: Vec<Entry>,
    /// The layer, for messages and look-ups.
    pub layer: usize,
}

/// Matrices of a layer in the order in which a pass reads them. Those of a row are read in turns, group by group: they
/// are one stream of bytes. Whatever a pass reads without a jump is read at the memory's full speed.
const STREAMS: [&[Role]; 6] = [&[Role::K], &[Role::V], &[Role::Q], &[Role::O], &[Role::Up, Role::Gate], &[Role::Down]];

/// Lays out one part after another.
struct Planner<'a> {
    arch: &'a Architecture<'a>,
    formats: &'a Formats,
    optional: &'a HashSet<Role>,
    at: usize,
    entries: Vec<Entry>,
    layer: u16,
}

/// The plan of a whole model.
///
/// # Errors
/// Names the tensor that cannot be read.
pub fn plan(source: &dyn Source, arch: &Architecture, formats: &Formats) -> shadowllm_host::Result<Vec<Part>> {
    let mut optional = HashSet::new();
    for row in ROLES.iter().filter(|row| row.scope == Scope::Model) {
        if source.tensor(row.role, 0)?.is_some() {
            optional.insert(row.role);
        }
    }
    let mut planner = Planner { arch, formats, optional: &optional, at: 0, entries: Vec::new(), layer: GLOBAL };
    let mut parts = vec![planner.globals()];
    parts.extend((0..arch.globals().layers).map(|layer| planner.layer(layer)));
    Ok(parts)
}

impl Planner<'_> {
    /// What the model has once, small tensors first.
    fn globals(&mut self) -> Part {
        let start = self.at;
        let layer = Layer::default();
        let global = |row: &&Row| !row.role.in_layers();
        for table in 0..self.arch.globals().ropes {
            if let Some(place) = self.arch.place(Role::RopeFrequencies, &layer, table) {
                self.vector(Role::RopeFrequencies, &place, table as u16);
            }
        }
        let Some(place) = self.arch.place(Role::Embed, &layer, 0) else { return self.finish(start, 0) };
        let wanted = |role: Role| role.needed(&place).unwrap_or(self.optional.contains(&role));
        let rows: Vec<_> =
            ROLES.iter().filter(global).filter(|row| row.scope == Scope::Model && wanted(row.role)).collect();
        for row in rows.iter().filter(|row| !row.role.is_matrix()) {
            self.vector(row.role, &place, GLOBAL);
        }
        for row in rows.iter().filter(|row| row.role.is_matrix()) {
            self.stream(&[row.role], &place);
        }
        self.finish(start, 0)
    }

    fn layer(&mut self, number: usize) -> Part {
        self.at = self.at.next_multiple_of(PAGE);
        self.layer = number as u16;
        let start = self.at;
        let layer = self.arch.layer(number);
        for block in layer.blocks() {
            let place = Place { globals: self.arch.globals(), block: Some(block), rotated: 0 };
            let own = |role: Role| role.block(&layer) == Some(block) && role.needed(&place).unwrap_or(true);
            for row in ROLES.iter().filter(|row| !row.role.is_matrix() && own(row.role)) {
                self.vector(row.role, &place, self.layer);
            }
            for stream in STREAMS {
                let stream: Vec<Role> = stream.iter().copied().filter(|role| own(*role)).collect();
                // Where single inputs are read, one product follows the other.
                let apart = stream.iter().any(|role| role.order(&place).shares_scales());
                stream.chunks(if apart { 1 } else { 2 }).for_each(|roles| self.stream(roles, &place));
            }
        }
        self.finish(start, number)
    }

    fn finish(&mut self, start: usize, layer: usize) -> Part {
        Part { offset: start, len: self.at - start, entries: std::mem::take(&mut self.entries), layer }
    }

    fn vector(&mut self, role: Role, place: &Place, layer: u16) {
        self.at = self.at.next_multiple_of(LINE);
        let (rows, cols) = role.shape(place);
        let len = role.outputs(place).width();
        let (offset, storage) = (self.at, Storage::Vector { len });
        self.entries.push(Entry { role, layer, rows, cols, offset, storage });
        self.at += 4 * len;
    }

    /// Several matrices whose groups take turns.
    fn stream(&mut self, roles: &[Role], place: &Place) {
        self.at = self.at.next_multiple_of(LINE);
        let geometry = |role: Role| role.geometry(place, self.formats.of(role));
        let stride: usize = roles.iter().map(|role| geometry(*role).group_stride).sum();
        let (mut within, mut groups) = (0, 0);
        for role in roles {
            let mut g = geometry(*role);
            let (rows, cols) = role.shape(place);
            let own = std::mem::replace(&mut g.group_stride, stride);
            groups = g.units() / g.units_per_group;
            let layer = if role.in_layers() { self.layer } else { GLOBAL };
            let (offset, storage) = (self.at + within, Storage::Tiles(g));
            self.entries.push(Entry { role: *role, layer, rows, cols, offset, storage });
            within += own;
        }
        self.at += groups * stride;
    }
}

/// Every tensor that the image must have is in the source, in its shape.
///
/// # Errors
/// Names the first that is not.
pub fn check(source: &dyn Source, spec: &Spec, arch: &Architecture) -> shadowllm_host::Result<()> {
    let failed = |message| shadowllm_host::Error::file(source.path(), message);
    for row in ROLES.iter().filter(|row| row.scope != Scope::Rope) {
        for layer in 0..if row.role.in_layers() { spec.layers.len() } else { 1 } {
            let blocks = arch.layer(layer);
            let Some(place) = arch.place(row.role, &blocks, 0) else { continue };
            let needed = row.role.needed(&place);
            match source.tensor(row.role, layer)? {
                Some(tensor) if needed != Some(false) => check_shape(row.role, &place, &tensor).map_err(failed)?,
                None if needed == Some(true) => {
                    let of = if row.role.in_layers() { format!(" of layer {layer}") } else { String::new() };
                    let name = row.name;
                    return Err(failed(format!("the model has no tensor for {name}{of}; is the download complete?")));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Shape check of a source tensor, in words.
fn check_shape(role: Role, place: &Place, t: &SourceTensor) -> Result<(), String> {
    let (rows, cols) = role.shape(place);
    let (found, wanted) = match role.is_matrix() {
        true if (t.rows, t.cols) == (rows, cols) => return Ok(()),
        true => (format!("[{}, {}]", t.rows, t.cols), format!("[{rows}, {cols}]")),
        false if t.rows * t.cols == rows => return Ok(()),
        false => (format!("[{}]", t.rows * t.cols), format!("[{rows}]")),
    };
    Err(format!(
        "tensor {} has shape {found}, the configuration asks for {wanted}: do both belong to one model?",
        t.name
    ))
}

/// Formats that can be chosen, for messages.
pub fn format_names() -> String {
    Format::ALL.map(Format::name).join(", ")
}
