"""Tar files as they lie: a list of their members with the place of each, and a mount that serves some of them."""

from __future__ import annotations

import errno
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from flip.data.ledger import Ledger
from flip.errors import DataError, reason_of
from flip.mounts import FileState, Place, waits_for_network
from flip.reading import open_plain, read_range, state_of

#: First bytes of compressed files, and the program that makes them.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}

#: Bytes of a member that describes a photo; one that has more is no caption and no label.
MOST_BYTES = 1 << 20

#: Largest place of a byte that a file can have.
_MOST_PLACE = (1 << 63) - 1

#: Errors of the library for headers that are none: also chains of thousands, and sizes of 80 bits.
_BROKEN = (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError)

_BLOCK = tarfile.BLOCKSIZE

#: The prime of Adler-32.
_ADLER = 65521

#: A number in a header.
_OCTAL = re.compile(rb" *([0-7]+)[ \0]+")

#: A name that pathlib would leave as it is: no part is empty or begins with a dot.
_PLAIN_NAME = re.compile(r"(?:[^/\\\0.][^/\\\0]*/)*[^/\\\0.][^/\\\0]*")


class Member(NamedTuple):
    """A file in a tar: its name, the place of its first byte, and how many it has; ``text`` of small ones."""

    name: str
    start: int
    size: int
    text: bytes | None = None


def tar_members(file: Path, suffixes: Sequence[str], ledger: Ledger) -> Iterator[Member]:
    """Yield the plain files of a tar in their order, with the bytes of those that end in one of the suffixes.

    Links, devices and members whose names lead outside are left out; a tar that ends too early is noted.

    Parameters
    ----------
    file : Path
    suffixes : sequence of str
        In lower case.
    ledger : Ledger

    Raises
    ------
    DataError
        If it cannot be read, is compressed, or is no tar.
    """
    wanted = tuple(suffixes)
    try:
        with open_plain(file) as stream:
            _require_uncompressed(file, stream.read(8))
            stream.seek(0)
            for name, start, size in _files(file, stream, ledger):
                text = None
                if size <= MOST_BYTES and name.lower().endswith(wanted):
                    stream.seek(start)
                    text = stream.read(size)
                    if len(text) < size:  # the tar ends within it, which is noted; half a label is another label
                        continue
                yield Member(name, start, size, text)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {reason_of(error)}") from error
    except _BROKEN as error:
        raise DataError(f"{file} is no tar that can be read ({_why(error)}); pack it again") from error


class _File(NamedTuple):
    name: str
    start: int
    size: int


def _plain_file(stream: BinaryIO, place: int) -> _File | None:
    """Parse the header of a plain file with a short name; None for any other header.

    The library decodes sixteen fields of each header, which would be most of the time that listing a tar takes.
    """
    stream.seek(place)
    block = stream.read(_BLOCK)
    if len(block) < _BLOCK or block[156:157] != tarfile.REGTYPE or block[345]:
        return None
    size, checksum = _OCTAL.fullmatch(block, 124, 136), _OCTAL.fullmatch(block, 148, 156)
    if not size or not checksum or int(checksum[1], 8) % _ADLER != _byte_sum(block[:148] + b" " * 8 + block[156:]):
        return None
    name = block[: block.index(0)] if not block[99] else block[:100]
    text = name.decode("utf-8", "surrogateescape")
    return _File(text, place + _BLOCK, int(size[1], 8)) if _PLAIN_NAME.fullmatch(text) else None


def _byte_sum(block: bytes) -> int:
    """Sum of the bytes modulo 65521, computed as the lower half of their Adler-32 less 1."""
    return (zlib.adler32(block) & 0xFFFF) - 1


class _Headers:
    """A tar as the library reads its headers, of which those of one member have a bounded number of bytes.

    A header that describes the next one is read whole, of whatever size it says that it has.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = MOST_BYTES

    def read(self, n: int) -> bytes:
        """Return the next bytes; a ReadError is raised where the member's headers have too many."""
        self.left -= n
        if n < 0 or self.left < 0:
            raise tarfile.ReadError(f"headers of one file that have more than {MOST_BYTES >> 20} MiB")
        return self._stream.read(n)

    def seek(self, place: int) -> int:
        """Go to a place and return it."""
        return self._stream.seek(place)

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()


def _why(error: BaseException) -> str:
    """Return the reason why a tar's headers cannot be read."""
    if isinstance(error, RecursionError):
        return "a chain of headers without a file"
    return "a number that no tar has" if isinstance(error, OverflowError) else str(error)


def _require_uncompressed(file: Path, head: bytes) -> None:
    made_by = next((name for sign, name in _COMPRESSED.items() if head.startswith(sign)), None)
    if made_by is not None:
        raise DataError(f"{file} is compressed by {made_by}, so no photo in it can be found alone; unpack it to a tar")


def _files(file: Path, stream: BinaryIO, ledger: Ledger) -> Iterator[_File]:
    """Yield the files in a tar; where it is damaged behind the first, that is noted and the rest is left out."""
    headers = _Headers(stream)
    tar = tarfile.open(fileobj=cast(Any, headers), mode="r:", errors="surrogateescape")  # noqa: SIM115 - not its stream
    place, whole = 0, state_of(file).size
    try:
        while True:
            # tarfile reads the first file, and all files of a tar with global pax headers.
            found = _plain_file(stream, tar.offset) if place and not tar.pax_headers else None
            if found is None:
                headers.left = MOST_BYTES
                if (info := tar.next()) is None:
                    break
                if info.offset < place or info.size < 0 or info.offset_data > whole:
                    raise tarfile.ReadError(f"a header that leads to byte {info.offset_data}")
                # Of a million members none is kept here.
                cast(Any, tar).members.clear()
                name = _name(file, info, ledger)
                found = None if name is None else _File(name, info.offset_data, info.size)
                place = info.offset_data + info.size
                if place > _MOST_PLACE:
                    raise OverflowError
            else:
                place = found.start + found.size
                tar.offset = found.start + -(-found.size // _BLOCK) * _BLOCK
            if found is not None:
                yield found
            if place > whole:  # a place that the disk may refuse to go to
                break
    except _BROKEN as error:
        if place == 0:
            raise
        ledger.notice("tars that are cut off or damaged, and read as far as possible", f"{file.name} ({_why(error)})")
        return
    if place > whole or not _ends(file, tar.offset):
        at = f"byte {min(place, whole):,}"
        ledger.notice("tars that are cut off or damaged, and read as far as possible", f"{file.name} (behind {at})")


def _ends(file: Path, place: int) -> bool:
    """Return whether the mark of a tar's end is at a place; a tar without members may be nothing else."""
    mark = read_range(file, place, _BLOCK) or read_range(file, max(0, place - _BLOCK), _BLOCK)
    return len(mark) == _BLOCK and not any(mark)


def _name(file: Path, info: tarfile.TarInfo, ledger: Ledger) -> str | None:
    """Return a member's name without ``./``, None where it is left out."""
    if info.isdir():
        return None
    shown = f"{file.name}/{info.name}"
    if not info.isfile() or info.issparse():
        ledger.omit("links, devices and sparse files in tars", shown)
        return None
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or "\\" in info.name or "\0" in info.name or not path.parts:
        ledger.omit("files in tars whose names lead outside", shown)
        return None
    return str(path)


class TarMount:
    """Some members of a tar under names of their own, which :func:`flip.mounts.mount` serves below the tar's path.

    Parameters
    ----------
    file : Path
    members : mapping
        Name to member.
    """

    def __init__(self, file: Path, members: Mapping[str, Member]) -> None:
        self._file = file
        self.waits = waits_for_network(file)
        self._state = state_of(file)
        self._names = _Names(members)
        self._starts = np.fromiter((m.start for m in members.values()), np.int64, len(members))
        self._sizes = np.fromiter((m.size for m in members.values()), np.int64, len(members))

    def state(self, below: str) -> FileState:
        """Return the state of a member: its own name and size, and the times of the tar."""
        size = int(self._sizes[self._row(below)])
        return self._state._replace(name=f"{self._state.name}/{below}", size=size, device=0, inode=0, tag=None)

    def place(self, below: str) -> Place:
        """Return the tar, and where in it a member lies."""
        row = self._row(below)
        return Place(self._state.name, int(self._starts[row]), int(self._sizes[row]))

    def read(self, below: str, start: int, size: int) -> bytes:
        """Return some bytes of a member."""
        row = self._row(below)
        now = state_of(self._file)
        if (now.size, now.mtime_ns) != (self._state.size, self._state.mtime_ns):
            raise OSError(errno.ESTALE, f"{self._file.name} was changed while it was read", str(self._file))
        if int(self._starts[row] + self._sizes[row]) > now.size:
            raise OSError(errno.EIO, f"{self._file.name} ends within it", str(self._file))
        wanted = max(0, min(size, int(self._sizes[row]) - start))
        data = read_range(self._file, int(self._starts[row]) + start, wanted)
        if len(data) < wanted:
            raise OSError(errno.EIO, f"{self._file.name} ends within it", str(self._file))
        return data

    def ask(self, below: Sequence[str]) -> None:
        """Do nothing: all is known."""

    def _row(self, below: str) -> int:
        row = self._names.row(below)
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._file}/{below}")
        return row


class _Names:
    """Map from name to row, with less memory than a dictionary, since there may be millions.

    Names lie one behind the other, and rows in the order of the names' hashes.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [_encoded(name) for name in names]
        hashes = np.fromiter((hash(name) for name in encoded), np.int64, len(encoded))
        self._joined = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._order = np.argsort(hashes).astype(np.int32)
        self._hashes = hashes[self._order]

    def row(self, name: str) -> int | None:
        """Return the row of a name; None where it is none of them."""
        wanted = _encoded(name)
        place = int(np.searchsorted(self._hashes, hash(wanted)))
        while place < len(self._hashes) and self._hashes[place] == hash(wanted):
            row = int(self._order[place])
            if self._joined[self._ends[row] : self._ends[row + 1]] == wanted:
                return row
            place += 1
        return None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
