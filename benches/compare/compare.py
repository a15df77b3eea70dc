#!/usr/bin/env python3
"""Measures shadowllm and its rivals side by side: the same weights, in turns, on the same machine."""

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
  compare.py --gguf FILE.gguf                       any model, packed as it is
  compare.py --gguf FILE.gguf --ik-bin BIN          and a build of ik_llama.cpp beside them
  compare.py --llama-bin BIN --models DIR           with programs and GGUFs that are already there
  compare.py --model llama7b --format q4_0 -t 2     one row (21 GB of disk, 8 GB of memory)
"""
OURS = "shadowllm"
RERUN = "run it by hand to see more, or `compare.py --help`"


@dataclass(frozen=True)
class Cell:
    """What a turn measures."""

    model: str
    format: str
    threads: int


@dataclass(frozen=True)
class Run:
    """Tokens per second by test, and what else the machine did meanwhile."""

    rates: dict
    usage: machine.Usage


@dataclass(frozen=True)
class Turn:
    """One run of each engine, one right after the other."""

    cell: Cell
    runs: dict
    disturbed: bool


class Bench:
    """The benchmark programs, with the same options."""

    def __init__(self, shadowllm, rivals, prompt, generate):
        self.shadowllm = shadowllm
        self.rivals = rivals
        self.tests = {f"pp{prompt}": prompt, f"tg{generate}": generate}
        self.tests = {test: tokens for test, tokens in self.tests.items() if tokens > 0}
        self.sizes = ["-p", prompt, "-n", generate, "-r", 1]
        self.versions = {}
        self.bandwidths = {}

    def run_shadowllm(self, image, threads):
        """Rates of our engine."""
        command = [self.shadowllm, "bench", image, *self.sizes, "-t", threads, "--json"]
        result = json.loads(call(command, RERUN))
        self.versions[OURS] = f"{call([self.shadowllm, '--version'], RERUN).split()[-1]} ({result['isa']})"
        self.bandwidths.setdefault(threads, []).append(result["rows"][0]["read_bandwidth"])
        return {row["test"]: row["mean"] for row in result["rows"]}

    def run_rival(self, name, gguf, threads):
        """Rates of a program that takes llama-bench's options."""
        program, *options = self.rivals[name]
        command = [program, "-m", gguf, *self.sizes, "-t", threads, "-o", "json", *options]
        rows = json.loads(call(command, RERUN))
        self.versions[name] = " ".join([rows[0]["build_commit"], *options])
        return {(f"pp{r['n_prompt']}" if r["n_prompt"] else f"tg{r['n_gen']}"): r["avg_ts"] for r in rows}

    def turn(self, cell, gguf, image, limit):
        """One run of each."""
        runs = {OURS: watched(lambda: self.run_shadowllm(image, cell.threads))}
        for name in self.rivals:
            runs[name] = watched(lambda name=name: self.run_rival(name, gguf, cell.threads))
        return Turn(cell, runs, max(run.usage.taken() for run in runs.values()) > limit)


def watched(run):
    """A run, with the load of the machine meanwhile."""
    watch = machine.Watch()
    rates = run()
    return Run(rates, watch.usage())


def measure(bench, files, options, turns):
    """All rounds; appends to `turns`, so that what was measured before an interruption is not lost."""
    for number in range(1, options.rounds + 1):
        for (model, format_), (gguf, image) in files.items():
            for threads in options.threads:
                machine.wait_until_quiet(options.limit, options.wait)
                turn = bench.turn(Cell(model, format_, threads), gguf, image, options.limit)
                turns.append(turn)
                note(f"round {number}/{options.rounds}: {progress(turn)}")


def progress(turn):
    """A turn in one line."""
    cell, runs = turn.cell, turn.runs.values()
    tests = turn.runs[OURS].rates
    rates = ", ".join(f"{test} {' : '.join(f'{r.rates[test]:.1f}' for r in runs)}" for test in tests)
    taken = " : ".join(f"{r.usage.taken():.2f}" for r in runs)
    mark = ", DISTURBED" if turn.disturbed else ""
    return f"{cell.model} {cell.format} {cell.threads} threads: {rates}; cores taken by others {taken}{mark}"


def summarize(turns, tests):
    """A row for each cell and test, over its quiet turns, or over all when none was quiet."""
    rows = []
    for cell in dict.fromkeys(t.cell for t in turns):
        for test in tests:
            everything = [t for t in turns if t.cell == cell]
            quiet = [t for t in everything if not t.disturbed]
            rows.append(row(cell, test, quiet or everything) | {"quiet": len(quiet), "turns": len(everything)})
    models = list(dict.fromkeys((r["model"], r["format"]) for r in rows))
    return sorted(rows, key=lambda r: (models.index((r["model"], r["format"])), r["test"], r["threads"]))


def row(cell, test, turns):
    """Median and best of each engine, and the medians of the ratios to each rival, turn by turn."""
    rates = {name: [t.runs[name].rates[test] for t in turns] for name in turns[0].runs}
    ratios = {name: [a / b for a, b in zip(rates[OURS], rates[name])] for name in rates if name != OURS}
    return asdict(cell) | {
        "test": test,
        "rates": {name: {"median": statistics.median(r), "best": max(r)} for name, r in rates.items()},
        "ratios": {
            name: {"median": statistics.median(r), "lowest": min(r), "highest": max(r)} for name, r in ratios.items()
        },
    }


def markdown(rows, about):
    """The report."""
    load = " ".join(f"{x:.2f}" for x in about["machine"]["load"])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    bandwidths = ", ".join(f"{gb:.1f} with {t} thread{'s' * (t > 1)}" for t, gb in about["bandwidths"].items())
    names = list(about["versions"])
    heads = [OURS] + [head for name in names if name != OURS for head in (name, "ratio")]
    lines = [
        f"{machine.words(about['machine'])}; load {load} at the start; {versions}.",
        f"Memory read meanwhile, GB/s: {bandwidths}.",
        "Tokens per second, median (best); ratio: median of the ratios of runs that follow each other (range).",
        "",
        f"| model | test | threads | {' | '.join(heads)} | quiet turns |",
        f"|---|---|---:|{'---:|' * len(heads)}---:|",
    ]
    for r in rows:
        quiet = f"{r['quiet']} of {r['turns']}" + ("" if r["quiet"] else ", all used")
        cells = " | ".join(cell for name in names if name in r["rates"] for cell in cells_of(r, name))
        lines.append(f"| {(r['model'] + ' ' + r['format']).strip()} | {r['test']} | {r['threads']} | {cells} | {quiet} |")
    return "\n".join(lines)


def cells_of(row, name):
    """An engine's rates, and the ratio to it."""
    rates = row["rates"][name]
    yield f"{rates['median']:.1f} ({rates['best']:.1f})"
    if name in row["ratios"]:
        ratio = row["ratios"][name]
        yield f"**{ratio['median']:.2f}** ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"


def list_of(kind, known=None):
    """An argument type: values between commas, of a known set if there is one."""

    def parse(text):
        values = [kind(v) for v in text.split(",")]
        unknown = [v for v in values if known and v not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not one of {', '.join(known)}")
        return values

    parse.__name__ = f"list of {kind.__name__}"  # the word that argparse puts into error messages
    return parse


def arguments():
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = p.add_argument_group("what to measure")
    add = what.add_argument
    add("--model", type=list_of(str, MODELS), help=f"of {', '.join(MODELS)} (smollm2, without --gguf)")
    add("--gguf", type=list_of(Path), default=[], metavar="FILE", help="models of your own, packed as they are")
    add("--format", type=list_of(str, FORMATS), default=FORMATS, help=f"of {', '.join(FORMATS)} (both)")
    add("-t", "--threads", type=list_of(int), default=[1, 2], help="numbers of threads (1,2)")
    add("-p", "--prompt", type=int, default=512, help="tokens of the prefill, 0 for none (512)")
    add("-n", "--generate", type=int, default=64, help="tokens to decode, 0 for none (64)")
    add("--rounds", type=int, default=5, help="turns of each kind (5)")
    where = p.add_argument_group("where things are")
    add = where.add_argument
    add("--work", type=Path, default=default_work(), metavar="DIR", help="for all files that are made (%(default)s)")
    add("--llama-bin", metavar="DIR", help="ready llama-bench (and llama-quantize)")
    add("--ik-bin", metavar="DIR", help="a ready llama-bench of ik_llama.cpp, to be measured too")
    add("--models", metavar="DIR", help="ready GGUFs named MODEL-FORMAT.gguf; only read")
    add("--shadowllm", metavar="PROGRAM", help="the program to measure (this repository's release build)")
    add("-o", "--output", type=Path, metavar="FILE", help="the result as JSON (WORK/compare.json)")
    quiet = p.add_argument_group("other load")
    add = quiet.add_argument
    add("--limit", type=float, default=0.05, metavar="CORES", help="that others may take in a quiet turn (0.05)")
    add("--wait", type=float, default=30, metavar="SECONDS", help="for a quiet machine before a turn, at most (30)")
    options = p.parse_args()
    if options.rounds < 1 or min(options.threads) < 1 or options.prompt < 0 or options.generate < 0:
        p.error("rounds and threads begin at 1, -p and -n at 0")
    options.model = options.model or ([] if options.gguf else ["smollm2"])
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
    rivals = {"llama.cpp": [llama.program("llama-bench")]}
    if options.ik_bin:
        rivals["ik_llama.cpp"] = [LlamaCpp(options.work, tools, options.ik_bin).program("llama-bench"), "-rtr", "1"]
    bench = Bench(shadowllm, rivals, options.prompt, options.generate)
    files = {(m, f): models.pair(m, f) for m in options.model for f in options.format}
    files |= {(gguf.stem, ""): models.own(gguf) for gguf in options.gguf}
    about = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.describe()}
    turns = []
    try:
        with machine.alone(note):
            measure(bench, files, options, turns)
    except KeyboardInterrupt:
        note("interrupted: this is what there is")
    bandwidths = {threads: statistics.median(gb) for threads, gb in bench.bandwidths.items()}
    about |= {"versions": bench.versions, "limit": options.limit, "bandwidths": bandwidths}
    rows = summarize(turns, bench.tests)
    output = options.output or options.work / "compare.json"
    output.write_text(json.dumps(about | {"summary": rows, "turns": [asdict(t) for t in turns]}, indent=1) + "\n")
    print(markdown(rows, about))
    note(f"written: {output}")


if __name__ == "__main__":
    sys.exit(finish("compare", lambda: run(arguments())))
