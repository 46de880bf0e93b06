"""Counts of unreadable photos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator

from flip.features import Features

log = logging.getLogger(__name__)


class Unreadable:
    """Counts all photos and unreadable ones, in total and per split and class.

    Attributes
    ----------
    photos, count : int
        Number of photos that were added, and of those that cannot be read.
    """

    def __init__(self) -> None:
        self.photos = self.count = 0
        self._first: tuple[str, str] | None = None
        self._classnames: tuple[str, ...] = ()
        # Number of photos, and of unreadable ones, per split and label.
        self._there: Counter[tuple[str, int]] = Counter()
        self._absent: Counter[tuple[str, int]] = Counter()

    def watch(self, groups: Iterable[Features]) -> Iterator[Features]:
        """Yield features, and count them."""
        for features in groups:
            self.add(features)
            yield features

    def add(self, features: Features) -> None:
        """Count features."""
        self._classnames = features.classnames
        self.photos += len(features)
        places = list(zip(features.splits, features.labels.tolist(), strict=True))
        self._there.update(places)
        if not features.unreadable:
            return
        self.count += features.unreadable
        first = next((path, error) for path, error in zip(features.paths, features.errors, strict=True) if error)
        self._first = self._first or first
        self._absent.update(place for place, error in zip(places, features.errors, strict=True) if error)

    def tell(self) -> None:
        """Log how many photos cannot be read, the first of them, and of each split the classes that have no other."""
        if self._first is None:
            return
        log.info("%d of %d photos cannot be read, the first: %s: %s", self.count, self.photos, *self._first)
        for split in dict.fromkeys(split for split, _ in self._there):
            absent = sorted(c for (s, c), n in self._absent.items() if s == split and n == self._there[s, c])
            if absent:
                names = ", ".join(repr(self._classnames[c]) for c in absent[:3]) + (" …" if len(absent) > 3 else "")
                what = "class has no photo" if len(absent) == 1 else "classes have no photo"
                log.warning("%d %s of split %r that can be read: %s", len(absent), what, split, names)
