"""Files that lie in no folder of the disk: members of a tar, and files at a URL, under paths that others can pass on.

A mount serves the paths below one path. :mod:`flip.reading` asks here for what the disk does not have, so that readers
and decoders need not know where a photo lies.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class FileState(NamedTuple):
    """Facts that tell one content of a file from another without reading it.

    Attributes
    ----------
    name : str
        The absolute path, or the URL.
    size, mtime_ns : int
        Where a server gives no time, ``mtime_ns`` is a number made of what it gives instead.
    ctime_ns : int or None
        Time of the last change of content or name.
    device, inode : int
        Equal for two names of one file; 0 where that is not known.
    tag : str or None
        A hash of the content that a server gives.
    """

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int | None = None
    device: int = 0
    inode: int = 0
    tag: str | None = None


class Place(NamedTuple):
    """Place of a file's bytes: a path or URL that any process can open, the first byte, and the number of bytes."""

    file: str
    start: int
    size: int


class Mount(Protocol):
    """The files below one path. Methods raise an OSError for what is not there, and may be called in any thread.

    Attributes
    ----------
    waits : bool
        Whether reading waits for a network, so that more threads than cores are of use.
    """

    waits: bool

    def state(self, below: str) -> FileState:
        """Return the state of a file."""

    def place(self, below: str) -> Place:
        """Return the place of its bytes."""

    def read(self, below: str, start: int, size: int) -> bytes:
        """Return some of its bytes; fewer only where it ends."""

    def ask(self, below: Sequence[str]) -> None:
        """Learn the states of many files at once, so that the next question for each is answered without waiting."""


_MOUNTS: dict[str, Mount] = {}


def mount(path: str | Path, files: Mount) -> None:
    """Serve the paths below a path; what was mounted there before is replaced."""
    _MOUNTS[os.path.abspath(path)] = files  # noqa: PTH100


def mounted(file: str | Path) -> tuple[Mount, str] | None:
    """Return the mount that serves a path, and the path below it; None where there is none."""
    if not _MOUNTS:
        return None
    name = os.fspath(file)
    while name.startswith("./"):  # as a folder "." is joined with what lies in it
        name = name[2:].lstrip("/")
    path = os.path.join(os.getcwd(), name)  # noqa: PTH109, PTH118
    above = path.rpartition("/")[0]
    while above:
        if (found := _MOUNTS.get(os.path.normpath(above) if ".." in above else above)) is not None:
            return found, path[len(above) :].lstrip("/")
        above = above.rpartition("/")[0]
    return None


def ask_ahead(files: Sequence[str | Path]) -> None:
    """Learn the states of many files together, of those that a mount serves."""
    wanted: dict[int, tuple[Mount, list[str]]] = {}
    for file in files:
        if (served := mounted(file)) is not None:
            wanted.setdefault(id(served[0]), (served[0], []))[1].append(served[1])
    for one, below in wanted.values():
        one.ask(below)


def waits_for_network(file: str | Path) -> bool:
    """Return whether reading a file waits for a network."""
    served = mounted(file)
    return served is not None and served[0].waits


class MountedFile(io.RawIOBase):
    """The bytes of a mounted file, read as they are asked for."""

    def __init__(self, file: str | Path) -> None:
        served = mounted(file)
        assert served is not None
        self._files, self._below = served
        self._size = self._files.state(self._below).size
        self._at = 0

    def at(self, start: int, size: int) -> bytes:
        """Return the bytes at a place."""
        return self._files.read(self._below, start, size)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def readall(self) -> bytes:
        """Return the rest."""
        data = self.at(self._at, max(0, self._size - self._at))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as it goes."""
        data = self.at(self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
