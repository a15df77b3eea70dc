"""Small random models with weights of 4 bits, packed by the code of others, and their logits on the weights that the same
code unpacks (transformers, f32): what `tests/int4.rs` compares with.

    pip install torch transformers compressed-tensors
    pip download --no-deps auto-gptq==0.7.1 && unzip auto_gptq-*.whl
    pip download --no-deps gptqmodel==7.7.0 && tar xzf gptqmodel-*.tar.gz
    python3 tests/vectors/int4/make.py auto_gptq/nn_modules/qlinear/qlinear_cuda.py \\
        gptqmodel-*/gptqmodel/quantization/awq/utils/packing_utils.py
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

here = Path(__file__).resolve().parent
LAYERS = dict(num_hidden_layers=2, hidden_size=64, vocab_size=64, num_attention_heads=4, num_key_value_heads=2)
IDS = torch.tensor([[(7 * i * i + 3 * i + 1) % 64 for i in range(24)]])


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gptq, awq = load("gptq", sys.argv[1]), load("awq", sys.argv[2])


def rounded(weight, group, symmetric):
    """Scales (f16) and zeros, [outputs, groups], for codes of 0 to 15."""
    w = weight.reshape(weight.shape[0], -1, group)
    if symmetric:
        scale = (w.abs().amax(-1) / 7).half()
        return scale, torch.full_like(scale, 8).int()
    low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half()
    return scale, (-low / scale.float()).round().int().clamp(1, 15)


def codes(weight, scale, zero, group):
    s, z = (t.float().repeat_interleave(group, 1) for t in (scale, zero))
    return (weight / s + z).round().clamp(0, 15).int(), s, z


def as_gptq(weight, group, symmetric):
    scale, zero = rounded(weight, group, symmetric)
    q, s, z = codes(weight, scale, zero, group)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float32)
    linear.weight.data = (q - z) * s
    layer = gptq.QuantLinear(4, group, weight.shape[1], weight.shape[0], False)
    layer.pack(linear, scale.float(), zero.float())
    layer.bias = None
    unpacked = layer(torch.eye(weight.shape[1])).T.contiguous()
    names = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(), "g_idx": layer.g_idx.int()}
    return names, unpacked


def as_awq(weight, group):
    scale, zero = rounded(weight, group, False)
    q, _, _ = codes(weight, scale, zero, group)
    qweight, qzeros = awq.pack_awq(q.T.contiguous(), zero.T.contiguous(), 4)
    scales = scale.T.contiguous()
    unpacked = awq.dequantize_gemm(qweight, qzeros, scales.float(), 4, group).T.contiguous()
    return {"qweight": qweight, "qzeros": qzeros, "scales": scales}, unpacked


def as_compressed(weight, group, symmetric):
    scale, zero = rounded(weight, group, symmetric)
    args = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {"weight": weight, "weight_scale": scale.float()}
    if not symmetric:
        state["weight_zero_point"] = (zero - 8).to(torch.int8)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    unpacked = PackedQuantizationCompressor.decompress(packed, scheme)["weight"].float()
    # Scales are stored in 16 bits, which they are.
    return packed | {"weight_scale": packed["weight_scale"].half()}, unpacked


def write(name, model, config, stored):
    with torch.no_grad():
        logits = model(IDS).logits[0].contiguous()
        loss = torch.nn.functional.cross_entropy(logits[:-1].double(), IDS[0, 1:]).float().reshape(1)
    folder = here / name
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in stored.items()}, folder / "model.safetensors")
    save_file({"input_ids": IDS[0].int(), "logits": logits, "loss": loss}, folder / "expected.safetensors")
    keep = {k: v for k, v in config.items() if v is not None and k not in ("transformers_version", "_name_or_path")}
    (folder / "config.json").write_text(json.dumps(keep, indent=1) + "\n")
    print(name, loss.item())


def llama(name, pack, quantization):
    torch.manual_seed(len(name))
    config = LlamaConfig(**LAYERS, intermediate_size=128, initializer_range=0.2, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval()
    stored = {}
    for key, value in model.state_dict().items():
        value = value.half().float()
        if key.endswith("_proj.weight"):
            packed, value = pack(value)
            stored |= {key.removesuffix("weight") + end: tensor for end, tensor in packed.items()}
        elif key != "lm_head.weight":
            stored[key] = value.half()
        model.state_dict()[key].copy_(value)
    write(name, model, config.to_dict() | {"quantization_config": quantization}, stored)


def mxfp4():
    torch.manual_seed(5)
    config = GptOssConfig(**LAYERS, intermediate_size=64, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
                          sliding_window=16, initializer_range=0.2, max_position_embeddings=128,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = "eager"
    model = GptOssForCausalLM(config).eval()
    stored = {}
    for key, value in model.state_dict().items():
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = value.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(122, 127, (experts, outputs, inputs // 32), dtype=torch.uint8)
            stored |= {key + "_blocks": blocks, key + "_scales": scales}
            value = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        else:
            value = torch.randn_like(value).mul(0.2).bfloat16().float() if "bias" in key or "sinks" in key else value.bfloat16().float()
            stored[key] = value.bfloat16()
        model.state_dict()[key].copy_(value)
    write("mxfp4", model, config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}, stored)


def compressed_config(symmetric):
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


gptq_config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
llama("gptq", lambda w: as_gptq(w, 32, True), gptq_config | {"sym": True})
llama("gptq-zeros", lambda w: as_gptq(w, 64, False), gptq_config | {"sym": False, "group_size": 64})
llama("awq", lambda w: as_awq(w, 64), {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"})
llama("compressed", lambda w: as_compressed(w, 32, True), compressed_config(True))
llama("compressed-zeros", lambda w: as_compressed(w, 32, False), compressed_config(False))
mxfp4()
