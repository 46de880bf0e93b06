"""Faults of classes: few photos, names that hardly differ, captions that are missing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from flip.data.audit import Check, Finding, Subject
from flip.data.classnames import near_equal_names


def _few_photos(subject: Subject) -> Iterator[Finding]:
    dataset = subject.dataset
    trains = any(record.split == "train" for record in dataset.records)
    counts = Counter(record.label for record in dataset.records if record.split == "train" or not trains)
    for label, name in enumerate(dataset.classnames):
        if counts[label] < subject.few:
            photos = "photo" if counts[label] == 1 else "photos"
            which = f"training {photos}" if trains else photos
            yield Finding("", None, name, None, f"{counts[label]} {which}", counts[label])


def _class_names(subject: Subject) -> Iterator[Finding]:
    dataset = subject.dataset
    pairs = dict.fromkeys(near_equal_names(dataset.classnames) + near_equal_names(dataset.raw_names))
    for first, other in pairs:
        yield Finding("", None, other, None, "differs by case, spaces or hyphens only", math.nan, first)
    for name, count in Counter(dataset.classnames).items():
        if count > 1:
            yield Finding("", None, name, None, f"{count} classes have this name", count)


def _captions(subject: Subject) -> Iterator[Finding]:
    """Yield photos without captions in classes where most have some, and classes without where most have some."""
    dataset = subject.dataset
    rows: dict[int, list[int]] = defaultdict(list)
    for i, record in enumerate(dataset.records):
        rows[record.label].append(i)
    without = {label: [i for i in own if not dataset.records[i].captions] for label, own in rows.items()}
    bare = [label for label, absent in without.items() if len(absent) >= len(rows[label]) / 2]
    for label, absent in without.items():
        if label not in bare:
            yield from (subject.finding(i, "no caption, and most of its class have one") for i in absent)
        elif len(bare) < len(rows) / 2:
            count, name = len(absent), dataset.classnames[label]
            yield Finding("", None, name, None, f"{count} of {len(rows[label])} without; most classes have some")


CHECKS = (
    Check("few-photos", "note", False, ("names",), _few_photos),
    Check("class-names", "note", False, ("names",), _class_names),
    Check("captions", "note", False, ("names",), _captions),
)
