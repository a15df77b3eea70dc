//! How `shadowllm inspect` shows the description of a model.

use crate::print;
use serde_json::{Value, json};
use shadowllm_core::image::Architecture;
use shadowllm_core::image::arch::{Block, Norm, Op};
use shadowllm_host::Result;

/// The architecture: the globals, and the kinds of layers.
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
            "experts_used": m.router.map_or(0, |r| r.used), "shared_neurons": m.router.map_or(0, |r| r.shared),
            "scoring": m.router.map(|r| format!("{:?}", r.scoring).to_lowercase()),
            "router_reads_layer_input": m.router.is_some_and(|r| r.early),
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

/// Whether a value of a block has information, and is not just zero or absent.
fn says(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value.as_f64() != Some(0.0) && *value != "none"
}

/// A value in the form for users.
pub fn shown(value: &Value) -> String {
    let pair = |(key, v): (&String, &Value)| format!("{} {}", print::harmless(key, false), shown(v));
    match value {
        Value::Null => "none".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::String(text) => print::harmless(text, false),
        // The value was an f32, so it is written with the digits of one.
        Value::Number(n) if n.is_f64() => (n.as_f64().unwrap_or_default() as f32).to_string(),
        Value::Number(n) => n.to_string(),
        Value::Array(list) if list.is_empty() => "none".into(),
        Value::Array(list) => list.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(map) if map.contains_key("kind") && map.contains_key("eps") => {
            format!("{} (eps {})", shown(&map["kind"]), shown(&map["eps"]))
        }
        Value::Object(map) => map.iter().map(pair).collect::<Vec<_>>().join(", "),
    }
}

/// The kinds of layers.
pub fn print_kinds(architecture: &Value) -> Result<()> {
    for kind in architecture["kinds"].as_array().into_iter().flatten() {
        let layers: Vec<u64> = kind["layers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        print::line(format_args!("  layers {}", ranges(&layers)))?;
        for block in kind["blocks"].as_array().into_iter().flatten().filter_map(Value::as_object) {
            let name = block.get("operation").map(shown).unwrap_or_default();
            let fields = block.iter().filter(|(key, v)| *key != "operation" && says(v));
            let fields: Vec<String> = fields.map(|(key, v)| format!("{key} {}", shown(v))).collect();
            print::line(format_args!("    {name:<12} {}", fields.join(", ")))?;
        }
    }
    Ok(())
}
