"""``flip models``."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from flip.cli.options import command
from flip.config import OutputConfig, option


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(OutputConfig):
    """``flip models``."""

    here: bool = option(False, "Only models whose weights are on this machine.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "models", ModelsConfig)(models)


def models(config: ModelsConfig) -> None:
    """List what --model can name, its size, and whether its weights are on this machine."""
    from dataclasses import asdict

    from flip.cli.output import write_rows
    from flip.clip.model import known_models

    rows = [asdict(row) for row in known_models() if row.here or not config.here]
    write_rows(config, "models", rows)
