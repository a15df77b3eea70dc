//! The tensor table: an entry for every tensor, sorted, so that one is found by halving. Layers of different kinds may
//! hold different tensors.

use super::arch::{Architecture, Layer};
use super::head::{u32_at, u64_at};
use super::roles::{Place, ROLES, Role, Scope};
use crate::error::Error;
use crate::format::{Format, Geometry, Matrix, Order, TILE_ROWS};

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;
/// The `layer` of tensors that the model has once.
pub const GLOBAL: u16 = u16::MAX;

/// How a tensor's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Consecutive f32.
    Vector {
        /// How many.
        len: usize,
    },
    /// Tiles.
    Tiles(Geometry),
}

/// A row of the tensor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub role: Role,
    /// Layer, number of the table of rotary frequencies, or [`GLOBAL`].
    pub layer: u16,
    /// Rows in the source model (outputs).
    pub rows: usize,
    /// Columns in the source model (inputs), 1 for vectors.
    pub cols: usize,
    /// First byte in the weights section.
    pub offset: usize,
    /// How to read it; one expert's, where each has its own.
    pub storage: Storage,
    /// How many experts have one; 0 where it is no expert's.
    pub experts: usize,
    /// Bytes from one expert's to the next one's.
    pub expert_stride: usize,
}

/// Format code of vectors.
const VECTOR: u8 = 255;

impl Entry {
    /// Where the entry stands among the others: first what the model has once, then layer by layer, by role.
    pub fn key(&self) -> (u32, Role, u16) {
        key_of(self.role, self.layer)
    }

    /// Weight bytes of one (expert's), without what lies between groups.
    pub fn bytes_of_one(&self) -> usize {
        match self.storage {
            Storage::Vector { len } => 4 * len,
            Storage::Tiles(g) => g.weight_bytes(),
        }
    }

    /// Weight bytes, of all experts.
    pub fn bytes(&self) -> usize {
        self.bytes_of_one() * self.experts.max(1)
    }

    /// First byte of the last expert's, or of the one where it is no expert's.
    fn last_start(&self) -> Option<usize> {
        self.experts.saturating_sub(1).checked_mul(self.expert_stride)?.checked_add(self.offset)
    }

    /// Reads a row.
    pub(super) fn parse(raw: &[u8]) -> Result<Entry, Error> {
        let bad = Error::Malformed("the tensor table has an unknown role, format or order");
        let role = Role::from_code(raw[0]).ok_or(bad)?;
        let n = |i: usize| u32_at(raw, i) as usize;
        let storage = if raw[1] == VECTOR {
            Storage::Vector { len: n(16) }
        } else {
            if raw[3] as usize != TILE_ROWS {
                return Err(bad);
            }
            Storage::Tiles(Geometry {
                format: Format::from_code(raw[1]).ok_or(bad)?,
                order: Order::from_code(raw[2]).ok_or(bad)?,
                panels: n(16),
                k_blocks: n(20),
                units_per_group: n(24),
                group_width: n(28),
                group_stride: usize::try_from(u64_at(raw, 40)).map_err(|_| bad)?,
            })
        };
        Ok(Entry {
            role,
            layer: u16::from_le_bytes([raw[4], raw[5]]),
            rows: n(8),
            cols: n(12),
            offset: usize::try_from(u64_at(raw, 32)).map_err(|_| bad)?,
            storage,
            experts: n(48),
            expert_stride: usize::try_from(u64_at(raw, 56)).map_err(|_| bad)?,
        })
    }

    /// Writes a row.
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let mut raw = [0; ENTRY_LEN];
        raw[0] = self.role as u8;
        raw[4..6].copy_from_slice(&self.layer.to_le_bytes());
        let mut put = |at: usize, n: usize| raw[at..at + 4].copy_from_slice(&(n as u32).to_le_bytes());
        put(8, self.rows);
        put(12, self.cols);
        let (codes, stride) = match self.storage {
            Storage::Vector { len } => {
                put(16, len);
                ([VECTOR, 0, 0], 0)
            }
            Storage::Tiles(g) => {
                put(16, g.panels);
                put(20, g.k_blocks);
                put(24, g.units_per_group);
                put(28, g.group_width);
                ([g.format as u8, g.order as u8, TILE_ROWS as u8], g.group_stride)
            }
        };
        raw[1..4].copy_from_slice(&codes);
        raw[32..40].copy_from_slice(&(self.offset as u64).to_le_bytes());
        raw[40..48].copy_from_slice(&(stride as u64).to_le_bytes());
        raw[48..52].copy_from_slice(&(self.experts as u32).to_le_bytes());
        raw[56..64].copy_from_slice(&(self.expert_stride as u64).to_le_bytes());
        raw
    }
}

/// The `layer` field of a role's entry: what it is asked for by, or [`GLOBAL`] for what the model has once.
fn index_of(role: Role, layer: usize) -> Option<u16> {
    if role.row().scope == Scope::Model { Some(GLOBAL) } else { u16::try_from(layer).ok().filter(|l| *l != GLOBAL) }
}

/// The entry of a tensor. `layer` is the number of the table for rotary frequencies, and is ignored for what the model
/// has once.
pub(super) fn find(table: &[u8], role: Role, layer: usize) -> Option<Entry> {
    let wanted = key_of(role, index_of(role, layer)?);
    let (rows, _) = table.as_chunks::<ENTRY_LEN>();
    // A key is read from four bytes: the other fields of the entries on the way are of no interest.
    let key =
        |raw: &[u8; ENTRY_LEN]| Role::from_code(raw[0]).map(|role| key_of(role, u16::from_le_bytes([raw[4], raw[5]])));
    let at = rows.binary_search_by_key(&Some(wanted), key).ok()?;
    Entry::parse(&rows[at]).ok()
}

/// Where an entry stands among the others: first what the model has once, then layer by layer, by role.
fn key_of(role: Role, index: u16) -> (u32, Role, u16) {
    match role.in_layers() {
        true => (u32::from(index) + 1, role, 0),
        false => (0, role, index),
    }
}

/// Checks the whole table against the weights section and the architecture: every entry fits, none is there twice, every
/// tensor that is needed is there and none that is not.
pub(super) fn check(table: &[u8], weights: &[u8], arch: &Architecture) -> Result<(), Error> {
    let bad = Error::Malformed("the tensor table is not in order");
    if !table.len().is_multiple_of(ENTRY_LEN) {
        return Err(bad);
    }
    let mut before = None;
    let mut tables = table.chunks_exact(ENTRY_LEN);
    let mut next = tables.next().map(Entry::parse).transpose()?;
    for group in 0..=arch.globals().layers {
        let layer = group.checked_sub(1).map(|l| arch.layer(l)).unwrap_or_default();
        let mut seen = [0u8; ROLES.len()];
        while let Some(entry) = next.filter(|e| e.key().0 as usize == group) {
            if before.is_some_and(|key| entry.key() <= key)
                || Some(entry.layer) != index_of(entry.role, entry.layer.into())
            {
                return Err(bad);
            }
            let place =
                arch.place(entry.role, &layer, entry.layer.into()).ok_or(Error::BadTensor(entry.role.name()))?;
            check_entry(&entry, weights, &place)?;
            before = Some(entry.key());
            seen[entry.role as usize] += 1;
            next = tables.next().map(Entry::parse).transpose()?;
        }
        require(arch, group, &layer, &seen)?;
    }
    if next.is_some() { Err(bad) } else { Ok(()) }
}

/// Every tensor of a layer (or those of the model, group 0) that is needed was seen, and no other.
fn require(arch: &Architecture, group: usize, layer: &Layer, seen: &[u8; ROLES.len()]) -> Result<(), Error> {
    for row in ROLES.iter().filter(|row| row.role.in_layers() == (group > 0)) {
        let needed = match row.scope {
            Scope::Rope => Some(arch.globals().ropes > 0),
            _ => match arch.place(row.role, layer, 0) {
                Some(place) => row.role.needed(&place),
                None => Some(false),
            },
        };
        let count = usize::from(seen[row.role as usize]);
        let enough = count > 0 && (row.scope != Scope::Rope || count == arch.globals().ropes);
        match needed {
            Some(true) if !enough => return Err(Error::MissingTensor(row.name)),
            Some(false) if count > 0 => return Err(Error::BadTensor(row.name)),
            _ => {}
        }
    }
    Ok(())
}

fn check_entry(e: &Entry, weights: &[u8], place: &Place) -> Result<(), Error> {
    let bad = Error::BadTensor(e.role.name());
    if e.experts != e.role.experts(place) || e.experts == 0 && e.expert_stride != 0 {
        return Err(bad);
    }
    let rest = weights.get(e.offset..).ok_or(bad)?;
    // Strides are equal: where the last expert's has room, all have.
    let last = e.last_start().and_then(|at| weights.get(at..)).ok_or(bad)?;
    let fits = match e.storage {
        Storage::Vector { len } => {
            let aligned = rest.as_ptr().addr().is_multiple_of(super::ALIGN);
            let one_after_the_other = e.experts == 0 || e.expert_stride == 4 * len;
            let within = len.checked_mul(4).is_some_and(|n| n <= rest.len() && n <= last.len());
            !e.role.is_matrix() && len == e.role.outputs(place).width() && aligned && within && one_after_the_other
        }
        Storage::Tiles(g) => {
            Matrix::new(g, rest).and_then(|_| Matrix::new(g, last)).map_err(|_| bad)?;
            // Groups may stand further apart than those of a matrix alone.
            let alone = e.role.geometry(place, g.format);
            e.role.is_matrix() && g == Geometry { group_stride: g.group_stride, ..alone }
        }
    };
    if fits { Ok(()) } else { Err(bad) }
}
