"""Answers held to JSON schemas, compared with a validator that is not ours: python3 .ci/schemas.py SHADOWLLM MODEL [SEEDS]

Needs the Python package jsonschema. Prints how many answers were valid, what share of their tokens was forced, how much
faster they came than one pass for each token would give them, and what part of the time the grammar took. For each schema
there are SEEDS answers (5); 13 seeds of two models are 520.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema

program, model = (str(Path(p).resolve()) for p in sys.argv[1:3])
seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 5


def thing(required=None, **properties):
    return {"type": "object", "properties": properties, "required": required or list(properties), "additionalProperties": False}


word = {"type": "string", "maxLength": 12}
SCHEMAS = {
    "a person": thing(name=word, age={"type": "integer", "minimum": 0, "maximum": 120}),
    "a color": {"enum": ["red", "green", "blue"]},
    "yes or no": thing(answer={"type": "boolean"}),
    "a number": {"type": "integer", "minimum": -5, "maximum": 55},
    "three words": {"type": "array", "items": word, "minItems": 3, "maxItems": 3},
    "a pair": {"type": "array", "prefixItems": [word, {"type": "integer", "minimum": 1, "maximum": 9}], "items": False, "minItems": 2},
    "an address": thing(city=word, street=thing(name=word, number={"type": "integer", "minimum": 1, "maximum": 999})),
    "perhaps a name": {"anyOf": [{"type": "null"}, thing(name=word)]},
    "one of two": {"oneOf": [thing(kind={"const": "cat"}, lives={"const": 9}), thing(kind={"const": "dog"}, barks={"type": "boolean"})]},
    "a date": thing(day={"type": "string", "pattern": "^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"}),
    "a code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "optional": thing(required=["a"], a=word, b={"type": "boolean"}, c={"type": "null"}),
    "a tree": {"$defs": {"leaf": thing(x={"type": "integer", "minimum": 0, "maximum": 99})}, **thing(
        left={"$ref": "#/$defs/leaf"}, right={"$ref": "#/$defs/leaf"})},
    "a call": thing(name={"const": "get_weather"}, arguments=thing(place=word, days={"type": "integer", "minimum": 1, "maximum": 7})),
    "a list of things": {"type": "array", "items": thing(id={"type": "integer", "minimum": 0, "maximum": 999}, ok={"type": "boolean"}),
                         "minItems": 1, "maxItems": 2},
    "letters": {"type": "string", "minLength": 2, "maxLength": 8},
    "both": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 30}]},
    "a key": {"type": "string", "format": "uuid"},
    "mixed": {"enum": [1, "one", None, True, [1, 2], {"one": 1}]},
    "many fields": thing(**{name: {"type": "boolean"} for name in ("alpha", "beta", "gamma", "delta", "epsilon")}),
}


def ask(folder, name, seed):
    file = folder / f"{name}.json"
    run = subprocess.run([program, "run", model, f"Answer in JSON: {name}.", "--json-schema", file, "--seed", str(seed), "-n", "256",
                          "-c", "512", "-t", "1", "--temperature", "1.2", "--json"], capture_output=True, text=True)
    assert run.returncode == 0, (name, seed, run.stderr)
    answer = json.loads(run.stdout)
    assert answer["stop"] == "end_of_text", (name, seed, answer)
    value = json.loads(answer["text"])
    jsonschema.validate(value, SCHEMAS[name], format_checker=jsonschema.FormatChecker())
    return name, answer["text"], answer["figures"]


def seconds_per_pass():
    """Of an answer without a grammar: each token has a pass."""
    run = subprocess.run([program, "run", model, "Tell me a story.", "--seed", "1", "-n", "32", "-c", "512", "-t", "1", "--json"],
                         capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout)["figures"]
    return figures["pass_seconds"] / figures["passes"]


def main():
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        for name, schema in SCHEMAS.items():
            (Path(folder) / f"{name}.json").write_text(json.dumps(schema))
        jobs = [(Path(folder), name, seed) for name in SCHEMAS for seed in range(seeds)]
        # In turns, so that both are timed under the same load.
        turns = [turn for i, job in enumerate(jobs) for turn in ([job, None] if i % 5 == 0 else [job])]
        done = list(threads.map(lambda job: ask(*job) if job else seconds_per_pass(), turns))
    answers = [one for one in done if isinstance(one, tuple)]
    freely = statistics.median(one for one in done if not isinstance(one, tuple))
    held = statistics.median((f["pass_seconds"] + f["grammar_seconds"]) / f["generated_tokens"] for _, _, f in answers
                             if f["generated_tokens"])
    generated, forced, passes, reading, grammar = (sum(figures[name] for _, _, figures in answers) for name in (
        "generated_tokens", "forced_tokens", "passes", "pass_seconds", "grammar_seconds"))
    different = len({(name, text) for name, text, _ in answers})
    assert different > len(SCHEMAS), different
    print(f"{len(answers)} answers over {len(SCHEMAS)} schemas valid, {different} of them different; "
          f"{100 * forced / generated:.0f} % of {generated} tokens forced, read in {passes} passes")
    print(f"{freely / held:.2f} times as fast as a pass for each token (medians); the grammar took "
          f"{1e6 * grammar / generated:.0f} us a token, {100 * grammar / (reading + grammar):.1f} % of the time")


main()
