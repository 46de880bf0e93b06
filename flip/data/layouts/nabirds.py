"""NABirds (Van Horn et al., CVPR 2015): CUB's index files, with a hierarchy of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flip.data.archives import Archive, find_base, require_base
from flip.data.dataset import Dataset
from flip.data.index_files import INDEX_FILES, Line, read_index, read_indexed
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

_NEEDED = (*INDEX_FILES, "hierarchy.txt")


def find_nabirds(root: Path) -> Path | None:
    """Return the folder that holds NABirds: the folder itself, or its ``nabirds``; None if neither."""
    return find_base(root, ("nabirds",), *_NEEDED)


def read_nabirds(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read NABirds with its official split: 555 classes, 23,929 photos to train on and 24,633 to test.

    ``classes.txt`` lists the inner nodes of the hierarchy as well; a class is a node that has photos. The ranks are
    ``order``, the node below the root, and ``parent``, the one above the class.

    Raises
    ------
    DataError
        If an index file is missing or malformed; the message names file and line.
    """
    base = require_base(find_nabirds(root), root, "NABirds", ", ".join(_NEEDED))
    names = read_index(base / "classes.txt")
    parents = read_index(base / "hierarchy.txt")
    file = base / "hierarchy.txt"
    ranks = {
        "order": {key: names[_ancestors(file, key, parents, names)[-1]].value for key in names},
        "parent": {key: names[_ancestors(file, key, parents, names)[0]].value for key in names},
    }
    return read_indexed(Archive(root, base, LAYOUT.name), (), Ledger(), ranks)


def _ancestors(file: Path, key: str, parents: Mapping[str, Line], names: Mapping[str, Line]) -> list[str]:
    """Return the nodes above a node without the root, from the nearest; the node itself where there is none."""
    above: list[str] = []
    node = key
    while node in parents:
        line = parents[node]
        if line.value not in names:
            raise DataError(f"{file}:{line.number}: node {line.value} is not in classes.txt")
        if line.value in above:
            raise DataError(f"{file}:{line.number}: node {line.value} lies above itself")
        node = line.value
        above.append(node)
    # The last is the root, "Birds".
    return above[:-1] or [key]


LAYOUT = Layout("nabirds", lambda root: find_nabirds(root) is not None, read_nabirds, "NABirds", index_files=(_NEEDED,))
