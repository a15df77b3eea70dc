"""Compares the table of features with the code: python3 .ci/features.py

Every name of a cell stands in the code of its column, and every option that says what answers are held to or how tokens are
chosen stands in the table.
"""

import re
import sys
from pathlib import Path

top = Path(__file__).resolve().parent.parent
TABLE = top / "ffi/features.md"
CODE = {
    "CLI": ("host/tools/src/cli", "*.rs"),
    "C": ("include", "*.h"),
    "Kotlin": ("ffi/android/src/main/kotlin", "*.kt"),
    "Swift": ("ffi/apple/Sources", "*.swift"),
    "web": ("ffi/web", "*.js"),
}
# Words that stand for what has no name.
WORDS = {"no", "always", "Ctrl-C"}
# Where options of answers and of sampling are declared.
OPTIONS = ["host/tools/src/cli/controls.rs", "host/tools/src/cli/run.rs"]
# Options that are no feature of answers.
OTHERS = {"threads", "context", "file", "prompt", "max-tokens", "json", "control-tokens", "exact"}


def code(column):
    folder, pattern = CODE[column]
    paths = sorted((top / folder).rglob(pattern)) + sorted((top / folder).glob("src/*.rs"))
    return "\n".join(path.read_text() for path in paths)


def rows():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return table[0], table[2:]


def options():
    """Long options in the declarations, as people type them."""
    found = set()
    for path in OPTIONS:
        for arg, field in re.findall(r"#\[arg\((.*?)\)\]\n\s*(?:pub )?(\w+):", (top / path).read_text(), re.S):
            if re.search(r"\blong\b", arg):
                named = re.search(r'\blong = "([^"]+)"', arg)
                found.add(named[1] if named else field.replace("_", "-"))
    return found


def main():
    head, table = rows()
    texts = {column: code(column) for column in head[1:]}
    wrong = []
    for feature, *cells in table:
        for column, cell in zip(head[1:], cells, strict=True):
            names = re.findall(r"`([^`]+)`", cell)
            if not names and cell not in WORDS:
                wrong.append(f"{feature}, {column}: {cell!r} is neither a name nor one of {', '.join(sorted(WORDS))}")
            for name in names:
                if column == "CLI":
                    plain = name.removeprefix("--")
                    there = f'"{name[1:]}" =>' in texts[column] if name.startswith("/") else re.search(rf'\b{plain.replace("-", "_")}:|long = "{plain}"', texts[column])
                else:
                    there = re.search(rf"\b{name}\b", texts[column])
                if not there:
                    wrong.append(f"{feature}, {column}: the code has no {name}")
    listed = set(re.findall(r"`--([^`]+)`", TABLE.read_text()))
    wrong += [f"the table has no --{option}" for option in sorted(options() - listed - OTHERS)]
    for line in wrong:
        print(f"{TABLE.relative_to(top)}: {line}")
    sys.exit(bool(wrong))


main()
