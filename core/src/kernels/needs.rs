//! Tables of kernels with nothing in them but what one model needs, for programs that must be small.

use super::sets::SCALAR;
use super::{Activation, Kernels, KvFormat};
use crate::cpu::Isa;
use crate::error::Error;
use crate::format::{Arithmetic, Format, Order};

/// What a model asks of the kernels; `shadowllm inspect` says it of an image.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Formats and layouts of its matrices, those of a predictor too if it is to be used.
    pub matrices: &'a [(Format, Order)],
    /// Formats of KV caches.
    pub kv: &'a [KvFormat],
    /// Activations ([`Activation::Relu`] besides where a predictor is used).
    pub activations: &'a [Activation],
    /// Whether there are norms without bias (or norms of heads).
    pub rms_norm: bool,
    /// Whether there are norms with bias.
    pub layer_norm: bool,
    /// Whether positions are rotations.
    pub rope: bool,
}

impl Needs<'_> {
    /// Nothing at all, to begin with.
    pub const NOTHING: Needs<'static> =
        Needs { matrices: &[], kv: &[], activations: &[], rms_norm: false, layer_norm: false, rope: false };
}

impl Kernels {
    /// Portable kernels for these needs only. Nothing refers to the others, so that the linker leaves them out; a
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
            gemm: [None; 5],
            gemm_rows: [None; 5],
            gemv_columns: [None; 5],
            gemv_inputs: [None; 5],
            gemm_inputs: [None; 5],
            gemv_codes: [None; 3],
            gemm_codes: [None; 3],
            quantize: None,
            select: SCALAR.select,
            rms_norm: if needs.rms_norm { SCALAR.rms_norm } else { None },
            layer_norm: if needs.layer_norm { SCALAR.layer_norm } else { None },
            activate: [None; 5],
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
        // Floats stored by input are lines like others.
        let codes = if format.takes_int8() { at - Arithmetic::Int8 as usize } else { 0 };
        match order {
            Order::Rows => self.gemm[at] = SCALAR.gemm[at],
            Order::Columns => {
                self.gemm[at] = SCALAR.gemm[at];
                self.gemv_columns[at] = SCALAR.gemv_columns[at];
            }
            Order::RowLines => self.gemm_rows[at] = SCALAR.gemm_rows[at],
            Order::Inputs if format.takes_int8() => {
                self.gemv_codes[codes] = SCALAR.gemv_codes[codes];
                self.gemm_codes[codes] = SCALAR.gemm_codes[codes];
            }
            Order::Inputs | Order::ColumnLines => {
                self.gemv_inputs[at] = SCALAR.gemv_inputs[at];
                self.gemm_inputs[at] = SCALAR.gemm_inputs[at];
            }
        }
        if format.takes_int8() && !matches!(order, Order::ColumnLines) {
            self.quantize = SCALAR.quantize;
        }
        self
    }

    /// Whether all that these needs ask for is there.
    ///
    /// # Errors
    /// [`Error::MissingKernel`] with what is not.
    pub(crate) fn serve(&self, needs: &Needs) -> Result<(), Error> {
        let served = |(format, order): &(Format, Order)| {
            let at = format.arithmetic() as usize;
            match order {
                Order::Rows => self.gemm[at].is_some(),
                Order::Columns => self.gemm[at].is_some() && self.gemv_columns[at].is_some(),
                Order::RowLines => self.gemm_rows[at].is_some(),
                Order::Inputs if format.takes_int8() => self.gemv_codes[at - Arithmetic::Int8 as usize].is_some(),
                Order::Inputs | Order::ColumnLines => self.gemv_inputs[at].is_some(),
            }
        };
        if let Some((format, order)) = needs.matrices.iter().find(|m| !served(m)) {
            return Err(Error::MissingKernel(format.name(), order.name()));
        }
        if needs.kv.iter().any(|kv| self.attend[*kv as usize].is_none()) {
            return Err(Error::MissingKernel("this format", "of KV caches"));
        }
        if let Some(kind) = needs.activations.iter().find(|kind| self.activate[**kind as usize].is_none()) {
            return Err(Error::MissingKernel(kind.name(), "activation"));
        }
        let lacks = [
            (needs.rms_norm && self.rms_norm.is_none(), "norms", "without bias"),
            (needs.layer_norm && self.layer_norm.is_none(), "norms", "with bias"),
            (needs.rope && self.angles.is_none(), "rotary", "positions"),
        ];
        lacks.into_iter().find(|l| l.0).map_or(Ok(()), |l| Err(Error::MissingKernel(l.1, l.2)))
    }
}
