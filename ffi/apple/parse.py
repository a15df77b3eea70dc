"""Parses Swift files and prints each syntax error: parse.py FILE..."""

import sys

import tree_sitter
import tree_sitter_swift


def errors(node):
    if node.type == "ERROR" or node.is_missing:
        yield node
    for child in node.children:
        yield from errors(child)


parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
wrong = False
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        tree = parser.parse(file.read())
    for node in errors(tree.root_node):
        wrong = True
        print(f"{name}:{node.start_point[0] + 1}: not Swift: {node.text[:60]!r}")
print(f"{len(sys.argv) - 1} files parsed")
sys.exit(wrong or len(sys.argv) < 2)
