"""Copies of one photo in two splits: a test photo that was trained on measures nothing."""

from __future__ import annotations

import logging
from typing import NamedTuple

from flip.data.dataset import Dataset, Record
from flip.data.hashing import same_content

log = logging.getLogger(__name__)


class Copy(NamedTuple):
    """A photo that is held out, and a training photo whose file has the same content."""

    held_out: Record
    training: Record


def copies_of_training_photos(dataset: Dataset) -> list[Copy]:
    """Return the validation and test photos whose files are, byte for byte, those of training photos.

    Copies, links and paths through ``..`` all count. Only files of equal size are read, so that a large dataset costs
    little more than one look at the size of each file. Files that are not there, or empty, are passed over.

    Parameters
    ----------
    dataset : Dataset
        All splits.
    """
    records = dataset.records
    copies: dict[int, Copy] = {}
    for group in same_content(dataset.files):
        training = next((records[i] for i in group if records[i].split == "train"), None)
        if training is not None:
            copies |= {int(i): Copy(records[i], training) for i in group if records[i].split != "train"}
    return [copies[i] for i in sorted(copies)]


def warn_of_copies(dataset: Dataset) -> None:
    """Log a warning where validation or test photos are training photos as well."""
    said = None if dataset.embeddings is not None else describe_copies(copies_of_training_photos(dataset))
    if said:
        log.warning("%s", said)


def describe_copies(copies: list[Copy]) -> str | None:
    """Return a sentence on copies in two splits, None where there are none."""
    if not copies:
        return None
    first = copies[0]
    one = "a photo that is held out is a training photo as well"
    many = f"{len(copies):,} photos that are held out are training photos as well"
    example = f"{first.held_out.path}, which is {first.training.path}"
    return f"{one if len(copies) == 1 else many}, such as {example}; their scores measure what was learned by heart"
