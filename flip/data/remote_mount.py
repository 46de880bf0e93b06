"""Bytes of files at URLs, for the readers of photos and tars."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence

from flip.errors import DataError, FlipError
from flip.mounts import FileState, Place
from flip.reading import read_range
from flip.remote import at_once, open_remote, reason, state_of_remote, url_of


class RemoteMount:
    """The files below a URL, served below a path of this machine.

    Parameters
    ----------
    url : str
        Of the folder above them; ``s3:/`` for any file of a protocol.
    states : mapping
        What is known of them, by their paths; the others are asked for one by one.
    """

    waits = True

    def __init__(self, url: str, states: Mapping[str, FileState] | None = None) -> None:
        self._url = url
        self._states = dict(states or {})

    def state(self, below: str) -> FileState:
        """Return the state of a file."""
        known = self._states.get(below)
        if known is None:
            try:
                known = state_of_remote(open_remote(f"{self._url}/{below.lstrip('/')}"))
            except DataError as error:
                raise OSError(errno.EIO, str(error), below) from error
            if known is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._url}/{below}")
            self._states[below] = known
        return known

    def place(self, below: str) -> Place:
        """Return the URL and the length of a file."""
        state = self.state(below)
        return Place(state.name, 0, state.size)

    def read(self, below: str, start: int, size: int) -> bytes:
        """Return some bytes of a file."""
        place = self.place(below)
        # A server refuses a range that begins behind the end.
        wanted = min(size, place.size - start)
        return read_place(place._replace(start=start), wanted) if wanted > 0 else b""

    def ask(self, below: Sequence[str]) -> None:
        """Learn the states of many files, several at a time; what is not there is asked for again."""

        def learn(one: str) -> None:
            with contextlib.suppress(OSError):
                self.state(one)

        at_once(learn, [one for one in below if one not in self._states])


def fetch(place: Place) -> bytes:
    """Return all bytes of a file from where they lie, on this machine or at a URL.

    Raises
    ------
    OSError
        If they cannot be read, or there are fewer.
    """
    here = url_of(place.file) is None
    data = read_range(place.file, place.start, place.size) if here else read_place(place, place.size)
    if len(data) < place.size:
        raise OSError(errno.EIO, f"it has {len(data):,} of {place.size:,} bytes", place.file)
    return data


def read_place(place: Place, size: int) -> bytes:
    """Return the bytes at a place of a URL.

    Raises
    ------
    OSError
        If they cannot be read.
    """
    remote = open_remote(place.file)
    whole = place.start == 0 and size >= place.size
    try:
        if whole:
            return bytes(remote.files.cat_file(remote.path))
        data = bytes(remote.files.cat_file(remote.path, start=place.start, end=place.start + size))
    except Exception as error:
        if isinstance(error, (FlipError, MemoryError)):
            raise
        raise OSError(errno.EIO, reason(error), place.file) from error
    # A server that knows no ranges sends the whole file.
    return data if len(data) <= size else data[place.start : place.start + size]
