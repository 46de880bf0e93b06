"""Cached photo embeddings of one model and one way of looking at photos.

A cache knows files, not labels. It is an aid: where it cannot be written, what it holds is read, and commands go on
without keeping more.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from flip.arrays import BoolArray, FloatArray
from flip.embed.index import IndexRow, Place
from flip.embed.keys import EXACT, FileKey, NoPhoto, number
from flip.embed.merge import merge_small_parts
from flip.embed.rows import PHOTOS, NewRow, index_row, key_number, maker, photo_table
from flip.embed.store import PartStore
from flip.embed.trouble import say_not_kept
from flip.embed.vectors import as_kept, as_used
from flip.errors import ConfigError
from flip.files import write_json
from flip.reading import read_json

#: A part is written when this many rows wait, or when the oldest has waited this many seconds: few for the first part,
#: so that a run that is killed soon has kept something, and twice as many for each that follows, up to the most.
ROWS_A_PART = 4096
FIRST_SECONDS, MOST_SECONDS = 2.0, 20.0

#: Most rows kept in memory while the cache cannot be written.
_MOST_WAITING = 16 * ROWS_A_PART

#: Times a look-up begins again because parts were merged, removed or damaged meanwhile.
_TRIES = 4


class Found(NamedTuple):
    """The result of a look-up, one row per key: embeddings (n, d) float32, whether known (n,), and errors (n,)."""

    embeddings: FloatArray
    known: BoolArray
    errors: list[str | None]

    @classmethod
    def nothing(cls, n: int, dim: int) -> Self:
        """Return the answer for n files of which none is known."""
        return cls(np.zeros((n, dim), np.float32), np.zeros(n, bool), [None] * n)


class EmbeddingCache:
    """The cached photo embeddings of one model and one view; a context manager that flushes on the way out.

    Parameters
    ----------
    folder : Path
        The cache folder; the model's own folder inside it is named by the fingerprint.
    fingerprint : str
    dim : int
        Width d of an embedding.
    description : dict, optional
        Written to ``model.json`` so that a person can tell the folders apart.
    decodings : tuple of str
        Ways of decoding whose rows are taken, the first that is there.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        dim: int,
        description: dict[str, object] | None = None,
        decodings: tuple[str, ...] = (EXACT,),
    ) -> None:
        self.folder = folder / fingerprint
        self.fingerprint, self.dim, self.decodings = fingerprint, dim, decodings
        self.store = PartStore(self.folder / "images", fingerprint, dim, PHOTOS)
        self._pending: dict[FileKey, NewRow] = {}
        self._due, self._patience = 0.0, FIRST_SECONDS
        try:
            self.store.folder.mkdir(parents=True, exist_ok=True)
            if description is not None and not _holds_json(self.folder / "model.json"):
                write_json(self.folder / "model.json", {"fingerprint": fingerprint, **description})
        except (OSError, ConfigError) as e:
            say_not_kept(folder, e)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self.store.close()

    def look_up(self, keys: Sequence[FileKey | NoPhoto]) -> Found:
        """Return what is known of these files; a file that changed since is unknown.

        What is no file has a row of its own, which is known and says why. An error that other versions of Pillow or
        flip met is unknown.
        """
        found = Found.nothing(len(keys), self.dim)
        for i, key in enumerate(keys):
            if isinstance(key, NoPhoto):
                found.known[i], found.errors[i] = True, key.error
        for decoding in self.decodings:
            for _ in range(_TRIES):
                where = [int(i) for i in np.flatnonzero(~found.known)]
                files = [key for i in where if isinstance(key := keys[i], FileKey)]
                wanted, places = self._settled(files, decoding)
                if self._read(places, [where[i] for i in wanted], found):
                    break
        self._take_pending(keys, found)
        return found

    def look_up_contents(self, keys: Sequence[FileKey], contents: Sequence[str]) -> Found:
        """Look files up by content hash; a hit is also indexed under the file's key."""
        found = Found.nothing(len(keys), self.dim)
        for decoding in self.decodings:
            for _ in range(_TRIES):
                where = [int(i) for i in np.flatnonzero(~found.known)]
                numbers = [number(contents[i], decoding) for i in where]
                at = self._by_content([keys[i] for i in where], numbers)
                aliases = [
                    (index_row(keys[where[i]], contents[where[i]], decoding, place.about.maker), place)
                    for i, place in at.items()
                ]
                if self._read(list(at.values()), [where[i] for i in at], found):
                    self.store.alias(aliases)
                    break
        return found

    def knows_content(self, key: FileKey, content: str) -> bool:
        """Return whether a photo with the same content was embedded; may be called in any thread."""
        numbers = [number(content, decoding) for decoding in self.decodings]
        places = self.store.again(lambda: self.store.index.find_contents(numbers))
        return any(place.about.size == key.size and _counts(place.about) for place in places)

    def add(self, row: NewRow) -> None:
        """Add one row."""
        now = time.monotonic()
        if not self._pending:
            self._due = now + self._patience
        self._pending[row.key] = row
        if now > self._due or len(self._pending) % ROWS_A_PART == 0:
            self.flush()

    def flush(self) -> None:
        """Write the waiting rows as one part; where that is impossible, they wait on."""
        if not self._pending:
            return
        try:
            self.store.add(photo_table(list(self._pending.values()), self.dim))
            self.release(self._pending)
            self._pending.clear()
            self._patience = min(2 * self._patience, MOST_SECONDS)
            merge_small_parts(self.store)
        except ConfigError as e:
            say_not_kept(self.folder.parent, e)
            self._due = time.monotonic() + MOST_SECONDS
            for key in list(self._pending)[:-_MOST_WAITING]:
                del self._pending[key]

    def claim(self, keys: Sequence[FileKey]) -> set[FileKey]:
        """Claim files for this process; return those granted, the others are claimed by another process."""
        numbers = {key_number(key, self.decodings[0]): key for key in keys}
        granted = self.store.again(lambda: self.store.claims.take(numbers))
        return {numbers[n] for n in granted}

    def release(self, keys: Collection[FileKey]) -> None:
        """Let other processes embed these files."""
        numbers = {key_number(key, self.decodings[0]) for key in keys}
        self.store.again(lambda: self.store.claims.release(numbers))

    def keep_claims(self) -> None:
        """Renew the claims, and write what was embedded if another process waits for it."""
        self.store.again(self.store.claims.renew)
        waited_for = self.store.again(self.store.claims.others_wait)
        if waited_for:
            self.flush()

    def wait(self) -> None:
        """Ask other processes for what they have embedded, and look what is there."""
        self.flush()
        self.store.again(self.store.claims.wait)
        time.sleep(0.1)
        self.store.look(again=True)

    def _take_pending(self, keys: Sequence[FileKey | NoPhoto], found: Found) -> None:
        """Take rows that are not written yet."""
        for i in np.flatnonzero(~found.known) if self._pending else ():
            key = keys[int(i)]
            row = self._pending.get(key) if isinstance(key, FileKey) else None
            if row is not None:
                found.known[i], found.errors[i] = True, row.error
                if row.embedding is not None:
                    found.embeddings[i] = as_used(as_kept(row.embedding))

    def _settled(self, keys: Sequence[FileKey], decoding: str) -> tuple[list[int], list[Place]]:
        """Return the indices of keys that have a valid row, and the rows' places."""
        by_number = _positions(key_number(key, decoding) for key in keys)
        wanted, places = list[int](), list[Place]()
        for place in self.store.find(list(by_number)):
            for i in by_number[place.about.key]:
                if _is_of(place.about, keys[i]) and _counts(place.about):
                    wanted.append(i)
                    places.append(place)
        return wanted, places

    def _by_content(self, keys: Sequence[FileKey], contents: Sequence[int]) -> dict[int, Place]:
        """Return the place of a row with each content, as far as there is one."""
        by_number = _positions(contents)
        at: dict[int, Place] = {}
        for place in self.store.find(list(by_number), contents=True):
            if place.about.content is not None and _counts(place.about):
                for i in by_number[place.about.content]:
                    if place.about.size == keys[i].size:
                        at[i] = place
        return at

    def _read(self, places: Sequence[Place], targets: Sequence[int], found: Found) -> bool:
        """Read rows into what was found; return whether all were there."""
        at = np.array(targets, np.int64)
        for read in self.store.read(places):
            rows = at[read.asked]
            found.embeddings[rows] = as_used(read.embeddings)
            found.known[rows] = True
            if read.errors is not None:
                for i, error in zip(rows, read.errors, strict=True):
                    found.errors[i] = error
        return bool(found.known[at].all())


def _holds_json(file: Path) -> bool:
    """Return whether a file holds something; an empty one was left by a crash."""
    try:
        return bool(read_json(file))
    except (OSError, ValueError):
        return False


def _is_of(row: IndexRow, key: FileKey) -> bool:
    """Return whether size and times settle that a file is what it was; a time that is unknown does not object."""
    if (row.size, row.mtime_ns) != (key.size, key.mtime_ns):
        return False
    return row.ctime_ns is None or key.ctime_ns is None or row.ctime_ns == key.ctime_ns


def _positions(numbers: Iterable[int]) -> dict[int, list[int]]:
    """Return the positions at which each number is."""
    found: dict[int, list[int]] = {}
    for i, one in enumerate(numbers):
        found.setdefault(one, []).append(i)
    return found


def _counts(row: IndexRow) -> bool:
    return row.maker == 0 or row.maker == number(maker())
