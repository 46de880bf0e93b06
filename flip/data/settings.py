"""Settings of reading data. Standard library only: the command line reads them at start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flip.errors import ConfigError
from flip.names import LAYOUTS, SAMPLE_DATA
from flip.settings import option

#: Share of photos held out for testing where a layout has no split of its own.
DEFAULT_TEST_FRACTION = 0.3


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The dataset that a command works on, and how it is read."""

    data: str | None = option(
        None,
        "Folder, manifest or tars of labelled photos, the URL of any of them, or sample for drawn birds. [default: "
        "data/birds where it exists]",
        envvar="FLIP_DATA",
        completes=SAMPLE_DATA,
    )
    layout: str | None = option(None, "Read the data as this layout instead of the one recognised.", choices=LAYOUTS)
    classnames: Path | None = option(
        None, "File that renames the classes: one name per line, or JSON old name → new name."
    )
    test_fraction: float = option(
        DEFAULT_TEST_FRACTION, "Share of photos held out for testing where the layout has no split of its own."
    )

    class_level: int | None = option(
        None, "Level of folders that are the classes: 1 for <class>/*, 2 for <genus>/<class>/*. [default: 1]"
    )

    embedding_column: str | None = option(
        None, "Column of a Parquet table that holds embeddings. [default: the only one of float lists]"
    )

    def __post_init__(self) -> None:
        require_test_fraction(self.test_fraction)
        require_class_level(self.class_level)


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a layout's reader reads; a reader takes what concerns it.

    Attributes
    ----------
    test_fraction : float
        Share of photos held out for testing where the layout has no split of its own; at least 0 and below 1.
    class_level : int or None
        Level of folders that are the classes; None is 1, unless the folders say otherwise.
    cache : Path or None
        The folder of what is kept between runs; the platform's without it.
    embedding_column : str or None
        Column of a Parquet table that holds embeddings; None is the only one of float lists.
    """

    test_fraction: float = DEFAULT_TEST_FRACTION
    class_level: int | None = None
    cache: Path | None = None
    embedding_column: str | None = None

    def __post_init__(self) -> None:
        require_test_fraction(self.test_fraction)
        require_class_level(self.class_level)


def require_test_fraction(value: float) -> None:
    """Raise a ConfigError if a test fraction is negative, 1 or more, or no number."""
    if not 0 <= value < 1:
        raise ConfigError(f"--test-fraction {value} is outside [0, 1); pass for example {DEFAULT_TEST_FRACTION}")


def require_class_level(value: int | None) -> None:
    """Raise a ConfigError if a level of folders is below 1."""
    if value is not None and value < 1:
        raise ConfigError(f"--class-level {value} is too small; pass 1 for <class>/*, 2 for <genus>/<class>/*")


#: What readers take when nothing is said.
DEFAULTS = ReadSettings()
