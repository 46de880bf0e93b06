"""Birdsnap (Berg et al., CVPR 2014): tables of species and photos; the photos are fetched one by one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, find_base, numbered_lines, require_base
from flip.data.dataset import Box, Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.text import read_text
from flip.errors import DataError

_NEEDED = ("species.txt", "images.txt", "test_images.txt")
_CORNERS = ("bb_x1", "bb_y1", "bb_x2", "bb_y2")
#: The folders that hold the photos: the first is that of the script which comes with the data.
_PHOTOS = ("download/images/", "images/", "")


def find_birdsnap(root: Path) -> Path | None:
    """Return the folder that holds Birdsnap's tables: the folder itself, or its ``birdsnap``; None if neither."""
    return find_base(root, ("birdsnap",), *_NEEDED)


def read_birdsnap(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Birdsnap with its official split: 500 species; the photos of ``test_images.txt`` test, the others train.

    The tables are tab-separated with a header. Photos that were never fetched are left out and counted. The rank
    ``scientific`` is the Latin name.

    Raises
    ------
    DataError
        If a table lacks a column, or no photo is there.
    """
    base = require_base(find_birdsnap(root), root, "Birdsnap", ", ".join(_NEEDED))
    species = list(_rows(base / "species.txt", "id", "common", "dir"))
    rows = list(_rows(base / "images.txt", "path", "species_id"))
    tests = _test_paths(base, {row["path"] for _, row in rows})
    below = next(name for name in _PHOTOS if (base / name).is_dir())
    entries = [
        Entry(where, below + row["path"], row["species_id"], "test" if row["path"] in tests else "train", _box(row))
        for where, row in rows
    ]
    classes = {row["id"]: row["dir"] for _, row in species}
    said = {row["id"]: row["common"] for _, row in species}
    ranks = {"scientific": {row["id"]: row.get("scientific", "") for _, row in species}}
    archive = Archive(root, base, LAYOUT.name)
    return archive_dataset(archive, classes, entries, Ledger(), classnames=said, ranks=ranks, fetched=True)


def _test_paths(base: Path, known: set[str]) -> set[str]:
    """Return the paths of the test photos; one that is none of the photos would be trained on under another name."""
    paths = {path: where for where, path in numbered_lines(base / "test_images.txt") if path != "path"}
    for path, where in paths.items():
        if path not in known:
            raise DataError(f"{where}: {path} is no path of images.txt; write it as there, or take the line out")
    return set(paths)


def _rows(file: Path, *needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where a row is and its cells by their column."""
    lines = read_text(file).split("\n")
    header = [name.strip() for name in lines[0].split("\t")]
    absent = [name for name in needed if name not in header]
    if absent:
        raise DataError(f"{file} has no column {absent[0]!r}; its first line must name them, separated by tabs")
    for number, cells in enumerate(csv.reader(lines[1:], delimiter="\t", quoting=csv.QUOTE_NONE), 2):
        if not any(cell.strip() for cell in cells):
            continue
        row = dict(zip(header, map(str.strip, cells), strict=False))
        if any(not row.get(name) for name in needed):
            raise DataError(f"{file}:{number}: {len(cells)} cells; a row needs {', '.join(needed)}")
        yield f"{file}:{number}", row


def _box(row: dict[str, str]) -> Box | None:
    try:
        x1, y1, x2, y2 = (float(row[name]) for name in _CORNERS)
    except (KeyError, ValueError):
        return None
    return x1, y1, x2 - x1, y2 - y1


LAYOUT = Layout(
    "birdsnap", lambda root: find_birdsnap(root) is not None, read_birdsnap, "Birdsnap", index_files=(_NEEDED,)
)
