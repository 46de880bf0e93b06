"""Photos that are there twice: in one class and split, in two splits (a leak), or under two labels."""

from __future__ import annotations

from collections.abc import Iterator

from flip.data.audit import Check, Finding, Subject


def _copies(subject: Subject) -> Iterator[Finding]:
    records = subject.dataset.records
    for group in subject.equal_files:
        first: dict[tuple[str, int], int] = {}
        for i in subject.ordered(group):
            before = first.setdefault((records[i].split, records[i].label), i)
            if before != i:
                yield subject.finding(i, "the same file", 1.0, before)


def _copies_across_splits(subject: Subject) -> Iterator[Finding]:
    records = subject.dataset.records
    for group in subject.equal_files:
        first, *others = subject.ordered(group)
        for i in others:
            if records[i].split != records[first].split:
                yield subject.finding(i, f"the same file as in {records[first].split}", 1.0, first)


def _copies_across_classes(subject: Subject) -> Iterator[Finding]:
    for group in subject.equal_files:
        yield from _of_two_classes(subject, subject.ordered(group), "the same file as in class", 1.0)


def _near_copies(subject: Subject) -> Iterator[Finding]:
    for keep, i, likeness in _near_pairs(subject):
        if not _differ(subject, keep, i, "split") and not _differ(subject, keep, i, "label"):
            yield subject.finding(i, "shows the same picture", likeness, keep)


def _near_copies_across_splits(subject: Subject) -> Iterator[Finding]:
    for keep, i, likeness in _near_pairs(subject):
        if _differ(subject, keep, i, "split"):
            where = subject.dataset.records[keep].split
            yield subject.finding(i, f"shows the same picture as one in {where}", likeness, keep)


def _near_copies_across_classes(subject: Subject) -> Iterator[Finding]:
    for keep, i, likeness in _near_pairs(subject):
        yield from _of_two_classes(subject, [keep, i], "shows the same picture as one in class", likeness)


def _near_pairs(subject: Subject) -> Iterator[tuple[int, int, float]]:
    """Yield the near copies as (row that is kept, row that is not, likeness), each second row once for each kept."""
    for pair in subject.near_copies:
        keep, i = subject.ordered((pair.first, pair.second))
        yield keep, i, pair.likeness


def _differ(subject: Subject, i: int, j: int, field: str) -> bool:
    records = subject.dataset.records
    return bool(getattr(records[i], field) != getattr(records[j], field))


def _of_two_classes(subject: Subject, rows: list[int], why: str, score: float) -> Iterator[Finding]:
    """Yield each of the rows that show one picture, if they have several labels: none of them can be trusted."""
    names = subject.dataset.classnames
    for i in rows:
        other = next((j for j in rows if _differ(subject, i, j, "label")), None)
        if other is not None:
            yield subject.finding(i, f"{why} {names[subject.dataset.records[other].label]!r}", score, other)


CHECKS = (
    Check("copies-across-splits", "error", True, ("files",), _copies_across_splits),
    Check("copies-across-classes", "error", True, ("files",), _copies_across_classes),
    Check("copies", "warning", True, ("files",), _copies),
    Check("near-copies-across-splits", "warning", True, ("photos",), _near_copies_across_splits),
    Check("near-copies-across-classes", "warning", True, ("photos",), _near_copies_across_classes),
    Check("near-copies", "warning", True, ("photos",), _near_copies),
)
