"""Samples of WebDataset: the files of a tar that share a key, as one photo with its label and captions."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from flip.data.formats import is_image_file
from flip.data.ledger import Ledger
from flip.data.splits import UNLABELED, named_split
from flip.data.tables import ALIASES, COLUMNS, Row
from flip.data.tars import MOST_BYTES, Member, TarMount, tar_members
from flip.errors import DataError, MissingDependencyError
from flip.files import JsonObject
from flip.mounts import mount
from flip.reading import parse_json

#: Extensions of files that describe a photo: either as JSON, its caption, its class. Of two that say the
#: same, the later one counts.
_JSON, _CAPTION, _LABEL = _KINDS = ("json", "txt", "cls")

#: Columns of a sample's JSON that are read.
_COLUMNS = COLUMNS.difference(ALIASES["path"])

#: Most tars that a pattern may stand for.
MOST_TARS = 1_000_000

#: A part of a pattern that says how many paths it stands for; a backslash takes the meaning from what is behind it.
_PART = re.compile(r"\\.|\{(?P<first>-?\d{1,4000})\.\.(?P<last>-?\d{1,4000})(?:\.\.-?\d+)?\}|[{},]", re.DOTALL)

#: Files that the library takes for its own.
_META = re.compile(r"__[^/]*__($|/)")

#: A label longer than this is none.
_LONGEST_LABEL = 200


class Sample(NamedTuple):
    """One photo of a tar: its key, and its cells as a row of a table has them."""

    key: str
    row: Row


class Conventions(NamedTuple):
    """WebDataset's own rules: a member's name to key and extension, and a pattern to the names that it stands for."""

    split_name: Callable[[str], tuple[str | None, str | None]]
    expand: Callable[[str], Iterator[str]]


def conventions() -> Conventions:
    """Return the rules of the webdataset library.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import braceexpand
        from webdataset.tariterators import base_plus_ext
    except ImportError as error:
        raise MissingDependencyError(
            "tars are read by the webdataset library, which is not here; pip install 'flip-clip[webdataset]'"
        ) from error
    return Conventions(base_plus_ext, braceexpand.braceexpand)


def is_pattern(data: Path) -> bool:
    """Return whether a path is not there and is a pattern such as ``birds-{0000..0003}.tar``."""
    name = str(data)
    return "{" in name and "}" in name and name.lower().endswith(".tar") and not data.exists()


def expand(pattern: str) -> list[str]:
    """Return the paths that a pattern such as ``birds-{0000..0003}.tar`` stands for.

    Raises
    ------
    DataError
        If its braces are not closed, or it stands for more than a million.
    """
    # The library makes each path from all of the pattern's parts, and each range whole before the first path.
    if count_paths(pattern) > MOST_TARS:
        raise DataError(f"{pattern} stands for more than {MOST_TARS:,} tars; write several patterns")
    try:
        paths = list(islice(conventions().expand(pattern), MOST_TARS + 1))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{pattern} is no pattern of tars ({error}); write one as birds-{{0000..0003}}.tar") from error
    if len(paths) > MOST_TARS:
        raise DataError(f"{pattern} stands for more than {MOST_TARS:,} tars; write several patterns")
    return paths


def count_paths(pattern: str) -> int:
    """Return the number of paths that a pattern stands for, without making them; steps of ranges are taken as 1.

    Braces that are not closed count as nothing.
    """
    # Of each brace that is open, outermost first: the paths of the items before, and of the item that is read.
    open_braces = [(0, 1)]
    for found in _PART.finditer(pattern):
        before, item = open_braces[-1]
        if found["first"] is not None:
            n = abs(int(found["last"]) - int(found["first"])) + 1
            # Beyond the most there is nothing to tell apart, and numbers that grow without an end take time.
            open_braces[-1] = before, min(item * n, MOST_TARS + 1)
        elif found[0] == "{":
            open_braces.append((0, 1))
        elif found[0] == "," and len(open_braces) > 1:
            open_braces[-1] = before + item, 1
        elif found[0] == "}" and len(open_braces) > 1:
            open_braces.pop()
            around, outer = open_braces[-1]
            open_braces[-1] = around, min(outer * (before + item), MOST_TARS + 1)
    return open_braces[0][1]


def read_samples(file: Path, ledger: Ledger) -> list[Sample]:
    """Return the samples of a tar that have a photo, and serve the photos below the tar's path by their keys.

    Of several images in a sample the first is taken.

    Raises
    ------
    DataError
        If the tar cannot be read.
    """
    split_name = conventions().split_name
    photos: dict[str, Member] = {}
    described: dict[str, dict[str, bytes | None]] = {}
    for member in tar_members(file, tuple(f".{kind}" for kind in _KINDS), ledger):
        key, extension = split_name(member.name)
        if key is None or extension is None or key.endswith("/") or _META.match(member.name):
            ledger.omit("files in tars without a key or an extension", f"{file.name}/{member.name}")
        elif _is_image(extension):
            if key in photos:
                ledger.omit("further images of samples that have one already", f"{file.name}/{member.name}")
            photos.setdefault(key, member)
        elif (kind := extension.lower()) in _KINDS:
            parts = described.setdefault(key, {})
            if kind in parts:
                ledger.omit("files that are in a tar twice", f"{file.name}/{member.name}")
            parts.setdefault(kind, member.text)
    for key in described.keys() - photos.keys():
        ledger.omit("samples without an image", f"{file.name}/{key}")
    mount(file, TarMount(file, photos))
    return [Sample(key, _row(file, line, key, described.get(key, {}), ledger)) for line, key in enumerate(photos, 1)]


def serve_samples(file: Path) -> None:
    """Serve the photos of a tar below its path by their keys, for what names some of them.

    Raises
    ------
    DataError
        If the tar cannot be read.
    """
    read_samples(file, Ledger())


def split_of(path: str) -> str | None:
    """Return the split that the name of a tar, or of the nearest folder above it, says; None where none does.

    Parameters
    ----------
    path : str
        Relative to the data's folder, with ``/``.
    """
    *folders, name = path.split("/")
    found = (named_split(re.sub(r"\d+", " ", part)) for part in (name.removesuffix(".tar"), *reversed(folders)))
    return next((split for split in found if split is not None), None)


def is_unlabeled(split: str | None) -> bool:
    """Return whether a tar's name says that its photos have no labels."""
    return split == UNLABELED


@functools.lru_cache(maxsize=256)
def _is_image(extension: str) -> bool:
    return is_image_file(f"x.{extension.rpartition('.')[2]}")


def _row(file: Path, line: int, key: str, parts: dict[str, bytes | None], ledger: Ledger) -> Row:
    """Return the parts that describe a photo as a row of a table; the ledger notes those that cannot be read."""
    cells: JsonObject = {}
    for kind in _KINDS:
        if kind not in parts:
            continue
        data = parts[kind]
        where = f"{file.name}/{key}.{kind}"
        if data is None:
            ledger.notice(f"files of more than {MOST_BYTES >> 20} MiB beside photos, which are not read", where)
            continue
        try:
            cells |= _cells(kind, data.decode("utf-8-sig"))
        except ValueError:
            ledger.notice(f".{kind} files that cannot be read, or say something twice", where)
    return Row(file, line, cells)


def _cells(kind: str, text: str) -> JsonObject:
    if kind == _JSON:
        found = parse_json(text)
        if not isinstance(found, dict):
            raise ValueError("no object")
        kept = [(column, value) for name, value in found.items() if (column := name.strip().lower()) in _COLUMNS]
        cells = dict(kept)
        if len(cells) < len(kept):
            raise ValueError("a key twice")
        return cells
    text = text.strip()
    if kind == _CAPTION:
        return {"captions": [text]} if text else {}
    if "\n" in text or len(text) > _LONGEST_LABEL or not text.isprintable():
        raise ValueError("no label")
    return {ALIASES["label"][0]: text}
