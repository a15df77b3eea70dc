//! The place of every tensor in the weights section, in the order that FORMAT.md describes.

use super::Formats;
use super::choose::choose;
use crate::import::{Source, SourceTensor, Spec};
use shadowllm_core::format::{Format, Geometry};
use shadowllm_core::image::arch::Layer;
use shadowllm_core::image::roles::{Place, ROLES, Row, Scope};
use shadowllm_core::image::{Architecture, Entry, GLOBAL, Role, Storage};
use shadowllm_host::{Error, Result};
use std::collections::HashSet;

/// Layers start at multiples of this.
pub const PAGE: usize = 4096;
/// Tensors start at multiples of this.
pub const LINE: usize = 64;

/// A part of the weights section that is made and written in one piece: the tensors that the model has once, or those
/// of a layer.
pub struct Part {
    /// First byte in the section.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// Its tensors; offsets are from the section's start.
    pub entries: Vec<Entry>,
    /// The layer, for messages and look-ups.
    pub layer: usize,
}

/// The matrices of a layer in the order in which a pass reads them. Those of one row are read alternately, group by
/// group, so they are stored as one stream of bytes: memory is fastest when it is read without jumps.
const STREAMS: [&[Role]; 10] = [
    &[Role::K],
    &[Role::V],
    &[Role::Q],
    &[Role::O],
    &[Role::Router],
    &[Role::Up, Role::Gate],
    &[Role::Down],
    &[Role::SharedRouter],
    &[Role::SharedUp, Role::SharedGate],
    &[Role::SharedDown],
];

/// Lays out the parts in order.
struct Planner<'a> {
    source: &'a dyn Source,
    arch: &'a Architecture<'a>,
    formats: Formats,
    /// The optional tensors that this model has.
    optional: &'a HashSet<(Role, usize)>,
    at: usize,
    entries: Vec<Entry>,
    layer: u16,
}

/// The plan of a whole model.
///
/// # Errors
/// Names the tensor that cannot be read.
pub fn plan(source: &dyn Source, arch: &Architecture, formats: Formats) -> Result<Vec<Part>> {
    let mut optional = HashSet::new();
    for row in ROLES.iter().filter(|row| row.scope != Scope::Rope) {
        for number in 0..if row.role.in_layers() { arch.globals().layers } else { 1 } {
            let layer = arch.layer(number);
            let undecided = arch.place(row.role, &layer, 0).is_some_and(|place| row.role.needed(&place).is_none());
            let left_out = row.role == Role::OutputSketch && !formats.sketch;
            if undecided && !left_out && tensor(source, row.role, number, None)?.is_some() {
                optional.insert((row.role, number));
            }
        }
    }
    let mut planner = Planner { source, arch, formats, optional: &optional, at: 0, entries: Vec::new(), layer: GLOBAL };
    let mut parts = vec![planner.globals()?];
    for layer in 0..arch.globals().layers {
        parts.push(planner.layer(layer)?);
    }
    Ok(parts)
}

impl Planner<'_> {
    /// Lays out the tensors that the model has once, small ones first.
    fn globals(&mut self) -> Result<Part> {
        let start = self.at;
        let layer = Layer::default();
        let global = |row: &&Row| !row.role.in_layers();
        for table in 0..self.arch.globals().ropes {
            if let Some(place) = self.arch.place(Role::RopeFrequencies, &layer, table) {
                self.vector(Role::RopeFrequencies, &place, table as u16);
            }
        }
        let Some(place) = self.arch.place(Role::Embed, &layer, 0) else { return Ok(self.finish(start, 0)) };
        let wanted = |role: Role| role.needed(&place).unwrap_or(self.optional.contains(&(role, 0)));
        let rows: Vec<_> =
            ROLES.iter().filter(global).filter(|row| row.scope == Scope::Model && wanted(row.role)).collect();
        for row in rows.iter().filter(|row| !row.role.is_matrix()) {
            self.vector(row.role, &place, GLOBAL);
        }
        for row in rows.iter().filter(|row| row.role.is_matrix()) {
            self.stream(&[row.role], &place)?;
        }
        Ok(self.finish(start, 0))
    }

    fn layer(&mut self, number: usize) -> Result<Part> {
        self.at = self.at.next_multiple_of(PAGE);
        self.layer = number as u16;
        let start = self.at;
        let layer = self.arch.layer(number);
        for block in layer.blocks() {
            let place = Place { globals: self.arch.globals(), block: Some(block), rotated: 0 };
            let has = |role: Role| role.needed(&place).unwrap_or(self.optional.contains(&(role, number)));
            let own: HashSet<Role> =
                ROLES.iter().map(|row| row.role).filter(|r| r.block(&layer) == Some(block) && has(*r)).collect();
            for row in ROLES.iter().filter(|row| !row.role.is_matrix() && own.contains(&row.role)) {
                self.vector(row.role, &place, self.layer);
            }
            for stream in STREAMS {
                let stream: Vec<Role> = stream.iter().copied().filter(|role| own.contains(role)).collect();
                // Matrices of which single inputs are read are read one after the other, so they are stored like that.
                let apart = stream.iter().any(|role| role.order(&place).shares_scales());
                for roles in stream.chunks(if apart { 1 } else { 2 }) {
                    self.stream(roles, &place)?;
                }
            }
        }
        Ok(self.finish(start, number))
    }

    fn finish(&mut self, start: usize, layer: usize) -> Part {
        Part { offset: start, len: self.at - start, entries: std::mem::take(&mut self.entries), layer }
    }

    fn vector(&mut self, role: Role, place: &Place, layer: u16) {
        self.at = self.at.next_multiple_of(LINE);
        let (rows, cols) = role.shape(place);
        let len = role.outputs(place).width();
        let (offset, storage, experts) = (self.at, Storage::Vector { len }, role.experts(place));
        // Vectors of experts follow each other without gaps.
        let expert_stride = if experts > 0 { 4 * len } else { 0 };
        self.entries.push(Entry { role, layer, rows, cols, offset, storage, experts, expert_stride });
        self.at += 4 * len * experts.max(1);
    }

    /// Lays out several matrices with alternating groups; if every expert has its own matrices, expert by expert.
    fn stream(&mut self, roles: &[Role], place: &Place) -> Result<()> {
        self.at = self.at.next_multiple_of(LINE);
        let geometries: Vec<Geometry> = roles.iter().map(|role| self.geometry(*role, place)).collect::<Result<_>>()?;
        let stride: usize = geometries.iter().map(|g| g.group_stride).sum();
        let groups = geometries.first().map_or(0, |g| g.units() / g.units_per_group);
        let experts = roles.first().map_or(0, |role| role.experts(place));
        let expert_stride = if experts > 0 { (groups * stride).next_multiple_of(LINE) } else { 0 };
        let mut within = 0;
        for (role, mut g) in roles.iter().zip(geometries) {
            let (rows, cols) = role.shape(place);
            let own = std::mem::replace(&mut g.group_stride, stride);
            let layer = if role.in_layers() { self.layer } else { GLOBAL };
            let (offset, storage) = (self.at + within, Storage::Tiles(g));
            self.entries.push(Entry { role: *role, layer, rows, cols, offset, storage, experts, expert_stride });
            within += own;
        }
        self.at += if experts > 0 { experts * expert_stride } else { groups * stride };
        Ok(())
    }

    /// The geometry of a matrix that is stored alone.
    fn geometry(&self, role: Role, place: &Place) -> Result<Geometry> {
        let failed = |message| Error::file(self.source.path(), message);
        let (layer, expert) = (usize::from(self.layer), (role.experts(place) > 0).then_some(0));
        let missing = || failed(format!("no tensor for {}", named(role, layer, expert)));
        let tensor = tensor(self.source, role, layer, expert)?.ok_or_else(missing)?;
        let format = choose(self.formats, role, place, &tensor).map_err(failed)?;
        Ok(role.geometry(place, format))
    }
}

/// The format of every matrix, in the order of the file; an error if there is none for a matrix.
///
/// # Errors
/// As [`plan`]; when the description is out of range.
pub fn formats(source: &dyn Source, spec: &Spec, formats: Formats) -> Result<Vec<(Role, u16, Format)>> {
    let failed = |e: shadowllm_core::Error| Error::file(source.path(), e.to_string());
    let section = spec.section().map_err(failed)?;
    let arch = Architecture::parse(&section).map_err(failed)?;
    let parts = plan(source, &arch, formats)?;
    let format = |e: &Entry| match e.storage {
        Storage::Tiles(g) => Some((e.role, e.layer, g.format)),
        Storage::Vector { .. } => None,
    };
    Ok(parts.iter().flat_map(|part| &part.entries).filter_map(format).collect())
}

/// Checks that the source has every tensor that the image needs, in the right shape.
///
/// # Errors
/// Names the first missing or misshapen tensor.
pub fn check(source: &dyn Source, spec: &Spec, arch: &Architecture) -> Result<()> {
    let failed = |message| Error::file(source.path(), message);
    for row in ROLES.iter().filter(|row| row.scope != Scope::Rope) {
        for layer in 0..if row.role.in_layers() { spec.layers.len() } else { 1 } {
            let blocks = arch.layer(layer);
            let Some(place) = arch.place(row.role, &blocks, 0) else { continue };
            let needed = row.role.needed(&place);
            for copy in 0..row.role.experts(&place).max(1) {
                let expert = (row.role.experts(&place) > 0).then_some(copy);
                match tensor(source, row.role, layer, expert)? {
                    Some(tensor) if needed != Some(false) => check_shape(row.role, &place, &tensor).map_err(failed)?,
                    None if needed == Some(true) => {
                        let name = named(row.role, layer, expert);
                        return Err(failed(format!("the model has no tensor for {name}; is the download complete?")));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// A tensor of the source; that of an expert, if each has its own.
///
/// # Errors
/// When the model has the tensor but it cannot be read; names the tensor.
pub fn tensor(
    source: &dyn Source,
    role: Role,
    layer: usize,
    expert: Option<usize>,
) -> shadowllm_host::Result<Option<SourceTensor<'_>>> {
    match expert {
        Some(expert) => source.expert(role, layer, expert),
        None if role == Role::OutputSketch => match source.tensor(Role::Output, layer)? {
            None => source.tensor(Role::Embed, layer),
            output => Ok(output),
        },
        None => source.tensor(role, layer),
    }
}

/// A tensor in words.
pub fn named(role: Role, layer: usize, expert: Option<usize>) -> String {
    match (role.in_layers(), expert) {
        (false, _) => role.name().to_owned(),
        (true, None) => format!("{} of layer {layer}", role.name()),
        (true, Some(expert)) => format!("{} of expert {expert} of layer {layer}", role.name()),
    }
}

/// Checks the shape of a source tensor.
fn check_shape(role: Role, place: &Place, t: &SourceTensor) -> std::result::Result<(), String> {
    let (rows, cols) = role.shape(place);
    let (found, wanted) = match role.is_matrix() {
        true if (t.rows, t.cols) == (rows, cols) => return Ok(()),
        true => (format!("[{}, {}]", t.rows, t.cols), format!("[{rows}, {cols}]")),
        false if t.rows * t.cols == rows => return Ok(()),
        false => (format!("[{}]", t.rows * t.cols), format!("[{rows}]")),
    };
    Err(format!(
        "tensor {} has shape {found}, but the configuration says {wanted}: do both belong to one model?",
        t.name
    ))
}

/// Formats that can be chosen, for messages.
pub fn format_names() -> String {
    let names: Vec<&str> = Format::ALL.into_iter().filter(|f| f.has_encoder()).map(Format::name).collect();
    names.join(", ")
}
