"""Every path that a page or a comment names exists: links in Markdown, and paths from the top of the repository.

NAME stands for a file to be made (`core/src/kernels/NAME.rs`): then its folder must exist.
"""

import re
import subprocess
import sys
from pathlib import Path

TOP = "core|host|ffi|include|benches|tests|\\.ci|\\.github"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED = re.compile(rf"(?<![\w/.$}}-])((?:{TOP})/[\w./-]*[\w/])(?![\w{{*])")
COMMENT = re.compile(r"^\s*(//|#)")

files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
missing = []
checked = 0
for file in map(Path, files.stdout.split("\n")):
    if file.suffix not in (".md", ".rs", ".sh", ".toml") or not file.is_file():
        continue
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        markdown = file.suffix == ".md"
        if not markdown and not COMMENT.match(line):
            continue
        paths = [Path(p) for p in NAMED.findall(line)]
        if markdown:
            paths += [file.parent / p for p in LINK.findall(line) if ":" not in p and ("/" in p or "." in p) and "::" not in p]
        for path in dict.fromkeys(map(Path, paths)):
            if "NAME" in path.name and not path.exists():
                path = path.parent
            checked += 1
            # A crate's own pages name paths from the crate's top, too.
            homes = [Path(".")] + list(file.parents)
            if not any((home / path).exists() for home in homes):
                missing.append(f"{file}:{number}: {path} does not exist")
print("\n".join(missing), file=sys.stderr)
print(f"{checked} paths in pages and comments, {len(missing)} of them missing")
sys.exit(bool(missing) or checked < 50)
