"""The index of a folder of parts: which row of which part holds a photo or a text, found in constant time.

It is an aid only: what it holds is in the parts too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from flip.embed.database import Database

#: Raised when tables or the meaning of their columns change; an index of another version is made anew.
VERSION = 2

#: Numbers that one query asks for.
_AT_ONCE = 500

_SCHEMA = """
CREATE TABLE parts(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE replaced(name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE rows(
    key INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER, content INTEGER NOT NULL,
    maker INTEGER NOT NULL, part INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY(key, size, mtime_ns, content)
) WITHOUT ROWID;
CREATE INDEX contents ON rows(content) WHERE content != 0;
CREATE TABLE claims(key INTEGER PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL);
"""


class IndexRow(NamedTuple):
    """Index entry of one row of a part.

    Attributes
    ----------
    key : int
        Number of the path or of the text.
    size, mtime_ns : int
        Of the photo's file; 0 for texts.
    ctime_ns, content : int or None
        Time of the last change of the file, and the number of what it holds; None in rows of earlier caches.
    maker : int
        Of a row that holds an error the number of the versions that made it, else 0.
    """

    key: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int | None = None
    content: int | None = None
    maker: int = 0

    @property
    def identity(self) -> int:
        """The number that the row's check sum covers: of the content, or of the path where that is unknown."""
        return self.key if self.content is None else self.content


class Place(NamedTuple):
    """Place of a row: part name, row number in it, and its index entry."""

    part: str
    row: int
    about: IndexRow

    @property
    def identity(self) -> int:
        """The number that the row's check sum covers."""
        return self.about.identity


class KeyIndex(Database):
    """The index of a folder of parts.

    Parameters
    ----------
    file : Path
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, _SCHEMA, VERSION)

    def parts(self) -> dict[str, int]:
        """Return the rows of each part that is indexed, by its name."""
        with self.reading() as db:
            return dict(db.execute("SELECT name, rows FROM parts"))

    def replaced(self) -> set[str]:
        """Return the names of parts whose rows lie in other parts now."""
        with self.reading() as db:
            return {name for (name,) in db.execute("SELECT name FROM replaced")}

    def find(self, keys: Sequence[int]) -> list[Place]:
        """Return the places of all rows with these keys."""
        return self._find("key IN", keys)

    def find_contents(self, contents: Sequence[int]) -> list[Place]:
        """Return the places of rows of photos with the same content as these."""
        # The index over contents is of those that are known.
        return self._find("content != 0 AND content IN", contents)

    def add(self, name: str, rows: Iterable[IndexRow], replaces: Collection[str] = ()) -> None:
        """Add a part, unless it is there already or was merged meanwhile; parts that it replaces are forgotten."""
        with self.writing() as db:
            known = "SELECT 1 FROM parts WHERE name = ?1 UNION SELECT 1 FROM replaced WHERE name = ?1"
            if db.execute(known, (name,)).fetchone():
                return
            listed = list(rows)
            part = db.execute("INSERT INTO parts(name, rows) VALUES (?, ?)", (name, len(listed))).lastrowid
            db.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, coalesce(?, 0), ?, ?, ?)",
                # Neighbours in the tree are written together.
                sorted(((*row, part, i) for i, row in enumerate(listed)), key=itemgetter(0)),
            )
            self._forget(db, replaces)
            db.executemany("INSERT OR IGNORE INTO replaced VALUES (?)", ((old,) for old in replaces))

    def alias(self, rows: Iterable[tuple[IndexRow, Place]]) -> None:
        """Note that other files hold what these rows are of."""
        with self.writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO rows SELECT ?, ?, ?, ?, coalesce(?, 0), ?, id, ? FROM parts WHERE name = ?",
                [(*row, place.row, place.part) for row, place in rows],
            )

    def move(self, name: str, rows: int, moved: Iterable[tuple[str, int, int | None]]) -> None:
        """Put a merged part in the place of others.

        Parameters
        ----------
        name : str
            The merged part.
        rows : int
            Its number of rows.
        moved : iterable of (name, row, new row)
            Every row of the parts that were merged, and where it is now; None where it was left out.
        """
        with self.writing() as db:
            db.execute("INSERT OR IGNORE INTO parts(name, rows) VALUES (?, ?)", (name, rows))
            (part,) = db.execute("SELECT id FROM parts WHERE name = ?", (name,)).fetchone()
            # Without types of columns SQLite would not look rows up by this key.
            columns = "part INTEGER, row INTEGER, target INTEGER, PRIMARY KEY(part, row)"
            db.execute(f"CREATE TEMP TABLE IF NOT EXISTS moved({columns}) WITHOUT ROWID")
            db.execute("DELETE FROM moved")
            ids = dict(db.execute("SELECT name, id FROM parts"))
            listed = [(ids[old], row, target) for old, row, target in moved if old in ids]
            db.executemany("INSERT INTO moved VALUES (?, ?, ?)", listed)
            olds = {old for old, _, _ in listed}
            marks = ",".join("?" * len(olds))
            db.execute(
                "UPDATE rows SET part = ?, row = coalesce("
                "(SELECT target FROM moved WHERE moved.part = rows.part AND moved.row = rows.row), -1) "
                f"WHERE part IN ({marks})",
                (part, *olds),
            )
            db.execute("DELETE FROM rows WHERE row = -1")
            names = [old for old, i in ids.items() if i in olds]
            self._forget(db, names)
            db.executemany("INSERT OR IGNORE INTO replaced VALUES (?)", ((old,) for old in names))

    def forget(self, names: Collection[str]) -> None:
        """Forget parts that are no longer there."""
        with self.writing() as db:
            self._forget(db, names)

    def _find(self, which: str, values: Sequence[int]) -> list[Place]:
        found: list[Place] = []
        with self.reading() as db:
            for start in range(0, len(values), _AT_ONCE):
                some = values[start : start + _AT_ONCE]
                rows = db.execute(
                    "SELECT parts.name, row, key, size, mtime_ns, ctime_ns, nullif(content, 0), maker FROM rows "
                    f"JOIN parts ON parts.id = part WHERE {which} ({','.join('?' * len(some))})",
                    some,
                )
                found += [_place(*row) for row in rows]
        return found

    @staticmethod
    def _forget(db: sqlite3.Connection, names: Collection[str]) -> None:
        known = dict(db.execute("SELECT name, id FROM parts"))
        gone = [known[name] for name in names if name in known]
        if gone:
            marks = ",".join("?" * len(gone))
            db.execute(f"DELETE FROM rows WHERE part IN ({marks})", gone)
            db.execute(f"DELETE FROM parts WHERE id IN ({marks})", gone)


def _place(
    part: str, row: int, key: int, size: int, mtime_ns: int, ctime_ns: int | None, content: int | None, maker: int
) -> Place:
    """Return a place; a damaged index may hold values of any type."""
    ints = type(row) is type(key) is type(size) is type(mtime_ns) is type(maker) is int
    if not (ints and type(part) is str and _is_optional(ctime_ns) and _is_optional(content)):
        raise sqlite3.DatabaseError("malformed: a value of another type")
    return Place(part, row, IndexRow(key, size, mtime_ns, ctime_ns, content, maker))


def _is_optional(value: object) -> bool:
    return value is None or type(value) is int
