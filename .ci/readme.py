"""Runs the shell lines of the README's "Using it", in their order, on a small model.

    python3 .ci/readme.py SHADOWLLM MODEL FOLDER

SHADOWLLM is the program, MODEL takes the place of `model.gguf`, FOLDER is where files go. Lines run as they stand, but for
options that make them short: fewer tokens, fewer questions.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

# What is added to a command, or put in the place of an option's value, so that it takes seconds.
SHORTER = {
    "run": ["-n", "16"],
    "calibrate": ["--tokens", "1200", "--window", "64", "--budget-windows", "1"],
    "eval --text": ["--window", "64", "--dense-prefix", "32", "--max-windows", "1"],
    "report": ["--window", "64", "--max-windows", "1", "--policy", "gate", "--density", "0.8"],
    "eval --tasks": ["--limit", "2"],
    "bench": ["-p", "64", "-n", "8", "-r", "1"],
}
top = Path(__file__).resolve().parent.parent


def shortened(words):
    kind = words[1]
    if kind == "eval":
        kind += " --tasks" if "--tasks" in words else " --text"
    extra = SHORTER.get(kind, [])
    for option, value in zip(extra[::2], extra[1::2]):
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return words


def main():
    program, model, folder = (Path(p).resolve() for p in sys.argv[1:])
    readme = (top / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Using it\n")[1].split("\n## ")[0]
    lines = [shlex.split(line, comments=True) for block in re.findall(r"```sh\n(.*?)```", section, re.S) for line in block.split("\n")]
    lines = [words for words in lines if words]
    assert len(lines) >= 8 and all(words[0] == "shadowllm" for words in lines), lines
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.gguf").symlink_to(model)
    text = (top / "tests/vectors/brown-heldout.txt").read_text(encoding="utf-8")
    (folder / "book.txt").write_text(text[: len(text) // 2], encoding="utf-8")
    (folder / "other.txt").write_text(text[len(text) // 2 :], encoding="utf-8")
    for words in lines:
        words = shortened(words)
        print("$", shlex.join(words), flush=True)
        begun = time.monotonic()
        run = subprocess.run([program, *words[1:]], cwd=folder, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                             timeout=600, env=os.environ | {"NO_COLOR": "1"})
        written = [folder / words[words.index(o) + 1] for o in ("-o",) if o in words]
        if run.returncode == 1 and "--tasks" in words and "could not be fetched" in run.stderr:
            print("  SKIPPED, NOT TESTED: task sets cannot be fetched")
            assert not os.environ.get("SHADOWLLM_NO_SKIPS")
            continue
        if run.returncode or not (run.stdout or written) or not all(f.stat().st_size for f in written):
            sys.exit(f"{run.stdout}\n{run.stderr}\nthis line of the README fails with {run.returncode}")
        print(f"  {time.monotonic() - begun:.1f} s; {(run.stdout.strip().splitlines() or [''])[-1][:100]}", flush=True)


main()
