#!/usr/bin/env python3
"""Estimates the Arm kernels' speed without an Arm: cycles of their inner loops by llvm-mca, from a program's disassembly.

    benches/arm_estimate.py target/no_std/arm/aarch64-unknown-linux-gnu/release/shadowllm-no-std

Prints two tables. Decoding: instructions and bytes of weights of one tile (16 outputs of 32 inputs), and bytes per cycle,
for one token. Prefilling: instructions for a tile and a token, the tile's decoding shared among the tokens that are taken
at once, and multiply-adds per cycle. Caches and memory are not in the model: what is printed is how fast the core could go
if the weights were at hand.
"""

import argparse
import re
import shutil
import subprocess
import sys

TILES = {"int8": 544, "table4": 288, "affine4": 320}
# Instructions of which a tile takes exactly 32, for one token.
MARKS = {"neon_set": ("sadalp", "saddlp"), "neon_dot_set": ("sdot",)}
CORES = ["cortex-a53", "cortex-a55", "cortex-a76", "neoverse-n2", "cortex-x1", "cortex-x925", "apple-m1"]
WITH = {"neon_dot_set": CORES[1:], "neon_i8mm_set": ["neoverse-n2", "cortex-x925"]}
# Of a prefill, by instruction set: the instruction, how many a pass of the inner loop has, its tokens, tokens of a tile.
PREFILL = {"neon_dot_set": ("sdot", 32, 1, 8), "neon_i8mm_set": ("smmla", 64, 4, 16)}


def tool(name):
    """The newest installed version of an LLVM tool."""
    names = [f"{name}-{version}" for version in range(30, 13, -1)] + [name]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit(f"error: no {name}: install LLVM's tools (Debian: llvm-22)")
    return found


def functions(program):
    """{name: [(address, instruction)]}"""
    command = [tool("llvm-objdump"), "-d", "--demangle", "--no-show-raw-insn", program]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            current = found.setdefault(head[1], [])
        elif body := re.match(r"\s*([0-9a-f]+):\s+(.*)$", line):
            current.append((int(body[1], 16), body[2].strip()))
    return found


def loops(code):
    """All loops, as slices of the code."""
    places = {at: i for i, (at, _) in enumerate(code)}
    for i, (_, text) in enumerate(code):
        if jump := re.match(r"(?:b\.\w+|cbn?z|tbn?z)\s(?:.*,\s)?0x([0-9a-f]+)", text):
            start = places.get(int(jump[1], 16), len(code))
            if start <= i:
                yield slice(start, i + 1)


def instructions(code, loop):
    return [text for _, text in code[loop]]


def inner_loop(code, mark, count, once=True):
    """The shortest loop with this number of the instructions `mark`; the one for single tokens (`once`) asks for later weights."""
    fitting = [
        loop
        for loop in loops(code)
        if sum(text.startswith(mark) for text in instructions(code, loop)) == count
        and any(text.startswith("prfm") for text in instructions(code, loop)) == once
    ]
    return min(fitting, key=lambda loop: (loop.stop - loop.start, loop.start), default=None)


def decoding_around(code, inner):
    """The instructions of the shortest loop around the inner one, without the inner one's."""
    around = [loop for loop in loops(code) if loop.start < inner.start and inner.stop < loop.stop]
    outer = min(around, key=lambda loop: loop.stop - loop.start)
    return instructions(code, slice(outer.start, inner.start)) + instructions(code, slice(inner.stop, outer.stop))


def cycles(loop, core):
    """Cycles per pass in the steady state."""
    lines = [re.sub(r"0x[0-9a-f]+ <.*>|(?<=, )0x[0-9a-f]{5,}$", "end", text.split("//")[0].strip()) for text in loop]
    source = "\n".join(lines) + "\nend:\n"
    passes = 200
    command = [tool("llvm-mca"), "-march=aarch64", f"-mcpu={core}", "-mattr=+dotprod,+i8mm", f"-iterations={passes}"]
    run = subprocess.run(command, input=source, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return int(re.search(r"Total Cycles:\s+(\d+)", run.stdout)[1]) / passes


def kernel(code, name):
    body = next((body for full, body in code.items() if re.search(f"{name}(::|$)", full)), None)
    return body or sys.exit(f"error: the program has no {name}")


def row(name, size, count, cores, speed):
    cells = [f"{speed(core):.1f}" if core in cores else "" for core in CORES]
    return f"| {name.replace('_set::', ' ')} | {size} | {count} | " + " | ".join(cells) + " |"


def head(size):
    return f"| kernel | {size} | instructions | " + " | ".join(CORES) + " |\n|---|---:|---:|" + "---:|" * len(CORES)


def decode(code):
    yield head("bytes")
    for module, mark in MARKS.items():
        for shape in ["gemm", "columns"]:
            for kind, size in TILES.items():
                name = f"{module}::{shape}_{kind}"
                body = kernel(code, name)
                loop = inner_loop(body, mark, 32) or sys.exit(f"error: not the loop that was expected of {name}")
                loop = instructions(body, loop)
                yield row(name, size, len(loop), WITH.get(module, CORES), lambda core: size / cycles(loop, core))


def prefill(code):
    yield head("tokens")
    for module, (mark, count, tokens, together) in PREFILL.items():
        for kind in TILES:
            name = f"{module}::gemm_{kind}"
            body = kernel(code, name)
            loop = inner_loop(body, mark, count, once=False) or sys.exit(f"error: not the loop expected of {name}")
            inner, decoding = instructions(body, loop), decoding_around(body, loop)
            number = len(inner) / tokens + len(decoding) / together
            speed = lambda core: 512 / (cycles(inner, core) / tokens + cycles(decoding, core) / together)
            yield row(name, together, round(number), WITH[module], speed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="an aarch64 program with the kernels in it")
    code = functions(parser.parse_args().program)
    print(*decode(code), "", *prefill(code), sep="\n")


main()
