//! The choice of a format for each matrix: that of its source, if the matrix's order can hold it, or the one that the
//! user chose.

use super::{Data, Formats};
use crate::import::SourceTensor;
use crate::import::gguf::GgmlType;
use shadowllm_core::Format;
use shadowllm_core::image::Role;
use shadowllm_core::image::roles::Place;

/// The format of a matrix.
///
/// # Errors
/// When a matrix cannot have the format that the user chose: names the tensor and the way out.
pub fn choose(formats: Formats, role: Role, place: &Place, tensor: &SourceTensor) -> Result<Format, String> {
    let fits = |format: Format| role.geometry(place, format).span().is_some();
    let order = role.order(place);
    // Blocks of a source run along the inputs; single numbers can be in any order.
    let whole =
        |kind: GgmlType| !kind.is_quantized() || (!order.is_along_outputs() && role.inputs(place).keeps_blocks());
    let own = tensor.own_kind().filter(|kind| whole(*kind)).and_then(GgmlType::format).filter(|own| fits(*own));
    let Some(asked) = formats.of(role) else {
        // If the order cannot hold the source's blocks, numbers are rounded again to the same format, or to one that is
        // close to every number.
        let again = || tensor.kind().and_then(GgmlType::format).filter(|f| f.has_encoder() && fits(*f));
        return Ok(own.or_else(again).unwrap_or(Format::Q8_0));
    };
    let name = asked.name();
    if own != Some(asked) && !asked.has_encoder() {
        return Err(format!(
            "tensor {} cannot be rounded to {name}, whose blocks can only be taken over from a file that has them in this \
             layout: choose another --format, or leave it out to keep the file's own numbers",
            tensor.name
        ));
    }
    if !fits(asked) {
        return Err(format!(
            "tensor {} cannot be stored as {name} in this layout (its blocks lie in {}): choose another --format or \
             --layout dense",
            tensor.name,
            order.name()
        ));
    }
    Ok(asked)
}

/// The name of a tensor's type in the source.
pub fn source_name(tensor: &SourceTensor) -> &'static str {
    match &tensor.data {
        Data::Bytes { kind, .. } => kind.name(),
        Data::Int4(words) => words.name(),
        Data::Random { .. } => "random numbers",
        Data::Constant(_) => "a constant",
    }
}
