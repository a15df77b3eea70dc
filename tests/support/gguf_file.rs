//! Small GGUF files: a Llama model of random blocks.

use crate::folder::{Random, Shape};
use crate::gguf_bytes;
use half::f16;
use shadowllm_tools::import::gguf::GgmlType;
use std::collections::BTreeMap;

/// A tensor of the file.
pub struct GgufTensor {
    /// Its name, as in `blk.0.attn_q.weight`.
    pub name: String,
    /// Outputs; 1 for vectors.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Type of its blocks.
    pub kind: GgmlType,
    /// Its blocks, row by row.
    pub bytes: Vec<u8>,
}

impl GgufTensor {
    /// Row `row` as floats.
    ///
    /// # Panics
    /// When there is none.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let len = self.kind.bytes_of(self.cols);
        let mut floats = vec![f32::NAN; self.cols];
        self.kind.dequantize(&self.bytes[row * len..][..len], &mut floats).unwrap();
        floats
    }
}

/// A GGUF file to be written.
pub struct GgufFile {
    /// Metadata entries by key, as bytes (see [`gguf_bytes`]).
    pub entries: BTreeMap<String, Vec<u8>>,
    /// Tensors.
    pub tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// A Llama model: layers of `kind`, embedding and output of Q8_0, norms of F32.
    pub fn llama(s: Shape, kind: GgmlType) -> GgufFile {
        Self::llama_of(s, &[GgmlType::Q8_0], &[kind])
    }

    /// A Llama model whose embedding and output have the types `outer` in turn, and the matrices of its layers the
    /// types `layers` in turn; norms of F32. Rows must be whole super-blocks.
    pub fn llama_of(s: Shape, outer: &[GgmlType], layers: &[GgmlType]) -> GgufFile {
        let (mut outer, mut kinds) = (outer.iter().cycle(), layers.iter().cycle());
        let mut outer = || *outer.next().unwrap();
        let mut kind = || *kinds.next().unwrap();
        let mut file = GgufFile { entries: BTreeMap::new(), tensors: Vec::new() };
        let [heads, kv, dim] = s.heads;
        let counts = [
            ("block_count", s.layers),
            ("context_length", 128),
            ("embedding_length", s.d),
            ("feed_forward_length", s.ffn),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv),
            ("attention.key_length", dim),
        ];
        file.set("general.architecture", gguf_bytes::string("general.architecture", "llama"));
        for (key, n) in counts {
            let key = format!("llama.{key}");
            file.set(&key, gguf_bytes::number(&key, n as u32));
        }
        let eps = "llama.attention.layer_norm_rms_epsilon";
        file.set(eps, gguf_bytes::entry(eps, 6, &1e-5f32.to_le_bytes()));
        let r = &mut Random(5);
        file.matrix(r, "token_embd.weight", [s.vocab, s.d], outer());
        file.matrix(r, "output.weight", [s.vocab, s.d], outer());
        file.norm(r, "output_norm.weight", s.d);
        for layer in 0..s.layers {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            file.norm(r, &name("attn_norm"), s.d);
            file.norm(r, &name("ffn_norm"), s.d);
            file.matrix(r, &name("attn_q"), [heads * dim, s.d], kind());
            file.matrix(r, &name("attn_k"), [kv * dim, s.d], kind());
            file.matrix(r, &name("attn_v"), [kv * dim, s.d], kind());
            file.matrix(r, &name("attn_output"), [s.d, heads * dim], kind());
            file.matrix(r, &name("ffn_gate"), [s.ffn, s.d], kind());
            file.matrix(r, &name("ffn_up"), [s.ffn, s.d], kind());
            file.matrix(r, &name("ffn_down"), [s.d, s.ffn], kind());
        }
        file
    }

    /// Sets a metadata entry.
    pub fn set(&mut self, key: &str, entry: Vec<u8>) {
        self.entries.insert(key.to_owned(), entry);
    }

    /// A tensor by name.
    ///
    /// # Panics
    /// When there is none.
    pub fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    fn matrix(&mut self, random: &mut Random, name: &str, [rows, cols]: [usize; 2], kind: GgmlType) {
        let bytes = (0..rows * cols / kind.block_len()).flat_map(|_| random_block(random, kind)).collect();
        self.tensors.push(GgufTensor { name: name.to_owned(), rows, cols, kind, bytes });
    }

    fn norm(&mut self, random: &mut Random, name: &str, cols: usize) {
        let bytes = (0..cols).flat_map(|_| (1.0 + 0.15 * random.draw()).to_le_bytes()).collect();
        self.tensors.push(GgufTensor { name: name.to_owned(), rows: 1, cols, kind: GgmlType::F32, bytes });
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let (mut data, mut tensors) = (Vec::new(), Vec::new());
        for t in &self.tensors {
            let (rows, cols) = (t.rows as u64, t.cols as u64);
            let dims: &[u64] = if rows == 1 { &[cols] } else { &[cols, rows] };
            tensors.push(gguf_bytes::tensor(&t.name, dims, t.kind.id(), data.len() as u64));
            data.extend_from_slice(&t.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let entries: Vec<Vec<u8>> = self.entries.values().cloned().collect();
        let mut file = gguf_bytes::file(&entries, &tensors, 0);
        file.extend(data);
        file
    }
}

/// A block of any codes and any integers of parts; scale and minimum such that its weights are about a tenth.
fn random_block(random: &mut Random, kind: GgmlType) -> Vec<u8> {
    let code = |random: &mut Random| (random.draw().to_bits() >> 8) as u8;
    if !kind.is_quantized() {
        let x = 0.1 * random.draw();
        return match kind {
            GgmlType::F32 => x.to_le_bytes().to_vec(),
            GgmlType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
            _ => x.to_le_bytes()[2..].to_vec(),
        };
    }
    let mut block: Vec<u8> = (0..kind.block_bytes()).map(|_| code(random)).collect();
    // For each f16: its place, its mean, and the largest distance from the mean.
    let numbers: &[(usize, f32, f32)] = match kind {
        GgmlType::Q8_0 => &[(0, 0.0, 0.0015)],
        GgmlType::Q4_0 => &[(0, 0.0, 0.025)],
        GgmlType::Q4_1 => &[(0, 0.025, 0.005), (2, -0.19, 0.03)],
        GgmlType::Q5_0 => &[(0, 0.0, 0.012)],
        GgmlType::Q5_1 => &[(0, 0.012, 0.002), (2, -0.19, 0.03)],
        GgmlType::Q2K => &[(80, 0.013, 0.002), (82, 0.02, 0.005)],
        GgmlType::Q3K => &[(108, 0.0, 0.0025)],
        GgmlType::Q4K => &[(0, 4e-4, 1e-4), (2, 3e-3, 1e-3)],
        GgmlType::Q5K => &[(0, 2e-4, 5e-5), (2, 3e-3, 1e-3)],
        GgmlType::Q6K => &[(208, 0.0, 1e-4)],
        GgmlType::IQ4NL => &[(0, 0.0, 0.003)],
        GgmlType::IQ4XS => &[(0, 0.0, 1e-4)],
        _ => &[],
    };
    for (at, mean, spread) in numbers {
        let number = f16::from_f32(mean + spread * random.draw());
        block[*at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    if kind == GgmlType::MXFP4 {
        // 2^-6 to 2^-4.
        block[0] = 121 + block[0] % 3;
    }
    block
}
