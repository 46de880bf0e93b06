"""Who embeds what: several processes on the same photos share the work by claims in the index."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection

from flip.embed.index import KeyIndex
from flip.files import host_id, is_alive

#: Seconds after which a claim that was not renewed is anybody's. That of a dead process of this machine is at once.
LEASE = 120.0

#: Claims that are no photo's: of merging parts, and of waiting for what others embed.
MERGING, WAITING = 1, 2


class Claims:
    """The claims of this process in an index.

    An index in memory has no other processes, and everything is granted.
    """

    def __init__(self, index: KeyIndex) -> None:
        self._index = index
        self._owner = f"{host_id()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._renewed = time.monotonic()
        self._held = set[int]()

    def take(self, keys: Collection[int]) -> set[int]:
        """Claim these and return those that were granted; the others are being worked on elsewhere."""
        now, granted = time.time(), set[int]()
        with self._index.writing() as db:
            for key in keys:
                row = db.execute("SELECT owner, until FROM claims WHERE key = ?", (key,)).fetchone()
                if row is None or row[0] == self._owner or self._is_over(row[0], row[1], now):
                    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, self._owner, now + LEASE))
                    granted.add(key)
        self._held |= granted
        return granted

    def release(self, keys: Collection[int]) -> None:
        """Give claims up, because the work is done or cannot be done."""
        mine = self._held.intersection(keys)
        if mine:
            with self._index.writing() as db:
                db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", ((k, self._owner) for k in mine))
            self._held -= mine

    def release_all(self) -> None:
        """Give all claims up."""
        self.release(set(self._held))

    def renew(self) -> None:
        """Keep the claims, which is a matter of course for a process that goes on."""
        if self._held and time.monotonic() - self._renewed > LEASE / 8:
            self._renewed = time.monotonic()
            with self._index.writing() as db:
                db.execute("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + LEASE, self._owner))

    def wait(self) -> None:
        """Tell the others that somebody waits for what they have."""
        with self._index.writing() as db:
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (WAITING, self._owner, time.time() + 2.0))

    def others_wait(self) -> bool:
        """Return whether another process waits."""
        with self._index.reading() as db:
            row = db.execute("SELECT owner, until FROM claims WHERE key = ?", (WAITING,)).fetchone()
        return row is not None and row[0] != self._owner and float(row[1]) > time.time()

    @staticmethod
    def _is_over(owner: str, until: float, now: float) -> bool:
        host, process = [*str(owner).split("-"), "", ""][:2]
        dead = host == host_id() and not (process.isdigit() and is_alive(int(process)))
        # A clock that was set back must not keep a claim for ever.
        return dead or not now <= until <= now + 2 * LEASE
