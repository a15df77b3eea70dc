//! The packed model, parsed without allocation. `FORMAT.md` beside this file is its specification.
//!
//! [`Image::parse`] checks the header's checksum and every bound and shape before anything is used; a hostile file gets
//! an error, never a panic or a read outside its bytes. The *values* of weights are not checked: wrong ones give wrong
//! text, and nothing worse.

pub mod arch;
mod config;
pub(crate) mod head;
pub mod roles;
pub mod table;
mod tensors;
mod words;

pub use arch::{Architecture, MAX_EOS, Positions};
pub use config::{Config, LayerShape};
pub use head::{HEADER_LEN, MAGIC, SECTION_LEN, Section, SectionKind, VERSION, crc32};
pub use roles::Role;
pub use table::{ENTRY_LEN, Entry, GLOBAL, Storage};

use crate::error::Error;
use crate::format::{Geometry, Matrix};

/// Alignment that the address of the image's bytes needs, because vectors of f32 are used in place.
pub const ALIGN: usize = 4;

/// A parsed image, borrowing its bytes.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    bytes: &'a [u8],
    sections: head::Sections,
    arch: Architecture<'a>,
    config: Config,
}

impl<'a> Image<'a> {
    /// Parses and checks an image.
    ///
    /// # Errors
    /// One of the [`Error`]s of an image, which says what is wrong with the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let sections = head::parse(bytes)?;
        if !bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(Error::Misaligned(ALIGN));
        }
        let arch = Architecture::parse(sections.get(bytes, SectionKind::Architecture))?;
        let table = sections.get(bytes, SectionKind::Tensors);
        let weights = sections.get(bytes, SectionKind::Weights);
        tensors::check(table, weights, &arch)?;
        Ok(Image { bytes, sections, arch, config: Config::of(&arch)? })
    }

    /// The model's description.
    pub fn arch(&self) -> &Architecture<'a> {
        &self.arch
    }

    /// The sizes that the model has once, and the largest of any layer.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A section's bytes; empty when the image has none.
    pub fn section(&self, kind: SectionKind) -> &'a [u8] {
        self.sections.get(self.bytes, kind)
    }

    /// A section's place in the file and its checksum.
    pub fn section_info(&self, kind: SectionKind) -> Section {
        self.sections.info(kind)
    }

    /// All bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Every tensor's entry, in file order.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + 'a {
        let (rows, _) = self.section(SectionKind::Tensors).as_chunks::<ENTRY_LEN>();
        rows.iter().filter_map(Entry::parse)
    }

    /// A weight matrix, if the image has it; the first expert's, where each expert has its own. `layer` is ignored for
    /// matrices outside the layers.
    pub fn matrix(&self, role: Role, layer: usize) -> Option<Matrix<'a>> {
        self.experts_matrix(role, layer)?.of(0)
    }

    /// A weight matrix of each expert.
    pub fn experts_matrix(&self, role: Role, layer: usize) -> Option<Experts<'a>> {
        let entry = self.entry(role, layer)?;
        let Storage::Tiles(geometry) = entry.storage else { return None };
        let weights = self.section(SectionKind::Weights);
        Some(Experts {
            geometry,
            bytes: weights.get(entry.offset..)?,
            count: entry.experts,
            stride: entry.expert_stride,
        })
    }

    /// A vector of f32 (a norm's weights, a bias), if the image has it. Where each expert has its own, all of them
    /// follow each other.
    pub fn vector(&self, role: Role, layer: usize) -> Option<&'a [f32]> {
        let entry = self.entry(role, layer)?;
        table::vector(&entry, self.section(SectionKind::Weights))
    }

    fn entry(&self, role: Role, layer: usize) -> Option<Entry> {
        table::find(self.section(SectionKind::Tensors), role, layer)
    }
}

/// A weight matrix of which every expert has its own.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    geometry: Geometry,
    /// The bytes from the first expert's matrix on.
    bytes: &'a [u8],
    count: usize,
    stride: usize,
}

impl<'a> Experts<'a> {
    /// An expert's matrix; `None` when there is no such expert.
    pub fn of(&self, expert: usize) -> Option<Matrix<'a>> {
        let bytes = self.bytes.get(expert.checked_mul(self.stride)?..)?;
        if expert < self.count.max(1) { Matrix::new(self.geometry, bytes).ok() } else { None }
    }
}
