"""A small random SmallThinker and its logits, computed as the model's own `modeling_smallthinker.py` says, for transformers
has no such class: the router reads the layer's input before any norm, the shares are the chosen experts' sigmoids scaled to
a sum of 1, an expert is down(up(x) * relu(gate(x))), layers without a window do not rotate.

    pip install torch safetensors
    python3 tests/vectors/families/smallthinker/make.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

here = Path(__file__).resolve().parent
D, HEADS, KV, HEAD, FFN, EXPERTS, USED, LAYERS, VOCAB, WINDOW, THETA, EPS = 64, 4, 2, 16, 32, 8, 3, 5, 288, 16, 1e4, 1e-6
LAYOUT = [0, 1, 1, 1, 0]
ids = torch.tensor([(11 * i * i + 5 * i + 3) % VOCAB for i in range(48)])
torch.manual_seed(3)
w = {}


def new(name, *shape, near=0.0):
    w[name] = (torch.randn(shape) * (0.2 if near == 0.0 else 0.1) + near).bfloat16()


new("model.embed_tokens.weight", VOCAB, D)
new("model.norm.weight", D, near=1.0)
for layer in range(LAYERS):
    p = f"model.layers.{layer}."
    new(p + "input_layernorm.weight", D, near=1.0)
    new(p + "post_attention_layernorm.weight", D, near=1.0)
    for name, shape in {"q": (HEADS * HEAD, D), "k": (KV * HEAD, D), "v": (KV * HEAD, D), "o": (D, HEADS * HEAD)}.items():
        new(f"{p}self_attn.{name}_proj.weight", *shape)
    new(p + "block_sparse_moe.primary_router.weight", EXPERTS, D)
    for expert in range(EXPERTS):
        for name, shape in {"up": (FFN, D), "gate": (FFN, D), "down": (D, FFN)}.items():
            new(f"{p}block_sparse_moe.experts.{expert}.{name}.weight", *shape)


def norm(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def rotate(x, positions):
    angles = positions[:, None] * THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], -1) * sin


def attention(x, p, local):
    at = torch.arange(len(x))
    q, k, v = ((x @ w[f"{p}self_attn.{n}_proj.weight"].float().T).view(len(x), -1, HEAD).transpose(0, 1) for n in "qkv")
    if local:
        q, k = rotate(q, at), rotate(k, at)
    k, v = (t.repeat_interleave(HEADS // KV, 0) for t in (k, v))
    back = at[:, None] - at[None, :]
    mask = (back >= 0) & ((back < WINDOW) | (not local))
    y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(0, 1).reshape(len(x), -1) @ w[p + "self_attn.o_proj.weight"].float().T


def experts(router_input, x, p):
    scores, chosen = torch.topk(router_input @ w[p + "primary_router.weight"].float().T, USED)
    shares = torch.sigmoid(scores)
    shares = shares / shares.sum(-1, keepdim=True)
    y = torch.zeros_like(x)
    for t in range(len(x)):
        for share, expert in zip(shares[t], chosen[t]):
            up, gate, down = (w[f"{p}experts.{expert}.{n}.weight"].float() for n in ("up", "gate", "down"))
            y[t] += share * (down @ ((up @ x[t]) * relu(gate @ x[t])))
    return y


x = w["model.embed_tokens.weight"].float()[ids]
for layer, local in enumerate(LAYOUT):
    p = f"model.layers.{layer}."
    before = x
    x = x + attention(norm(x, w[p + "input_layernorm.weight"].float()), p, bool(local))
    x = x + experts(before, norm(x, w[p + "post_attention_layernorm.weight"].float()), p + "block_sparse_moe.")
logits = norm(x, w["model.norm.weight"].float()) @ w["model.embed_tokens.weight"].float().T
loss = cross_entropy(logits[:-1].double(), ids[1:]).float().reshape(1)
save_file({k: v.contiguous() for k, v in w.items()}, here / "model.safetensors")
save_file({"input_ids": ids.int(), "logits": logits.contiguous(), "loss": loss}, here / "expected.safetensors")
config = dict(
    architectures=["SmallThinkerForCausalLM"], model_type="smallthinker", dtype="bfloat16", hidden_size=D, head_dim=HEAD,
    num_attention_heads=HEADS, num_key_value_heads=KV, num_hidden_layers=LAYERS, vocab_size=VOCAB, rms_norm_eps=EPS,
    rope_theta=THETA, max_position_embeddings=256, rope_layout=LAYOUT, sliding_window_layout=LAYOUT,
    sliding_window_size=WINDOW, moe_num_primary_experts=EXPERTS, moe_num_active_primary_experts=USED,
    moe_ffn_hidden_size=FFN, moe_primary_router_apply_softmax=False, moe_enable_early_router=True,
    moe_enable_secondary_experts=False, tie_word_embeddings=True, bos_token_id=1, eos_token_id=[2],
)
(here / "config.json").write_text(json.dumps(config, indent=1) + "\n")
print(loss.item(), logits.abs().max().item())
