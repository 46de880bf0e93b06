"""``flip models``."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from flip.cli.config import FileOutput
from flip.cli.options import command
from flip.cli.output import result_format, write_rows
from flip.names import DEFAULT_MODEL
from flip.settings import option

if TYPE_CHECKING:
    from flip.clip.hub import KnownModel

log = logging.getLogger("flip.cli")

#: Models that a terminal shows without -v.
_LINES = 20


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(FileOutput):
    """``flip models``."""

    here: bool = option(False, "Only models whose weights are on this machine.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "models", ModelsOptions)(models)


def models(options: ModelsOptions) -> None:
    """List what --model can name, its size, and whether its weights are on this machine."""
    from flip.clip.hub import known_models

    known = known_models()
    here = [row for row in known if row.here]
    if result_format(options, "jsonl") != "table":
        write_rows(options, "models", [asdict(row) for row in (here if options.here else known)])
        return
    # For people: what is here first, then the default, and one screen of the others.
    rows = here if options.here else [*here, *sorted(known, key=lambda row: row.name != DEFAULT_MODEL)]
    rows = list(dict.fromkeys(rows))
    shown = rows if options.verbose or options.output else rows[:_LINES]
    write_rows(options, f"flip models: {len(here)} of {len(known)} on this machine", [_in_short(row) for row in shown])
    if len(shown) < len(rows):
        log.info("and %d more: -v lists all, --here those on this machine", len(rows) - len(shown))


def _in_short(row: KnownModel) -> dict[str, object]:
    size = None if row.megabytes is None else f"{row.megabytes:,.0f}"
    return {"name": row.name, "here": "yes" if row.here else "no", "MB": size, "hub": row.hub.rstrip("/")}
