//! A table of tensors: entries of one size, sorted, so that an entry is found by binary search. The weights and the
//! predictor each have a table, with their own type of [`Name`].

use super::Role;
use super::head::{u32_at, u64_at};
use crate::format::{Format, Geometry, Order, TILE_ROWS};

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;
/// The value of `layer` for tensors that do not belong to a layer.
pub const GLOBAL: u16 = u16::MAX;

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Consecutive f32.
    Vector {
        /// Number of floats.
        len: usize,
    },
    /// A matrix of this geometry.
    Tiles(Geometry),
}

/// The names of the tensors of a table.
pub trait Name: Copy + Ord {
    /// The name with this code in an image.
    fn from_code(code: u8) -> Option<Self>;
    /// Its code.
    fn code(self) -> u8;
    /// Whether each layer has its own.
    fn in_layers(self) -> bool;
    /// Whether the model has it once. If not, it has a number: its layer's, or that of a table of rotary frequencies.
    fn once(self) -> bool;
}

/// A row of a table of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<N = Role> {
    /// Its name in the table.
    pub role: N,
    /// Layer, number of the table of rotary frequencies, or [`GLOBAL`].
    pub layer: u16,
    /// Rows in the source model (outputs).
    pub rows: usize,
    /// Columns in the source model (inputs), 1 for vectors.
    pub cols: usize,
    /// First byte in the weights section.
    pub offset: usize,
    /// How its numbers are stored; for one expert's tensor, where each has its own.
    pub storage: Storage,
    /// The number of experts that have one; 0 for a tensor that does not belong to experts.
    pub experts: usize,
    /// Bytes from one expert's tensor to the next expert's.
    pub expert_stride: usize,
}

/// The code of vectors, in place of a format's.
const VECTOR: u8 = 255;

impl<N: Name> Entry<N> {
    /// The sorting key: first the tensors that the model has once, then layer by layer, by role.
    pub fn key(&self) -> (u32, N, u16) {
        key_of(self.role, self.layer)
    }

    /// Whether the entry has a number if its name needs one, and none otherwise.
    pub(crate) fn is_numbered(&self) -> bool {
        index_of(self.role, self.layer.into()) == Some(self.layer)
    }

    /// Weight bytes of one tensor (of one expert's, where each has its own), without the gaps between groups.
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

    /// [`Entry::bytes`], which a hostile table may make more than this machine can address.
    pub(crate) fn bytes_in_all(&self) -> u64 {
        self.bytes_of_one() as u64 * self.experts.max(1) as u64
    }

    /// First byte of the tensor; of the last expert's, where each expert has its own.
    pub(super) fn last_start(&self) -> Option<usize> {
        self.experts.saturating_sub(1).checked_mul(self.expert_stride)?.checked_add(self.offset)
    }

    /// Reads a row; `None` where it has a code that this version does not know.
    pub fn parse(raw: &[u8; ENTRY_LEN]) -> Option<Self> {
        let role = N::from_code(raw[0])?;
        let n = |i: usize| u32_at(raw, i) as usize;
        let storage = if raw[1] == VECTOR {
            Storage::Vector { len: n(16) }
        } else {
            if raw[3] as usize != TILE_ROWS {
                return None;
            }
            Storage::Tiles(Geometry {
                format: Format::from_code(raw[1])?,
                order: Order::from_code(raw[2])?,
                panels: n(16),
                k_blocks: n(20),
                units_per_group: n(24),
                group_width: n(28),
                group_stride: usize::try_from(u64_at(raw, 40)).ok()?,
            })
        };
        Some(Entry {
            role,
            layer: u16::from_le_bytes([raw[4], raw[5]]),
            rows: n(8),
            cols: n(12),
            offset: usize::try_from(u64_at(raw, 32)).ok()?,
            storage,
            experts: n(48),
            expert_stride: usize::try_from(u64_at(raw, 56)).ok()?,
        })
    }

    /// Writes a row.
    pub fn to_bytes(&self) -> [u8; ENTRY_LEN] {
        let mut raw = [0; ENTRY_LEN];
        raw[0] = self.role.code();
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

/// The `layer` field of a name's entry: its number, or [`GLOBAL`] for tensors that the model has once.
fn index_of<N: Name>(name: N, number: usize) -> Option<u16> {
    if name.once() { Some(GLOBAL) } else { u16::try_from(number).ok().filter(|l| *l != GLOBAL) }
}

/// The sorting key: first the tensors that the model has once, then layer by layer, by name.
fn key_of<N: Name>(name: N, index: u16) -> (u32, N, u16) {
    match name.in_layers() {
        true => (u32::from(index) + 1, name, 0),
        false => (0, name, index),
    }
}

/// The entry of a tensor; `number` is ignored for tensors that the model has once.
pub fn find<N: Name>(table: &[u8], name: N, number: usize) -> Option<Entry<N>> {
    let wanted = key_of(name, index_of(name, number)?);
    let (rows, _) = table.as_chunks::<ENTRY_LEN>();
    // The search reads only the three bytes of each key, and parses only the entry that it finds.
    let key = |raw: &[u8; ENTRY_LEN]| N::from_code(raw[0]).map(|n| key_of(n, u16::from_le_bytes([raw[4], raw[5]])));
    let at = rows.binary_search_by_key(&Some(wanted), key).ok()?;
    Entry::parse(&rows[at])
}

/// The floats of an entry that is a vector; the entry's offset counts from the start of `bytes`.
pub fn vector<'a, N: Name>(entry: &Entry<N>, bytes: &'a [u8]) -> Option<&'a [f32]> {
    let Storage::Vector { len } = entry.storage else { return None };
    let raw = bytes.get(entry.offset..)?.get(..len.checked_mul(4)?.checked_mul(entry.experts.max(1))?)?;
    let (chunks, _) = raw.as_chunks::<4>();
    if !raw.as_ptr().addr().is_multiple_of(align_of::<f32>()) {
        return None;
    }
    // SAFETY: the address is aligned (checked above), there are as many 4-byte chunks as floats, every bit pattern is a
    // float, and the target is little-endian (checked at compile time).
    Some(unsafe { core::slice::from_raw_parts(chunks.as_ptr().cast(), chunks.len()) })
}
