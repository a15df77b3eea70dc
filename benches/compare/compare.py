#!/usr/bin/env python3
"""Measures shadowllm and llama.cpp side by side: the same weights, in turns, on the same machine."""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
from prepare import FORMATS, MODELS, LlamaCpp, Models, Tools, call, default_work, find_shadowllm, finish, note

EXAMPLES = """\
examples:
  compare.py                                        SmolLM2 in both formats; fetches and builds what it needs
  compare.py --model smollm2,tiny1b --rounds 5      a large model besides
  compare.py --llama-bin BIN --models DIR           with programs and GGUFs that are already there
  compare.py --model llama7b --format q4_0 -t 2     one row (21 GB of disk, 8 GB of memory)
"""
RERUN = "run it by hand to see more, or `compare.py --help`"


@dataclass(frozen=True)
class Cell:
    """What a pair of runs measures."""

    model: str
    format: str
    threads: int


@dataclass(frozen=True)
class Run:
    """Tokens per second by test, and what else the machine did meanwhile."""

    rates: dict
    usage: machine.Usage


@dataclass(frozen=True)
class Pair:
    """One run of each engine, the second right after the first."""

    cell: Cell
    shadowllm: Run
    llama_cpp: Run
    disturbed: bool


class Bench:
    """The two benchmark programs, asked for the same."""

    def __init__(self, shadowllm, llama_bench, prompt, generate):
        self.shadowllm = shadowllm
        self.llama_bench = llama_bench
        self.tests = {f"pp{prompt}": prompt, f"tg{generate}": generate}
        self.tests = {test: tokens for test, tokens in self.tests.items() if tokens > 0}
        self.sizes = ["-p", prompt, "-n", generate, "-r", 1]
        self.versions = {}

    def run_shadowllm(self, image, threads):
        """Rates of our engine."""
        command = [self.shadowllm, "bench", image, *self.sizes, "-t", threads, "--json"]
        result = json.loads(call(command, RERUN))
        self.versions["shadowllm"] = f"{call([self.shadowllm, '--version'], RERUN).split()[-1]} ({result['isa']})"
        return {row["test"]: row["mean"] for row in result["rows"]}

    def run_llama_cpp(self, gguf, threads):
        """Rates of llama.cpp."""
        command = [self.llama_bench, "-m", gguf, *self.sizes, "-t", threads, "-o", "json"]
        rows = json.loads(call(command, RERUN))
        self.versions["llama.cpp"] = f"{rows[0]['build_commit']} ({rows[0]['backends']})"
        return {(f"pp{r['n_prompt']}" if r["n_prompt"] else f"tg{r['n_gen']}"): r["avg_ts"] for r in rows}

    def pair(self, cell, gguf, image, limit):
        """One run of each."""
        ours = watched(lambda: self.run_shadowllm(image, cell.threads))
        theirs = watched(lambda: self.run_llama_cpp(gguf, cell.threads))
        disturbed = max(ours.usage.taken(), theirs.usage.taken()) > limit
        return Pair(cell, ours, theirs, disturbed)


def watched(run):
    """A run with an eye on the machine."""
    watch = machine.Watch()
    rates = run()
    return Run(rates, watch.usage())


def measure(bench, files, options, pairs):
    """All rounds; appends to `pairs`, so that what was measured before an interruption is not lost."""
    for number in range(1, options.rounds + 1):
        for (model, format_), (gguf, image) in files.items():
            for threads in options.threads:
                machine.wait_until_quiet(options.limit, options.wait)
                pair = bench.pair(Cell(model, format_, threads), gguf, image, options.limit)
                pairs.append(pair)
                note(f"round {number}/{options.rounds}: {progress(pair)}")


def progress(pair):
    """A pair in one line."""
    cell, runs = pair.cell, (pair.shadowllm, pair.llama_cpp)
    rates = ", ".join(f"{test} {' : '.join(f'{r.rates[test]:.1f}' for r in runs)}" for test in runs[0].rates)
    taken = " : ".join(f"{r.usage.taken():.2f}" for r in runs)
    mark = ", DISTURBED" if pair.disturbed else ""
    return f"{cell.model} {cell.format} {cell.threads} threads: {rates}; cores taken by others {taken}{mark}"


def summarize(pairs, tests):
    """A row for each cell and test, over its quiet pairs, or over all when none was quiet."""
    rows = []
    for test in tests:
        for cell in dict.fromkeys(p.cell for p in pairs):
            everything = [p for p in pairs if p.cell == cell]
            quiet = [p for p in everything if not p.disturbed]
            rows.append(row(cell, test, quiet or everything) | {"quiet": len(quiet), "pairs": len(everything)})
    return sorted(rows, key=lambda r: (MODELS.index(r["model"]), FORMATS.index(r["format"]), r["test"], r["threads"]))


def row(cell, test, pairs):
    """Median and best of both, and the median of the pairwise ratios."""
    ours, theirs = ([getattr(p, engine).rates[test] for p in pairs] for engine in ("shadowllm", "llama_cpp"))
    ratios = [a / b for a, b in zip(ours, theirs)]
    return asdict(cell) | {
        "test": test,
        "shadowllm": {"median": statistics.median(ours), "best": max(ours)},
        "llama_cpp": {"median": statistics.median(theirs), "best": max(theirs)},
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


def markdown(rows, about):
    """The report."""
    load = " ".join(f"{x:.2f}" for x in about["machine"]["load"])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores, load {load} at the start; {versions}.",
        "Tokens per second, median (best); ratio: median of the pairwise ratios shadowllm / llama.cpp (range).",
        "",
        "| model | test | threads | shadowllm | llama.cpp | ratio | quiet pairs |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        rates = " | ".join(f"{r[e]['median']:.1f} ({r[e]['best']:.1f})" for e in ("shadowllm", "llama_cpp"))
        ratio = f"**{r['ratio']['median']:.2f}** ({r['ratio']['lowest']:.2f}-{r['ratio']['highest']:.2f})"
        quiet = f"{r['quiet']} of {r['pairs']}" + ("" if r["quiet"] else ", all used")
        lines.append(f"| {r['model']} {r['format']} | {r['test']} | {r['threads']} | {rates} | {ratio} | {quiet} |")
    return "\n".join(lines)


def list_of(kind, known=None):
    """An argument type: values between commas, of a known set if there is one."""

    def parse(text):
        values = [kind(v) for v in text.split(",")]
        unknown = [v for v in values if known and v not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return values

    parse.__name__ = f"list of {kind.__name__}"  # as argparse words its complaints
    return parse


def arguments():
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = p.add_argument_group("what to measure")
    add = what.add_argument
    add("--model", type=list_of(str, MODELS), default=["smollm2"], help=f"of {', '.join(MODELS)} (smollm2)")
    add("--format", type=list_of(str, FORMATS), default=FORMATS, help=f"of {', '.join(FORMATS)} (both)")
    add("-t", "--threads", type=list_of(int), default=[1, 2], help="numbers of threads (1,2)")
    add("-p", "--prompt", type=int, default=512, help="tokens of the prefill, 0 for none (512)")
    add("-n", "--generate", type=int, default=64, help="tokens to decode, 0 for none (64)")
    add("--rounds", type=int, default=5, help="pairs of runs of each kind (5)")
    where = p.add_argument_group("where things are")
    add = where.add_argument
    add("--work", type=Path, default=default_work(), metavar="DIR", help="for all that is made (%(default)s)")
    add("--llama-bin", metavar="DIR", help="ready llama-bench (and llama-quantize)")
    add("--models", metavar="DIR", help="ready GGUFs named MODEL-FORMAT.gguf; only read")
    add("--shadowllm", metavar="PROGRAM", help="the program to measure (this repository's release build)")
    add("-o", "--output", type=Path, metavar="FILE", help="the result as JSON (WORK/compare.json)")
    quiet = p.add_argument_group("other load")
    add = quiet.add_argument
    add("--limit", type=float, default=0.05, metavar="CORES", help="taken by others: more disturbs a pair (0.05)")
    add("--wait", type=float, default=30, metavar="SECONDS", help="for a quiet machine before a pair, at most (30)")
    options = p.parse_args()
    if options.rounds < 1 or min(options.threads) < 1 or options.prompt < 0 or options.generate < 0:
        p.error("rounds and threads begin at 1, -p and -n at 0")
    if options.prompt + options.generate == 0:
        p.error("nothing to measure: one of -p and -n must be above 0")
    return options


def run(options):
    """Prepares, measures, reports."""
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    shadowllm = find_shadowllm(options.shadowllm)
    tools = Tools(options.work)
    llama = LlamaCpp(options.work, tools, options.llama_bin)
    models = Models(options.work, tools, llama, shadowllm, options.models)
    bench = Bench(shadowllm, llama.program("llama-bench"), options.prompt, options.generate)
    files = {(m, f): models.pair(m, f) for m in options.model for f in options.format}
    about = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.describe()}
    pairs = []
    try:
        with machine.alone(note):
            measure(bench, files, options, pairs)
    except KeyboardInterrupt:
        note("interrupted: this is what there is")
    about |= {"versions": bench.versions, "limit": options.limit}
    rows = summarize(pairs, bench.tests)
    output = options.output or options.work / "compare.json"
    output.write_text(json.dumps(about | {"summary": rows, "pairs": [asdict(p) for p in pairs]}, indent=1) + "\n")
    print(markdown(rows, about))
    note(f"written: {output}")


if __name__ == "__main__":
    sys.exit(finish("compare", lambda: run(arguments())))
