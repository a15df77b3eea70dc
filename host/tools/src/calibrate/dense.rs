//! A packed model's weights as plain matrices, without the image's padding.

use rayon::prelude::*;
use shadowllm_core::format::BLOCK;
use shadowllm_core::image::roles::Segments;
use shadowllm_core::image::{Image, Role};

/// The image's index of index `i` of the source.
fn padded(s: &Segments, i: usize) -> usize {
    i / s.len * s.padded + i % s.len
}

/// A matrix of the image in floats: (rows, cols) of the source and its numbers without padding; `None` when the image
/// has none. `layer` is ignored for matrices outside the layers.
pub fn dense_rows(image: &Image, role: Role, layer: usize) -> Option<((usize, usize), Vec<f32>)> {
    let matrix = image.matrix(role, layer)?;
    let blocks = image.arch().layer(layer);
    let place = image.arch().place(role, &blocks, layer)?;
    let ((rows, cols), row_of, col_of) = (role.shape(&place), role.outputs(&place), role.inputs(&place));
    let mut all = vec![0.0; rows * cols];
    all.par_chunks_exact_mut(cols).enumerate().for_each(|(r, out)| {
        for kb in 0..matrix.geometry().k_blocks {
            let block = matrix.block(padded(&row_of, r), kb);
            for (k, x) in block.iter().enumerate() {
                if let Some(c) = col_of.source(kb * BLOCK + k) {
                    out[c] = *x;
                }
            }
        }
    });
    Some(((rows, cols), all))
}

/// A vector of the image without padding; `None` when the image has none.
pub fn dense_vector(image: &Image, role: Role, layer: usize) -> Option<Vec<f32>> {
    let vector = image.vector(role, layer)?;
    let blocks = image.arch().layer(layer);
    let place = image.arch().place(role, &blocks, layer)?;
    let (len, segments) = (role.shape(&place).0, role.outputs(&place));
    (0..len).map(|i| vector.get(padded(&segments, i)).copied()).collect()
}
