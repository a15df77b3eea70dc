//! The parts of a differentiable model: linear maps, norms, activations, read from an image.

use super::dense::{dense_rows, dense_vector};
use super::failure::Result;
use candle_core::{D, Device, Tensor};
use shadowllm_core::image::{Image, Kind, Norm};
use shadowllm_core::kernels::Activation;

/// Shorthand: candle's errors become the host's where [`super::autograd`] is left.
pub type Tensors<T> = candle_core::Result<T>;

/// `w x + b`.
pub struct Linear {
    /// [outputs, inputs].
    weight: Tensor,
    /// `[outputs]`.
    bias: Option<Tensor>,
}

/// Weights of a norm.
pub struct Normalise {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

/// A layer's weights.
pub struct Layer {
    pub attention_norm: Normalise,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// RMS norms of each query and key head.
    pub head_norms: Option<(Normalise, Normalise)>,
    pub ffn_norm: Normalise,
    gate: Option<Linear>,
    up: Linear,
    pub down: Linear,
}

/// Reads tensors of an image.
pub struct Reader<'a>(pub &'a Image<'a>);

impl Reader<'_> {
    pub fn vector(&self, kind: Kind, layer: usize) -> Result<Option<Tensor>> {
        Ok(dense_vector(self.0, kind, layer).map(|x| Tensor::new(x, &Device::Cpu)).transpose()?)
    }

    pub fn matrix(&self, kind: Kind, layer: usize) -> Result<Option<Tensor>> {
        let Some(((rows, cols), x)) = dense_rows(self.0, kind, layer) else { return Ok(None) };
        Ok(Some(Tensor::from_vec(x, (rows, cols), &Device::Cpu)?))
    }

    pub fn linear(&self, kind: Kind, bias: Option<Kind>, layer: usize) -> Result<Option<Linear>> {
        let Some(weight) = self.matrix(kind, layer)? else { return Ok(None) };
        let bias = bias.map(|kind| self.vector(kind, layer)).transpose()?.flatten();
        Ok(Some(Linear { weight, bias }))
    }

    pub fn norm(&self, kind: Kind, bias: Option<Kind>, layer: usize) -> Result<Option<Normalise>> {
        let Some(weight) = self.vector(kind, layer)? else { return Ok(None) };
        let c = self.0.config();
        let bias = bias.filter(|_| c.norm == Norm::Layer).map(|kind| self.vector(kind, layer)).transpose()?.flatten();
        Ok(Some(Normalise { weight, bias, eps: f64::from(c.norm_eps) }))
    }

    pub fn layer(&self, layer: usize) -> Result<Layer> {
        let linear = |kind, bias| need(self.linear(kind, Some(bias), layer)?, kind);
        let norm = |kind, bias| need(self.norm(kind, Some(bias), layer)?, kind);
        Ok(Layer {
            attention_norm: norm(Kind::AttnNorm, Kind::AttnNormBias)?,
            q: linear(Kind::Q, Kind::QBias)?,
            k: linear(Kind::K, Kind::KBias)?,
            v: linear(Kind::V, Kind::VBias)?,
            o: linear(Kind::O, Kind::OBias)?,
            head_norms: self.norm(Kind::QNorm, None, layer)?.zip(self.norm(Kind::KNorm, None, layer)?),
            ffn_norm: norm(Kind::FfnNorm, Kind::FfnNormBias)?,
            gate: self.linear(Kind::Gate, Some(Kind::GateBias), layer)?,
            up: linear(Kind::Up, Kind::UpBias)?,
            down: linear(Kind::Down, Kind::DownBias)?,
        })
    }
}

/// A tensor that must be there.
pub fn need<T>(found: Option<T>, kind: Kind) -> Result<T> {
    Ok(found.ok_or(shadowllm_core::Error::MissingTensor(kind.name()))?)
}

impl Linear {
    /// [tokens, inputs] to [tokens, outputs].
    pub fn forward(&self, x: &Tensor) -> Tensors<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Normalise {
    /// Rows as wide as the weight.
    pub fn forward(&self, x: &Tensor, norm: Norm) -> Tensors<Tensor> {
        let x = if norm == Norm::Layer { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
        let scale = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, self.eps)?.sqrt()?;
        let y = x.broadcast_div(&scale)?.broadcast_mul(&self.weight)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Layer {
    /// Neurons, and in gated FFNs what the gates multiply: [tokens, ffn] both.
    pub fn neurons(&self, x: &Tensor, activation: Activation) -> Tensors<(Tensor, Option<Tensor>)> {
        let up = self.up.forward(x)?;
        match &self.gate {
            Some(gate) => Ok(((activate(&gate.forward(x)?, activation)? * &up)?, Some(up))),
            None => Ok((activate(&up, activation)?, None)),
        }
    }
}

fn activate(x: &Tensor, activation: Activation) -> Tensors<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Relu => x.relu(),
        Activation::Relu2 => x.relu()?.sqr(),
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
    }
}
