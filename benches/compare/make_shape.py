#!/usr/bin/env python3
"""Writes a GGUF of a known shape with random weights, in f16.

Speed does not depend on what the weights are, so a random model measures as well as a real one of its shape.
Needs the Python packages gguf and numpy; compare.py runs this file in an environment that has them.
"""

import argparse
from dataclasses import dataclass

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int = 32000
    context: int = 2048

    @property
    def kv_width(self):
        return self.width // self.heads * self.kv_heads


SHAPES = {
    "tiny1b": Shape(layers=22, width=2048, ffn=5632, heads=32, kv_heads=4),
    "llama7b": Shape(layers=32, width=4096, ffn=11008, heads=32, kv_heads=32),
}


def add_header(writer, name, shape):
    """The hyperparameters."""
    writer.add_name(f"{name}-random")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_vocabulary(writer, size):
    """The smallest vocabulary that a reader accepts: the special tokens, the 256 bytes, and names for the rest."""
    kind = gguf.TokenType
    special = [b"<unk>", b"<s>", b"</s>"]
    tokens = special + [b"<0x%02X>" % i for i in range(256)]
    kinds = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256
    scores = [0.0] * len(tokens)
    rest = size - len(tokens)
    tokens += [b"tok%d" % i for i in range(rest)]
    kinds += [kind.NORMAL] * rest
    scores += [-float(i) for i in range(rest)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def tensors(shape):
    """Names and shapes, [outputs, inputs] for a matrix and [width] for a norm."""
    width, ffn, kv = shape.width, shape.ffn, shape.kv_width
    yield "token_embd.weight", (shape.vocab, width)
    yield "output_norm.weight", (width,)
    yield "output.weight", (shape.vocab, width)
    for layer in range(shape.layers):
        block = {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }
        for name, dims in block.items():
            yield f"blk.{layer}.{name}.weight", dims


def declare(writer, shape):
    """Announces the tensors; their data follows one by one, so that no model has to fit into memory."""
    for name, dims in tensors(shape):
        dtype = np.dtype(np.float16 if len(dims) == 2 else np.float32)
        writer.add_tensor_info(name, dims, dtype, int(np.prod(dims)) * dtype.itemsize)


def write_data(writer, shape):
    """Matrices from N(0, 0.02), norms of ones."""
    random = np.random.default_rng(0)
    for _, dims in tensors(shape):
        if len(dims) == 1:
            data = np.ones(dims, dtype=np.float32)
        else:
            data = (random.standard_normal(dims, dtype=np.float32) * np.float32(0.02)).astype(np.float16)
        writer.write_tensor_data(data)


def make(name, path):
    """Writes the model."""
    shape = SHAPES[name]
    writer = gguf.GGUFWriter(path, "llama")
    add_header(writer, name, shape)
    add_vocabulary(writer, shape.vocab)
    declare(writer, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    write_data(writer, shape)
    writer.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="example: make_shape.py tiny1b tiny1b-f16.gguf"
    )
    parser.add_argument("shape", choices=SHAPES, help="the shape of the model")
    parser.add_argument("output", help="the GGUF to write (2.2 GB for tiny1b, 13.5 GB for llama7b)")
    args = parser.parse_args()
    make(args.shape, args.output)


if __name__ == "__main__":
    main()
