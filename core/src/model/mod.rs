//! A model, and sessions that run it.

mod attention;
mod buffers;
mod feed_forward;
mod forward;
mod layers;
mod mixture;
mod session;
mod speculate;
mod state;
mod totals;

pub use crate::kernels::KvFormat;
pub use session::{Observer, Session, SessionOptions};
pub use speculate::{Guess, lookup};
pub use totals::{Totals, Traffic};

use crate::cpu::Cpu;
use crate::error::Error;
use crate::format::Geometry;
use crate::image::arch::{Attention, HeadNorm, Norming};
use crate::image::{Config, Entry, GLOBAL, Image, Role, SectionKind, Storage};
use crate::kernels::{Activation, Kernels, Needs};
use crate::sparsity::Predictor;

/// A parsed image with the kernels that will run it. A small value without memory of its own.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    image: Image<'a>,
    kernels: &'static Kernels,
}

impl<'a> Model<'a> {
    /// Parses an image and takes the fastest kernels of this processor.
    ///
    /// # Errors
    /// See [`Image::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        Ok(Self::new(Image::parse(bytes)?, Kernels::best(Cpu::detect())))
    }

    /// A model from a parsed image and chosen kernels.
    pub fn new(image: Image<'a>, kernels: &'static Kernels) -> Self {
        Model { image, kernels }
    }

    /// The image.
    pub fn image(&self) -> &Image<'a> {
        &self.image
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        self.image.config()
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The predictor in the image, if it was calibrated.
    ///
    /// # Errors
    /// [`Error::ForeignPredictor`], [`Error::BadPredictor`].
    pub fn predictor(&self) -> Result<Option<Predictor<'a>>, Error> {
        match self.image.section(SectionKind::Predictor) {
            [] => Ok(None),
            bytes => Predictor::parse(bytes, &self.image).map(Some),
        }
    }

    /// Checks that no kernel that the model needs was left out.
    fn check_kernels(&self, kv: KvFormat, predictor: Option<&Predictor>) -> Result<(), Error> {
        let matrix =
            |g: &Geometry| self.kernels.supports(&Needs { matrices: &[(g.format, g.order)], ..Needs::NOTHING });
        let tied = self.image.matrix(Role::Output, 0).is_none();
        for entry in self.image.entries() {
            // The rows of an embedding that is not also the output matrix are only looked up, and need no kernel.
            if let Storage::Tiles(g) = entry.storage
                && (tied || entry.role != Role::Embed)
            {
                matrix(&g)?;
            }
        }
        for m in predictor.iter().flat_map(|p| p.matrices()) {
            matrix(m.geometry())?;
        }
        let norms = |kind: Norming| self.image.arch().has_norm(kind);
        let arch = self.image.arch();
        for mlp in arch.kinds().filter_map(|layer| layer.mlp().copied()) {
            self.kernels.supports(&Needs { activations: &[mlp.activation], ..Needs::NOTHING })?;
        }
        let activations: &[Activation] = if predictor.is_some() { &[Activation::Relu] } else { &[] };
        let attention = |has: fn(&Attention) -> bool| arch.kinds().any(|layer| layer.attention().is_some_and(has));
        let g = arch.globals();
        self.kernels.supports(&Needs {
            matrices: &[],
            kv: &[kv],
            activations,
            rms_norm: norms(Norming::Rms) || attention(|a| a.head_norm != HeadNorm::None),
            layer_norm: norms(Norming::Layer),
            rope: g.ropes > 0,
            caps: (g.logit_scale, g.logit_cap) != (1.0, 0.0) || attention(|a| a.cap != 0.0),
        })
    }

    /// Bytes of the matrices of which a policy can skip parts, in layers from 1 on: all of them if it skips inputs; Q,
    /// O, gate, up and down if it skips heads and neurons.
    pub fn skippable_bytes(&self, by_input: bool) -> usize {
        let skippable = |role: Role| match role {
            Role::K | Role::V => by_input,
            Role::Q | Role::O | Role::Gate | Role::Up | Role::Down => true,
            _ => false,
        };
        let later = |e: &Entry| e.layer != 0 && e.layer != GLOBAL && e.experts == 0 && skippable(e.role);
        self.image.entries().filter(later).map(|e| e.bytes()).sum()
    }

    /// Bytes of weights that decoding one token reads densely: everything except the experts that the token does not
    /// use and, of the embedding and the learned positions, all rows but one. An embedding that is also the output
    /// matrix is read whole.
    pub fn weight_bytes_per_token(&self) -> usize {
        let tied = self.image.matrix(Role::Output, 0).is_none();
        let read = |role: Role| match role {
            Role::Embed => tied,
            Role::EmbedPositions | Role::OutputSketch => false,
            _ => true,
        };
        let used = |e: &Entry| match self.image.arch().layer(e.layer.into()).mlp().and_then(|m| m.router) {
            Some(router) if e.experts > 0 => router.used * e.bytes_of_one(),
            _ => e.bytes(),
        };
        self.image.entries().map(|e| if read(e.role) { used(&e) } else { e.bytes() / e.rows.max(1) }).sum()
    }

    /// Bytes of the KV cache that decoding at `position` reads and writes.
    pub fn kv_bytes_per_token(&self, format: KvFormat, position: usize) -> usize {
        let arch = self.image.arch();
        let numbers = |layer: usize| {
            let seen = (position + 1).min(arch.window(layer));
            arch.layer(layer).attention().map_or(0, |a| 2 * seen * a.kv_heads * a.head_width())
        };
        (0..arch.globals().layers).map(numbers).sum::<usize>() * format.bytes()
    }

    /// Whether any weight is stored as plain f32 (then the KV cache should be f32 too).
    pub fn is_f32(&self) -> bool {
        let f32_tiles = |s: Storage| matches!(s, Storage::Tiles(g) if g.format == crate::Format::F32);
        self.image.entries().any(|e| f32_tiles(e.storage))
    }
}
