"""The first hour of a newcomer, in a terminal of 80 columns and in pipes, on the small model that ships.

    python3 .ci/first_hour.py SHADOWLLM FOLDER

SHADOWLLM is the program, FOLDER is where files go. Needs the Python packages pexpect and pyte.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pyte

top = Path(__file__).resolve().parent.parent
program, folder = (Path(p).resolve() for p in sys.argv[1:])
STORY = str(top / "host/models/story.sllm")
LONG = "Tell me a story about a dog and a red ball."
environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "TERM": "xterm", "COLUMNS": "80"}


def piped(*arguments, given="", code=0, **more):
    """Runs the program without a terminal and returns what it wrote to both outputs."""
    run = subprocess.run([program, *arguments], input=given, text=True, capture_output=True, cwd=folder, timeout=300,
                         env=environment | more)
    assert run.returncode == code, (arguments, run.returncode, run.stdout, run.stderr)
    return run.stdout, run.stderr


def terminal(*arguments):
    """Starts the program at a terminal."""
    return pexpect.spawn(str(program), list(arguments), dimensions=(24, 80), encoding="utf-8", timeout=60, cwd=str(folder),
                         env=environment)


def at_prompt(child):
    """Waits for the chat's prompt."""
    child.expect(r"> (\x1b\[[0-9;?]*[A-Za-z])*")


def ended(child, code=0):
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code, (child.exitstatus, child.signalstatus, child.before)


def prompt_tokens(child):
    child.expect(r"\[(\d+) prompt tokens at [^\]]*, (\d+) generated at [^\]]*\]")
    return int(child.match.group(1)), int(child.match.group(2))


def help_fits():
    """Every command explains itself within 80 columns, without words that are cut."""
    text = piped("--help")[0]
    assert text.startswith("On-device LLM inference"), text
    assert piped("--version")[0].startswith("shadowllm 0."), "the name of the program"
    commands = re.findall(r"^  ([a-z]+) ", text.split("Commands:")[1].split("Options:")[0], re.M)
    assert {"run", "pack", "tokenize", "cache", "eval", "calibrate"} <= set(commands), commands
    for command in commands:
        if command == "help":
            continue
        child = terminal(command, "--help")
        child.expect(pexpect.EOF)
        for line in re.sub(r"\x1b\[[0-9;]*m", "", child.before).splitlines():
            assert len(line) <= 80 or "shadowllm " in line, (command, len(line), line)
    run = piped("run", "--help")[0]
    for heading in ("Machine:", "Skipping:", "Choosing tokens:"):
        assert heading in run, heading
    assert "q4_0" in piped("pack", "--help")[0], "the formats are listed"


def chat():
    """Blank lines, half a line, an answer that is stopped, commands, and what is read again."""
    child = terminal("run", STORY, "-n", "400")
    at_prompt(child)
    child.send("\r")
    at_prompt(child)
    child.send("half a line\x03")
    child.expect("Ctrl-C once more")
    at_prompt(child)
    for command, said in [("/help", "/clear"), ("/foo", "there is no command /foo"), ("/density 0.5", "50 % of what"),
                          ("/density 7", "above 0 and at most 1"), ("/temperature 0", "temperature 0"),
                          ("/clear", "starts over"), ("/policy nonsense", "the policy as"), ("/save", "name the file"),
                          ("/load nowhere.chat", "nowhere.chat"), ("/stats", "positions used"), ("/reset", "starts over")]:
        child.send(command + "\r")
        child.expect_exact(said)
        at_prompt(child)
    child.send(LONG + "\r")
    child.expect(r"red ball\.[^\n]*\n[^\n]*?\w{3}")
    time.sleep(0.02)
    child.kill(signal.SIGINT)
    child.expect_exact("stopped; what was said stays")
    first, said = prompt_tokens(child)
    at_prompt(child)
    child.send("What color is the sky?\r")
    again, _ = prompt_tokens(child)
    # The question, and not the stopped answer before it.
    assert again < first + 16, (first, said, again)
    at_prompt(child)
    child.send("/save kept.chat\r")
    child.expect_exact("4 messages saved")
    at_prompt(child)
    for lines in (["One line and \\", "the next one."], ['"""What color', "is the sky?", '"""']):
        for number, line in enumerate(lines):
            if number:
                child.expect(r"\. (\x1b\[[0-9;?]*[A-Za-z])*")
            child.send(line + "\r")
        prompt_tokens(child)
        at_prompt(child)
    child.send("/bye\r")
    ended(child)
    child = terminal("run", STORY, "-n", "400")
    at_prompt(child)
    child.send("/load kept.chat\r")
    child.expect_exact("4 messages, all of them read")
    at_prompt(child)
    child.send("What color is the sky?\r")
    loaded, _ = prompt_tokens(child)
    assert loaded < first + 16, (first, loaded)
    at_prompt(child)
    child.send("/bye\r")
    ended(child)
    child = terminal("run", STORY)
    at_prompt(child)
    child.send("\x03")
    child.expect("once more")
    child.send("\x03")
    ended(child)
    child = terminal("run", STORY)
    at_prompt(child)
    child.send("\x04")
    ended(child)


def live():
    """Figures below an answer while it is written, and afterwards nothing but the answer on the screen."""
    asked = ("run", STORY, LONG, "--greedy", "-n", "400")
    expected = piped(*asked)[0].rstrip("\n")
    for rows, columns in ((24, 80), (5, 80), (24, 31)):
        child = pexpect.spawn(str(program), list(asked), dimensions=(rows, columns), timeout=60, cwd=str(folder), env=environment)
        screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.5)
        stream, seen = pyte.ByteStream(screen), set()
        while True:
            try:
                stream.feed(child.read_nonblocking(4096, timeout=60))
            except pexpect.EOF:
                break
            figures = [line for line in screen.display if line.startswith("[") and "t/s" in line and "prompt tokens" not in line]
            assert len(figures) <= 1, screen.display
            seen.update(figures)
        child.close()
        lines = ["".join(row[x].data for x in range(columns)) for row in screen.history.top] + screen.display
        text = "".join(lines).split("[")[0].rstrip()
        wrapped = "".join(line.ljust(-(-max(len(line), 1) // columns) * columns) for line in expected.split("\n")).rstrip()
        assert text == wrapped, (rows, columns, text, wrapped)
        assert seen and all("tokens at" in line for line in seen), seen
    plain = pexpect.spawn(str(program), list(asked), dimensions=(24, 80), timeout=60, cwd=str(folder), env=environment | {"NO_COLOR": "1"})
    plain.expect(pexpect.EOF)
    assert b"t/s" in plain.before and not re.search(rb"\x1b\[[0-9;]*m", plain.before), plain.before
    dumb = pexpect.spawn(str(program), list(asked), dimensions=(24, 80), timeout=60, cwd=str(folder), env=environment | {"TERM": "dumb"})
    dumb.expect(pexpect.EOF)
    assert b"\x1b" not in dumb.before, dumb.before


def pipes():
    """Text from a pipe, a closed input, a closed output, no colours."""
    out, err = piped("run", STORY, "--greedy", given="What color is the sky?\n")
    assert out.strip() and not out.startswith(" ") and "\x1b" not in out + err, (out, err)
    _, err = piped("run", STORY, "--greedy", "-n", "8", given="A story.\n\nAbout a dog.\n")
    assert err.count("prompt tokens") == 1, err
    dashed, _ = piped("run", STORY, "--greedy", "-f", "-", given="What color is the sky?\n")
    assert dashed == out, (dashed, out)
    word, _ = piped("run", STORY, "What color is the sky?", "--greedy")
    named, _ = piped("run", "-m", STORY, "-p", "What color is the sky?", "--temp", "0", "-c", "256", "--repeat-penalty", "1")
    assert word == named, (word, named)
    with open(os.devnull) as nothing:
        run = subprocess.run([program, "run", STORY], stdin=nothing, capture_output=True, cwd=folder, env=environment)
    assert run.returncode == 0, run
    closed = subprocess.run(["sh", "-c", '"$0" run "$1" <&- 2>&1', program, STORY], capture_output=True, cwd=folder,
                            env=environment)
    assert closed.returncode in (0, 1) and b"panic" not in closed.stdout, closed
    head = subprocess.run(["bash", "-c", 'set -o pipefail; "$0" inspect "$1" | head -1', program, STORY],
                          capture_output=True, text=True, cwd=folder, env=environment)
    assert head.returncode == 0 and len(head.stdout.splitlines()) == 1 and not head.stderr, head
    out, err = piped("demo", "--offline", "-n", "24", NO_COLOR="1")
    assert "\x1b" not in out + err and "Go on:" in out and "fewer bytes" in out, out
    for wrong, instead in [("serve", "there is no server"), ("pull", "models are files"), ("quantize", "shadowllm pack")]:
        assert instead in piped(wrong, code=2)[1], wrong
    assert "runs on the CPU" in piped("run", STORY, "--n-gpu-layers", "9", code=2)[1]


def tools():
    """Tokens and the cache, and that a second run finds what the first one packed."""
    ids = piped("tokenize", STORY, "the dog")[0]
    assert re.fullmatch(r"\[\d+(,\d+)*\]\n", ids), ids
    pieces = piped("tokenize", STORY, "the dog", "--pieces")[0]
    assert "dog" in pieces, pieces
    (folder / "ids.json").write_text(ids)
    piped("logits", STORY, "--ids", "ids.json", "-o", "logits.safetensors")
    model = str(top / "tests/vectors/brown-opt")
    first = piped("run", model, "-p", "The jury", "-n", "4")[1]
    second = piped("run", model, "-p", "The jury", "-n", "4")[1]
    assert "packing" in first and "packing" not in second, (first, second)
    assert ".sllm" in piped("cache", "list")[0]
    assert "MB removed" in piped("cache", "clear")[0]
    assert ".sllm" not in piped("cache", "list")[0]
    rows = piped("eval", STORY, "--text", str(top / "tests/vectors/brown-heldout.txt"), "--window", "64", "--max-windows",
                 "1", "--density", "1,0.5", "--csv")[0].splitlines()
    assert len(rows) == 3 and rows[0].startswith("bytes_per_token,") | ("perplexity" in rows[0]), rows


def samples():
    """Several answers to one prompt, of which each is the one that its seed gives alone."""
    asked = ("run", STORY, "Tell me a story.", "-n", "24", "--json")
    lines = [json.loads(line) for line in piped(*asked, "--samples", "3", "--seed", "5")[0].splitlines()]
    alone = [json.loads(piped(*asked, "--seed", str(seed))[0])["text"] for seed in (5, 6, 7)]
    assert [line["text"] for line in lines] == alone and len(set(alone)) == 3, (lines, alone)
    assert "give the prompt" in piped("run", STORY, "--samples", "2", code=2)[1]
    assert "1 to 1000" in piped("run", STORY, "--samples", "0", code=2)[1]
    assert "DRY base" in piped("run", STORY, "Hello", "--dry-base", "0.5", code=2)[1]


def thoughts():
    """A model whose tokenizer has marks around thoughts: they are told apart from the answer."""
    model = folder / "thinker"
    shutil.copytree(top / "tests/vectors/brown-opt", model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    for mark, word in zip(("<think>", "</think>"), list(words)[-2:]):
        words[mark] = words.pop(word)
        tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"]
                                        if "".join(pair.split() if isinstance(pair, str) else pair) != word]
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": words[mark], "content": mark})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "think.lark").write_text('start: <think> "the jury" </think> "said"\n')
    asked = ("run", str(model), "-p", "The", "--grammar", "think.lark")
    answer = json.loads(piped(*asked, "--json")[0])
    assert (answer["thoughts"], answer["answer"], answer["stop"]) == ("the jury", "said", "end_of_text"), answer
    child = terminal(*asked)
    child.expect(pexpect.EOF)
    shown = re.sub(r"\x1bD\x1bM\x1b7.*?\x1b8|\x1b\[J", "", child.before)  # without the line of figures
    assert "\x1b[2mthe jury\x1b[0msaid" in shown.replace("\x1b[0m\x1b[2m", ""), child.before
    assert "\x1b" not in piped(*asked)[0]


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in (help_fits, pipes, tools, samples, thoughts, live, chat):
        begun = time.monotonic()
        part()
        print(f"  {part.__doc__.splitlines()[0]} ({time.monotonic() - begun:.1f} s)", flush=True)


main()
