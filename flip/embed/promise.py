"""An encoder that is made only if a photo needs it, and in the thread that encodes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from typing import Any

from flip.clip.encoder import Encoder


class Promise:
    """The encoder, which the first thread that needs it asks for and this stream's own thread makes."""

    def __init__(self, make: Callable[[], Encoder]) -> None:
        self._make = make
        self._wanted: Future[None] = Future()
        self._made: Future[Encoder] = Future()

    def get(self) -> Encoder:
        """Return the encoder; for other threads."""
        with suppress(InvalidStateError):
            self._wanted.set_result(None)
        return self._made.result()

    def make(self) -> Encoder:
        """Return the encoder; for this stream's own thread."""
        if not self._made.done():
            try:
                self._made.set_result(self._make())
            except BaseException as e:
                self._made.set_exception(e)
                raise
        return self._made.result()

    def wait_for(self, futures: Collection[Future[Any]]) -> None:
        """Return when these are done, making the encoder meanwhile if they need it."""
        if not self._made.done():
            left: set[Future[Any]] = set(futures)
            while left and not self._wanted.done():
                left = wait({*left, self._wanted}, return_when=FIRST_COMPLETED).not_done - {self._wanted}
            if self._wanted.done():
                self.make()
        wait(futures)

    def cancel(self) -> None:
        """Let nobody wait for it."""
        self._made.cancel()
