"""Print every command's ``--help`` as one Markdown page: ``python -m flip.cli.reference > docs/cli.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from flip.cli.app import app


def reference() -> str:
    """Return the reference page."""
    page = ["# Commands", "", "Printed by `python -m flip.cli.reference`; do not edit by hand.", ""]
    for path, text in _walk(get_command(app), "flip", None):
        page += [f"## {path}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(page)


def _walk(command: Any, name: str, parent: typer.Context | None) -> Iterator[tuple[str, str]]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = typer.Context(command, parent=parent, info_name=name, **settings)
    yield context.command_path, command.get_help(context)
    for sub_name, sub in getattr(command, "commands", {}).items():
        yield from _walk(sub, sub_name, context)


if __name__ == "__main__":
    print(reference(), end="")
