"""Folders below folders: which level is the class."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from flip.data.ledger import Ledger
from flip.data.splits import parts_of_one_name, split_word
from flip.errors import DataError

#: Folders that tell when photos were taken, not what they show: a year, or a date.
_DATES = re.compile(r"(?:19|20)\d{2}(?:[-_. ]?\d{1,2}){0,2}")

#: Names of folders that hold photos, or something about them, and are no classes.
_CONTAINERS = (
    "annotation annotations boxes bboxes crop crops data dataset depth devkit files full gt image images imgs jpeg "
    "jpegimages jpegs jpg label labels lists mask masks meta metadata parts photo photos pics pictures png pngimages "
    "raw segmentation segmentationclass segmentations thumbnails thumbs trimaps"
)
CONTAINERS = frozenset(_CONTAINERS.split())


def class_of_folders(paths: Sequence[str], level: int | None, ledger: Ledger) -> list[str | None]:
    """Return the class of each photo by its folders, None where it lies above the level of the classes.

    Parameters
    ----------
    paths : sequence of str
        Relative to the folder that holds the classes, with ``/``.
    level : int or None
        1 for the first folder, 2 for the one in it; None is 1, and says where photos lie deeper.
    ledger : Ledger

    Raises
    ------
    DataError
        If no photo lies so deep.
    """
    folders = [tuple(path.split("/")[:-1]) for path in paths]
    if level is None:
        _say_deeper(folders, ledger)
    elif folders and level > max(map(len, folders)):
        deepest = max(zip(map(len, folders), paths, strict=True), key=lambda item: item[0])
        raise DataError(
            f"--class-level {level} is too deep: no photo lies deeper than {deepest[1]}, in "
            f"{deepest[0]} folder{'' if deepest[0] == 1 else 's'}; pass --class-level {max(1, deepest[0])} or less"
        )
    level = level or 1
    chosen = [parts[:level] if len(parts) >= level else None for parts in folders]
    names = _names({parts for parts in chosen if parts is not None}, level)
    return [names[parts] if parts is not None else None for parts in chosen]


def _names(classes: set[tuple[str, ...]], level: int) -> dict[tuple[str, ...], str]:
    """Return a name for each path of folders: the last folder's where that is enough, else all of them.

    Where every outer folder holds the same inner ones (``2019/wren``, ``2020/wren``), photos of one inner name are one
    class. A genus and an epithet (``Turdus/merula``) are said together.
    """
    inner: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for parts in classes:
        inner[parts[:-1]].add(parts[-1])
    alike = len(inner) > 1 and len({frozenset(names) for names in inner.values()}) == 1
    distinct = len({parts[-1] for parts in classes}) == len(classes)
    if level == 1 or alike or (distinct and not _are_binomials(classes)):
        return {parts: parts[-1] for parts in classes}
    joined = {parts: " ".join(parts) for parts in classes}
    return joined if len(set(joined.values())) == len(classes) else {parts: "/".join(parts) for parts in classes}


def _are_binomials(classes: set[tuple[str, ...]]) -> bool:
    return all(
        re.fullmatch("[A-Z][a-z]+", parts[-2]) and re.fullmatch("[a-z]+(-[a-z]+)?", parts[-1]) for parts in classes
    )


def is_date(name: str) -> bool:
    """Return whether a folder's name is a year or a date."""
    return bool(_DATES.fullmatch(name))


def _say_deeper(folders: Sequence[tuple[str, ...]], ledger: Ledger) -> None:
    deeper = next((parts for parts in folders if len(parts) > 1 and not is_date(parts[1])), None)
    if deeper is not None:
        ledger.note(
            f"photos lie deeper than the class folders, such as in {'/'.join(deeper)}: the class is the first folder, "
            f"{deeper[0]}; --class-level 2 takes the second"
        )


def require_class_names(root: Path, names: Iterable[str], ledger: Ledger) -> None:
    """Refuse folders as classes if all are called as what holds photos, or as splits; note those that are.

    Raises
    ------
    DataError
        If no name is that of a class, or two are splits of one name (``birds_train``, ``birds_test``).
    """
    names = list(names)
    parts = parts_of_one_name(names)
    if parts:
        raise DataError(
            f"{root / parts[0]} and {root / parts[1]} are named as splits, and other folders of photos lie beside; "
            "move those away, or list the photos in a manifest with path, label and split; --class-level 1 says "
            "that these are the classes"
        )
    odd = [name for name in names if name.casefold() in CONTAINERS or split_word(name)]
    if odd and len(odd) == len(names):
        shown = " and ".join(f"{name}/" for name in odd[:2])
        raise DataError(
            f"{root} holds its photos in {shown}, which {'are no classes' if len(odd) > 1 else 'is no class'} by name; "
            "put the photos of each class in a folder of its own, or list them in a manifest with path and label; "
            "--class-level 1 says that these are the classes, --class-level 2 that those in them are"
        )
    for name in odd:
        ledger.note(f"the folder {name}/ is read as a class")
