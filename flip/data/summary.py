"""A dataset in numbers: what ``flip data info`` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import TypedDict

from flip.data.classnames import clean_names
from flip.data.dataset import Dataset
from flip.data.same_photos import copies_of_training_photos, describe_copies
from flip.errors import DataError


class ClassCount(TypedDict):
    """A class's name, its raw name and how many photos it has."""

    label: str
    raw: str
    n: int


def summarise(dataset: Dataset) -> dict[str, object]:
    """Return counts per split, class and suffix, sizes, captions, boxes, and what was left out or noted.

    The values are numbers, strings, lists and dictionaries, as JSON has them. ``per_class`` is in the order of the
    classes; ``names`` says how class names were cleaned. Photos are not decoded: sizes are those of their headers.

    Parameters
    ----------
    dataset : Dataset
    """
    per_class = _per_class(dataset)
    ordered = sorted(per_class, key=lambda row: row["n"])  # ties stay in the order of the classes
    return {
        "layout": dataset.layout,
        "photos": len(dataset),
        "classes": len(dataset.classnames),
        **dataset.splits,
        "photos_per_class": [ordered[0]["n"], ordered[-1]["n"]],
        "smallest_class": ordered[0],
        "largest_class": ordered[-1],
        "suffixes": _suffixes(dataset),
        "sizes": _sizes(dataset),
        "with_captions": sum(bool(record.captions) for record in dataset.records),
        "captions": sum(len(record.captions) for record in dataset.records),
        "with_boxes": sum(record.box is not None for record in dataset.records),
        "ranks": {rank.name: len(set(rank.groups)) for rank in dataset.ranks},
        "names": _cleaning(dataset),
        "first_classes": list(dataset.classnames[:5]),
        "left_out": [vars(omission) for omission in dataset.left_out],
        "notes": list(dataset.notes),
        "copies_in_two_splits": None if dataset.embeddings else describe_copies(copies_of_training_photos(dataset)),
        "fingerprint": dataset.fingerprint(),
        "per_class": per_class,
    }


def _per_class(dataset: Dataset) -> list[ClassCount]:
    counts = Counter(record.label for record in dataset.records)
    names = zip(dataset.classnames, dataset.raw_names, strict=True)
    return [ClassCount(label=name, raw=raw, n=counts[i]) for i, (name, raw) in enumerate(names)]


def _suffixes(dataset: Dataset) -> dict[str, int]:
    counts = Counter(PurePath(record.path).suffix.lower() or "none" for record in dataset.records)
    return dict(counts.most_common())


def _sizes(dataset: Dataset) -> dict[str, object] | None:
    """Return the smallest and largest photo by its pixels, and how many headers cannot be read."""
    from flip.data.images import image_size

    if dataset.embeddings is not None:
        return None
    sizes, unreadable = [], 0
    for record in dataset.records:
        try:
            sizes.append(image_size(dataset.file(record)))
        except DataError:
            unreadable += 1
    sizes.sort(key=lambda size: size[0] * size[1])
    shown = [f"{width} x {height}" for width, height in (sizes[:1] + sizes[-1:])]
    return {"smallest": shown[0] if shown else None, "largest": shown[-1] if shown else None, "unreadable": unreadable}


def _cleaning(dataset: Dataset) -> str:
    """Return how the raw names became the clean ones, with an example."""
    if dataset.classnames == dataset.raw_names:
        return "as they are written"
    cleaned = clean_names(dataset.raw_names)
    done = cleaned.done if cleaned.names == dataset.classnames else "given"
    raw, name = next(pair for pair in zip(dataset.raw_names, dataset.classnames, strict=True) if pair[0] != pair[1])
    return f"{done}: {raw} is {name}"
