//! Tables of the kernels that one model needs, for programs that must be small.

use super::table::SCALAR;
use super::{Activation, Kernels, KvFormat, SHAPES};
use crate::cpu::Isa;
use crate::error::Error;
use crate::format::{Arithmetic, Format, Order, Shape};

/// The kernels that a model needs; `shadowllm inspect` lists those of an image.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Formats and orders of its matrices, and of the predictor's if it will be used.
    pub matrices: &'a [(Format, Order)],
    /// Formats of KV caches.
    pub kv: &'a [KvFormat],
    /// Activations (and [`Activation::Relu`] if a predictor is used).
    pub activations: &'a [Activation],
    /// Whether there are norms without bias (or norms of heads).
    pub rms_norm: bool,
    /// Whether there are norms with bias.
    pub layer_norm: bool,
    /// Whether positions are given by rotation (RoPE).
    pub rope: bool,
    /// Whether logits are scaled or capped, or scores of attention capped.
    pub caps: bool,
}

impl Needs<'_> {
    /// No kernels, as a base for struct updates.
    pub const NOTHING: Needs<'static> = Needs {
        matrices: &[],
        kv: &[],
        activations: &[],
        rms_norm: false,
        layer_norm: false,
        rope: false,
        caps: false,
    };
}

impl Kernels {
    /// Portable kernels for these needs only. Nothing refers to the other kernels, so the linker leaves them out; a
    /// session of a model that needs them is refused ([`Error::MissingKernel`]).
    ///
    /// ```
    /// use shadowllm_core::format::Order;
    /// use shadowllm_core::kernels::{Activation, KvFormat, Needs};
    /// use shadowllm_core::{Format, Kernels};
    ///
    /// // An OPT model, `pack --format q4_0 --layout dense`.
    /// static KERNELS: Kernels = Kernels::portable(&Needs {
    ///     matrices: &[(Format::Q4_0, Order::Rows), (Format::Q4_0, Order::Columns)],
    ///     kv: &[KvFormat::F16],
    ///     activations: &[Activation::Relu],
    ///     layer_norm: true,
    ///     ..Needs::NOTHING
    /// });
    /// ```
    pub const fn portable(needs: &Needs) -> Kernels {
        let mut table = Kernels {
            isa: Isa::Scalar,
            alone: false,
            matrix: [[None; SHAPES]; Arithmetic::COUNT],
            quantize: None,
            select: SCALAR.select,
            rms_norm: if needs.rms_norm { SCALAR.rms_norm } else { None },
            layer_norm: if needs.layer_norm { SCALAR.layer_norm } else { None },
            activate: [None; Activation::ALL.len()],
            scale_and_cap: if needs.caps { SCALAR.scale_and_cap } else { None },
            attend: [None; 2],
            angles: if needs.rope { SCALAR.angles } else { None },
        };
        let mut i = 0;
        while i < needs.matrices.len() {
            table = table.with_matrix(needs.matrices[i].0, needs.matrices[i].1);
            i += 1;
        }
        i = 0;
        while i < needs.kv.len() {
            let at = needs.kv[i] as usize;
            table.attend[at] = SCALAR.attend[at];
            i += 1;
        }
        i = 0;
        while i < needs.activations.len() {
            let at = needs.activations[i] as usize;
            table.activate[at] = SCALAR.activate[at];
            i += 1;
        }
        table
    }

    const fn with_matrix(mut self, format: Format, order: Order) -> Kernels {
        let at = format.arithmetic() as usize;
        let [one, several] = order.shapes(format.arithmetic());
        self.matrix[at][one as usize] = SCALAR.matrix[at][one as usize];
        self.matrix[at][several as usize] = SCALAR.matrix[at][several as usize];
        if format.takes_int8() && !order.is_along_outputs() {
            self.quantize = SCALAR.quantize;
        }
        self
    }

    /// Checks that all kernels that a model needs are present.
    ///
    /// # Errors
    /// [`Error::MissingKernel`] names the first missing kernel.
    pub(crate) fn supports(&self, needs: &Needs) -> Result<(), Error> {
        let supported = |(format, order): &(Format, Order)| {
            let has = |shape: Shape| self.matrix[format.arithmetic() as usize][shape as usize].is_some();
            order.shapes(format.arithmetic()).into_iter().all(has)
        };
        if let Some((format, order)) = needs.matrices.iter().find(|m| !supported(m)) {
            return Err(Error::MissingKernel(format.name(), order.name()));
        }
        if needs.kv.iter().any(|kv| self.attend[*kv as usize].is_none()) {
            return Err(Error::MissingKernel("this format", "of KV caches"));
        }
        if let Some(kind) = needs.activations.iter().find(|kind| self.activate[**kind as usize].is_none()) {
            return Err(Error::MissingKernel(kind.name(), "activation"));
        }
        let missing = [
            (needs.rms_norm && self.rms_norm.is_none(), "norms", "without bias"),
            (needs.layer_norm && self.layer_norm.is_none(), "norms", "with bias"),
            (needs.rope && self.angles.is_none(), "rotary", "positions"),
            (needs.caps && self.scale_and_cap.is_none(), "caps", "of logits or scores"),
        ];
        missing.into_iter().find(|m| m.0).map_or(Ok(()), |m| Err(Error::MissingKernel(m.1, m.2)))
    }
}
