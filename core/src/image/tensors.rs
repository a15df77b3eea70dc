//! Checks of the weights' tensor table. Layers of different kinds may have different tensors.

use super::arch::{Architecture, Layer};
use super::roles::{Place, ROLES, Role, Scope};
use super::table::{ENTRY_LEN, Entry, Name, Storage};
use crate::error::Error;
use crate::format::{Geometry, Matrix};

impl Name for Role {
    fn from_code(code: u8) -> Option<Self> {
        Role::from_code(code)
    }
    fn code(self) -> u8 {
        self as u8
    }
    fn in_layers(self) -> bool {
        Role::in_layers(self)
    }
    fn once(self) -> bool {
        self.row().scope == Scope::Model
    }
}

fn parse(raw: &[u8; ENTRY_LEN]) -> Result<Entry, Error> {
    Entry::parse(raw).ok_or(Error::Malformed("the tensor table has an unknown role, format or order"))
}

/// Checks the whole table against the weights section and the architecture: every entry fits, none occurs twice, all
/// together are no longer than the section, and every tensor that the model needs is present, and no other.
pub(super) fn check(table: &[u8], weights: &[u8], arch: &Architecture) -> Result<(), Error> {
    let bad = Error::Malformed("the tensor table is not in order");
    let (rows, []) = table.as_chunks::<ENTRY_LEN>() else { return Err(bad) };
    let (mut before, mut left, mut rows) = (None, weights.len() as u64, rows.iter());
    let mut next = rows.next().map(parse).transpose()?;
    for group in 0..=arch.globals().layers {
        let layer = group.checked_sub(1).map(|l| arch.layer(l)).unwrap_or_default();
        let mut seen = [0u8; ROLES.len()];
        while let Some(entry) = next.filter(|e| e.key().0 as usize == group) {
            if before.is_some_and(|key| entry.key() <= key) || !entry.is_numbered() {
                return Err(bad);
            }
            let place =
                arch.place(entry.role, &layer, entry.layer.into()).ok_or(Error::BadTensor(entry.role.name()))?;
            check_entry(&entry, weights, &place)?;
            // Tensors of their own: sums over them, and what is computed with them, stay below the file's length.
            left = left.checked_sub(entry.bytes_in_all()).ok_or(Error::Malformed("tensors overlap"))?;
            before = Some(entry.key());
            seen[entry.role as usize] += 1;
            next = rows.next().map(parse).transpose()?;
        }
        require(arch, group, &layer, &seen)?;
    }
    if next.is_some() { Err(bad) } else { Ok(()) }
}

/// Checks that every needed tensor of a layer (or of the model, for group 0) was seen, and no other.
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
    // Experts' tensors are at equal distances: if the last one fits, all do.
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
            // Groups may be further apart than in a matrix that is stored alone.
            let alone = e.role.geometry(place, g.format);
            e.role.is_matrix() && g == Geometry { group_stride: g.group_stride, ..alone }
        }
    };
    if fits { Ok(()) } else { Err(bad) }
}
