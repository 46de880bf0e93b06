"""Listing files: one look at each folder instead of one at each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# What systems leave behind beside photos; names that begin with a dot are skipped as well.
_LITTER = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's: hidden, or left behind by a system."""
    return name.startswith(".") or name in _LITTER


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones; links to folders count."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def list_files(folder: Path) -> Iterator[str]:
    """Yield every file below a folder as a path relative to it, with ``/``, in sorted order of each folder's names.

    Links to folders are followed, but not into a folder that they lie in. A link to nothing is yielded: its reader
    says what is wrong with it.
    """
    return _walk(str(folder), "", frozenset())


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)  # noqa: PTH116 - a Path for each folder is what makes walks slow
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        listed = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
        elif entry.is_symlink() or entry.is_file():
            yield prefix + entry.name


class FileIndex:
    """Answers which files exist below a folder, listing each folder once.

    Parameters
    ----------
    folder : Path
        What relative paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether a path with ``/``, relative or absolute, is a file."""
        parent, slash, name = path.rpartition("/")
        parent = parent or slash
        if parent not in self._names:
            self._names[parent] = _names_in(self._folder / parent)
        # The second look is for file systems that fold case or accents, and costs only where the first one fails.
        return name in self._names[parent] or (self._folder / path).is_file()


def _names_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_dir())
    except OSError:
        return frozenset()
