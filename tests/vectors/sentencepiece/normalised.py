"""Models of SentencePiece that exchange characters by a table and remove spaces, as most do, and its ids for some texts.

    pip install sentencepiece
    python3 tests/vectors/sentencepiece/normalised.py
"""

import json
import tempfile
from pathlib import Path

import sentencepiece

here = Path(__file__).resolve().parent
texts = [
    "The jury said that it was to be done.",
    "  two  spaces and\ttab  ",
    "",
    "   ",
    "a",
    "ﬁne ½ Ⅳ ① ｆｕｌｌ ｗｉｄｔｈ",
    "naïve café — 東京 🙂 done",
    "x\ny\n\nz",
    "no\u00a0break\u200bzero",
    "한글 ㎏ ㍿",
]
record = here / "expected.json"
expected = json.loads(record.read_text(encoding="utf-8"))
rules = "\n".join(["66 69\tFB01", "31 2F 32\tBD", "20\tA0", "20\t9", "20\tA", "61 65\tE6"]).split("\n")
with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "rules.tsv"
    table.write_text("\n".join("\t".join(reversed(line.split("\t"))) for line in rules) + "\n")
    text = here.parent / "brown-heldout.txt"
    common = dict(input=str(text), vocab_size=600, byte_fallback=True, hard_vocab_limit=False, minloglevel=2)
    for name, options in {
        "unigram-nfkc": dict(model_type="unigram", normalization_rule_name="nmt_nfkc"),
        "bpe-rules": dict(model_type="bpe", normalization_rule_tsv=str(table)),
    }.items():
        sentencepiece.SentencePieceTrainer.train(model_prefix=f"{folder}/{name}", **common, **options)
        model = Path(f"{folder}/{name}.model").read_bytes()
        (here / f"{name}.model").write_bytes(model)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        expected[name] = [{"text": t, "ids": pieces.encode(t)} for t in texts]
        print(name, len(model), [pieces.decode(pieces.encode(t)) for t in texts])
record.write_text(json.dumps(expected, ensure_ascii=False), encoding="utf-8")
