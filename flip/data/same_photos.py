"""Copies of one photo in two splits: a test photo that was trained on measures nothing."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from typing import NamedTuple

from flip.data.dataset import Dataset, Record
from flip.reading import read_bytes


class Copy(NamedTuple):
    """A photo that is held out, and a training photo whose file has the same content."""

    held_out: Record
    training: Record


def copies_of_training_photos(dataset: Dataset) -> list[Copy]:
    """Return the validation and test photos whose files are, byte for byte, those of training photos.

    Copies, links and paths through ``..`` all count. Only files of equal size are read, so that a large dataset costs
    little more than one look at the size of each file. Files that are not there are passed over.

    Parameters
    ----------
    dataset : Dataset
        All splits.
    """
    by_size: dict[int, list[Record]] = defaultdict(list)
    for record in dataset.records:
        try:
            by_size[os.stat(dataset.root / record.path).st_size].append(record)  # noqa: PTH116
        except OSError:
            continue
    copies = []
    for records in by_size.values():
        if len({record.split == "train" for record in records}) > 1:
            copies += _copies(dataset, records)
    place = {record.path: i for i, record in enumerate(dataset.records)}
    return sorted(copies, key=lambda copy: place[copy.held_out.path])


def describe_copies(copies: list[Copy]) -> str | None:
    """Return a sentence on copies in two splits, None where there are none."""
    if not copies:
        return None
    first = copies[0]
    one = "a photo that is held out is a training photo as well"
    many = f"{len(copies):,} photos that are held out are training photos as well"
    example = f"{first.held_out.path}, which is {first.training.path}"
    return f"{one if len(copies) == 1 else many}, such as {example}; their scores measure what was learned by heart"


def _copies(dataset: Dataset, records: list[Record]) -> list[Copy]:
    """Return the copies among photos of one size."""
    training: dict[bytes, Record] = {}
    held_out: list[tuple[bytes, Record]] = []
    for record in records:
        try:
            digest = hashlib.sha256(read_bytes(dataset.file(record))).digest()
        except OSError:
            continue
        if record.split == "train":
            training.setdefault(digest, record)
        else:
            held_out.append((digest, record))
    return [Copy(record, training[digest]) for digest, record in held_out if digest in training]
