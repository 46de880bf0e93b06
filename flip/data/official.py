"""Official splits that lie beside the photos and are not used: said rather than passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flip.data.layout import Layout, layouts

#: Files by which people hand round a split.
_SUFFIXES = (".txt", ".csv", ".json", ".lst")
_LISTS = (
    *(f"{name}{suffix}" for name in ("train", "val", "test", "trainval") for suffix in _SUFFIXES),
    *(f"{name}{suffix}" for name in ("train_list", "test_list", "split", "splits") for suffix in _SUFFIXES),
    "train_test_split.txt",
)


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
    lists = [name for name in _LISTS if (root / name).is_file()]
    if lists and chosen.name != "split-folders":
        yield f"{lists[0]} is there and is not read; a manifest with a column split gives another split than the hash's"
