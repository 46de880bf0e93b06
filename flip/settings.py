"""Declaring settings: frozen dataclasses beside the code they set, from which the command line makes its options.

Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, TypeVar

from flip.errors import ConfigError

_COUNT = re.compile(r"\d{1,9}", re.ASCII)

Settings = TypeVar("Settings")

#: Called with the number of items that were just finished.
Progress = Callable[[int], None]


def option(default: object, help: str, **metadata: object) -> Any:
    """Return a dataclass field with its default and the sentence that ``--help`` and the reference print for it.

    Parameters
    ----------
    default : object
    help : str
    **metadata
        ``envvar``: an environment variable that sets it. ``choices``: the words that it accepts. ``completes``: words
        that a shell offers beside the names of files. ``writes``: what is written to the file that it names ("text",
        "image"), or "folder" for a new folder; it is checked before the work.
    """
    return field(default=default, metadata={"help": help, **metadata})


def settings_from(source: object, kind: type[Settings], **changes: object) -> Settings:
    """Return the settings of a kind that an object's attributes of the same names hold, with some of them changed."""
    values = {f.name: getattr(source, f.name) for f in fields(kind) if hasattr(source, f.name)}  # type: ignore[arg-type]
    return kind(**values | changes)


def flag(name: str) -> str:
    """Return an option as the command line spells it: ``--weight-decay``."""
    return "--" + name.replace("_", "-")


def at_least(name: str, value: float, least: float) -> None:
    """Raise a ConfigError if a setting is too small."""
    if not value >= least:
        raise ConfigError(f"{name} {value:g} is too small; pass {least:g} or more")


def in_range(name: str, value: float, low: float, high: float, example: str) -> None:
    """Raise a ConfigError if a setting is outside ``low`` to ``high``, both allowed."""
    if not low <= value <= high:
        raise ConfigError(f"{name} {value:g} is outside {low:g} to {high:g}; pass for example {example}")


def parse_count(text: str) -> int | None:
    """Return the number that up to nine digits are, or None for any other text."""
    return int(text) if _COUNT.fullmatch(text) else None


def parse_shots(text: str | None) -> tuple[int | None, ...]:
    """Return the numbers of training photos per class that ``--shots`` names, None for ``all``; () without it.

    Raises
    ------
    ConfigError
        If an item is neither a positive number nor ``all``.
    """
    if text is None:
        return ()
    shots: list[int | None] = []
    for item in text.split(","):
        item = item.strip()
        count = parse_count(item)
        if item != "all" and not count:
            raise ConfigError(f"--shots {text!r}: {item!r} is no number of photos; pass for example 1,2,4,8,16,all")
        shots.append(None if item == "all" else count)
    return tuple(shots)
