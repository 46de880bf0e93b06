"""An SQLite file that any number of processes read and write: made anew where it is lost or broken, and kept in memory
where it cannot be written. What it holds can be made again from what lies beside it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from flip.reading import what_is

log = logging.getLogger(__name__)

#: Seconds to wait for another process's transaction.
_PATIENCE = 30.0

#: Ends of the names of SQLite's own files beside a database.
_BESIDE = ("-journal", "-wal", "-shm")

#: SQLite error names for an intact file that cannot be written.
_UNWRITABLE = tuple(f"SQLITE_{word}" for word in ("READONLY", "CANTOPEN", "FULL", "BUSY", "LOCKED", "PERM", "AUTH"))

#: Exceptions of a damaged file; those of ``_UNWRITABLE`` are sorted out first.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)


class ReplacedError(Exception):
    """A database was broken or lost, and is another now, which may know less: ask again."""


class Database:
    """A database in a file, or in memory where that file cannot be written.

    Parameters
    ----------
    file : Path
    schema : str
        Statements that make its tables.
    version : int
        Of the schema; a file of another is made anew.
    """

    def __init__(self, file: Path, schema: str, version: int) -> None:
        self.file, self._schema, self._version = file, schema, version
        self.is_shared = True
        self._lock = threading.RLock()
        try:
            self._db = self._open()
        except _DAMAGE as e:
            self._mend(e)

    def close(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._db.close()

    def discard(self) -> None:
        """Begin an empty one: what this one says is wrong."""
        with self._lock:
            self._mend(sqlite3.DatabaseError("wrong"))

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for queries.

        Raises
        ------
        ReplacedError
            If it had to be replaced.
        """
        with self._lock:
            try:
                yield self._db
            except _DAMAGE as e:
                self._mend(e)
                raise ReplacedError from e

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for one transaction; raises as :meth:`reading` does."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        db = _connect(self.file, "rwc")
        try:
            # The index can be rebuilt from the parts, so durability is not needed.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA journal_mode = TRUNCATE")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _mend(self, error: Exception) -> None:
        """Make a broken index anew; take one in memory where it cannot be written."""
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()
        if self.is_shared and _is_broken(error):
            log.debug("the database %s is made anew: %s", self.file, error)
            try:
                for suffix in (*_BESIDE, ""):
                    self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)
                self._db = self._open()
                return
            except (OSError, *_DAMAGE) as e:
                error = e
        log.debug("the database %s is kept in memory: %s", self.file, error)
        # One in memory that is broken is the copy of a broken file.
        copied, self.is_shared = self.is_shared, False
        self._db = self._in_memory(copied)

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables where there are none; raise a DatabaseError where they are of another version."""
        db.execute("PRAGMA cache_size = -65536")
        if db.execute("PRAGMA user_version").fetchone()[0] == self._version:
            return
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in self._schema.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {self._version}")
        elif version != self._version:
            raise sqlite3.DatabaseError(f"it is of version {version}")
        db.execute("COMMIT")

    def _in_memory(self, copied: bool) -> sqlite3.Connection:
        """Return a database in memory; a copy of the file where that is asked for and can be read."""
        memory = _connect_memory()
        with contextlib.suppress(*_DAMAGE):
            if copied:
                on_disk = _connect(self.file, "ro")
                try:
                    on_disk.backup(memory)
                finally:
                    on_disk.close()
            self._prepare(memory)
            return memory
        memory.close()
        memory = _connect_memory()
        self._prepare(memory)
        return memory


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    # SQLite would wait for ever for a FIFO, also in place of one of its own files beside it.
    for name in (file.name, *(file.name + suffix for suffix in _BESIDE)):
        if kind := what_is(file.with_name(name)):
            raise sqlite3.OperationalError(f"{name} is {kind}")
    address = f"file:{quote(str(file.absolute()).encode('utf-8', 'surrogateescape'))}?mode={mode}"
    return sqlite3.connect(address, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=True)


def _connect_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _is_broken(error: Exception) -> bool:
    """Return whether a file holds no index, or a damaged or a deleted one, rather than one that cannot be written."""
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
    return name == "SQLITE_READONLY_DBMOVED" or not name.startswith(_UNWRITABLE)
