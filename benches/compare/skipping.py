#!/usr/bin/env python3
"""Measures what skipping saves: one shape in every layout and density, in turns with the same shape read whole."""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import machine
from compare import RERUN, list_of
from prepare import call, default_work, find_shadowllm, finish, note

EXAMPLES = """\
examples:
  skipping.py                                          the shape of TinyLlama-1.1B, 2.5 GB of disk
  skipping.py --shape llama-2-7b -n 6 --layout groups-of-8,inputs
"""
# How a layout is packed, the policy for it, and the densities of interest.
LAYOUTS = {
    "groups-of-32": (["--layout", "dense"], "random", [1, 0.5, 0.3, 0.1]),
    "groups-of-8": (["--layout", "neuron", "--neuron-group", "8"], "random", [1, 0.5, 0.3, 0.1]),
    "single-neurons": (["--layout", "neuron"], "random", [1, 0.5, 0.3, 0.1]),
    "inputs": (["--layout", "input"], "prompt-input", [1, 0.75, 0.5]),
}
# Thresholds on inputs are taken from a prompt.
DEPTH = 32


@dataclass(frozen=True)
class Cell:
    """What a run measures."""

    layout: str
    density: float
    threads: int

    def whole(self):
        """The case to compare with, read whole: for inputs their own layout, for others the fastest layout."""
        return Cell("inputs" if self.layout == "inputs" else "groups-of-32", 1, self.threads)


class Shape:
    """A shape with random weights, packed in every layout."""

    def __init__(self, options, program):
        self.options, self.program = options, program

    def image(self, layout):
        """The packed shape, which is made if it does not exist."""
        path = self.options.work / f"{self.options.shape}-{self.options.format}-{layout}.sllm"
        if not path.exists() or path.stat().st_mtime < Path(self.program).stat().st_mtime:
            note(f"packing {path.name}")
            kind = ["--synthetic", self.options.shape, "--format", self.options.format, *LAYOUTS[layout][0]]
            call([self.program, "pack", *kind, "-o", path], RERUN)
        return path

    def run(self, cell, image):
        """Tokens a second, and bytes of a token."""
        command = [self.program, "bench", image, "-p", 0, "-n", self.options.generate, "-d", DEPTH, "-r", 1]
        command += ["-t", cell.threads, "--json"]
        if cell.density < 1:
            command += ["--policy", LAYOUTS[cell.layout][1], "--density", cell.density]
        row = json.loads(call(command, RERUN))["rows"][0]
        return row["mean"], row["bytes_per_token"]


def cells(options):
    """All cases, those to compare with included."""
    found = [Cell(name, d, t) for name in options.layout for d in LAYOUTS[name][2] for t in options.threads]
    return list(dict.fromkeys([c.whole() for c in found] + found))


def measure(shape, options):
    """Rates of all rounds by cell, and bytes."""
    images = {name: shape.image(name) for name in dict.fromkeys(c.layout for c in cells(options))}
    rates, sizes = {}, {}
    for number in range(1, options.rounds + 1):
        machine.wait_until_quiet(0.05, options.wait)
        for cell in cells(options):
            rate, sizes[cell] = shape.run(cell, images[cell.layout])
            rates.setdefault(cell, []).append(rate)
        note(f"round {number} of {options.rounds}")
    return rates, sizes


def markdown(rates, sizes, options):
    """The report."""
    lines = [
        f"{machine.cpu_name()}; {options.shape}, {options.format}, {options.rounds} rounds in turns. Speed-up over the",
        "same shape read whole: median of the rounds (range), and its share of the ratio of the bytes.",
        "",
        "| layout | density | threads | tokens/s | MB a token | speed-up | of the bytes' |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in rates:
        ratios = [a / b for a, b in zip(rates[cell], rates[cell.whole()])]
        ratio, share = statistics.median(ratios), sizes[cell.whole()] / sizes[cell]
        lines.append(
            f"| {cell.layout} | {cell.density} | {cell.threads} | {statistics.median(rates[cell]):.1f} "
            f"| {sizes[cell] / 1e6:.1f} | {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {100 * ratio / share:.0f} % |"
        )
    for threads in options.threads if "inputs" in options.layout else []:
        both = zip(rates[Cell("inputs", 1, threads)], rates.get(Cell("groups-of-32", 1, threads), []))
        if ratios := [a / b for a, b in both]:
            lines += ["", f"Read whole, {threads} threads: inputs {statistics.median(ratios):.2f} times groups-of-32."]
    return "\n".join(lines)


def arguments():
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = p.add_argument
    add("--shape", default="tinyllama-1.1b", help="as `shadowllm pack --synthetic` takes it (%(default)s)")
    add("--format", default="q4_0", help="number format (%(default)s)")
    add("--layout", type=list_of(str, LAYOUTS), default=list(LAYOUTS), help=f"of {', '.join(LAYOUTS)} (all)")
    add("-t", "--threads", type=list_of(int), default=[1, 2], help="numbers of threads (1,2)")
    add("-n", "--generate", type=int, default=24, help="tokens to decode (%(default)s)")
    add("--rounds", type=int, default=3, help="runs of each kind (%(default)s)")
    add("--work", type=Path, default=default_work(), metavar="DIR", help="for the images (%(default)s)")
    add("--shadowllm", metavar="PROGRAM", help="the program to measure (this repository's release build)")
    add("--wait", type=float, default=30, metavar="SECONDS", help="for a quiet machine before a round (%(default)s)")
    options = p.parse_args()
    if min(options.rounds, options.generate, *options.threads) < 1:
        p.error("rounds, tokens and threads begin at 1")
    return options


def run(options):
    """Prepares, measures, reports."""
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    with machine.alone(note):
        rates, sizes = measure(Shape(options, find_shadowllm(options.shadowllm)), options)
    print(markdown(rates, sizes, options))


if __name__ == "__main__":
    sys.exit(finish("skipping", lambda: run(arguments())))
