"""Advice names commands that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flip.cli.app import app

PACKAGE = Path(__file__).resolve().parents[1] / "flip"

#: Verbs that may follow the name of the program in a sentence.
WORDS = """
reads wrote writes embeds draws made makes loads does can cannot is was has had keeps uses needs takes knows finds found
refuses skips ships comes asks and or that
"""
VERBS = set(WORDS.split())

#: Named in advice before it is built.
COMING = {("data", "check")}


def commands() -> dict[str, set[str]]:
    """Every command, with the names of its own commands."""
    root = typer.main.get_command(app)
    return {name: set(getattr(command, "commands", ())) for name, command in root.commands.items()}  # type: ignore[attr-defined]


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the string literals of a file, without its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def mentioned(text: str) -> Iterator[tuple[str, str]]:
    """Yield (command, next word) of each ``flip command``."""
    for found in re.finditer(r"(?<!--tta )\bflip ([a-z]+)(?: ([a-z]+))?", text):
        yield found[1], found[2] or ""


def unknown(text: str, known: dict[str, set[str]]) -> list[str]:
    """The mentions that are neither a command nor a sentence about the program."""
    wrong = []
    for name, following in mentioned(text):
        if name in VERBS or (name, following) in COMING:
            continue
        if name not in known or (known[name] and following and following not in known[name]):
            wrong.append(f"flip {name} {following}".strip())
    return wrong


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_command_that_a_message_names_exists(file: Path) -> None:
    known = commands()
    assert {f"{file.name}:{line}": wrong for line, text in texts(file) if (wrong := unknown(text, known))} == {}


def test_a_command_that_does_not_exist_is_found() -> None:
    known = {"embed": set(), "data": {"info"}}
    assert unknown("write it with flip embed -o; flip reads folders", known) == []
    assert unknown("look with flip data info", known) == []
    assert unknown("try flip repair, or flip data polish", known) == ["flip repair", "flip data polish"]
