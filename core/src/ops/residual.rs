//! The steps around a block's operation: reading its input from the residual stream, and adding its output to it.

use super::buffer::Rows;
use super::for_ranges;
use crate::error::Error;
use crate::exec::Executor;
use crate::format::BLOCK;
use crate::image::arch::{Norm, Norming, Norms};
use crate::image::{Image, Role};
use crate::kernels::Kernels;

/// A norm with its weights.
#[derive(Clone, Copy)]
pub struct NormWeights<'a> {
    norm: Norm,
    weight: &'a [f32],
    bias: &'a [f32],
}

impl<'a> NormWeights<'a> {
    /// The weights of `norm`, where there is one.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(
        image: &Image<'a>,
        norm: Option<Norm>,
        [weight, bias]: [Role; 2],
        layer: usize,
    ) -> Result<Option<Self>, Error> {
        let Some(norm) = norm else { return Ok(None) };
        let vector = |role: Role| image.vector(role, layer).ok_or(Error::MissingTensor(role.name()));
        let bias = if norm.kind == Norming::Layer { vector(bias)? } else { &[] };
        Ok(Some(NormWeights { norm, weight: vector(weight)?, bias }))
    }

    /// `out = norm(x)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn apply(&self, kernels: &Kernels, x: &[f32], out: &mut [f32]) {
        match self.norm.kind {
            Norming::Rms => kernels.rms_norm(x, self.weight, self.norm.eps, out),
            Norming::Layer => kernels.layer_norm(x, self.weight, self.bias, self.norm.eps, out),
        }
    }
}

/// The norms of a block.
#[derive(Clone, Copy)]
pub struct BlockNorms<'a> {
    /// The norm of the operation's input.
    pub input: Option<NormWeights<'a>>,
    output: Option<NormWeights<'a>>,
    stream: Option<NormWeights<'a>>,
}

/// Weights and biases of a block's norms: input, output, stream.
pub type NormRoles = [[Role; 2]; 3];

/// The norms of attention.
pub const ATTENTION_NORMS: NormRoles = [
    [Role::AttnNorm, Role::AttnNormBias],
    [Role::AttnOutNorm, Role::AttnOutNormBias],
    [Role::AttnStreamNorm, Role::AttnStreamNormBias],
];
/// The norms of the feed-forward network.
pub const MLP_NORMS: NormRoles = [
    [Role::FfnNorm, Role::FfnNormBias],
    [Role::FfnOutNorm, Role::FfnOutNormBias],
    [Role::FfnStreamNorm, Role::FfnStreamNormBias],
];

impl<'a> BlockNorms<'a> {
    /// The norms of a layer's block.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(image: &Image<'a>, norms: &Norms, roles: &NormRoles, layer: usize) -> Result<Self, Error> {
        let get = |norm, i: usize| NormWeights::get(image, norm, roles[i], layer);
        Ok(BlockNorms { input: get(norms.input, 0)?, output: get(norms.output, 1)?, stream: get(norms.stream, 2)? })
    }
}

/// `to = norm(from)` or `to = from` for the first rows, and their quants if `int8`.
pub fn prepare(
    exec: &dyn Executor,
    kernels: &Kernels,
    norm: Option<&NormWeights>,
    (from, to): (&[f32], &mut Rows),
    tokens: usize,
    int8: bool,
) {
    let width = to.width;
    let to = to.share();
    for_ranges(exec, tokens, &|range| {
        for t in range {
            // SAFETY: no other range of `for_ranges` has row t.
            unsafe {
                let (x, row) = (&from[t * width..(t + 1) * width], to.values(t * width..(t + 1) * width));
                match norm {
                    Some(norm) => {
                        let d = norm.weight.len();
                        norm.apply(kernels, &x[..d], &mut row[..d]);
                    }
                    None => row.copy_from_slice(x),
                }
                if int8 {
                    to.quantize(kernels, t * width, row);
                }
            }
        }
    });
}

/// Quantizes the first rows.
pub fn quantize(exec: &dyn Executor, kernels: &Kernels, rows: &mut Rows, tokens: usize) {
    let width = rows.width;
    let rows = rows.share();
    for_ranges(exec, tokens * width / BLOCK, &|range| {
        let part = range.start * BLOCK..range.end * BLOCK;
        // SAFETY: no other range of `for_ranges` has this block.
        unsafe { rows.quantize(kernels, part.start, rows.values(part)) };
    });
}

/// `x = stream(x + output(y))` in the first rows; `room` [tokens, width of x] is overwritten.
pub fn add(
    exec: &dyn Executor,
    kernels: &Kernels,
    norms: &BlockNorms,
    (x, d): (&mut Rows, usize),
    (y, y_width): (&[f32], usize),
    room: &mut Rows,
    tokens: usize,
) {
    let width = x.width;
    let (x, room) = (x.share(), room.share());
    for_ranges(exec, tokens, &|range| {
        for t in range {
            let (at, y) = (t * width..t * width + d, &y[t * y_width..t * y_width + d]);
            // SAFETY: no other range of `for_ranges` has row t of either.
            let (x, room) = unsafe { (x.values(at.clone()), room.values(at)) };
            let y = match &norms.output {
                Some(norm) => {
                    norm.apply(kernels, y, room);
                    &*room
                }
                None => y,
            };
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            if let Some(norm) = &norms.stream {
                room.copy_from_slice(x);
                norm.apply(kernels, room, x);
            }
        }
    });
}
