"""What a page is about, as arrays: runs aligned photo by photo, classes, and every photo that is shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.classify.groups import last_words, read_groups
from flip.features import Features
from flip.metrics import confusion_matrix
from flip.report.rows import ScoredPhoto, ScoredRun


@dataclass
class Album:
    """Every photo of the page by its number: the scored ones first, in the order of the first run's rows.

    Attributes
    ----------
    paths, splits : lists of n strings
    labels : list of n int
        Class indices; -1 where the label is unknown.
    scored : int
        Number of scored photos.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    scored: int = 0
    _number: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, path: str, label: int, split: str) -> int:
        """Return the number of a photo, which is new unless its path is known."""
        if path not in self._number:
            self._number[path] = len(self.paths)
            self._append(path, label, split)
        return self._number[path]

    def add_scored(self, path: str, label: int, split: str) -> None:
        """Add a scored photo; one that is listed twice is two photos."""
        self._number.setdefault(path, len(self.paths))
        self._append(path, label, split)
        self.scored = len(self.paths)

    def number(self, path: str) -> int | None:
        """Return the number of a photo that is here."""
        return self._number.get(path)

    def _append(self, path: str, label: int, split: str) -> None:
        self.paths.append(path)
        self.labels.append(label)
        self.splits.append(split)


@dataclass(frozen=True)
class Content:
    """Runs of the same photos, aligned.

    Attributes
    ----------
    runs : tuple of ScoredRun
    rows : tuple of tuples of n ScoredPhoto
        Each run's rows in the order of the first run's.
    classes : tuple of c str
    groups : tuple of c str
        Group of each class, or empty where classes have no groups.
    album : Album
    features : tuple of (Features or None)
        Of each run.
    """

    runs: tuple[ScoredRun, ...]
    rows: tuple[tuple[ScoredPhoto, ...], ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    album: Album
    features: tuple[Features | None, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """Index of each class name."""
        return {name: i for i, name in enumerate(self.classes)}

    @cached_property
    def truth(self) -> IntArray:
        """Label of each scored photo, shape (n,); -1 where no run could read it."""
        return np.array(self.album.labels[: self.album.scored], dtype=np.int64)

    @cached_property
    def guesses(self) -> tuple[IntArray, ...]:
        """Guess of each run for each scored photo, shapes (n,); -1 where it could not be read."""
        return tuple(
            np.array([self.index[photo.guess] if photo.readable else -1 for photo in rows], dtype=np.int64)
            for rows in self.rows
        )

    @cached_property
    def scores(self) -> tuple[FloatArray, ...]:
        """Probability of each guess, float32 of shapes (n,)."""
        return tuple(np.array([photo.score for photo in rows], dtype=np.float32) for rows in self.rows)

    def wrong(self, run: int) -> BoolArray:
        """Return whether a run named each scored photo wrongly, shape (n,)."""
        return np.asarray((self.guesses[run] >= 0) & (self.guesses[run] != self.truth), dtype=bool)

    def confusions(self, run: int) -> IntArray:
        """Return how many photos of each class (rows) a run gave each class (columns), shape (c, c)."""
        read = self.guesses[run] >= 0
        return confusion_matrix(self.guesses[run][read], self.truth[read], len(self.classes))


def make_content(
    runs: Sequence[ScoredRun],
    features: Sequence[Features | None],
    groups: Path | None = None,
) -> Content:
    """Align runs, which must be of the same photos, and collect their classes and photos."""
    rows = tuple(_aligned(run, runs[0]) for run in runs)
    classes = _classes(runs, features)
    index = {name: i for i, name in enumerate(classes)}
    album = Album()
    for i, photo in enumerate(rows[0]):
        truth = next((run[i].truth for run in rows if run[i].truth is not None), None)
        album.add_scored(photo.path, -1 if truth is None else index[truth], runs[0].run.evaluation.split)
    for found in features:
        for path, label, split in zip(found.paths, found.labels, found.splits, strict=True) if found else ():
            assert found is not None
            album.add(path, index.get(found.classnames[label], -1), split)
    for photo in (photo for run in rows for photo in run):
        for neighbor in photo.neighbors:
            album.add(neighbor.path, index.get(neighbor.label, -1), "train")
    return Content(tuple(runs), rows, classes, _groups(classes, groups), album, tuple(features))


def _aligned(run: ScoredRun, first: ScoredRun) -> tuple[ScoredPhoto, ...]:
    if run is first:
        return run.photos
    waiting: defaultdict[str, list[ScoredPhoto]] = defaultdict(list)
    for photo in run.photos:
        waiting[photo.path].append(photo)
    return tuple(waiting[photo.path].pop(0) for photo in first.photos)


def _classes(runs: Sequence[ScoredRun], features: Sequence[Features | None]) -> tuple[str, ...]:
    """Return the classes in the order of the results, then those that only a row names."""
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys(str(row["label"]) for row in run.run.evaluation.per_class)
    for run in runs:
        for photo in run.readable:
            names |= dict.fromkeys([str(photo.truth), *(label for label, _ in photo.top[:1])])
    for run in runs:
        for photo in run.readable:
            names |= dict.fromkeys(label for label, _ in photo.top)
            names |= dict.fromkeys(neighbor.label for neighbor in photo.neighbors)
    for found in features:
        names |= dict.fromkeys(found.classnames if found else ())
    return tuple(names)


def _groups(classes: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Return the group of each class: the finest of a file, else its last word where most classes share theirs."""
    if file is not None:
        return read_groups(file, classes).ranks[0].groups
    last = last_words(classes).ranks[0].groups
    shared = sum(last.count(word) > 1 for word in last)
    return last if len(set(last)) > 1 and 2 * shared > len(classes) else ()
