"""Models with the tokenizers of well-known models, for a page that must read their texts:

    python3 .ci/foreign.py SHADOWLLM FOLDER NAME=PACKAGE...

PACKAGE is a folder with a model's tokenizer.json and tokenizer_config.json. Makes FOLDER/NAME.sllm of random weights, and
FOLDER/texts.json: texts with their ids by the Hugging Face library, for those; with SentencePiece's own ids
(tests/vectors/sentencepiece) for tokenizers in its format. The program's ids must be the same. Needs the Python package
tokenizers.
"""

import array
import json
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

top = Path(__file__).resolve().parent.parent
program, folder = sys.argv[1], Path(sys.argv[2])
TEXTS = [
    "Why is the sky blue?",
    "  two  spaces,   three\t\ttabs\n\n\nlines \r\n ",
    "3.14159 1234567890 0x7f -1e-9 2026-11-26 ٣٤",
    "naïve café — 東京タワー, Привет, مرحبا, हिन्दी, 한국어",
    "🙂👩‍👩‍👧‍👦 é e\u0301 \u200b\ufeff ﬁ ½",
    "don't I'LL we've THEY'RE l'été",
    "def f(x):\n    return {'a': [x ** 2, None]}  # comment\n",
    "a" * 40 + " _\u2581_ \u0000\u0001",
    "<|im_end|> <s> </s> <0x41> <|eot_id|> <unk>",
]
WIDTH = 32


def weights(vocab):
    """A model of one layer, as safetensors."""
    draw = random.Random(7)
    some = array.array("f", (draw.gauss(0, 0.3) for _ in range(65537)))
    shapes = {"model.embed_tokens.weight": [vocab, WIDTH], "model.norm.weight": [WIDTH]}
    layer = "model.layers.0."
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                 "mlp.down_proj"):
        shapes[f"{layer}{name}.weight"] = [WIDTH, WIDTH]
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{layer}{name}.weight"] = [WIDTH]
    head, data = {}, bytearray()
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = (some * (count // len(some) + 1))[:count] if len(shape) == 2 else array.array("f", [1.0]) * count
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += values.tobytes()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def packed(name, vocab, files):
    """Packs the model with these files of a tokenizer."""
    source = folder / name
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for path, target in files:
        shutil.copy(path, source / target)
    config = {"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
              "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": WIDTH, "vocab_size": vocab, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": True, "hidden_act": "silu"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "model.safetensors").write_bytes(weights(vocab))
    model = folder / f"{name}.sllm"
    subprocess.run([program, "pack", source, "-o", model, "--format", "q4_0"], check=True, capture_output=True)
    shutil.rmtree(source)
    return model


def program_ids(model, text):
    run = subprocess.run([program, "tokenize", model, "-f", "-"], input=text.encode(), stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def published(name, package):
    """A tokenizer as the model's makers published it. Texts are read without control tokens, as what people type is: of names of
    control tokens only those are compared that are none here."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    files = [(package / file, file) for file in ("tokenizer.json", "tokenizer_config.json")]
    model = packed(name, (tokenizer.get_vocab_size() + 63) // 64 * 64, files)
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    texts = [text for text in TEXTS if not any(token in text for token in special)]
    return model, [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts]


def main():
    folder.mkdir(parents=True, exist_ok=True)
    record = {}
    made = [(name, *published(name, Path(package))) for name, package in (word.split("=") for word in sys.argv[3:])]
    names = {name for name, _, _ in made}
    vectors = top / "tests/vectors/sentencepiece"
    for name, cases in json.loads((vectors / "expected.json").read_text()).items():
        cases = [case for case in cases if case["ids"]]
        vocab = 64 + max(max(case["ids"]) for case in cases)
        model = packed(name, vocab, [(vectors / f"{name}.model", "tokenizer.model")])
        made.append((name, model, cases))
    for name, model, cases in made:
        for case in cases:
            ours = program_ids(model, case["text"])
            # The library that made the records of SentencePiece leaves out the token that begins a text.
            begins = [] if name in names else [1]
            assert ours in (case["ids"], begins + case["ids"]), (name, case, ours)
            case["ids"] = ours
        record[name] = cases
        print(f"  {name}: {len(cases)} texts, {sum(len(case['ids']) for case in cases)} tokens")
    (folder / "texts.json").write_text(json.dumps(record))


main()
