"""The prediction rows of a run as arrays, checked against its result."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flip.arrays import BoolArray, FloatArray
from flip.errors import DataError
from flip.files import JsonObject
from flip.results import Neighbor, Run

log = logging.getLogger(__name__)

#: A label and its probability.
Guess = tuple[str, float]


@dataclass(frozen=True)
class ScoredPhoto:
    """One row of a run: a photo with its label, the guesses for it, and why it could not be read if so."""

    path: str
    truth: str | None
    top: tuple[Guess, ...]
    neighbors: tuple[Neighbor, ...] = ()
    error: str | None = None

    @property
    def readable(self) -> bool:
        """Whether the photo was scored."""
        return self.error is None

    @property
    def guess(self) -> str:
        """The likeliest class, also where ``--reject`` withheld it; "" for an unreadable photo."""
        return self.top[0][0] if self.top else ""

    @property
    def score(self) -> float:
        """Probability of the guess."""
        return self.top[0][1] if self.top else 0.0

    @property
    def correct(self) -> bool:
        """Whether the guess is the label."""
        return self.readable and self.guess == self.truth

    def probability(self, label: str) -> float:
        """Return the probability of a class, 0 where it is not among the listed guesses."""
        return next((score for name, score in self.top if name == label), 0.0)


@dataclass(frozen=True)
class ScoredRun:
    """A run with its rows.

    Attributes
    ----------
    name : str
        Tells it from the other runs it is shown with.
    run : Run
    photos : tuple of ScoredPhoto
        In the order of the run's rows.
    """

    name: str
    run: Run
    photos: tuple[ScoredPhoto, ...]

    @cached_property
    def readable(self) -> tuple[ScoredPhoto, ...]:
        """The photos that were scored."""
        return tuple(photo for photo in self.photos if photo.readable)

    @cached_property
    def correct(self) -> BoolArray:
        """Whether each readable photo was named rightly, shape (n,)."""
        return np.array([photo.correct for photo in self.readable], dtype=bool)

    @cached_property
    def scores(self) -> FloatArray:
        """Probability of each readable photo's guess, float32 of shape (n,)."""
        return np.array([photo.score for photo in self.readable], dtype=np.float32)


def read_runs(runs: Sequence[Run]) -> list[ScoredRun]:
    """Return the runs with their rows.

    Raises
    ------
    DataError
        If rows are absent, damaged, or not those of the run's result.
    """
    names = run_names([run.folder for run in runs])
    return [_read(name, run) for name, run in zip(names, runs, strict=True)]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart; the same folder twice is numbered."""
    parts = [(folder.resolve() if ".." in folder.parts else folder.absolute()).parts for folder in folders]
    longest = max((len(p) for p in parts), default=1)
    names = ["/".join(p[-1:]) for p in parts]
    for depth in range(2, longest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(p[-depth:]) if names.count(n) > 1 else n for p, n in zip(parts, names, strict=True)]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def require_same_photos(runs: Sequence[ScoredRun]) -> None:
    """Check that all runs scored the same photos with the same labels.

    Raises
    ------
    DataError
        If not; the message has the counts.
    """
    first = runs[0]
    paths = Counter(photo.path for photo in first.photos)
    truths = _truths(first)
    for other in runs[1:]:
        others = Counter(photo.path for photo in other.photos)
        if others != paths:
            raise DataError(
                f"{first.run.folder} scored {paths.total():,} photos and {other.run.folder} {others.total():,}, "
                f"of which {(paths & others).total():,} are the same; compare runs of the same --data and --split"
            )
        labels = _truths(other)
        differing = [path for path, truth in truths.items() if labels.get(path, truth) != truth]
        if differing:
            path = differing[0]
            raise DataError(
                f"{first.run.folder} and {other.run.folder} give {len(differing):,} photos other labels, "
                f"the first: {path} is {truths[path]!r} and {labels[path]!r}; compare runs of the same classes"
            )
        if first.run.data_fingerprint != other.run.data_fingerprint:
            log.warning(
                "%s and %s were made of different data (%s, %s); their test photos have the same paths and labels",
                *(first.run.folder, other.run.folder, first.run.evaluation.data, other.run.evaluation.data),
            )


def _truths(scored: ScoredRun) -> dict[str, str]:
    return {photo.path: photo.truth for photo in scored.photos if photo.truth is not None}


def _read(name: str, run: Run) -> ScoredRun:
    try:
        photos = tuple(_photo(row) for row in run.rows())
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"{run.folder} holds damaged prediction rows ({e!r}); run the command again with --run") from e
    expected = run.evaluation.n + run.evaluation.unreadable
    if len(photos) != expected:
        raise DataError(
            f"{run.folder} holds {len(photos):,} prediction rows, and its result is of {expected:,} photos; "
            "run the command again with --run"
        )
    return ScoredRun(name, run, photos)


def _photo(row: JsonObject) -> ScoredPhoto:
    path = str(row["path"])
    truth = None if row.get("truth") is None else str(row["truth"])
    if row.get("error") is not None:
        return ScoredPhoto(path, truth, (), error=str(row["error"]))
    if truth is None:
        raise ValueError(f"{path} has no truth")
    top = tuple((str(label), float(score)) for label, score in row.get("top") or [(row["label"], row["score"])])
    neighbors = tuple(Neighbor(str(n["path"]), str(n["label"]), float(n["score"])) for n in row.get("neighbors") or ())
    return ScoredPhoto(path, truth, top, neighbors)
