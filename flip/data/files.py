"""Listing files: one look at each folder instead of one at each file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flip.data.text import nfc
from flip.reading import is_file

# Litter of operating systems; names that begin with a dot are skipped as well.
_LITTER = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the user's: hidden, or left behind by a system."""
    return name.startswith(".") or name in _LITTER


def subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, without hidden ones; links to folders count."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, and no link to one that it lies in, such as the root of the disk."""
    try:
        return entry.is_dir() and not (entry.is_symlink() and _leads_up(entry.path))
    except OSError:  # a link to itself
        return False


def _leads_up(link: str) -> bool:
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))  # noqa: PTH120
    return os.path.commonpath((target, place)) == target


def list_files(folder: Path) -> Iterator[str]:
    """Yield every file below a folder as a path relative to it, with ``/``, in sorted order of each folder's names.

    Links to folders are followed, but not into a folder that they lie in. A link to nothing or to itself, a FIFO and a
    device are yielded: their reader says what is wrong with them.
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
        if _is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {here})
        elif not entry.is_symlink() or not os.path.isdir(entry.path):  # noqa: PTH112
            yield prefix + entry.name


class FileIndex:
    """The files below a folder, by their paths: each folder is listed once.

    Parameters
    ----------
    folder : Path
        The folder that relative paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, frozenset[str]] = {}
        self._composed: dict[str, dict[str, str]] = {}
        self._asked: dict[str, set[str]] = {}
        self._tars = set[str]()

    def find(self, path: str) -> str | None:
        """Return a path as it is spelt on the disk, or None where there is no such file.

        Parameters
        ----------
        path : str
            With ``/``, relative or absolute; accents may be composed or not.
        """
        parent, slash, name = path.rpartition("/")
        parent = parent or slash
        names = self._listed(parent)
        if name not in names:
            # The file system may fold case or accents; the list may have been written where accents were composed.
            if is_file(self._folder / path) or self._is_in_tar(path):
                return path
            found = self._spelt(path)
            return found if found is None else self.find(found)
        self._asked.setdefault(parent, set()).add(name)
        return path

    def has(self, path: str) -> bool:
        """Return whether a path with ``/``, relative or absolute, is a file."""
        return self.find(path) is not None

    def near(self, path: str) -> str | None:
        """Return a file beside a path that is not there, with its name in another case or with a suffix; or None."""
        parent, slash, name = path.rpartition("/")
        there = sorted(self._listed(parent or slash), key=lambda other: other.casefold() != name.casefold())
        stems = {name.casefold(), name.rpartition(".")[0].casefold()} - {""}
        found = (other for other in there if {other.casefold(), other.rpartition(".")[0].casefold()} & stems)
        return next((f"{parent}{slash}{other}" for other in found), None)

    def unasked(self) -> Iterator[str]:
        """Yield the files, in sorted order, that lie beside those that were found and were not asked for."""
        for parent in sorted(self._asked):
            for name in sorted(self._names[parent] - self._asked[parent]):
                if not is_hidden(name):
                    yield f"{parent}/{name}" if parent else name

    def _is_in_tar(self, path: str) -> bool:
        """Return whether a path such as ``birds.tar/0001`` names a photo of a tar, which is then served."""
        from flip.data.samples import serve_samples

        before, inside, _ = path.partition(".tar/")
        tar = f"{before}.tar"
        if not inside or tar in self._tars or not is_file(self._folder / tar):
            return False
        self._tars.add(tar)
        serve_samples(self._folder / tar)
        return is_file(self._folder / path)

    def _listed(self, parent: str) -> frozenset[str]:
        if parent not in self._names:
            self._names[parent] = _names_in(self._folder / parent)
        return self._names[parent]

    def _spelt(self, path: str) -> str | None:
        """Return a path with each part as the disk spells it, where it differs by the form of accents only."""
        if path.isascii():
            return None
        parts, spelt = path.split("/"), ""
        for i, part in enumerate(parts):
            below = f"{spelt}/{part}" if i else part
            if not (self._folder / below).exists():
                if spelt not in self._composed:
                    self._composed[spelt] = _composed_names(self._folder / spelt)
                found = self._composed[spelt].get(nfc(part))
                if found is None:
                    return None
                below = f"{spelt}/{found}" if i else found
            spelt = below
        return spelt if spelt != path else None


def real_path(folder: Path, path: str, known: dict[str, str]) -> str:
    """Return the file that a path means when links and ``..`` are followed.

    Parameters
    ----------
    folder : Path
    path : str
        With ``/``, relative to the folder or absolute.
    known : dict
        The real paths of folders that were met before; it is added to.
    """
    parent, _, name = os.path.join(folder, path).rpartition("/")  # noqa: PTH118
    if parent not in known:
        known[parent] = os.path.realpath(parent)
    file = f"{known[parent]}/{name}"
    return os.path.realpath(file) if name in ("", ".", "..") or os.path.islink(file) else file  # noqa: PTH114


def _composed_names(folder: Path) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            return {nfc(entry.name): entry.name for entry in entries}
    except OSError:
        return {}


def _names_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not _is_folder(entry))
    except OSError:
        return frozenset()
