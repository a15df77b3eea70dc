#!/usr/bin/env python3
"""Fails when modules of a crate use each other in a circle.

A module is a file or a folder at the top of a crate. Its uses are the paths that begin with `crate::`, and
`super::` in a file at the top; a name that the crate's root re-exports counts as a use of the module it comes from.
"""
import pathlib
import re
import sys

ROOTS = ["core/src/lib.rs", "host/src/lib.rs", "host/tools/src/lib.rs", "host/tools/src/cli/main.rs", "ffi/src/lib.rs"]


def plain(text):
    """Without comments, texts and the tests at a file's end."""
    text = re.sub(r"#\[cfg\(test\)\]\s*mod \w+ \{.*", "", text, flags=re.S)
    return re.sub(r'//[^\n]*|"(?:\\.|[^"\\])*"', "", text)


def uses(text, word):
    """First names after `word::`, also of a group of paths."""
    for at in re.finditer(rf"\b{word}::", text):
        rest = text[at.end():]
        if not rest.startswith("{"):
            yield re.match(r"\w*", rest)[0]
            continue
        depth = 0
        for end, c in enumerate(rest):
            depth += {"{": 1, "}": -1}.get(c, 0)
            if depth == 0:
                yield from first_level(rest[1:end])
                break


def first_level(group):
    """First names of the paths in a group, which may hold groups itself."""
    depth = 0
    part = ""
    for c in group + ",":
        depth += {"{": 1, "}": -1}.get(c, 0)
        if c == "," and depth == 0:
            yield re.match(r"\s*(\w*)", part)[1]
            part = ""
        else:
            part += c


def graph(root):
    text = plain(root.read_text())
    modules = set(re.findall(r"^\s*(?:pub(?:\(crate\))? )?mod (\w+);", text, re.M))
    source = {name: module for module in modules
              for found in re.findall(rf"pub use {module}::(\{{[^}}]*\}}|\w+)", text)
              for name in re.findall(r"\w+", found)}
    edges = {}
    for module in modules:
        folder = root.parent / module
        files = [root.parent / f"{module}.rs", *folder.rglob("*.rs")]
        used = set()
        for file in filter(pathlib.Path.exists, files):
            text = plain(file.read_text())
            used.update(uses(text, "crate"))
            if file.parent == root.parent:
                used.update(uses(text, "super"))
        edges[module] = ({source.get(name, name) for name in used} & modules) - {module}
    return edges


def circle(edges):
    """A circle of modules, or None."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return path[path.index(module):] + [module]
        if module not in done:
            path.append(module)
            for other in sorted(edges[module]):
                if found := visit(other):
                    return found
            done.add(path.pop())

    for module in sorted(edges):
        if found := visit(module):
            return found


bad = False
for root in ROOTS:
    found = circle(graph(pathlib.Path(root)))
    print(f"{root}: {' -> '.join(found) if found else 'no circle'}")
    bad |= bool(found)
sys.exit(bad)
