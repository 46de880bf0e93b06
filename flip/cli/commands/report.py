"""``flip report``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import typer

from flip.cli.config import MessageOptions
from flip.cli.options import command
from flip.errors import ConfigError
from flip.settings import option

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(MessageOptions):
    """``flip report``."""

    runs: list[str] | None = option(None, "Folders that --run wrote, of the same test photos.")
    output: Path = option(Path("report.html"), "The page to write.", writes="text")
    groups: str = option(
        "auto",
        "Table of class and group, as other commands take it; auto: the names' last words, where most share theirs.",
        completes=("auto",),
    )
    photos: int = option(1000, "Most thumbnails on the page, the telling photos first; 0 for none.")

    def __post_init__(self) -> None:
        if self.photos < 0:
            raise ConfigError(f"--photos {self.photos} is negative; pass 0 or more")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "report", ReportConfig)(report)


def report(config: ReportConfig) -> None:
    """Write one self-contained HTML page about runs: differences, classes, confusions, mistakes, curves, a map.

    The first RUN is what the others are compared with. The page needs no network and opens from disk; thumbnails are
    in it, and each links to its photo.
    """
    from flip.cli.context import progress
    from flip.report.page import write_report
    from flip.results import Run

    if not config.runs:
        raise typer.BadParameter("no RUN; pass folders that --run wrote")
    runs = [Run.open(folder) for folder in config.runs]
    groups = None if config.groups == "auto" else Path(config.groups)
    with progress(config, "thumbnails", None) as advance:
        write_report(runs, config.output, photos=config.photos, groups=groups, progress=advance)
    log.info("wrote %s", config.output)
