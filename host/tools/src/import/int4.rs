//! 4-bit weights of Hugging Face folders, which are stored in words, apart from their scales: GPTQ, AWQ,
//! compressed-tensors and gpt-oss's MXFP4.
//!
//! Each block of 32 weights is returned as one of ggml's, so that such a folder is packed as a GGUF file is. If a group
//! of weights has a zero of its own, the product of zero and scale is rounded to 16 bits, by less than 1 % of a step.
//! (AutoGPTQ: `qlinear_cuda.py`; AutoAWQ: `packing_utils.py`; compressed-tensors: `pack_quantized`; transformers:
//! `convert_moe_packed_tensors`.)

use super::config::Config;
use super::gguf::GgmlType;
use half::f16;
use serde_json::Value;
use shadowllm_core::format::BLOCK;
use shadowllm_core::format::block::Block;

/// The programs that pack weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packer {
    /// Words of 8 inputs, `[inputs / 8, outputs]`; zeros in words of 8 outputs, `[groups, outputs / 8]`, stored less
    /// `less`.
    Gptq {
        /// The number that must be added to stored zeros.
        less: u8,
    },
    /// Words of 8 outputs in a special order, `[inputs, outputs / 8]`; zeros in words of the same order, `[groups,
    /// outputs / 8]`.
    Awq,
    /// Words of 8 inputs, `[outputs, inputs / 8]`; zeros in words of 8 outputs, `[outputs / 8, groups]`.
    CompressedTensors,
    /// Bytes of two 4-bit floats, `[outputs, inputs / 2]`, and a power of two for every 32.
    Mxfp4,
}

/// The place of each of 8 outputs in a word of AWQ.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// What to use instead of a folder that cannot be read.
const WAY_OUT: &str = "use the model that it was made from, or a GGUF file of it";

/// How a folder's weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The program that packed them.
    pub packer: Packer,
    /// Inputs that share a scale; `None` if all inputs of an output do.
    pub group: Option<usize>,
}

impl Scheme {
    /// The scheme in the configuration; `None` for plain weights.
    ///
    /// # Errors
    /// A sentence with the value that is not supported, and what to use instead.
    pub fn read(config: &Config) -> Result<Option<Scheme>, String> {
        let Some(how) = config.object("quantization_config")? else { return Ok(None) };
        let how = config.inner(how);
        let method = how.text("quant_method").unwrap_or("some method");
        let unsupported = |what: String| format!("the model is quantized {what}, which is not supported: {WAY_OUT}");
        let bits = |c: &Config, key: &str| match c.maybe_count(key)? {
            Some(4) => Ok(()),
            Some(n) => Err(unsupported(format!("by {method} to {n} bits"))),
            None => Err(unsupported(format!("by {method} to an unknown number of bits"))),
        };
        let (packer, group) = match method {
            "gptq" => {
                bits(&how, "bits")?;
                let less = match how.text("checkpoint_format").unwrap_or("gptq") {
                    "gptq" => 1,
                    "gptq_v2" => 0,
                    other => return Err(unsupported(format!("by gptq in the format {other}"))),
                };
                (Packer::Gptq { less }, group(&how, "group_size")?)
            }
            "awq" => {
                let of = |[one, other]: [&'static str; 2]| if how.value(one).is_some() { one } else { other };
                bits(&how, of(["bits", "w_bit"]))?;
                let version = how.text("version").unwrap_or("gemm");
                if !version.eq_ignore_ascii_case("gemm") {
                    return Err(unsupported(format!("by awq in the version {version}")));
                }
                (Packer::Awq, group(&how, of(["group_size", "q_group_size"]))?)
            }
            "compressed-tensors" => {
                let format = how.text("format").unwrap_or("unknown");
                if format != "pack-quantized" {
                    return Err(unsupported(format!("by compressed-tensors in the format {format}")));
                }
                (Packer::CompressedTensors, compressed_tensors(&how, &bits)?)
            }
            "mxfp4" => (Packer::Mxfp4, Some(BLOCK)),
            other => return Err(unsupported(format!("by {other}"))),
        };
        match group {
            Some(n) if n == 0 || !n.is_multiple_of(BLOCK) => Err(unsupported(format!("in groups of {n}"))),
            _ => Ok(Some(Scheme { packer, group })),
        }
    }

    /// The names of its weights (in place of `weight`), scales, zeros and group numbers.
    pub fn names(self) -> [&'static str; 4] {
        match self.packer {
            Packer::Gptq { .. } | Packer::Awq => [".qweight", ".scales", ".qzeros", ".g_idx"],
            Packer::CompressedTensors => [".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_g_idx"],
            Packer::Mxfp4 => ["_blocks", "_scales", "", ""],
        }
    }

    /// Name for users.
    pub fn name(self) -> &'static str {
        match self.packer {
            Packer::Gptq { .. } => "GPTQ",
            Packer::Awq => "AWQ",
            Packer::CompressedTensors => "int4",
            Packer::Mxfp4 => "MXFP4",
        }
    }

    /// Outputs and inputs of a matrix (of one, if several are stacked), from the shape of its words.
    fn outputs_and_inputs(self, shape: &[usize]) -> Option<[usize; 2]> {
        let times = |n: usize| n.checked_mul(8);
        match (self.packer, shape) {
            (Packer::Gptq { .. }, [words, outputs]) => Some([*outputs, times(*words)?]),
            (Packer::Awq, [inputs, words]) => Some([times(*words)?, *inputs]),
            (Packer::CompressedTensors, [outputs, words]) => Some([*outputs, times(*words)?]),
            (Packer::Mxfp4, [experts, outputs, blocks, 16]) => {
                Some([experts.checked_mul(*outputs)?, blocks.checked_mul(BLOCK)?])
            }
            _ => None,
        }
    }
}

/// Inputs of a group; -1 stands for all.
fn group(c: &Config, key: &str) -> Result<Option<usize>, String> {
    if c.value(key).and_then(Value::as_i64) == Some(-1) { Ok(None) } else { c.count(key).map(Some) }
}

/// The size of groups, which all parts of the configuration must share.
fn compressed_tensors(
    how: &Config,
    bits: &dyn Fn(&Config, &str) -> Result<(), String>,
) -> Result<Option<usize>, String> {
    let parts = how.object("config_groups")?.ok_or_else(|| how.lacks("config_groups"))?;
    let mut sizes = Vec::new();
    for part in parts.values() {
        let weights = part.get("weights").and_then(Value::as_object).ok_or_else(|| how.lacks("weights"))?;
        let weights = how.inner(weights);
        bits(&weights, "num_bits")?;
        let (kind, strategy) = (weights.text("type").unwrap_or("int"), weights.text("strategy").unwrap_or("group"));
        sizes.push(match (kind, strategy) {
            ("int", "group") => group(&weights, "group_size")?,
            ("int", "channel") => None,
            _ => {
                let what = format!("by compressed-tensors to {kind} numbers with a scale for each {strategy}");
                return Err(format!("the model is quantized {what}, which is not supported: {WAY_OUT}"));
            }
        });
    }
    match sizes.first() {
        Some(first) if sizes.iter().all(|size| size == first) => Ok(*first),
        _ => Err(format!("config_groups has no size of groups, or several, which is not supported: {WAY_OUT}")),
    }
}

/// The ggml type whose blocks hold the same numbers.
fn kind_of(scheme: Scheme, zeros: Option<&[u8]>) -> GgmlType {
    // Symmetric codes have zeros of 8, stored as 7 if zeros are stored less 1.
    let symmetric = |zeros: &[u8]| match scheme.packer {
        Packer::Gptq { less } => zeros.iter().all(|two| *two == 0x88 - 0x11 * less),
        _ => zeros.iter().all(|two| *two == 0x88),
    };
    match (scheme.packer, zeros) {
        (Packer::Mxfp4, _) => GgmlType::MXFP4,
        (_, Some(zeros)) if !symmetric(zeros) => GgmlType::Q4_1,
        _ => GgmlType::Q4_0,
    }
}

/// The bytes of the tensors that belong together.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Words of codes.
    pub codes: &'a [u8],
    /// Scales, with their type if they are floats.
    pub scales: (Option<GgmlType>, &'a [u8]),
    /// Zeros, unless all are 8.
    pub zeros: Option<&'a [u8]>,
    /// The group of every input.
    pub order: Option<&'a [u8]>,
}

/// A matrix of 4-bit weights.
#[derive(Clone, Copy)]
pub struct Int4<'a> {
    scheme: Scheme,
    /// Rows of all stacked matrices together.
    rows: usize,
    cols: usize,
    group: usize,
    codes: &'a [u8],
    scales: (GgmlType, &'a [u8]),
    zeros: Option<&'a [u8]>,
    /// The ggml type of the blocks that it returns.
    kind: GgmlType,
    /// The first row of this matrix.
    first: usize,
}

impl<'a> Int4<'a> {
    /// A matrix from the tensors of a folder; `shape` is the shape of the words.
    ///
    /// # Errors
    /// Says what does not fit or is not supported.
    pub fn new(scheme: Scheme, shape: &[usize], stored: Stored<'a>) -> Result<Self, String> {
        let Stored { codes, scales: (kind, scales), zeros, order } = stored;
        let [rows, cols] = scheme.outputs_and_inputs(shape).ok_or("has words of no known shape")?;
        let group = scheme.group.unwrap_or(cols);
        if group == 0 || !cols.is_multiple_of(group) || !group.is_multiple_of(BLOCK) {
            return Err(format!("has {cols} inputs, which is not a multiple of the group size {group}"));
        }
        let groups = rows.checked_mul(cols / group).ok_or("is too large")?;
        let powers = scheme.packer == Packer::Mxfp4;
        let bytes = if powers { 1 } else { kind.ok_or("has scales that are not floats")?.block_bytes() };
        if Some(codes.len()) != rows.checked_mul(cols / 2) || Some(scales.len()) != groups.checked_mul(bytes) {
            return Err(format!(
                "does not have the words and scales of {rows} outputs of {cols} inputs in groups of {group}"
            ));
        }
        if zeros.is_some_and(|zeros| zeros.len() != groups.div_ceil(2) || !rows.is_multiple_of(8)) {
            return Err(format!("does not have the zeros of {rows} outputs of {cols} inputs in groups of {group}"));
        }
        if let Some(order) = order {
            let (of, _) = order.as_chunks::<4>();
            if of.len() != cols || of.iter().enumerate().any(|(k, g)| u32::from_le_bytes(*g) as usize != k / group) {
                let why = "has its groups in the order of activations (desc_act, actorder), which is not supported";
                return Err(format!("{why}: {WAY_OUT}"));
            }
        }
        let scales = (kind.unwrap_or(GgmlType::F32), scales);
        let this = Int4 { scheme, rows, cols, group, codes, scales, zeros, kind: kind_of(scheme, zeros), first: 0 };
        this.check_scales().map(|()| this)
    }

    /// Checks that scales fit in 16-bit floats.
    fn check_scales(&self) -> Result<(), String> {
        let most = f32::from(f16::MAX);
        if self.scheme.packer == Packer::Mxfp4 {
            // The largest byte is NaN; the one below it is the largest power of two.
            return if self.scales.1.contains(&255) { Err("has a scale that is not a number".into()) } else { Ok(()) };
        }
        let groups = self.cols / self.group;
        let wrong = (0..self.rows).flat_map(|r| (0..groups).map(move |g| (r, g))).map(|(r, g)| self.minimum(r, g));
        match wrong.into_iter().find(|[scale, minimum]| !(scale.abs() <= most && minimum.abs() <= most)) {
            Some([scale, _]) => Err(format!("has the scale {scale}, which is not near any 16-bit float")),
            None => Ok(()),
        }
    }

    /// Outputs, of all stacked matrices together.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Name for users.
    pub fn name(&self) -> &'static str {
        self.scheme.name()
    }

    /// The rows from this one on.
    pub fn starting_at(self, row: usize) -> Self {
        Int4 { first: self.first + row, ..self }
    }

    /// Bytes of `n` weights, with their share of scales and zeros.
    pub fn bytes_of(&self, n: u64) -> u64 {
        let all = self.codes.len() + self.scales.1.len() + self.zeros.map_or(0, <[u8]>::len);
        (u128::from(n) * all as u128 / (self.rows * self.cols).max(1) as u128) as u64
    }

    /// The ggml type of the blocks that it returns.
    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    /// Whether blocks hold exactly the same weights; if not, scales, or scales times zeros, are rounded to 16 bits.
    pub fn is_exact(&self) -> bool {
        let fits = |x: f32| f16::from_f32(x).to_f32() == x;
        let (kind, groups) = (self.kind, self.cols / self.group);
        kind == GgmlType::MXFP4
            || (0..self.rows).all(|row| {
                (0..groups).all(|g| {
                    let [scale, minimum] = self.minimum(row, g);
                    fits(scale) && (kind == GgmlType::Q4_0 || fits(minimum))
                })
            })
    }

    /// Nibble `at` of a sequence of them.
    fn nibble(bytes: &[u8], at: usize) -> u8 {
        bytes[at / 2] >> (at % 2 * 4) & 15
    }

    fn code(&self, row: usize, k: usize) -> u8 {
        let at = match self.scheme.packer {
            Packer::Gptq { .. } => (k / 8 * self.rows + row) * 8 + k % 8,
            Packer::Awq => (k * (self.rows / 8) + row / 8) * 8 + AWQ_PLACES[row % 8],
            Packer::CompressedTensors | Packer::Mxfp4 => row * self.cols + k,
        };
        Self::nibble(self.codes, at)
    }

    /// The code that stands for 0.
    fn zero(&self, row: usize, g: usize) -> u8 {
        let Some(zeros) = self.zeros else { return 8 };
        let groups = self.cols / self.group;
        match self.scheme.packer {
            Packer::Gptq { less } => Self::nibble(zeros, g * self.rows + row) + less,
            Packer::Awq => Self::nibble(zeros, (g * (self.rows / 8) + row / 8) * 8 + AWQ_PLACES[row % 8]),
            _ => Self::nibble(zeros, (row / 8 * groups + g) * 8 + row % 8),
        }
    }

    fn scale(&self, row: usize, g: usize) -> f32 {
        let at = match self.scheme.packer {
            Packer::CompressedTensors | Packer::Mxfp4 => row * (self.cols / self.group) + g,
            _ => g * self.rows + row,
        };
        let (kind, bytes) = self.scales;
        let half = || u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        match kind {
            GgmlType::F16 => f16::from_bits(half()).to_f32(),
            GgmlType::BF16 => f32::from_bits(u32::from(half()) << 16),
            _ => bytes.as_chunks().0.get(at).map_or(0.0, |b| f32::from_le_bytes(*b)),
        }
    }

    /// A group's scale, and the value of code 0.
    fn minimum(&self, row: usize, g: usize) -> [f32; 2] {
        let scale = self.scale(row, g);
        [scale, -(scale * f32::from(self.zero(row, g)))]
    }

    /// Block `index` (of 32 weights) of a row in [`Int4::kind`]; `None` if there is no such block.
    pub fn block(&self, row: usize, index: usize) -> Option<Block> {
        let kind = self.kind;
        let row = row.checked_add(self.first).filter(|row| *row < self.rows)?;
        if index >= self.cols / BLOCK {
            return None;
        }
        let mut block = [0; size_of::<Block>()];
        let [scale, minimum] =
            if kind == GgmlType::MXFP4 { [0.0; 2] } else { self.minimum(row, index * BLOCK / self.group) };
        let [scale, minimum] = [scale, minimum].map(|x| f16::from_f32(x).to_le_bytes());
        let head: &[u8] = match kind {
            GgmlType::MXFP4 => &[self.scales.1[row * (self.cols / BLOCK) + index]],
            GgmlType::Q4_0 => &scale,
            _ => &[scale[0], scale[1], minimum[0], minimum[1]],
        };
        block[..head.len()].copy_from_slice(head);
        for (j, two) in block[head.len()..][..BLOCK / 2].iter_mut().enumerate() {
            let code = |k: usize| self.code(row, index * BLOCK + k);
            *two = code(j) | code(j + BLOCK / 2) << 4;
        }
        Some(block)
    }

    /// A whole row as floats, `[cols]`; nothing is rounded.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<(), String> {
        let (kind, none) = (self.kind, || format!("has no row {row}"));
        let at = row.checked_add(self.first).filter(|at| *at < self.rows && out.len() == self.cols).ok_or_else(none)?;
        for (index, out) in out.chunks_mut(BLOCK).enumerate() {
            if kind == GgmlType::MXFP4 {
                let block = self.block(row, index).ok_or_else(none)?;
                kind.dequantize(&block[..kind.block_bytes()], out)?;
                continue;
            }
            let (row, g) = (at, index * BLOCK / self.group);
            let (scale, zero) = (self.scale(row, g), f32::from(self.zero(row, g)));
            for (k, x) in out.iter_mut().enumerate() {
                *x = scale * (f32::from(self.code(row, index * BLOCK + k)) - zero);
            }
        }
        Ok(())
    }
}
