"""Likelihoods of a text under real GGUF files, as PyTorch computes them in f32 on the weights that transformers
dequantises: what `tests/gguf/real.rs` compares with.

    pip install torch transformers accelerate gguf
    python3 tests/vectors/real/expected.py FILE.gguf...

The files are those of `host/tools/src/fetch.rs`. `expected.json` beside this script gets an entry for each: the first 256
tokens of `brown-heldout.txt`, with those that the tokenizer puts before a text, and the mean negative log-likelihood of all
but the first of them.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

here = Path(__file__).resolve().parent
text = (here.parent / "brown-heldout.txt").read_text(encoding="utf-8")
record = here / "expected.json"
all_files = json.loads(record.read_text()) if record.exists() else {}
for name in sys.argv[1:]:
    file = Path(name)
    kind = {"gguf_file": file.name}
    ids = AutoTokenizer.from_pretrained(file.parent, **kind)(text)["input_ids"][:256]
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, attn_implementation="eager", **kind).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    all_files[file.name] = {"mean_nll": nll, "by": versions, "ids": ids}
    print(file.name, nll, versions)
text = json.dumps(dict(sorted(all_files.items())), indent=1)
record.write_text(text.replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")
