"""Settings of a study of extra images. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from flip.errors import ConfigError
from flip.names import HEADS
from flip.settings import at_least, option


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is compared, at which numbers of shots, and with which head."""

    shots: str = option("1,5,10,all", "Study only: training photos per class.")
    seeds: int = option(3, "Study only: draws for each number of --shots.")
    weights: str = option("0.1,0.3,1", "Study only: weight of an extra image against a photo.")
    per_photo: int = option(2, "Study only: extra images of each training photo, as many of each kind.")
    head: str = option("linear", "Study only: the head fitted on the photos' features.", choices=HEADS)
    plot: Path | None = option(
        None, "Study only: draw the curves into this .png, .svg or .pdf file. [default: study.svg in the folder]"
    )

    def __post_init__(self) -> None:
        at_least("--seeds", self.seeds, 1)
        at_least("--per-photo", self.per_photo, 1)
        parse_shots(self.shots)
        parse_weights(self.weights)


def parse_weights(text: str) -> tuple[float, ...]:
    """Return the numbers that ``--weights`` names.

    Raises
    ------
    ConfigError
        If one is no positive number.
    """
    weights = []
    for item in text.split(","):
        try:
            weight = float(item)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ConfigError(f"--weights {text!r}: {item.strip()!r} is no positive number; pass for example 0.1,0.3,1")
        weights.append(weight)
    return tuple(dict.fromkeys(weights))


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
        if item != "all" and not (item.isdigit() and int(item) > 0):
            raise ConfigError(f"--shots {text!r}: {item!r} is no number of photos; pass for example 1,2,4,8,16,all")
        shots.append(None if item == "all" else int(item))
    return tuple(shots)
