"""Reads the exported model with the transformers library and says what it has learned, independently of train.py.

    python3 evaluate.py OUT TEXT

Perplexity on held-out stories, the share of neurons that are exactly zero in each layer, and how many held-out questions
get the answer that the facts have (greedily, to the letter).
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, OPTForCausalLM

out, text = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(out)
model = OPTForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
zeros = [0.0] * len(model.model.decoder.layers)


def count(layer):
    def hook(module, args, output):
        zeros[layer] += (output == 0).float().mean().item()

    return hook


for n, layer in enumerate(model.model.decoder.layers):
    layer.activation_fn = torch.nn.ReLU()  # one per layer: the library shares a single one
    layer.activation_fn.register_forward_hook(count(n))

ids = tokenizer((text / "stories.txt").read_text()).input_ids
windows = torch.tensor(ids[:len(ids) // 512 * 512]).view(-1, 512)[:32]
loss = 0.0
with torch.inference_mode():
    for window in windows:
        loss += model(window[None], labels=window[None]).loss.item()
print(f"perplexity {torch.tensor(loss / len(windows)).exp():.3f} on {windows.numel()} tokens of held-out stories")
print("exact zeros by layer " + ", ".join(f"{100 * z / len(windows):.1f} %" for z in zeros))

right = wrong = 0
for document in (text / "questions.txt").read_text().split("</s>"):
    if not document.strip():
        continue
    question, answer = document.strip().split("\nAnswer:")
    given = tokenizer("</s>" + question + "\nAnswer:", return_tensors="pt")
    with torch.inference_mode():
        got = model.generate(**given, max_new_tokens=48, do_sample=False)
    got = tokenizer.decode(got[0, given["input_ids"].shape[1]:], skip_special_tokens=True)
    if got.strip() == answer.strip():
        right += 1
    else:
        wrong += 1
        if wrong <= 10:
            print(f"{question[10:]}  said:{got}  meant:{answer}")
print(f"{right} of {right + wrong} held-out questions answered to the letter")
