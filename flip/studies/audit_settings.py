"""Settings of an audit. Standard library only: the command line reads them at start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flip.errors import ConfigError, near_names
from flip.names import CHECKS
from flip.settings import at_least, option


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What a dataset is searched for, and what becomes of it."""

    only: str | None = option(None, "Checks to run, separated by commas. [default: all]")
    skip: str | None = option(None, "Checks to leave out, separated by commas.")
    few: int = option(5, "Classes with fewer training photos than this are listed.")
    ranking: Path | None = option(
        None,
        "Write every photo with the doubt in its label to this file (.csv or .jsonl), the most doubtful first.",
        writes="text",
    )
    sheet: Path | None = option(
        None, "Draw the photos that were found into this .png, .jpg or .webp file.", writes="image"
    )
    write_clean: Path | None = option(
        None, "Write a manifest (.jsonl or .csv) without the photos that were found; notes are left in.", writes="text"
    )

    def __post_init__(self) -> None:
        at_least("--few", self.few, 1)
        for name, file, suffixes in (
            ("--ranking", self.ranking, (".csv", ".jsonl")),
            ("--sheet", self.sheet, (".png", ".jpg", ".jpeg", ".webp")),
            ("--write-clean", self.write_clean, (".jsonl", ".csv")),
        ):
            if file is not None and file.suffix.lower() not in suffixes:
                raise ConfigError(f"{name} {file} must end in one of {', '.join(suffixes)}")
        if not self.checks:
            raise ConfigError("--only and --skip leave no check; leave one of them out")

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks that run, in the order of ``flip.names.CHECKS``."""
        only, skip = parse_checks("--only", self.only), parse_checks("--skip", self.skip)
        return tuple(name for name in CHECKS if (not only or name in only) and name not in skip)


def parse_checks(flag: str, given: str | None) -> frozenset[str]:
    """Return the names of checks in a list with commas.

    Raises
    ------
    ConfigError
        If one is unknown.
    """
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    for name in names:
        if name not in CHECKS:
            raise ConfigError(f"{flag}: there is no check {name!r}{near_names(name, CHECKS)}; pass {', '.join(CHECKS)}")
    return frozenset(names)
