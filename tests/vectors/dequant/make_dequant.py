#!/usr/bin/env python3
"""Writes dequant.json beside this file: blocks of every supported ggml type, and the floats that
the reference makes of them. Needs `pip install gguf==0.19.0` (which brings numpy).

Types that gguf can quantise get quantised noise and random blocks; the others random blocks
alone. Blocks are hex; the floats are given by their bits, little-endian hex, so that a test can
compare them exactly.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

# type: (elements in a block, bytes in a block, where its half-precision factors lie)
TYPES = {
    T.F32: (1, 4, []),
    T.F16: (1, 2, []),
    T.BF16: (1, 2, []),
    T.Q4_0: (32, 18, [0]),
    T.Q4_1: (32, 20, [0, 2]),
    T.Q5_0: (32, 22, [0]),
    T.Q5_1: (32, 24, [0, 2]),
    T.Q8_0: (32, 34, [0]),
    T.Q2_K: (256, 84, [80, 82]),
    T.Q3_K: (256, 110, [108]),
    T.Q4_K: (256, 144, [0, 2]),
    T.Q5_K: (256, 176, [0, 2]),
    T.Q6_K: (256, 210, [208]),
    T.IQ4_NL: (32, 18, [0]),
    T.IQ4_XS: (256, 136, [0]),
    T.MXFP4: (32, 17, []),
}
QUANTISABLE = {T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0}
# of either sign, zeros, the smallest subnormal half, and a large one
FACTORS = [0.0123, -0.0123, 0.9, -1.7, 0.0, -0.0, 6e-8, -3.1e-5, 1000.0]


def noise(rng, kind):
    """Quantised noise of a few scales, a few blocks of it."""
    count = 40 if TYPES[kind][0] == 1 else 6 * TYPES[kind][0]
    values = rng.standard_normal(count) * np.geomspace(1e-4, 30, count)
    return quants.quantize(values.astype(np.float32), kind).view(np.uint8).reshape(-1)


def random_blocks(rng, kind):
    """Random bytes as blocks, with factors that are neither infinite nor no numbers."""
    _, size, places = TYPES[kind]
    blocks = rng.integers(0, 256, (len(FACTORS), size), dtype=np.uint8)
    if kind == T.MXFP4:
        blocks[:, 0] = [0, 1, 2, 100, 127, 128, 130, 200, 254]
    for n, place in enumerate(places):
        factors = np.roll(np.array(FACTORS, dtype=np.float16), n)
        blocks[:, place : place + 2] = factors.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def special(kind):
    """Zeros, subnormals, the largest numbers and infinities of the float types."""
    if kind == T.F32:
        bits = np.array([0, 1 << 31, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000], dtype=np.uint32)
    elif kind == T.F16:
        bits = np.array([0, 0x8000, 1, 0x83FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00], dtype=np.uint16)
    else:
        bits = np.array([0, 0x8000, 1, 0x807F, 0x0080, 0x7F7F, 0x7F80, 0xFF80], dtype=np.uint16)
    return bits.view(np.uint8)


def main():
    rng = np.random.default_rng(2026)
    vectors = {}
    for kind in TYPES:
        parts = [noise(rng, kind)] if kind in QUANTISABLE else []
        parts.append(random_blocks(rng, kind) if TYPES[kind][0] > 1 else special(kind))
        blocks = np.concatenate(parts)
        stored = blocks.view({T.F32: np.float32, T.F16: np.float16}.get(kind, np.uint8))
        floats = quants.dequantize(stored, kind).astype(np.float32).reshape(-1)
        assert len(blocks) // TYPES[kind][1] * TYPES[kind][0] == len(floats)
        vectors[kind.name] = {"blocks": blocks.tobytes().hex(), "floats": floats.astype("<f4").tobytes().hex()}
    path = Path(__file__).with_name("dequant.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")
    print(path, {name: len(v["blocks"]) // 2 for name, v in vectors.items()})


if __name__ == "__main__":
    main()
