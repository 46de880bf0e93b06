"""Tables on a terminal: pairs of a name and a value, and rows with columns."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flip.shown import shown

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text


#: Characters up to which a column of a table is never wrapped.
_SHORT = 20

#: Characters that a column has at least where it is wrapped.
_FEW = 12


def pairs(title: str, values: Mapping[str, object]) -> Text:
    """Return a line for each name and value, for a tuple one for each of its items; no line is wrapped.

    So a path or a command can be copied as it stands.
    """
    from rich.cells import cell_len
    from rich.text import Text

    names = [shown(name) for name in values]
    width = max(map(cell_len, names), default=0)
    text = Text(title + "\n" if title else "", style="")
    text.stylize("italic")
    for name, value in zip(names, values.values(), strict=True):
        text.append(name + " " * (width - cell_len(name) + 2), "bold")
        lines = map(cell, value) if isinstance(value, tuple) else [cell(value)]
        text.append(("\n" + " " * (width + 2)).join(lines) + "\n")
    text.right_crop(1)
    return text


def grid(title: str, rows: Sequence[Mapping[str, object]]) -> Group:
    """Return a title, and rows as a table whose columns are the first row's keys."""
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    widths: list[int] = []
    for key in rows[0] if rows else ():
        longest = max(len(text) for text in (key, *(cell(row[key]) for row in rows)))
        # Short cells are not broken, so that words and numbers can be read.
        table.add_column(_text(key.replace("_", " ")), overflow="fold", no_wrap=longest <= _SHORT)
        widths.append(longest if longest <= _SHORT else _FEW)
    table.min_width = sum(widths) + 2 * max(len(widths) - 1, 0)
    for row in rows:
        table.add_row(*(_text(cell(value)) for value in row.values()))
    # Rich would wrap a table's own title to the table's width.
    head = _text(title)
    head.stylize("italic")
    return Group(head, table) if rows else Group(head)


def _text(text: str) -> Text:
    """Return a text of which Rich takes nothing in brackets for markup."""
    from rich.text import Text

    return Text(text)


def cell(value: object) -> str:
    """Return a value as a table shows it: numbers short, nothing as a dash, control characters visible."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(v) for v in value)
    return "–" if value is None else shown(value)


def _least_width(group: RenderableType) -> int:
    """Minimum width of the tables in a group, in characters; 0 without a table."""
    return max((getattr(part, "min_width", None) or 0 for part in getattr(group, "renderables", ())), default=0)


def table_text(tables: Sequence[RenderableType], file: Path | None) -> str:
    """Return tables one below the other, in colour where they go to a terminal."""
    from rich.console import Console
    from rich.text import Text

    to_terminal = file is None and sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=to_terminal, width=None if to_terminal else 120)
    width = console.width
    for i, table in enumerate(tables):
        if i:
            console.print()
        # Rich would cut cells that do not fit, numbers among them; a terminal wraps a line that is too long.
        console.width = max(width, _least_width(table))
        console.print(table, soft_wrap=isinstance(table, Text))
    return buffer.getvalue()
