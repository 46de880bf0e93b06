"""Labelled photos: records, class names, splits, and draws of few photos per class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flip.arrays import IntArray
from flip.errors import ConfigError, DataError
from flip.names import SPLITS

if TYPE_CHECKING:
    from flip.data.vector_files import VectorTable

log = logging.getLogger(__name__)

#: Left, top, width and height in pixels of the upright photo. An infinite width reaches to the right edge, and a height
#: of 0 or less with it counts from the lower edge: (0, 0, inf, -20) is all but the last 20 rows, whatever the size.
Box = tuple[float, float, float, float]


class Record(NamedTuple):
    """One photo of a dataset.

    ``path`` is what reports print: relative to the dataset's root where the photo lies under it, and joined to the root
    it is the file (an absolute path stays what it is). ``source`` is the path of the photo that a generated image was
    made from, as it was noted then. ``frame`` is the part of the file that is the photo, where a part is none, such as
    a banner below it: it is cut out whether or not photos are cropped to their boxes.
    """

    path: str
    label: int
    split: str
    captions: tuple[str, ...] = ()
    box: Box | None = None
    source: str | None = None
    frame: Box | None = None

    def region(self, crop: bool) -> Box | None:
        """Return what is cut out of the file: the box where photos are cropped to boxes, else the frame."""
        return self.box if crop and self.box is not None else self.frame


class Photo(NamedTuple):
    """A photo's file, and the part of it that is shown; None for all of it."""

    file: Path
    region: Box | None = None


def counted(n: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {one if n == 1 else many}"


@dataclass(frozen=True)
class Omission:
    """Something that was there and was left out: a phrase, how many, and the first of them."""

    kind: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.count:,}), the first {self.first}"


class Rank(NamedTuple):
    """A coarser grouping of the classes, such as the family: one group per class."""

    name: str
    groups: tuple[str, ...]


#: The fields of a record that a dataset's fingerprint covers, in this order. A field that is added to ``Record`` does
#: not join them: what was begun with a dataset must be resumable by a later flip.
_FINGERPRINTED = attrgetter("path", "label", "split", "captions", "box", "source")


@dataclass(frozen=True)
class Dataset:
    """Labelled photos.

    Attributes
    ----------
    root : Path
        The folder that record paths are relative to.
    layout : str
        The layout that was recognised, as ``--layout`` names it.
    classnames : tuple of str
        Clean names ("Black footed Albatross"); a label is an index into them.
    raw_names : tuple of str
        The same classes as folders or columns wrote them ("001.Black_footed_Albatross").
    records : tuple of Record
    embeddings : Path or None
        A table of embeddings, when the dataset was read from one and there may be no photos.
    ranks : tuple of Rank
        Groupings that come with the data, from the coarsest.
    left_out : tuple of Omission
        Files, classes and photos that were there and are not among the records. Not part of the fingerprint.
    notes : tuple of str
        How the data was understood where it could have been meant otherwise. Not part of the fingerprint.
    vectors : VectorTable or None
        Where the embeddings are in a table that flip did not write.
    """

    root: Path
    layout: str
    classnames: tuple[str, ...]
    raw_names: tuple[str, ...]
    records: tuple[Record, ...]
    embeddings: Path | None = None
    ranks: tuple[Rank, ...] = ()
    left_out: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    vectors: VectorTable | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        """One line for people: ``cub: 1,701 photos, 30 classes, train 900, test 801, captions for 548``."""
        parts = [counted(len(self), "photo", "photos"), counted(len(self.classnames), "class", "classes")]
        parts += [f"{split} {n:,}" for split, n in self.splits.items()]
        captioned = sum(1 for record in self.records if record.captions)
        if captioned:
            parts.append(f"captions for {captioned:,}")
        return f"{self.layout}: {', '.join(parts)}"

    def __repr__(self) -> str:
        # A notebook shows what a line ends with, and of all records that is megabytes.
        return f"<Dataset {self}; in {self.root}>"

    @property
    def labels(self) -> IntArray:
        """Labels of shape (n,)."""
        return np.fromiter((r.label for r in self.records), dtype=np.int64, count=len(self.records))

    @property
    def splits(self) -> dict[str, int]:
        """Number of photos in each split that has any, in the order train, val, test."""
        counts = Counter(r.split for r in self.records)
        return {split: counts[split] for split in SPLITS if counts[split]}

    def file(self, record: Record) -> Path:
        """Return the file of a record's photo."""
        return self.root / record.path

    def photo(self, record: Record) -> Photo:
        """Return a record's photo without what is none of it, such as a banner."""
        return Photo(self.file(record), record.frame)

    @property
    def files(self) -> list[str]:
        """The files of all photos, as strings: a hundred thousand Path objects cost seconds."""
        root = str(self.root)
        return [os.path.join(root, record.path) for record in self.records]  # noqa: PTH118

    @property
    def frames(self) -> dict[str, Box]:
        """The part that is the photo, by path, of records of which a part is none."""
        return {record.path: record.frame for record in self.records if record.frame is not None}

    def take(self, indices: Iterable[int]) -> Dataset:
        """Return the dataset of the records at these indices, in that order."""
        return replace(self, records=tuple(self.records[i] for i in indices))

    def select(self, split: str) -> Dataset:
        """Return the records of one split (``"all"`` for every record).

        Parameters
        ----------
        split : {"train", "val", "test", "all"}

        Raises
        ------
        DataError
            If the split has no photo; the message names the splits that have some.
        """
        if split == "all":
            return self
        chosen = replace(self, records=tuple(r for r in self.records if r.split == split))
        if not chosen.records:
            have = ", ".join(f"{name} ({n})" for name, n in self.splits.items()) or "none"
            raise DataError(
                f"split {split!r} of {self.root} has no photo; it has {have}; pass --split with one of them"
            )
        return chosen

    def require_training_photos(self) -> None:
        """Raise a DataError that names the classes without any training photo."""
        present = {r.label for r in self.records if r.split == "train"}
        absent = [name for c, name in enumerate(self.classnames) if c not in present]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise DataError(
                f"no training photo for class {', '.join(map(repr, absent[:3]))}{more} in {self.root}; "
                "add one to the train split, or leave the class out"
            )

    def require_classes(self) -> None:
        """Raise a DataError if there are fewer than two classes: no accuracy means anything then."""
        if len(self.classnames) < 2:
            raise DataError(
                f"{self.root} has one class, {self.classnames[0]!r}; every answer would be right. "
                "Pass data with two classes or more"
            )

    def note_absent_classes(self, split: str) -> None:
        """Log which classes have no photo in a split that is scored: nothing is measured of them."""
        present = {record.label for record in self.records if split in ("all", record.split)}
        absent = [name for c, name in enumerate(self.classnames) if c not in present]
        if absent:
            have = "class has" if len(absent) == 1 else "classes have"
            log.info(
                "%d %s no photo in split %r, such as %r: they can be named wrongly only",
                len(absent),
                have,
                split,
                absent[0],
            )

    def groups(self, rank: str) -> tuple[str, ...]:
        """Return the group of each class in a rank that came with the data, such as the family.

        Raises
        ------
        DataError
            If there is no such rank; the message names those that are there.
        """
        for name, groups in self.ranks:
            if name == rank:
                return groups
        have = ", ".join(rank.name for rank in self.ranks) or "none"
        raise DataError(f"{self.root} has no rank {rank!r}; it has {have}")

    def require_photos(self) -> None:
        """Raise a DataError if the dataset is a table of embeddings, for what needs the photos themselves."""
        if self.embeddings is not None:
            raise DataError(
                f"{self.embeddings} is a table of embeddings, and training needs the photos; pass their folder"
            )

    def fingerprint(self) -> str:
        """Return a hash of class names, paths, labels, splits, captions, boxes and sources, 16 hex digits.

        The pixels are not part of it.
        """
        digest = hashlib.sha256(repr(self.classnames).encode())
        for record in self.records:
            digest.update(repr(_FINGERPRINTED(record)).encode())
        return digest.hexdigest()[:16]


def few_shot_indices(labels: IntArray, shots: int, seed: int) -> IntArray:
    """Draw ``shots`` rows of every class without replacement; a class that has fewer gives all it has.

    The draw of a class depends on the seed and the class alone, and a draw of more shots contains the draw of fewer.

    Parameters
    ----------
    labels : int array of shape (n,)
    shots : int
        At least 1.
    seed : int

    Returns
    -------
    int array of shape (m,)
        Row indices, grouped by class in ascending class order.

    Raises
    ------
    ConfigError
        If ``shots`` is below 1.
    """
    if shots < 1:
        raise ConfigError(f"shots is {shots}; pass 1 or more")
    drawn = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        order = np.random.default_rng([seed, int(c)]).permutation(len(rows))
        drawn.append(rows[order[:shots]])
    return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)


def rows_of_sources(sources: Sequence[str | None], paths: Sequence[str]) -> list[int | None]:
    """Return the row in ``paths`` of each generated image's source, None where it has none or it is not there.

    Paths are relative to the data's folder and sources as somebody wrote them, perhaps before the data moved: the
    longest end of a source that is one of the paths is it.
    """
    row = {path: i for i, path in enumerate(paths)}

    def find(source: str) -> int | None:
        parts = source.replace("\\", "/").split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((row[end] for end in ends if end in row), None)

    return [find(source) if source else None for source in sources]
