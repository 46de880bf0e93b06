"""Commands that are imported when they are run: the list of them needs their names and sentences only."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import typer
from typer.main import get_group

_PACKAGE = "flip.cli.commands"


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name, in their order; one is imported when it is asked for.

    Parameters
    ----------
    names : sequence of str
        Modules of ``flip.cli.commands``.
    made : dict
        Commands that are there already; they come last.
    """

    def __init__(self, names: tuple[str, ...], made: dict[str, Any]) -> None:
        self._commands: dict[str, Any] = {**dict.fromkeys(names), **made}

    def __getitem__(self, name: str) -> Any:
        if self._commands[name] is None:
            self._commands[name] = _load(name)
        return self._commands[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def sentence(self, name: str) -> str:
        """Return a command's summary for the command list, parsed from its source unless it is imported."""
        if self._commands[name] is not None:
            return str(self._commands[name].get_short_help_str(200))
        return _sentence(name) or str(self[name].get_short_help_str(200))


def _load(name: str) -> Any:
    """Return a command as Typer makes it of its module."""
    part = typer.Typer(rich_markup_mode=None)
    register: Callable[[typer.Typer], None] = importlib.import_module(f"{_PACKAGE}.{name}").register
    register(part)
    return get_group(part).commands[name]


def _sentence(name: str) -> str:
    """Return the first paragraph of the docstring of the function that a command is."""
    file = Path(__file__).parent / "commands" / f"{name}.py"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return ""
