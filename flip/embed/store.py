"""A folder of parts and its index: rows are found in constant time and added as new parts."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.embed.claims import Claims
from flip.embed.database import ReplacedError
from flip.embed.index import IndexRow, KeyIndex, Place
from flip.embed.kinds import Kind, errors_of
from flip.embed.parts import DamagedPartError, Part, Rows, WrongIndexError, write_part
from flip.files import set_aside

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Parts that are kept open.
_OPEN = 64

#: Times that work with the index is tried, again after the index was replaced.
_TRIES = 5


class Read(NamedTuple):
    """Some rows: which of those asked for, embeddings as they are stored, and errors where there are any."""

    asked: IntArray
    embeddings: FloatArray
    errors: list[str | None] | None


class PartStore:
    """A folder of parts and its index.

    Parameters
    ----------
    folder : Path
        The parts'; the index lies beside it as ``<name>.sqlite``.
    fingerprint : str
        Of the model that made them.
    dim : int
    kind : Kind
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int, kind: Kind) -> None:
        self.folder, self.fingerprint, self.dim, self.kind = folder, fingerprint, dim, kind
        self._open = OrderedDict[str, Part]()
        self._ignored = set[str]()
        self._seen: int | None = None

    @cached_property
    def index(self) -> KeyIndex:
        """The index; opened at first use."""
        return KeyIndex(self.folder.with_name(f"{self.folder.name}.sqlite"))

    @cached_property
    def claims(self) -> Claims:
        """This process's claims."""
        return Claims(self.index)

    def close(self) -> None:
        """Close the files."""
        if "claims" in self.__dict__:
            self.again(self.claims.release_all)
        if "index" in self.__dict__:
            self.index.close()
        for name in ("claims", "index"):
            self.__dict__.pop(name, None)
        self._open.clear()
        self._seen = None

    def again(self, work: Callable[[], Result]) -> Result:
        """Run work on the index, and run it again if the index had to be replaced meanwhile."""
        for _ in range(_TRIES):
            try:
                return work()
            except ReplacedError:
                self._seen = None
        return work()

    def find(self, keys: Sequence[int], *, contents: bool = False) -> list[Place]:
        """Return the places of all rows with these keys, or of photos with these contents."""
        if not keys:
            return []

        def find() -> list[Place]:
            self.look()
            return self.index.find_contents(keys) if contents else self.index.find(keys)

        return self.again(find)

    def look(self, *, again: bool = False) -> None:
        """Look whether other processes added or removed parts; ``again`` even if the folder seems unchanged."""
        try:
            seen = os.stat(self.folder).st_mtime_ns  # noqa: PTH116
        except OSError:
            seen = -1
        if again or seen != self._seen:
            self._seen = seen
            self.again(self._look)

    def read(self, places: Sequence[Place]) -> Iterator[Read]:
        """Yield the rows at these places in batches; lost or damaged rows are left out and dropped from the index."""
        by_part = defaultdict[str, list[int]](list)
        for i, place in enumerate(places):
            by_part[place.part].append(i)
        for name, positions in by_part.items():
            with self.mishaps(name):
                wanted = np.array([places[i].row for i in positions], np.int64)
                for rows in self.part(name).rows(wanted):
                    here = np.array(positions)[rows.asked]
                    self._verify(rows, [places[i] for i in here])
                    yield Read(here, rows.embeddings, errors_of(rows.table))

    def add(self, table: pa.Table) -> None:
        """Write rows as a new part.

        Raises
        ------
        ConfigError
            If it cannot be written.
        """
        name = write_part(self.folder, self.kind.with_check_sums(table), self.fingerprint)
        rows = self.kind.rows_of(table)
        self.again(lambda: self.index.add(name, rows))

    def alias(self, rows: Sequence[tuple[IndexRow, Place]]) -> None:
        """Note in the index that other files hold what these rows are of."""
        if rows:
            self.again(lambda: self.index.alias(rows))

    def part(self, name: str) -> Part:
        """Return an open part."""
        if name not in self._open:
            self._open[name] = Part(self.folder / name, self.fingerprint, self.dim)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def set_part_aside(self, name: str, reason: object) -> None:
        """Put a damaged part where nobody reads it, and forget its rows; they are embedded again."""
        self._open.pop(name, None)
        self._ignored.add(name)
        where = set_aside(self.folder / name)
        log.warning(
            "cache part %s is damaged (%s) and %s; what it held is embedded again",
            self.folder / name,
            reason,
            f"was renamed to {where.name}" if where else "is not read",
        )
        self.again(lambda: self.index.forget([name]))

    @contextlib.contextmanager
    def mishaps(self, name: str) -> Iterator[None]:
        """Forget a part that is gone, set a damaged one aside, and make an index anew that is wrong."""
        try:
            yield
        except FileNotFoundError:
            self._open.pop(name, None)
            self._seen = None
        except WrongIndexError:
            self.index.discard()
            self._seen = None
        except DamagedPartError as e:
            self.set_part_aside(name, e)
        except (OSError, MemoryError) as e:
            # A system error may be temporary: the part stays, and is ignored for this run only.
            log.warning("cache part %s cannot be read now (%s)", self.folder / name, e)
            self._ignored.add(name)
            self._open.pop(name, None)
            self.again(lambda: self.index.forget([name]))

    def _verify(self, rows: Rows, places: Sequence[Place]) -> None:
        """Raise a DamagedPartError or a WrongIndexError unless rows are what the index says."""
        if self.kind.sound(rows.table, rows.embeddings, [place.identity for place in places]).all():
            return
        whole = self.part(places[0].part).whole(rows)
        own = [row.identity for row in self.kind.rows_of(whole)]
        if not self.kind.sound(rows.table, rows.embeddings, own).all():
            raise DamagedPartError("a row is not as it was written")
        raise WrongIndexError

    def _look(self) -> None:
        """Bring the index up to the folder."""
        # The index first: a part that is added meanwhile must not seem to be gone.
        known, replaced = self.index.parts(), self.index.replaced()
        files = {file.name for file in self.folder.glob("[!.]*.parquet")} - self._ignored
        for name in files & replaced:
            # Its rows were merged into another part by a process that did not live to remove it.
            self.remove(name)
        new = sorted(files - replaced - known.keys())
        if len(new) > 50:
            log.info("the index of the cache %s is brought up to %d parts", self.folder.parent, len(new))
        for name in new:
            with self.mishaps(name):
                part = self.part(name)
                rows = self.kind.rows_of(part.table(self.kind.columns))
                self.index.add(name, rows, part.replaces)
                for old in part.replaces:
                    self.remove(old)
        gone = known.keys() - files
        if gone:
            self.index.forget(gone)

    def remove(self, name: str) -> None:
        """Remove a part whose rows lie in another."""
        self._open.pop(name, None)
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()
