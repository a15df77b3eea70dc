#!/usr/bin/env python3
"""Times exact answers beside dense ones, in turns, and checks that the texts are the same.

    python3 benches/exact.py MODEL.sllm [-t 1,2] [--rounds 3] [--program target/release/shadowllm]

Prompts: an edit of code and a corrected text, whose answers repeat the prompt, and a story, whose answer does not.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

CODE = """Rename the class Point to Vector in this Python code and show the whole code again:

```python
class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def add(self, other):
        return Point(self.x + other.x, self.y + other.y)

    def subtract(self, other):
        return Point(self.x - other.x, self.y - other.y)

    def scale(self, factor):
        return Point(self.x * factor, self.y * factor)
```"""
STORY = "Write a story about a lighthouse keeper who finds a strange bottle on the beach."


def prompts():
    """Name, prompt and options of each case."""
    text = (Path(__file__).parent.parent / "tests/vectors/brown-heldout.txt").read_text()[:1400]
    return [
        ("code, edited", CODE, ["--greedy"]),
        ("text, corrected", "Copy the following text, and correct only its spelling:\n\n" + text, ["--greedy"]),
        ("story, greedy", STORY, ["--greedy"]),
        ("story, sampled", STORY, ["--seed", "3"]),
    ]


def answer(options, threads, prompt, more):
    """Figures and text of an answer."""
    command = [options.program, "run", options.model, "-p", prompt, "-n", "160", "-t", threads, "--json", *more]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["figures"], result["text"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", default="target/release/shadowllm")
    options = parser.parse_args()
    print("| answer | threads | dense | exact | ratio | guessed |\n|---|---:|---:|---:|---:|---:|")
    for threads in options.threads.split(","):
        for name, prompt, more in prompts():
            pairs = []
            for _ in range(options.rounds):
                (dense, wanted), (exact, text) = (
                    answer(options, threads, prompt, more + last) for last in ([], ["--exact"])
                )
                assert text == wanted, f"{name}: exact answered {text!r}, dense {wanted!r}"
                pairs.append((dense["tokens_per_second"], exact["tokens_per_second"]))
            ratios = [b / a for a, b in pairs]
            dense, fast = (statistics.median(column) for column in zip(*pairs))
            guessed = f"{exact['guessed_tokens']} of {exact['generated_tokens']}"
            span = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"| {name} | {threads} | {dense:.1f} | {fast:.1f} | {span} | {guessed} |", flush=True)


if __name__ == "__main__":
    main()
