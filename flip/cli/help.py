"""Help where no command follows a group."""

from __future__ import annotations

import typer


def help_without_command(context: typer.Context) -> None:
    """Print a group's help where no command follows it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
