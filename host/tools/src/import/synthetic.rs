//! Models of a known shape with random weights, for measuring speed.

use super::families::{PLAIN, scale};
use super::{Data, Reading, Source, SourceTensor, Spec};
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::{Attention, Block, Globals, Layer, Mlp, Norm, Norming, Norms, Op};
use shadowllm_core::image::roles::Place;
use shadowllm_core::kernels::Activation;
use shadowllm_core::random;
use shadowllm_host::text::Template;
use shadowllm_host::{Error, Result};
use std::path::Path;

/// Shapes by name: layers, d_model, ffn, heads, kv_heads, vocabulary, tied output, ReLU.
type Shape = (&'static str, [usize; 6], bool, bool);

/// All shapes.
pub const SHAPES: [Shape; 6] = [
    ("smollm2-135m", [30, 576, 1536, 9, 3, 49152], true, false),
    ("tinyllama-1.1b", [22, 2048, 5632, 32, 4, 32000], false, false),
    ("llama-2-7b", [32, 4096, 11008, 32, 32, 32000], false, false),
    ("tinyllama-1.1b-relu", [22, 2048, 5632, 32, 4, 32000], false, true),
    ("llama-2-7b-relu", [32, 4096, 11008, 32, 32, 32000], false, true),
    ("tiny", [2, 64, 160, 4, 2, 320], true, false),
];

/// A random model.
pub struct SyntheticSource {
    name: &'static str,
    spec: Spec,
    tied: bool,
}

impl SyntheticSource {
    /// The shape of this name.
    ///
    /// # Errors
    /// Lists the names of all shapes.
    pub fn new(name: &str) -> Result<Self> {
        let Some((name, [layers, d_model, ffn, heads, kv_heads, vocab], tied, relu)) =
            SHAPES.into_iter().find(|s| s.0 == name)
        else {
            let names: Vec<_> = SHAPES.iter().map(|s| s.0).collect();
            return Err(Error::Usage(format!("there is no shape {name}; the shapes are {}", names.join(", "))));
        };
        let head_dim = d_model / heads;
        let norm = Norm { kind: Norming::Rms, eps: 1e-5 };
        let attention =
            Attention { heads, kv_heads, head_dim, rope: Some(0), scale: scale(head_dim), ..Attention::NONE };
        let activation = if relu { Activation::Relu } else { Activation::Silu };
        let mlp = Mlp { neurons: ffn, gated: true, activation, ..PLAIN };
        let globals = Globals {
            d_model,
            d_embed: d_model,
            layers,
            vocab,
            max_positions: 8192,
            ropes: 1,
            final_norm: Some(norm),
            bos: Some(1),
            ..Globals::NONE
        };
        let norms = Norms { input: Some(norm), ..Norms::default() };
        let blocks = [Op::Attention(attention), Op::Mlp(mlp)].map(|op| Block { norms, op });
        let layers = vec![Layer::of(&blocks); layers];
        let frequency = |i| 10_000f64.powf(-(2.0 * i as f64) / head_dim as f64) as f32;
        let ropes = vec![(0..head_dim / 2).map(frequency).collect()];
        let spec = Spec { family: "llama".into(), globals, layers, ropes, ..Spec::default() };
        Ok(SyntheticSource { name, spec, tied })
    }
}

impl Source for SyntheticSource {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn tensor(&self, role: Role, layer: usize) -> Result<Option<SourceTensor<'_>>> {
        let layer_of = self.spec.layers[layer.min(self.spec.layers.len() - 1)];
        let place = Place { globals: &self.spec.globals, block: role.block(&layer_of), rotated: 0 };
        match role.needed(&place) {
            Some(false) => return Ok(None),
            None if self.tied => return Ok(None),
            _ if role.in_layers() && place.block.is_none() || role == Role::RopeFrequencies => return Ok(None),
            _ => {}
        }
        let (rows, cols) = if role.is_matrix() { role.shape(&place) } else { (1, role.shape(&place).0) };
        let data = if rows == 1 {
            Data::Constant(1.0)
        } else {
            Data::Random { seed: (layer as u64) << 8 | role as u64, deviation: 0.02 }
        };
        Ok(Some(SourceTensor {
            name: format!("{}.{layer}", role.name()),
            rows,
            cols,
            data,
            reading: Reading::default(),
        }))
    }

    fn tokenizer(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn chat(&self) -> Result<Template> {
        Ok(Template::default())
    }

    fn origin(&self) -> String {
        format!("random weights of the shape {}", self.name)
    }

    fn path(&self) -> &Path {
        Path::new(self.name)
    }
}

/// Fills `out` with uniform numbers of this standard deviation (SplitMix64, four numbers a step).
pub(super) fn fill(seed: u64, deviation: f32, out: &mut [f32]) {
    let mut state = seed;
    let step = deviation * 12f32.sqrt() / 65536.0;
    for four in out.chunks_mut(4) {
        let z = random::next(&mut state);
        for (i, x) in four.iter_mut().enumerate() {
            *x = (f32::from((z >> (16 * i)) as u16) - 32767.5) * step;
        }
    }
}
