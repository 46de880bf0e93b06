"""Ranks above the classes (genus, family): probabilities summed up the tree; and a subset of candidate classes."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np

from flip.arrays import Array, BoolArray, FloatArray, IntArray
from flip.errors import DataError, near_names, reason_of
from flip.reading import read_bytes
from flip.results import Surest

#: What ``--groups`` takes besides a file: the data's own ranks, else the last word of each class name.
AUTO = "auto"

#: The rank of the classes themselves, below all others; the second name where the data has a rank of the first.
CLASS, LABEL = "class", "label"

#: How the column of the classes may be called.
_HEADERS = (CLASS, LABEL, "name", "species", "class name", "common name")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rank:
    """One rank: the group of each class.

    Attributes
    ----------
    name : str
        Such as "genus".
    groups : tuple of c str
    """

    name: str
    groups: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The g different groups, in the order of their first class."""
        return tuple(dict.fromkeys(self.groups))

    @cached_property
    def group_of(self) -> IntArray:
        """The index among ``names`` of each class's group, shape (c,)."""
        index = {name: i for i, name in enumerate(self.names)}
        return np.array([index[group] for group in self.groups], np.int64)

    def sum(self, probabilities: Array) -> FloatArray:
        """Return the probability of each group, the sum of those of its classes, float32 of shape (n, g).

        Parameters
        ----------
        probabilities : float array of shape (n, c)
        """
        membership = np.zeros((len(self.groups), len(self.names)))
        membership[np.arange(len(self.groups)), self.group_of] = 1
        exact = probabilities.astype(np.float64)
        # In half the digits the probabilities of a row sum to one only nearly, and a group of all classes is certain.
        exact /= exact.sum(axis=1, keepdims=True)
        return np.asarray(exact @ membership, np.float32)  # (n, g)


class RankRow(TypedDict):
    """The accuracy at one rank of so many groups, in percent."""

    rank: str
    groups: int
    top1: float
    ci95: tuple[float, float]
    mean_per_group: float


@dataclass(frozen=True)
class ClassGroups:
    """The ranks above c classes.

    Attributes
    ----------
    source : str
        Where they come from: a file, or "auto".
    classnames : tuple of c str
    ranks : tuple of Rank
        The finest (the one with the most groups) first.
    """

    source: str
    classnames: tuple[str, ...]
    ranks: tuple[Rank, ...]

    @cached_property
    def _levels(self) -> tuple[Rank, ...]:
        taken = any(rank.name == CLASS for rank in self.ranks)
        return (Rank(LABEL if taken else CLASS, self.classnames), *self.ranks)

    def _sums(self, probabilities: Array) -> Iterator[tuple[Rank, Array]]:
        """Yield each rank and the probabilities (n, g) of its groups; those of the classes as they are."""
        for level, rank in enumerate(self._levels):
            yield rank, rank.sum(probabilities) if level else probabilities

    def report(self, probabilities: Array, labels: IntArray) -> list[RankRow]:
        """Return the accuracy at each rank, the classes' own first.

        Parameters
        ----------
        probabilities : float array of shape (n, c)
        labels : int array of shape (n,)
            Classes.

        Returns
        -------
        list of dict
            ``rank``, ``groups`` (their number), ``top1`` and ``mean_per_group`` in percent, and ``ci95`` of top1.
        """
        from flip import metrics

        rows: list[RankRow] = []
        for rank, sums in self._sums(probabilities):
            truth, guess = rank.group_of[labels], sums.argmax(axis=1)
            right = int((guess == truth).sum())
            rows.append(
                {
                    "rank": rank.name,
                    "groups": len(rank.names),
                    "top1": 100.0 * right / len(labels),
                    "ci95": metrics.wilson_interval(right, len(labels)),
                    "mean_per_group": metrics.mean_per_class(guess, truth),
                }
            )
        return rows

    def surest(self, probabilities: Array, least: float) -> Surest:
        """Return the finest rank at which the likeliest group of one photo has at least this probability.

        Parameters
        ----------
        probabilities : float array of shape (c,)
        least : float

        Returns
        -------
        Surest
            Empty where no rank is sure.
        """
        for rank, (sums,) in self._sums(probabilities[None]):
            best = int(sums.argmax())
            if sums[best] >= least:
                return Surest(rank.name, rank.names[best], float(sums[best]))
        return Surest()


@dataclass(frozen=True)
class Candidates:
    """The classes that an answer may name, of c.

    Attributes
    ----------
    source : str
        The file that lists them.
    allowed : bool array of shape (c,)
    """

    source: str
    allowed: BoolArray

    def restrict(self, probabilities: Array) -> FloatArray:
        """Return probabilities among the candidates alone, renormalised, float32 of shape (n, c).

        Where all of them have none (as when no neighbour is one), they are equally likely. NaN rows stay NaN.
        """
        kept = np.where(self.allowed, probabilities, 0).astype(np.float64)
        kept[np.isnan(probabilities).any(axis=1)] = np.nan
        total = kept.sum(axis=1, keepdims=True)
        equal = self.allowed / self.allowed.sum()
        return np.where(total == 0, equal, kept / np.where(total == 0, 1, total)).astype(np.float32)

    def report(self, probabilities: Array, labels: IntArray) -> dict[str, object]:
        """Return the number of candidates and of photos of other classes, and the accuracy on the candidates' photos.

        Parameters
        ----------
        probabilities : float array of shape (n, c)
            Restricted.
        labels : int array of shape (n,)
        """
        from flip import metrics

        inside = self.allowed[labels]
        n, right = int(inside.sum()), int((probabilities.argmax(axis=1) == labels)[inside].sum())
        return {
            "file": self.source,
            "candidates": int(self.allowed.sum()),
            "outside": len(labels) - n,
            "n": n,
            "top1": 100.0 * right / n if n else None,
            "ci95": metrics.wilson_interval(right, n),
        }


def last_words(classnames: Sequence[str]) -> ClassGroups:
    """Return the last word of each class name as its group, as in "Black footed Albatross"."""
    words = tuple((name.replace("_", " ").replace(".", " ").split() or [name])[-1] for name in classnames)
    return ClassGroups(AUTO, tuple(classnames), (Rank("group", words),))


def from_ranks(ranks: Sequence[tuple[str, tuple[str, ...]]], classnames: Sequence[str]) -> ClassGroups:
    """Return the ranks that come with the data: pairs of a name and the groups of the c classes."""
    return ClassGroups(AUTO, tuple(classnames), _finest_first(Rank(name, groups) for name, groups in ranks))


def read_groups(file: Path, classnames: Sequence[str], raw_names: Sequence[str] = ()) -> ClassGroups:
    """Read the groups of classes: columns class, group, and perhaps more ranks, separated by commas or tabs.

    A first row that names no class and no group is taken for a header, and names the ranks. Names that are no class, as
    in the taxonomy of a region, are left out; a warning says how many.

    Parameters
    ----------
    file : Path
    classnames : sequence of c str
    raw_names : sequence of c str, optional
        The same classes as folders write them, which the file may use too.

    Raises
    ------
    DataError
        If the file cannot be read, misses a class, names one twice, or leaves a group empty.
    """
    lines = _read_rows(file)
    row_of = _row_of(classnames, raw_names)
    header = lines.pop(0)[1] if _is_header([cells for _, cells in lines], row_of) else []
    width = max([len(header), *(len(cells) for _, cells in lines)])
    found: dict[int, tuple[str, ...]] = {}
    unknown: list[tuple[int, str]] = []
    for line, cells in lines:
        row = row_of.get(cells[0], row_of.get(_key(cells[0])))
        if row is None:
            unknown.append((line, cells[0]))
            continue
        if row in found:
            raise DataError(f"{file}:{line}: class {cells[0]!r} has a group already; name each class once")
        if len(cells) != width or not all(cells):
            raise DataError(f"{file}:{line}: class {cells[0]!r} has an empty group; write {width - 1} beside it")
        found[row] = tuple(cells[1:])
    absent = [name for i, name in enumerate(classnames) if i not in found]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        near = near_names(absent[0], [name for _, name in unknown])
        raise DataError(
            f"{file} misses class {absent[0]!r}{more}{near}; give each of the {len(classnames)} classes a group"
        )
    _say_unknown(file, unknown)
    ranks = [header[r] if header else _rank_name(r, width) for r in range(1, width)]
    columns = zip(*(found[i] for i in range(len(classnames))), strict=True)
    pairs = (Rank(name, groups) for name, groups in zip(ranks, columns, strict=True))
    return ClassGroups(str(file), tuple(classnames), _finest_first(pairs))


def read_candidates(file: Path, classnames: Sequence[str], raw_names: Sequence[str] = ()) -> Candidates:
    """Read the candidate classes: one name per line; of a table, the first column.

    Names that are no class, as on a list of all species of a region, are left out; a warning says how many.

    Parameters are those of :func:`read_groups`.

    Raises
    ------
    DataError
        If the file cannot be read, or names fewer than two classes.
    """
    row_of = _row_of(classnames, raw_names)
    allowed = np.zeros(len(classnames), bool)
    unknown: list[tuple[int, str]] = []
    for line, (name, *_) in _read_rows(file, least=1):
        row = row_of.get(name, row_of.get(_key(name)))
        if row is not None:
            allowed[row] = True
        elif line > 1 or _key(name) not in _HEADERS:
            unknown.append((line, name))
    _say_unknown(file, unknown)
    if allowed.sum() < 2:
        raise DataError(f"{file} names {allowed.sum()} of {len(classnames)} classes; name two or more candidates")
    return Candidates(str(file), allowed)


def _read_rows(file: Path, least: int = 2) -> list[tuple[int, list[str]]]:
    """Return the line number and cells of each row that is not blank; every row has at least ``least`` cells."""
    try:
        text = read_bytes(file).decode("utf-8-sig")
        lines = list(_cells(text))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{file} cannot be read as text ({reason_of(e)}); pass a CSV or TSV file") from e
    if not lines:
        raise DataError(f"{file} is empty; write one class per line{', and its group' if least > 1 else ''}")
    for line, cells in lines:
        if len(cells) < least:
            raise DataError(f"{file}:{line}: {cells[0]!r} has no group; write class,group")
    return lines


def _cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and cells of each row that is not blank."""
    delimiter = "\t" if "\t" in text else ";" if ";" in text and "," not in text else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for row in reader:
        cells = [" ".join(cell.split()) for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _say_unknown(file: Path, unknown: Sequence[tuple[int, str]]) -> None:
    """Say how many names of a file, as of a whole region, are no class of the data."""
    if unknown:
        line, name = unknown[0]
        log.warning(
            "%s: %d names are no class of the data and are left out, such as %r (line %d)",
            *(file, len(unknown), name, line),
        )


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _row_of(classnames: Sequence[str], raw_names: Sequence[str]) -> dict[str, int]:
    """Return the class of each spelling; two classes of one spelling are told apart by their exact names alone."""
    row_of: dict[str, int] = {}
    for names in (raw_names, classnames):
        counts = Counter(map(_key, names))
        row_of |= {_key(name): i for i, name in enumerate(names) if counts[_key(name)] == 1}
    return row_of | {name: i for names in (raw_names, classnames) for i, name in enumerate(names)}


def _is_header(rows: Sequence[Sequence[str]], row_of: dict[str, int]) -> bool:
    first, rest = rows[0], rows[1:]
    if first[0] in row_of or _key(first[0]) in row_of:
        return False
    return _key(first[0]) in _HEADERS or not any(
        row[i] == first[i] for row in rest for i in range(1, min(len(row), len(first)))
    )


def _rank_name(column: int, width: int) -> str:
    return "group" if width == 2 else f"rank {column}"


def _finest_first(ranks: Iterable[Rank]) -> tuple[Rank, ...]:
    return tuple(sorted(ranks, key=lambda rank: -len(rank.names)))
