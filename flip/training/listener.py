"""Training progress, callbacks and signal handling, the same for both fine-tunings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from flip.errors import Interrupted
from flip.settings import Progress

#: Signals that end a run between two steps, with a checkpoint written.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True)
class StepReport:
    """A finished step: its number among all steps, its loss, and how many photos it took."""

    step: int
    steps: int
    loss: float
    photos: int


@dataclass
class Listener:
    """Callbacks of a training run; notes for a user go to ``logging``.

    Attributes
    ----------
    on_step : callable
        Called with a :class:`StepReport` after each step.
    on_epoch : callable
        Called with an epoch's row of ``metrics.jsonl`` (CLIP only).
    progress : callable, optional
        Called with the number of photos that were just encoded before training (diffusion only).
    """

    on_step: Callable[[StepReport], None] = lambda report: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None
    progress: Progress | None = None


class StopRequest:
    """Whether a signal asked a run to stop; looked at between steps."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def remember(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal; a second one ends the run at once."""
        if self._signal is not None:
            raise Interrupted(number)
        self._signal = number

    def interruption(self) -> Interrupted:
        """Return the exception that ends the run."""
        # Another process of the run may have got the signal.
        return Interrupted(self._signal if self._signal is not None else signal.SIGINT)


@contextmanager
def interrupts() -> Iterator[StopRequest]:
    """Turn Ctrl-C and requests to end into a :class:`StopRequest`; outside the main thread nothing is changed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # Under nohup a hang-up is ignored, and stays so.
    heard = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.remember) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
