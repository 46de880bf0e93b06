"""``flip models``."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import typer

from flip.cli.config import FileOutput
from flip.cli.options import command
from flip.cli.output import write_rows
from flip.settings import option


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

    write_rows(options, "models", [asdict(row) for row in known_models() if row.here or not options.here])
