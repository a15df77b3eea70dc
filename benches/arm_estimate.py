#!/usr/bin/env python3
"""Estimates the Arm kernels' speed without an Arm: cycles of their inner loops by llvm-mca, from a program's disassembly.

    benches/arm_estimate.py target/no_std/arm/aarch64-unknown-linux-gnu/release/shadowllm-no-std

Prints a table: instructions, bytes of weights and cycles of one tile (16 outputs of 32 inputs), for one token. Caches and
memory are not in the model: what is printed is how fast the core could go if the weights were at hand.
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
WITH_DOT = [core for core in CORES if core != "cortex-a53"]


def tool(name):
    """The newest version of an LLVM tool that is there."""
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


def inner_loop(code, mark, count):
    """The shortest loop with so many of the instructions `mark` that asks for later weights: the one for single tokens."""
    loops = []
    for i, (_, text) in enumerate(code):
        if jump := re.match(r"(?:b\.\w+|cbn?z|tbn?z)\s(?:.*,\s)?0x([0-9a-f]+)", text):
            start = next((j for j, (at, _) in enumerate(code[: i + 1]) if at == int(jump[1], 16)), None)
            if start is not None:
                loops.append([text for _, text in code[start : i + 1]])
    fitting = [
        loop
        for loop in loops
        if sum(text.startswith(mark) for text in loop) == count and any(text.startswith("prfm") for text in loop)
    ]
    return min(fitting, key=len, default=None)


def cycles(loop, core):
    """Cycles per pass in the steady state."""
    lines = [re.sub(r"0x[0-9a-f]+ <.*>|(?<=, )0x[0-9a-f]{5,}$", "end", text.split("//")[0]) for text in loop]
    source = "\n".join(lines) + "\nend:\n"
    passes = 200
    command = [tool("llvm-mca"), "-march=aarch64", f"-mcpu={core}", "-mattr=+dotprod", f"-iterations={passes}"]
    run = subprocess.run(command, input=source, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return int(re.search(r"Total Cycles:\s+(\d+)", run.stdout)[1]) / passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="an aarch64 program with the kernels in it")
    code = functions(parser.parse_args().program)
    rows = ["| kernel | bytes | instructions | " + " | ".join(CORES) + " |", "|---|---:|---:|" + "---:|" * len(CORES)]
    for module, mark in MARKS.items():
        for shape in ["gemm", "columns"]:
            for kind, size in TILES.items():
                name = f"{module}::{shape}_{kind}"
                body = next((body for full, body in code.items() if re.search(f"{name}(::|$)", full)), None)
                loop = body and inner_loop(body, mark, 32)
                if not loop:
                    sys.exit(f"error: the program has no {name}, or not the loop that was expected of it")
                cores = WITH_DOT if "sdot" in mark else CORES
                speed = [f"{size / cycles(loop, core):.1f}" if core in cores else "" for core in CORES]
                rows.append(f"| {name.replace('_set::', ' ')} | {size} | {len(loop)} | " + " | ".join(speed) + " |")
    print("\n".join(rows))


main()
