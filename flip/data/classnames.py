"""Class names: their order, the name a person would say, and names of folders."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flip.data.text import nfc

_KINGDOMS = "Animalia|Archaea|Bacteria|Chromista|Fungi|Plantae|Protozoa|Viruses"
_INATURALIST = re.compile(rf"\d{{5}}_(?:{_KINGDOMS})(?:_[^_]+){{4}}_([^_]+_.+)")
_WORDNET = re.compile(r"n\d{8}[-_ .]+(.+)")
_WORDNET_ID = re.compile(r"n\d{8}")
#: A dot behind a number needs nothing more ("001.Wren"); what else is behind it must show that the number counts.
_NUMBERED = re.compile(r"(\d+)(\s*[._-]\s*| +)([^\d\s._-].*)", re.DOTALL)

#: Characters that some file system does not hold in a name.
_UNSAFE = re.compile(r'[\x00-\x1f\\/:*?"<>|]')
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_LONGEST = 120


def natural_key(name: str) -> tuple[str, str]:
    """Return a key that sorts names by code points, but runs of digits in them as numbers: 1, 2, 10.

    Names without digits, and numbers of equal width, are sorted as plain strings are.
    """
    return re.sub("[0-9]+", _sortable, name), name


def _sortable(run: re.Match[str]) -> str:
    # Any run begins with "0", as it does among other characters; then the longer number is the larger one.
    digits = run[0].lstrip("0")
    return f"0{chr(1 + len(digits))}{digits}"


def label_indices(raw_labels: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Return the distinct raw names in natural order, and each row's index into them. Names equal in NFC are one.

    Parameters
    ----------
    raw_labels : sequence of str

    Returns
    -------
    tuple of str, list of int
    """
    one = {raw: nfc(raw) for raw in dict.fromkeys(raw_labels)}
    names = tuple(sorted(set(one.values()), key=natural_key))
    index = {name: i for i, name in enumerate(names)}
    return names, [index[one[name]] for name in raw_labels]


class Cleaning(NamedTuple):
    """The clean names of a whole list, and what was done to them: "" or a phrase such as "numbers dropped"."""

    names: tuple[str, ...]
    done: str


def clean_class_names(raw_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names a person would say: ``001.Black_footed_Albatross`` becomes ``Black footed Albatross``.

    The whole list decides. Underscores become spaces. Numbers, and the prefixes of iNaturalist and WordNet, are dropped
    only where every class has one and the rest stays distinct: ``1.5 TSI`` and ``3.14 pie`` keep theirs.
    """
    return clean_names(raw_names).names


def clean_names(raw_names: Sequence[str]) -> Cleaning:
    """Return the clean names of a list of classes together with what was done; see :func:`clean_class_names`."""
    raws = [nfc(raw) for raw in raw_names]
    plain = tuple(map(_spaced, raws))
    for shorten, done in _SHORTENINGS:
        rests = shorten(raws)
        if rests is not None:
            names = tuple(map(_spaced, rests))
            if all(names) and len({name.casefold() for name in names}) == len({name.casefold() for name in plain}):
                return Cleaning(names, done)
    if plain == tuple(raws):
        return Cleaning(plain, "")
    return Cleaning(plain, "underscores read as spaces" if any("_" in raw for raw in raws) else "spaces made single")


def wordnet_ids(raw_names: Sequence[str]) -> bool:
    """Return whether all classes are bare WordNet ids (``n01440764``), which no text encoder knows."""
    return bool(raw_names) and all(_WORDNET_ID.fullmatch(raw) for raw in raw_names)


def near_equal_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of different names that differ by case, spaces, hyphens or underscores only."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        groups[re.sub(r"[\s_-]+", "", nfc(name).casefold())][name] = None
    return [(first, other) for first, *others in map(list, groups.values()) for other in others]


def folder_names(raw_names: Sequence[str]) -> tuple[str, ...]:
    """Return a folder name for each class: as the raw name where file systems can hold it, and no two alike.

    A class's folder does not depend on the order of the others. Where two names would share a folder (``Ram C/V`` and
    ``Ram C:V``, or ``Wren`` and ``wren`` on a file system that folds case), a hash of the raw name tells them apart;
    one that needs no change keeps its name.
    """
    wanted = [_safe_folder(raw) for raw in raw_names]
    holders: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(raw_names)), key=lambda i: (wanted[i] != raw_names[i], raw_names[i], i)):
        holders[wanted[i].casefold()].append(i)
    folders = list(wanted)
    for rows in holders.values():
        keeps = len(rows) == 1 or wanted[rows[0]] == raw_names[rows[0]]
        for turn, i in enumerate(rows[1:] if keeps else rows):
            # Two classes of one raw name differ by their turn.
            same = sum(raw_names[j] == raw_names[i] for j in rows[: turn + keeps])
            folders[i] = f"{wanted[i]}-{_digest(raw_names[i])}" + (f"-{same + 1}" if same else "")
    return tuple(folders)


def _digest(raw: str) -> str:
    return hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _safe_folder(raw: str) -> str:
    name = _UNSAFE.sub("_", nfc(raw)).strip(". ") or "_"
    while len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
        name = name[:-1].rstrip(". ")
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _without(pattern: re.Pattern[str]) -> Callable[[Sequence[str]], list[str] | None]:
    """Return a function that gives the first group of a pattern for every name, or None where one does not fit."""

    def shorten(raws: Sequence[str]) -> list[str] | None:
        matches = _matches(pattern, raws)
        return [match[1] for match in matches] if matches else None

    return shorten


def _matches(pattern: re.Pattern[str], raws: Sequence[str]) -> list[re.Match[str]]:
    """Return the match of every name, nothing as soon as one does not fit."""
    found = []
    for raw in raws:
        match = pattern.fullmatch(raw)
        if match is None:
            return []
        found.append(match)
    return found


def _without_numbers(raws: Sequence[str]) -> list[str] | None:
    matches = _matches(_NUMBERED, raws)
    if not matches:
        return None
    numbers = [match[1] for match in matches]
    if any(match[2].strip() != "." for match in matches) and not _count(numbers):
        return None
    return [match[3] for match in matches]


def _count(numbers: Sequence[str]) -> bool:
    """Return whether numbers count the classes: padded to one width with zeros, or 0, 1, 2 or 1, 2, 3 and so on."""
    if len(set(numbers)) != len(numbers):
        return False
    padded = len({len(number) for number in numbers}) == 1 and any(number[0] == "0" for number in numbers)
    values = sorted(map(int, numbers))
    return padded or (len(values) > 2 and values in (list(range(len(values))), list(range(1, len(values) + 1))))


_SHORTENINGS: tuple[tuple[Callable[[Sequence[str]], list[str] | None], str], ...] = (
    (_without(_INATURALIST), "iNaturalist's numbers and higher ranks dropped"),
    (_without(_WORDNET), "WordNet ids dropped"),
    (_without_numbers, "numbers dropped"),
)
