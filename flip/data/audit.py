"""Audits of a dataset: what a fault is, what a check is, and what checks look at.

The checks that need no model are in :mod:`flip.data.checks`; :mod:`flip.studies.audit` adds those that need embeddings
and runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from flip.arrays import IntArray
from flip.data.dataset import Dataset
from flip.data.hashing import same_content
from flip.data.looks import Look, look_at
from flip.data.near_copies import NearCopy, find_near_copies
from flip.features import Features
from flip.settings import Progress

#: Photos of a held-out split are kept where a copy is left out.
_KEPT_FIRST = {"test": 0, "val": 1, "train": 2}


class Finding(NamedTuple):
    """One fault.

    Attributes
    ----------
    kind : str
        The check that found it, one of ``flip.names.CHECKS``.
    path : str or None
        The photo, as the dataset names it; None where a class is at fault.
    label, split : str or None
        The class and split of the photo.
    why : str
        What is wrong, in a few words.
    score : float
        What was measured, where it is one number: a likeness, a probability, a grey level. NaN otherwise.
    other : str or None
        The other photo, or class, of a pair.
    """

    kind: str
    path: str | None
    label: str | None
    split: str | None
    why: str
    score: float = math.nan
    other: str | None = None


class Check(NamedTuple):
    """A kind of fault, and the function that finds it.

    Attributes
    ----------
    name : str
    severity : {"error", "warning", "note"}
        Errors break training or make its numbers wrong.
    drops : bool
        Whether the photos that it finds are left out of a clean manifest.
    needs : tuple of {"names", "files", "photos", "features"}
        The most expensive thing that it looks at; of several, one has to be there.
    find : callable
        Yields the findings of a subject; their ``kind`` is filled in.
    """

    name: str
    severity: str
    drops: bool
    needs: tuple[str, ...]
    find: Callable[[Subject], Iterator[Finding]]


@dataclass
class Subject:
    """A dataset that is audited, and what several checks need of it, each computed once.

    Attributes
    ----------
    dataset : Dataset
    features : Features or None
        Of the same photos in the same order.
    few : int
        Classes with fewer training photos than this are found.
    workers : int, optional
        Threads that decode.
    progress : callable, optional
        Called with 1 for each photo that was decoded.
    """

    dataset: Dataset
    features: Features | None = None
    few: int = 5
    workers: int | None = None
    progress: Progress | None = None

    @cached_property
    def looks(self) -> list[Look]:
        """The measurements of every photo."""
        photos = [self.dataset.photo(record) for record in self.dataset.records]
        return look_at(photos, workers=self.workers, progress=self.progress)

    @cached_property
    def equal_files(self) -> list[IntArray]:
        """Groups of records whose files have the same bytes."""
        return same_content(self.dataset.files)

    @cached_property
    def near_copies(self) -> list[NearCopy]:
        """Pairs of records that show one picture; of files with the same bytes only the first takes part."""
        repeated = {int(row) for group in self.equal_files for row in self.ordered(group)[1:]}
        rows = [i for i in range(len(self.dataset)) if i not in repeated]
        features = self.features.image_features[rows] if self.features is not None else None
        pairs = find_near_copies([self.looks[i] for i in rows], features)
        return [NearCopy(rows[pair.first], rows[pair.second], pair.likeness) for pair in pairs]

    def ordered(self, rows: IntArray | tuple[int, ...]) -> list[int]:
        """Return rows in the order in which copies are kept: test, val, train, and as the dataset lists them."""
        records = self.dataset.records
        return sorted(map(int, rows), key=lambda i: (_KEPT_FIRST.get(records[i].split, 3), i))

    def finding(self, row: int, why: str, score: float = math.nan, other: int | None = None) -> Finding:
        """Return a finding on the photo of one record, without its kind."""
        record = self.dataset.records[row]
        label = self.dataset.classnames[record.label]
        beside = None if other is None else self.dataset.records[other].path
        return Finding("", record.path, label, record.split, why, score, beside)


def find_with(check: Check, subject: Subject) -> list[Finding]:
    """Return the findings of one check: each photo once, the highest score first where there is one."""
    found: dict[tuple[str | None, str | None], Finding] = {}
    for finding in check.find(subject):
        key = finding.path, None if finding.path else finding.label
        before = found.get(key)
        if before is None or finding.score > before.score:
            found[key] = finding._replace(kind=check.name)
    return list(found.values())
