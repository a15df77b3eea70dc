//! From a tensor in a file to the tensor of the engine: parts of fused tensors, transposed matrices, heads in another
//! order, factors that are folded into weights.

use super::Spec;
use super::families::Stored;
use super::names::{Part, Wanted};
use super::tensor::{Data, Reading, SourceTensor};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::HeadNorm;

/// A tensor as it is in the file.
pub struct Stock<'a> {
    /// Its name.
    pub name: String,
    /// Its dimensions; the last one is the length of a row.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub data: Data<'a>,
}

impl<'a> Stock<'a> {
    /// One expert's tensor, where those of all experts are stacked in one.
    fn of_expert(mut self, spec: &Spec, wanted: Wanted) -> Result<Self, String> {
        let experts = spec.experts(wanted.role, wanted.layer);
        let stacked = if wanted.role.is_matrix() { 3 } else { 2 };
        if experts == 0 || self.shape.len() != stacked {
            return Ok(self);
        }
        if self.shape[0] != experts {
            return Err(format!("tensor {} has {} experts, and not {experts}", self.name, self.shape[0]));
        }
        match &mut self.data {
            Data::Bytes { bytes, .. } => {
                let len = bytes.len() / experts;
                *bytes = bytes.get(wanted.expert * len..(wanted.expert + 1) * len).unwrap_or_default();
            }
            Data::Int4(words) => *words = words.starting_at(wanted.expert * (words.rows() / experts)),
            _ => {}
        }
        self.shape.remove(0);
        Ok(self)
    }
}

/// The tensor of this role.
///
/// # Errors
/// A sentence that names the tensor.
pub fn arrange<'a>(
    spec: &Spec,
    stored: Stored,
    (wanted, part): (Wanted, Part),
    stock: Stock<'a>,
) -> Result<SourceTensor<'a>, String> {
    let Wanted { role, layer, .. } = wanted;
    let stock = stock.of_expert(spec, wanted)?;
    let name = stock.name;
    let (rows, cols) = match stock.shape[..] {
        [] => (1, 1),
        [n] => (1, n),
        [rows, cols] => (rows, cols),
        _ => return Err(format!("tensor {name} has shape {:?}", stock.shape)),
    };
    let mut t = SourceTensor { name, rows, cols, data: stock.data, reading: Reading::default() };
    let turned = matches!(part, Part::Turned | Part::TurnedAlternate(_));
    if (stored.transposed && role.in_layers() || turned) && role.is_matrix() {
        t.reading.transposed = Some(t.cols);
        (t.rows, t.cols) = (t.cols, t.rows);
    }
    let attention = spec.layers.get(layer).and_then(|l| l.attention());
    // A vector's numbers are treated as rows.
    let vector = t.rows == 1 && !role.is_matrix();
    let len = if vector { &mut t.cols } else { &mut t.rows };
    *len = part.take(*len, attention, &mut t.reading).map_err(|e| format!("tensor {} {e}", t.name))?;
    let len = *len;
    if let (Some(a), true) = (attention, rotates(role)) {
        reorder_heads(spec, stored, a.head_dim, len, &mut t.reading);
        // The factor of rotated queries is folded into their norm, if they have one.
        let factor =
            if a.head_norm == HeadNorm::None { role == Role::Q || role == Role::QBias } else { role == Role::QNorm };
        if factor && spec.rotated_factor != 1.0 {
            t.reading.factors = Some((0..len).map(|i| spec.query_factor(i % a.head_dim, a.head_dim)).collect());
        }
    }
    if stored.norms_less_one && is_norm(role) {
        t.reading.plus = 1.0;
    }
    Ok(t)
}

/// Whether a tensor's rows belong to rotated heads.
fn rotates(role: Role) -> bool {
    matches!(role, Role::Q | Role::K | Role::QBias | Role::KBias | Role::QNorm | Role::KNorm)
}

/// Whether it is the weight of a norm.
fn is_norm(role: Role) -> bool {
    role.name().ends_with("norm")
}

/// Puts the rows of heads in the engine's order, in which the first half of each head is rotated with the second half,
/// pair by pair: first the pairs that are rotated, then the others.
fn reorder_heads(spec: &Spec, stored: Stored, head: usize, rows: usize, reading: &mut Reading) {
    let (half, pairs) = (head / 2, spec.rotated / 2);
    if half == 0 || !rows.is_multiple_of(head) || pairs == half && !stored.interleaved {
        return;
    }
    let place = |i: usize| {
        let (pair, second) = (i % half, i / half);
        match (pair < pairs, stored.interleaved) {
            (true, true) => 2 * pair + second,
            (true, false) => pair + second * pairs,
            (false, _) => 2 * pair + second,
        }
    };
    reading.select((0..rows).map(|row| row / head * head + place(row % head)));
}

impl Spec {
    /// Factor of number `i` of a query of `head` numbers.
    fn query_factor(&self, i: usize, head: usize) -> f32 {
        if i % (head / 2).max(1) < self.rotated / 2 { self.rotated_factor } else { 1.0 }
    }
}
