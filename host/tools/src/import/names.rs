//! The names of tensors in Hugging Face folders and in GGUF files: one table, with a row for each tensor and name.
//!
//! A bias without a row has the name of its weight, with `.bias` in place of `.weight`. If a tensor has several rows,
//! the first name that the file has counts; the rows of a family come first.

use super::tensor::Reading;
use shadowllm_core::image::Role;
use shadowllm_core::image::arch::Attention;
use shadowllm_core::image::roles::ROLES;

/// The part of a stored tensor that is a tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The queries (0), keys (1) or values (2) of rows that are all queries, then all keys, then all values.
    Qkv(usize),
    /// The same, if the queries, keys and values of each head follow each other.
    HeadQkv(usize),
    /// The first or the second half of the rows.
    Half(usize),
    /// All rows from this one on.
    From(usize),
    /// Every second row from this one on.
    Alternate(usize),
    /// All of a transposed matrix, whose rows are inputs.
    Turned,
    /// Every second output from this one on, of a matrix whose rows are inputs.
    TurnedAlternate(usize),
}

/// A row of the table.
pub struct Named {
    /// The tensor.
    pub role: Role,
    /// The part of the stored tensor.
    pub part: Part,
    /// Its name in a Hugging Face folder, without the layer's prefix; empty if it has none. `{}` stands for the number
    /// of an expert; a name without it is a tensor in which all experts are stacked.
    pub hf: &'static str,
    /// Its name in a GGUF file, without the layer's prefix; empty if it has none.
    pub gguf: &'static str,
}

/// A row whose tensor is whole.
pub const fn whole(role: Role, hf: &'static str, gguf: &'static str) -> Named {
    Named { role, part: Part::Whole, hf, gguf }
}

/// A row whose tensor is a part of another.
pub const fn part(role: Role, part: Part, hf: &'static str, gguf: &'static str) -> Named {
    Named { role, part, hf, gguf }
}

/// The names of Llama, which most families use.
pub const STANDARD: &[Named] = &[
    whole(Role::Embed, "embed_tokens.weight", "token_embd.weight"),
    whole(Role::EmbedPositions, "", "position_embd.weight"),
    whole(Role::FinalNorm, "norm.weight", "output_norm.weight"),
    whole(Role::Output, "lm_head.weight", "output.weight"),
    whole(Role::AttnNorm, "input_layernorm.weight", "attn_norm.weight"),
    whole(Role::AttnOutNorm, "post_attention_layernorm.weight", "post_attention_norm.weight"),
    whole(Role::Q, "self_attn.q_proj.weight", "attn_q.weight"),
    whole(Role::K, "self_attn.k_proj.weight", "attn_k.weight"),
    whole(Role::V, "self_attn.v_proj.weight", "attn_v.weight"),
    part(Role::Q, Part::Qkv(0), "self_attn.qkv_proj.weight", "attn_qkv.weight"),
    part(Role::K, Part::Qkv(1), "self_attn.qkv_proj.weight", "attn_qkv.weight"),
    part(Role::V, Part::Qkv(2), "self_attn.qkv_proj.weight", "attn_qkv.weight"),
    whole(Role::O, "self_attn.o_proj.weight", "attn_output.weight"),
    whole(Role::QNorm, "self_attn.q_norm.weight", "attn_q_norm.weight"),
    whole(Role::KNorm, "self_attn.k_norm.weight", "attn_k_norm.weight"),
    whole(Role::Sinks, "self_attn.sinks", "attn_sinks.weight"),
    whole(Role::FfnNorm, "post_attention_layernorm.weight", "ffn_norm.weight"),
    whole(Role::FfnOutNorm, "post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
    whole(Role::Gate, "mlp.gate_proj.weight", "ffn_gate.weight"),
    whole(Role::Up, "mlp.up_proj.weight", "ffn_up.weight"),
    whole(Role::Down, "mlp.down_proj.weight", "ffn_down.weight"),
    whole(Role::Router, "mlp.gate.weight", "ffn_gate_inp.weight"),
    whole(Role::Gate, "mlp.experts.{}.gate_proj.weight", "ffn_gate_exps.weight"),
    whole(Role::Up, "mlp.experts.{}.up_proj.weight", "ffn_up_exps.weight"),
    whole(Role::Down, "mlp.experts.{}.down_proj.weight", "ffn_down_exps.weight"),
    whole(Role::SharedGate, "mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight"),
    whole(Role::SharedUp, "mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight"),
    whole(Role::SharedDown, "mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight"),
    whole(Role::SharedRouter, "mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"),
];

/// The kinds of a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Hugging Face folder.
    Hf,
    /// A GGUF file.
    Gguf,
}

/// The tensor that is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its role.
    pub role: Role,
    /// Its layer.
    pub layer: usize,
    /// Its expert; 0 if it does not belong to experts.
    pub expert: usize,
}

/// Finds the stored tensor of a role: the first name for which `there` is true, without the layer's prefix, and the
/// part of it.
pub fn find(own: &[Named], kind: Kind, wanted: Wanted, there: &dyn Fn(&str) -> bool) -> Option<(String, Part)> {
    let (rows, role) = (|| own.iter().chain(STANDARD), wanted.role);
    let of = |row: &Named| if kind == Kind::Hf { row.hf } else { row.gguf };
    let name = |row: &Named| of(row).replacen("{}", &wanted.expert.to_string(), 1);
    let found = |(name, part): (String, Part)| (!name.is_empty() && there(&name)).then_some((name, part));
    let direct = rows().filter(|row| row.role == role).map(|row| (name(row), row.part));
    if let Some(this) = direct.into_iter().find_map(found) {
        return Some(this);
    }
    let weight = role.name().strip_suffix(".bias")?;
    let weight = ROLES.iter().find(|row| row.name == weight)?.role;
    let biases = rows().filter(|row| row.role == weight);
    biases.filter_map(|row| Some((format!("{}.bias", name(row).strip_suffix(".weight")?), row.part))).find_map(found)
}

impl Part {
    /// Restricts `reading` to this part of a tensor of `rows` rows, and returns the number of rows of the part.
    ///
    /// # Errors
    /// When the rows of the tensor cannot be divided into the parts.
    pub fn take(self, rows: usize, a: Option<&Attention>, reading: &mut Reading) -> Result<usize, String> {
        let a = a.unwrap_or(&Attention::NONE);
        let (head, sizes) =
            (a.head_dim, [a.heads, a.kv_heads, a.kv_heads].map(|heads| heads.saturating_mul(a.head_dim)));
        let fused = sizes.iter().fold(0usize, |sum, n| sum.saturating_add(*n));
        let fits = match self {
            Part::Whole => return Ok(rows),
            Part::Qkv(_) => rows == fused,
            Part::HeadQkv(_) => rows == fused && a.heads == a.kv_heads,
            Part::Half(_) => rows.is_multiple_of(2),
            Part::From(first) => first < rows,
            Part::Alternate(_) | Part::TurnedAlternate(_) => rows.is_multiple_of(2),
            Part::Turned => true,
        };
        if !fits {
            return Err(format!(
                "has {rows} rows, which cannot be divided into the parts that the configuration describes"
            ));
        }
        let range = match self {
            Part::Qkv(i) => {
                let start: usize = sizes[..i].iter().sum();
                start..start + sizes[i]
            }
            Part::Half(i) => i * rows / 2..(i + 1) * rows / 2,
            Part::From(first) => first..rows,
            Part::HeadQkv(i) => {
                reading.select((0..sizes[i]).map(|row| row / head * 3 * head + i * head + row % head));
                return Ok(sizes[i]);
            }
            Part::Alternate(first) | Part::TurnedAlternate(first) => {
                reading.select((0..rows / 2).map(|row| 2 * row + first));
                return Ok(rows / 2);
            }
            Part::Whole | Part::Turned => 0..rows,
        };
        let len = range.len();
        reading.select(range);
        Ok(len)
    }
}
