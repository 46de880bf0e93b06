"""Guards around a reader: no connection, prompt, code execution, timeout, memory excess or multi-line error."""

from __future__ import annotations

import builtins
import contextlib
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flip.errors import FlipError

#: Seconds of CPU and megabytes that one input may take, and wall seconds after which it hangs.
MOST_SECONDS, MOST_MEGABYTES, HANGS = 10.0, 2048, 60


@dataclass
class Outcome:
    """Outcome of one input: the value read or the error, and any violations."""

    value: Any = None
    error: str | None = None
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Guard:
    """Watches one process."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary"
        self._done: list[str] = []
        os.environ["FLIP_FUZZ_CANARY"] = str(self.canary)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Guard]:
        """Count connections and questions instead of allowing them."""
        kept = socket.socket.connect, socket.getaddrinfo, builtins.input

        def connect(*address: object) -> None:
            self._done.append(f"connected to {address[1:]!r}")
            raise OSError("no connection here")

        def ask(*prompt: object) -> str:
            self._done.append(f"asked {prompt!r}")
            return "y"

        socket.socket.connect, socket.getaddrinfo, builtins.input = connect, connect, ask  # type: ignore[assignment,method-assign]
        before = signal.signal(signal.SIGALRM, _too_long)
        try:
            yield self
        finally:
            socket.socket.connect, socket.getaddrinfo, builtins.input = kept  # type: ignore[method-assign]
            signal.signal(signal.SIGALRM, before)

    def run(self, read: Any, *arguments: Any) -> Outcome:
        """Call a reader and judge what it did."""
        outcome = Outcome()
        memory, began = _peak(), time.process_time()
        signal.alarm(HANGS)
        try:
            outcome.value = read(*arguments)
        except FlipError as e:
            outcome.error = str(e)
            outcome.wrong += _of_message(outcome.error)
        except _Hangs:
            outcome.wrong.append(f"hangs for {HANGS} s")
        except (Exception, SystemExit) as e:
            # The file and line where it left flip's own code tell findings apart.
            own = [f for f in traceback.extract_tb(e.__traceback__) if "/flip/" in f.filename] or [None]
            where = f"{own[-1].filename.rpartition('/flip/')[2]}:{own[-1].lineno}" if own[-1] else "?"
            outcome.wrong.append(f"{type(e).__name__} at {where}: {str(e)[:100]!r}")
        finally:
            signal.alarm(0)
        outcome.seconds = time.process_time() - began
        if outcome.seconds > MOST_SECONDS:
            outcome.wrong.append(f"took {outcome.seconds:.1f} s")
        if _peak() - memory > MOST_MEGABYTES:
            outcome.wrong.append(f"took {_peak() - memory} MB")
        outcome.wrong += self._done
        self._done.clear()
        if self.canary.exists():
            self.canary.unlink()
            outcome.wrong.append("ran code")
        return outcome


def _of_message(message: str) -> list[str]:
    wrong = []
    if len(message) >= 400:
        wrong.append(f"a message of {len(message)} characters")
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in message):
        wrong.append(f"a message that is not one safe line: {message!r}")
    if not message.strip():
        wrong.append("an empty message")
    return wrong


class _Hangs(BaseException):
    pass


def _too_long(*_: object) -> None:
    raise _Hangs


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
