//! A packed model's weights as plain matrices: the one place that knows how the image pads them.

use crate::pack::layout::{Segments, col_segments, matrix_shape, row_segments, vector_len, vector_segments};
use rayon::prelude::*;
use shadowllm_core::format::BLOCK;
use shadowllm_core::image::{Image, Kind};

/// Where the image has index `i` of the source.
fn padded(s: &Segments, i: usize) -> usize {
    i / s.len * s.padded + i % s.len
}

/// A matrix of the image in floats: (rows, cols) of the source and its numbers without padding; `None` when
/// the image has none. `layer` is ignored for those outside the layers.
pub fn dense_rows(image: &Image, kind: Kind, layer: usize) -> Option<((usize, usize), Vec<f32>)> {
    let matrix = image.matrix(kind, layer)?;
    let (rows, cols) = matrix_shape(kind, image.config())?;
    let (row_of, col_of) = (row_segments(kind, image.config(), rows), col_segments(kind, image.config(), cols));
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
pub fn dense_vector(image: &Image, kind: Kind, layer: usize) -> Option<Vec<f32>> {
    let vector = image.vector(kind, layer)?;
    let len = vector_len(kind, image.config());
    let segments = vector_segments(kind, image.config(), len);
    (0..len).map(|i| vector.get(padded(&segments, i)).copied()).collect()
}
