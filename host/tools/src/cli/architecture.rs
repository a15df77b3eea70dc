//! How `shadowllm inspect` shows the description of a model.

use crate::print;
use serde_json::{Value, json};
use shadowllm_core::image::Architecture;
use shadowllm_core::image::arch::{Block, Norm, Op};
use shadowllm_host::Result;

/// The architecture: what the model has once, and the kinds of its layers.
pub fn architecture(arch: &Architecture) -> Value {
    let g = arch.globals();
    let kinds: Vec<Value> = arch
        .kinds()
        .enumerate()
        .map(|(i, kind)| {
            let layers: Vec<usize> = (0..g.layers).filter(|layer| arch.kind_of(*layer) == Some(i)).collect();
            json!({"layers": layers, "parallel": kind.parallel, "blocks": kind.blocks().map(block).collect::<Vec<_>>()})
        })
        .collect();
    json!({
        "d_model": g.d_model, "d_embed": g.d_embed, "layers": g.layers, "vocab": g.vocab,
        "max_positions": g.max_positions, "positions": format!("{:?}", g.positions).to_lowercase(),
        "rope_tables": g.ropes, "embed_scale": g.embed_scale, "logit_scale": g.logit_scale, "logit_cap": g.logit_cap,
        "final_norm": norm(&g.final_norm), "bos": g.bos, "eos": g.eos(), "kinds": kinds,
    })
}

fn norm(norm: &Option<Norm>) -> Value {
    norm.map_or(Value::Null, |n| json!({"kind": format!("{:?}", n.kind).to_lowercase(), "eps": n.eps}))
}

fn block(block: &Block) -> Value {
    let n = &block.norms;
    let mut value = match &block.op {
        Op::Attention(a) => json!({
            "operation": "attention", "heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim,
            "window": a.window, "rope_table": a.rope, "head_norm": format!("{:?}", a.head_norm).to_lowercase(),
            "scale": a.scale, "cap": a.cap, "sinks": a.sinks, "by_input": a.by_input,
        }),
        Op::Mlp(m) => json!({
            "operation": "mlp", "neurons": m.neurons, "gated": m.gated, "activation": m.activation.name(),
            "neuron_group": m.group, "by_input": m.by_input, "experts": m.router.map_or(0, |r| r.experts),
        }),
    };
    for (name, found) in [("input_norm", n.input), ("output_norm", n.output), ("stream_norm", n.stream)] {
        if found.is_some() {
            value[name] = norm(&found);
        }
    }
    value
}

/// Numbers in order, as ranges: "0-4, 6-10".
fn ranges(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[u64]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(text).collect::<Vec<_>>().join(", ")
}

/// The kinds of layers.
pub fn print_kinds(architecture: &Value) -> Result<()> {
    for kind in architecture["kinds"].as_array().into_iter().flatten() {
        let layers: Vec<u64> = kind["layers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        print::line(format_args!("  layers {}", ranges(&layers)))?;
        for block in kind["blocks"].as_array().into_iter().flatten().filter_map(Value::as_object) {
            let fields: Vec<String> = block.iter().map(|(key, v)| format!("{key} {v}")).collect();
            print::line(format_args!("    {}", fields.join(", ")))?;
        }
    }
    Ok(())
}
