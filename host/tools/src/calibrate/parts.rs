//! The parts of a differentiable model: linear maps, norms, activations, read from an image.

use super::dense::{dense_rows, dense_vector};
use super::failure::Result;
use candle_core::{D, Device, Tensor};
use shadowllm_core::image::arch::{Norm, Norming, Norms};
use shadowllm_core::image::{Image, Role};
use shadowllm_core::kernels::{Activate, Activation};
use shadowllm_core::ops::residual::{ATTENTION_NORMS, MLP_NORMS, NormRoles};

/// A result with candle's error, which [`super::autograd`] converts to the host's.
pub type Tensors<T> = candle_core::Result<T>;

/// `w x + b`.
pub struct Linear {
    /// [outputs, inputs].
    weight: Tensor,
    /// `[outputs]`.
    bias: Option<Tensor>,
}

/// A norm and its weights.
pub struct Normalise {
    kind: Norming,
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

/// The norms around an operation.
pub struct Around {
    input: Option<Normalise>,
    output: Option<Normalise>,
    stream: Option<Normalise>,
}

/// A layer's weights.
pub struct Layer {
    pub attention_norms: Around,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// RMS norms of each query and key head.
    pub head_norms: Option<(Normalise, Normalise)>,
    pub ffn_norms: Around,
    gate: Option<Linear>,
    up: Linear,
    pub down: Linear,
}

/// Reads tensors of an image.
pub struct Reader<'a>(pub &'a Image<'a>);

impl Reader<'_> {
    pub fn vector(&self, role: Role, layer: usize) -> Result<Option<Tensor>> {
        Ok(dense_vector(self.0, role, layer).map(|x| Tensor::new(x, &Device::Cpu)).transpose()?)
    }

    pub fn matrix(&self, role: Role, layer: usize) -> Result<Option<Tensor>> {
        let Some(((rows, cols), x)) = dense_rows(self.0, role, layer) else { return Ok(None) };
        Ok(Some(Tensor::from_vec(x, (rows, cols), &Device::Cpu)?))
    }

    pub fn linear(&self, role: Role, bias: Option<Role>, layer: usize) -> Result<Option<Linear>> {
        let Some(weight) = self.matrix(role, layer)? else { return Ok(None) };
        let bias = bias.map(|role| self.vector(role, layer)).transpose()?.flatten();
        Ok(Some(Linear { weight, bias }))
    }

    /// A norm, if the model has it.
    pub fn norm(&self, norm: Option<Norm>, [weight, bias]: [Role; 2], layer: usize) -> Result<Option<Normalise>> {
        let Some(Norm { kind, eps }) = norm else { return Ok(None) };
        let bias = if kind == Norming::Layer { Some(need(self.vector(bias, layer)?, bias)?) } else { None };
        let weight = need(self.vector(weight, layer)?, weight)?;
        Ok(Some(Normalise { kind, weight, bias, eps: f64::from(eps) }))
    }

    fn around(&self, norms: &Norms, roles: &NormRoles, layer: usize) -> Result<Around> {
        let norm = |norm, i: usize| self.norm(norm, roles[i], layer);
        Ok(Around { input: norm(norms.input, 0)?, output: norm(norms.output, 1)?, stream: norm(norms.stream, 2)? })
    }

    /// RMS norm of heads, if the model has it.
    fn head_norm(&self, role: Role, eps: f32, layer: usize) -> Result<Option<Normalise>> {
        let weight = self.vector(role, layer)?;
        Ok(weight.map(|weight| Normalise { kind: Norming::Rms, weight, bias: None, eps: f64::from(eps) }))
    }

    pub fn layer(&self, layer: usize) -> Result<Layer> {
        let linear = |kind, bias| need(self.linear(kind, Some(bias), layer)?, kind);
        let blocks = self.0.arch().layer(layer);
        let norms = |role: Role| role.block(&blocks).map(|b| b.norms).unwrap_or_default();
        let eps = blocks.attention().map_or(0.0, |a| a.head_norm_eps);
        Ok(Layer {
            attention_norms: self.around(&norms(Role::Q), &ATTENTION_NORMS, layer)?,
            q: linear(Role::Q, Role::QBias)?,
            k: linear(Role::K, Role::KBias)?,
            v: linear(Role::V, Role::VBias)?,
            o: linear(Role::O, Role::OBias)?,
            head_norms: self.head_norm(Role::QNorm, eps, layer)?.zip(self.head_norm(Role::KNorm, eps, layer)?),
            ffn_norms: self.around(&norms(Role::Up), &MLP_NORMS, layer)?,
            gate: self.linear(Role::Gate, Some(Role::GateBias), layer)?,
            up: linear(Role::Up, Role::UpBias)?,
            down: linear(Role::Down, Role::DownBias)?,
        })
    }
}

/// A tensor that the image must have.
pub fn need<T>(found: Option<T>, role: Role) -> Result<T> {
    Ok(found.ok_or(shadowllm_core::Error::MissingTensor(role.name()))?)
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
    /// Norms rows of the weight's width.
    pub fn forward(&self, x: &Tensor) -> Tensors<Tensor> {
        let x = if self.kind == Norming::Layer { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
        let scale = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, self.eps)?.sqrt()?;
        let y = x.broadcast_div(&scale)?.broadcast_mul(&self.weight)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

impl Around {
    /// The operation's input, from the residual stream.
    pub fn before(&self, x: &Tensor) -> Tensors<Tensor> {
        maybe(&self.input, x)
    }

    /// The residual stream after the operation, whose output is `y`.
    pub fn after(&self, x: &Tensor, y: &Tensor) -> Tensors<Tensor> {
        maybe(&self.stream, &(x + maybe(&self.output, y)?)?)
    }
}

fn maybe(norm: &Option<Normalise>, x: &Tensor) -> Tensors<Tensor> {
    norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))
}

impl Layer {
    /// Neurons, and in gated networks also the values that gates multiply: both [tokens, ffn].
    pub fn neurons(&self, x: &Tensor, activation: Activate) -> Tensors<(Tensor, Option<Tensor>)> {
        let up = self.up.forward(x)?;
        match &self.gate {
            Some(gate) => Ok(((activate(&gate.forward(x)?, activation)? * &up)?, Some(up))),
            None => Ok((activate(&up, activation)?, None)),
        }
    }
}

fn activate(x: &Tensor, activation: Activate) -> Tensors<Tensor> {
    match activation.kind {
        Activation::Silu => x.silu(),
        Activation::Relu => x.relu(),
        Activation::Relu2 => x.relu()?.sqr(),
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::FatRelu => x * x.gt(f64::from(activation.parameter))?.to_dtype(x.dtype())?,
        Activation::ClampedSwiglu => candle_core::bail!("this activation has no differentiable copy"),
    }
}
