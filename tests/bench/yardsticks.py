"""Count what the source of flip is made of: ``python tests/bench/yardsticks.py [FOLDER] [--list]``.

The rule of each number:

- lines: all lines of every ``.py`` file, blank ones and comments too
- functions: every ``def``, nested ones and methods too; its lines run from ``def`` to the end, docstring included
- ``Any`` in code: each use of the name but its imports; as a word: imports, docstrings and comments too
- ``type: ignore`` and ``noqa``: each occurrence
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Function(NamedTuple):
    """One function: its file, name and number of lines."""

    file: Path
    name: str
    lines: int


def functions(file: Path) -> list[Function]:
    """Return the functions of a file, nested ones too."""
    return [
        Function(file, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def uses_of_any(source: str) -> int:
    """Return how often the code names ``Any``, without its imports."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source)))


def measure(root: Path) -> dict[str, int]:
    """Return every yardstick of a checkout."""
    sources = {file: file.read_text(encoding="utf-8") for file in sorted((root / "flip").rglob("*.py"))}
    lines = {file: len(source.splitlines()) for file, source in sources.items()}
    tests = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in (root / "tests").rglob("*.py"))
    found = [function.lines for file in sources for function in functions(file)]

    def words(pattern: str) -> int:
        return sum(len(re.findall(pattern, source)) for source in sources.values())

    return {
        "files of flip/": len(sources),
        "lines of flip/": sum(lines.values()),
        "lines of flip/cli/": sum(n for file, n in lines.items() if (root / "flip" / "cli") in file.parents),
        "lines of tests/": tests,
        "files over 200 lines": sum(n > 200 for n in lines.values()),
        "longest file": max(lines.values()),
        "functions": len(found),
        "functions over 25 lines": sum(n > 25 for n in found),
        "functions over 40 lines": sum(n > 40 for n in found),
        "longest function": max(found),
        "Any in code": sum(map(uses_of_any, sources.values())),
        "Any as a word": words(r"\bAny\b"),
        "type: ignore": words("type: ignore"),
        "noqa": words("noqa"),
    }


def main() -> None:
    """Print the yardsticks, and with ``--list`` the functions over 40 lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--list", action="store_true", help="also list the functions over 40 lines")
    options = parser.parse_args()
    for name, number in measure(options.folder).items():
        print(f"{name:<24} {number:>7,}")
    if options.list:
        files = (options.folder / "flip").rglob("*.py")
        for function in sorted((f for file in files for f in functions(file)), key=lambda f: -f.lines):
            if function.lines > 40:
                print(f"{function.lines:>4}  {function.file.relative_to(options.folder)}  {function.name}")


if __name__ == "__main__":
    main()
