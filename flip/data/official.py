"""Official splits that lie beside the photos and are not used: said rather than passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from flip.data.layout import Layout, layouts

#: Files by which people hand round a split, and the folders that they lie in.
_LIST = re.compile(
    r"(?:(?:train|val|test|trainval)\d*(?:[_-](?:list|images|files|split|labels))?|splits?|train_test_split"
    r"|split_zhou_\w+)\.(?:txt|csv|json|lst|mat)",
    re.IGNORECASE,
)
_LIST_FOLDERS = ("", "labels", "lists", "meta", "splits", "split", "annotations", "image_lists", "imagelists")


def missing_files(root: Path) -> str | None:
    """Return a sentence on an archive of which most index files are in a folder and some are not, None otherwise."""
    best: tuple[int, str] | None = None
    for layout in layouts().values():
        for names in layout.index_files:
            there = [name for name in names if (root / name).is_file()]
            absent = [name for name in names if name not in there]
            if there and absent and len(there) >= len(absent) and (best is None or len(absent) < best[0]):
                best = (
                    len(absent),
                    f"{there[0]} is there as in {layout.shape}, but {' and '.join(absent)} is not there",
                )
    return best[1] if best else None


def unused_splits(root: Path, chosen: Layout) -> Iterator[str]:
    """Yield sentences on splits that a folder read by its folders alone comes with.

    Parameters
    ----------
    root : Path
        The folder that was given.
    chosen : Layout
        The layout that it is read as.
    """
    if chosen.index_files or chosen.files:
        return
    absolute = root.absolute()
    for place in (absolute, absolute.parent, absolute.parent.parent):
        for layout in layouts().values():
            if any(all((place / name).is_file() for name in names) for names in layout.index_files):
                yield f"the official split of {layout.shape} is in {place} and is not used; pass --data {place} for it"
                return
    missing = missing_files(root)
    if missing:
        yield f"its official split is not used: {missing}"
        return
    found = None if chosen.name == "split-folders" else next(_lists(root), None)
    if found is not None:
        yield f"{found} is there and is not read; a manifest with a column split gives another split than the hash's"


def _lists(root: Path) -> Iterator[str]:
    """Yield the files that look like lists of a split, relative to the root."""
    for folder in _LIST_FOLDERS:
        place = root / folder
        if place.is_dir():
            yield from (f"{folder}/{name}".lstrip("/") for name in _names(place) if _LIST.fullmatch(name))


def _names(folder: Path) -> list[str]:
    """Return the names of the files in a folder, training lists before those of test photos."""
    names = (entry.name for entry in folder.iterdir() if entry.is_file())
    return sorted(names, key=lambda name: (not name.lower().startswith("train"), name))
