"""Logits of this model for a text longer than its trained context, for which LongRoPE has other divisors: the last 8 of 96
tokens, in `long.safetensors`.

    pip install torch transformers
    python3 tests/vectors/families/phi4-mini/long.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = Path(__file__).resolve().parent
model = AutoModelForCausalLM.from_pretrained(here, dtype=torch.float32, attn_implementation="eager").eval()
ids = torch.tensor([[(5 * i * i + 3 * i + 1) % model.config.vocab_size for i in range(96)]])
with torch.no_grad():
    logits = model(ids).logits[0, -8:].contiguous()
save_file({"input_ids": ids[0].int(), "logits": logits}, here / "long.safetensors")
print(logits[-1, :4])
